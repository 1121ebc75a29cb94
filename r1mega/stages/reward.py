"""From a `[rewards]` section to the parts of a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from r1mega.config.rewards import ModelPart, RewardPart, Rewards
from r1mega.rewards import GRADERS, parts
from r1mega.rewards.answers import Grader
from r1mega.rewards.code import code_grader
from r1mega.rewards.model import Scorer, helpful, safe
from r1mega.rewards.parts import Judged, Part, Value

_VALUES: Mapping[
    str, Callable[[Any, int], Value]
] = {  # name -> (its section, the longest answer) -> its rule
    "accuracy": lambda section, longest: parts.accuracy,
    "format": lambda section, longest: parts.format_rule(section.rule),
    "language": lambda section, longest: parts.language(section.target),
    "repetition": lambda section, longest: parts.repetition(section.ngram),
    "length": lambda section, longest: parts.length(section.longest or longest),
    "overlong": lambda section, longest: parts.overlong(longest, min(section.buffer, longest)),
}
_JUDGES: Mapping[str, Callable[[Any, Scorer], Judged]] = {  # name -> (its section, its model) -> its judge
    "helpful": lambda section, scorer: helpful(scorer, missing=section.missing),
    "safety": lambda section, scorer: safe(scorer),
}
_ALWAYS = frozenset({"accuracy", "format"})  # reported also where they do not count


def reward_parts(
    rewards: Rewards, longest: int, scorers: Mapping[str, Scorer] = MappingProxyType({})
) -> dict[str, Part]:
    """The parts that count, and accuracy and format in any case.

    longest: tokens of an answer, at most. scorers: reward models by the part's name; a part whose model is
    not there is left out.
    """
    found = {}
    for name, value in _VALUES.items():
        section = getattr(rewards, name)
        if section.weight or name in _ALWAYS:
            found[name] = _part(section, value(section, longest))
    for name, scorer in scorers.items():
        section = getattr(rewards, name)
        found[name] = _part(section, _JUDGES[name](section, scorer))
    return found


def model_parts(rewards: Rewards) -> dict[str, ModelPart]:
    """The parts that count and want a reward model, by name."""
    return {name: section for name in _JUDGES if (section := getattr(rewards, name)).weight}


def _part(section: RewardPart, value: Value | Judged) -> Part:
    tasks = None if section.tasks is None else frozenset(section.tasks)
    return Part(section.weight, value, section.from_step, section.to_step, tasks)


def rules(rewards: Rewards) -> dict[str, Grader]:
    """The usual rules, with programs graded as the section says."""
    section = rewards.accuracy
    return {**GRADERS, "code": code_grader(credit=section.tests, sandbox=section.sandbox)}
