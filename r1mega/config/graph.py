"""A run's stages as a graph: who takes what from whom.

A stage takes something from an earlier one wherever its config has a key `from_stage`. What it takes (a
model, a data set, reward models) is told by the section in which the key stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from r1mega.config.section import Section, sections
from r1mega.config.stage import StageConfig


class Take(NamedTuple):
    """One `from_stage`. key: dotted, within the stage; what: an `Artifact`; stage: the one that is named."""

    key: str
    what: str
    stage: str


def takes(stage: StageConfig) -> list[Take]:
    """What a stage takes from others, in the order of its config."""
    return [
        Take(f"{at}from_stage", section.takes, start)
        for at, section in sections(stage)
        if isinstance(start := getattr(section, "from_stage", None), str)
    ]


def inputs(stage: StageConfig) -> list[str]:
    """The stages it takes something from, each once."""
    return list(dict.fromkeys(take.stage for take in takes(stage)))


def upstream(stages: Mapping[str, StageConfig], name: str) -> list[str]:
    """All stages that a stage depends on, over others too, in the order in which they run."""
    found: set[str] = set()
    open_ = inputs(stages[name])
    while open_:
        one = open_.pop()
        if one not in found:
            found.add(one)
            open_ += inputs(stages[one])
    return [one for one in stages if one in found]


def complaint(stages: Mapping[str, StageConfig]) -> str | None:
    """What is wrong with the graph, for a person; None where nothing is."""
    earlier: dict[str, StageConfig] = {}
    for name, stage in stages.items():
        for key, what, start in takes(stage):
            said = f"stages.{name}.{key} = '{start}'"
            if start not in earlier:
                return f"{said}: stages before {name}: {', '.join(earlier) or 'none'}"
            if (made := earlier[start].makes) != what:
                fitting = [one for one, its in earlier.items() if its.makes == what]
                return (
                    f"{said}: that stage makes a {_words(made)}, here a {_words(what)} is wanted; earlier "
                    f"stages that make one: {', '.join(fitting) or 'none'}"
                )
        if wrong := _unknown_reward_model(name, stage, earlier):
            return wrong
        earlier[name] = stage
    return None


def _unknown_reward_model(name: str, stage: StageConfig, earlier: Mapping[str, StageConfig]) -> str | None:
    """A part of the reward is judged by the model of its name, unless it names another."""
    rewards = getattr(stage, "rewards", None)
    for part in type(rewards).model_fields if isinstance(rewards, Section) else ():
        section = getattr(rewards, part)
        start = getattr(section, "from_stage", None)
        if start is not None and section.weight:
            made, wanted = list(getattr(earlier[start], "models", {})), section.name or part
            if wanted not in made:
                return (
                    f"stages.{name}.rewards.{part}: stage '{start}' makes no model '{wanted}', but "
                    f"{', '.join(made)}; say rewards.{part}.name"
                )
    return None


_WORDS = {
    "dataset": "data set",
    "pairs": "data set of preference pairs",
    "reward_models": "set of reward models",
}


def _words(artifact: str) -> str:
    return _WORDS.get(artifact, artifact)
