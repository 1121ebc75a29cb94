"""A run: some facts and an ordered list of stages. One typed model a stage kind, told apart by `kind`.

A new kind of stage is one more subclass of `StageConfig`, named in `StageUnion`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from r1mega.config.collect import Collect
from r1mega.config.graph import complaint
from r1mega.config.preferences import Preferences
from r1mega.config.reward_models import RewardModels
from r1mega.config.rewards import Rewards
from r1mega.config.rl import Algorithm, Gate, Guards, Rollout
from r1mega.config.roles import Roles
from r1mega.config.section import FilePath, Section
from r1mega.config.stage import StageConfig, TrainingConfig


class Pretrain(TrainingConfig):
    """Learn to continue text, every token counts."""

    data_kinds = ("toy", "text")
    learns_text = True
    kind: Literal["pretrain"]


class Sft(TrainingConfig):
    """Supervised fine-tuning: learn the answers, prompts do not count."""

    data_kinds = ("pairs",)
    learns_text = True
    kind: Literal["sft"]


class Grpo(TrainingConfig):
    """Reinforcement learning: answers to prompts, graded by rules, compared within their group."""

    data_kinds = ("tasks",)
    kind: Literal["grpo"]
    rollout: Rollout = Rollout()
    algorithm: Algorithm = Algorithm()
    rewards: Rewards = Rewards()
    gate: Gate = Gate()
    guards: Guards = Guards()

    @field_validator("train", mode="before")
    @classmethod
    def _bias_is_frozen(cls, value: Any) -> Any:
        """The experts' bias was balanced in pretraining; moving it changes answers without a gradient."""
        return {"expert_bias_rate": 0.0, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.train.steps is None:
            raise ValueError("train.epochs: a grpo stage counts rollouts; give train.steps")
        answers, parts = self.rollout.prompts * self.rollout.group, self.algorithm.mini_batches
        if answers % parts:
            raise ValueError(
                f"rollout.prompts {self.rollout.prompts} x rollout.group {self.rollout.group} = {answers} "
                f"answers cannot be cut into algorithm.mini_batches = {parts} equal parts"
            )
        longest = self.data.max_prompt + self.rollout.longest
        if longest > self.train.micro_batch_tokens:
            raise ValueError(
                f"data.max_prompt {self.data.max_prompt} + the longest answer {self.rollout.longest} "
                f"tokens do not fit train.micro_batch_tokens {self.train.micro_batch_tokens}: "
                f"raise it to {longest}"
            )
        return self


StageUnion: TypeAlias = Pretrain | Sft | Grpo | Collect | Preferences | RewardModels
KINDS: dict[str, type[StageConfig]] = {
    get_args(stage.model_fields["kind"].annotation)[0]: stage for stage in get_args(StageUnion)
}


class RunConfig(Section):
    """A whole run, resolved: every stage carries all its values."""

    name: str = Field(description="name of the run")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of everything random")
    out: FilePath = Field(
        default_factory=lambda values: Path("runs") / values["name"],
        description="the run's own folder; default runs/NAME",
    )
    nproc: PositiveInt = Field(default=1, description="ranks on this machine; --nproc is the same")
    with_upstream: bool = Field(
        default=False,
        description="make what a stage needs first, where --stage or --from asks for one whose inputs are "
        "missing; otherwise that is an error",
    )
    threads: PositiveInt | None = Field(default=None, description="CPU threads a rank; none = cores / nproc")
    roles: Roles = Roles()
    stages: dict[str, Annotated[StageUnion, Field(discriminator="kind")]] = Field(
        min_length=1, description="the stages, in the order in which they run"
    )

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, value: str) -> str:
        return folder_name(value)

    @field_validator("stages", mode="before")
    @classmethod
    def _are_folder_names(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            folder_name(name)
        return value

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        if wrong := complaint(self.stages):
            raise ValueError(wrong)
        return self

    def stage_dir(self, name: str) -> Path:
        return stage_room(self.out, list(self.stages).index(name) + 1, name)


def stage_room(run: Path, number: int, name: str) -> Path:
    """A stage's folder in the run's: its number from 01, and its name.

    One that is there keeps its number when stages are put before it.
    """
    there = [room for room in stage_rooms(run) if room.name[3:] == name]
    return there[0] if there else run / f"{number:02d}-{name}"


def stage_rooms(run: Path) -> list[Path]:
    """The folders of a run's stages, in order; not those a changed config has set aside (NN-name.oldK)."""
    rooms = sorted(path for path in run.glob("[0-9][0-9]-*") if path.is_dir())
    return [room for room in rooms if not re.search(r"\.old\d+$", room.name)]


def folder_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"'{value}' becomes a folder: letters, digits, '-', '_' and '.' only")
    return value
