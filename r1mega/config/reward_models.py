"""Training reward models. "R1" is the DeepSeek-R1 paper and its supplement."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from r1mega.config.section import FilePath, Section
from r1mega.config.sections import Checkpoint, Eval, Train, only_one
from r1mega.config.stage import Artifact, StageConfig

Objective = Literal["pairwise", "pointwise"]
Format = Literal["rows", "sharegpt", "messages", "transcripts"]
FORMATS: dict[str, tuple[Format, ...]] = {
    "pairwise": ("rows", "sharegpt", "transcripts"),
    "pointwise": ("rows", "messages"),
}
"""What judgments a file can hold: the keys of r1mega.data.preferences.read.READERS."""


class JudgmentData(Section):
    """Judged answers: the toy's, or those of a file or of an earlier stage's data set."""

    takes = "pairs"
    rivals: ClassVar = (("path", "from_stage"),)

    kind: Literal["rows", "toy"] = Field(default="rows", description="rows = judged answers; toy = generated")
    path: FilePath | None = Field(default=None, description="the .jsonl, .jsonl.gz or .json file (rows)")
    from_stage: str | None = Field(
        default=None, description="name of an earlier stage whose data set holds them (rows)"
    )
    format: Format = Field(
        default="rows",
        description="rows: keys as below; sharegpt: conversations, chosen, rejected; messages: messages, "
        "label; transcripts: chosen, rejected as 'Human: ... Assistant: ...'",
    )
    prompt_key: str = Field(default="prompt", description="JSON key of the prompt")
    chosen_key: str = Field(default="chosen", description="JSON key of the better answer (pairwise)")
    rejected_key: str = Field(default="rejected", description="JSON key of the worse answer (pairwise)")
    response_key: str = Field(default="response", description="JSON key of the answer (pointwise)")
    label_key: str = Field(
        default="label",
        description="JSON key of the label: true/false, 1/0, safe/unsafe (pointwise)",
    )
    count: PositiveInt = Field(
        default=4096, description="judgments to generate (toy; R1: 66K helpful pairs, 106K safety labels)"
    )

    @classmethod
    def outdated(cls, table: Any, later: Any) -> set[str]:
        lost = {"path", "from_stage"} if later.get("kind") == "toy" else set()
        return super().outdated(table, later) | {key for key in lost if key in table and key not in later}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.kind == "rows":
            only_one(self, self.rivals[0])
        elif self.path is not None or self.from_stage is not None:
            raise ValueError("kind 'toy' generates its judgments; leave out path and from_stage")
        return self


class RewardModel(Section):
    """One reward model."""

    objective: Objective = Field(
        description="pairwise: the better of two answers (R1: helpful); pointwise: safe or not (R1: safety)"
    )
    data: JudgmentData
    template: str = Field(
        default="User: {prompt} Assistant:",
        description="what stands around a prompt: a text with {prompt}, a name (toy, plain), or chat, the "
        "model's own",
    )
    max_length: int = Field(
        default=8192,
        ge=8,
        description="tokens of a prompt, its answer and the label; longer are dropped (R1: 8,192)",
    )
    held_out: float = Field(
        default=0.05, gt=0, lt=1, description="fraction of the judgments kept for accuracy, never trained on"
    )

    @field_validator("template")
    @classmethod
    def _is_template(cls, value: str) -> str:
        if "{prompt}" not in value and value not in ("toy", "plain", "chat"):
            raise ValueError("must be a text with {prompt} in it once, or toy, plain or chat")
        return value

    @model_validator(mode="after")
    def _format_fits(self) -> Self:
        if self.data.kind == "rows" and self.data.format not in FORMATS[self.objective]:
            raise ValueError(
                f"data.format '{self.data.format}' holds no {self.objective} judgments; those that do: "
                f"{', '.join(FORMATS[self.objective])}"
            )
        return self


class RewardModels(StageConfig):
    """Models of the policy's architecture with a scalar head, trained on judgments one after another."""

    makes: ClassVar[Artifact] = "reward_models"
    kind: Literal["reward_models"]
    models: dict[str, RewardModel] = Field(
        min_length=1, description="a table for each model, by its name: models.helpful, models.safety"
    )
    train: Train = Field(description="(R1: batch 256, lr 6e-6, 1 epoch)")
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()

    @field_validator("train", mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        published = {"batch_size": 256, "lr": 6e-6} | ({} if "steps" in value else {"epochs": 1.0})
        return {**published, **value}

    @field_validator("models")
    @classmethod
    def _are_folders(cls, value: dict[str, RewardModel]) -> dict[str, RewardModel]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"'{name}' becomes a folder: letters, digits, '-', '_' and '.' only")
            if name in ("models", "tokenizer"):
                raise ValueError(f"'{name}' is a folder of the stage's own; choose another name")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.tokenizer.train is not None:
            raise ValueError(
                "tokenizer.train: reward models read with the tokenizer of their base; leave it out"
            )
        if self.model.config is not None and self.tokenizer.path is None:
            raise ValueError("a model with random weights has no tokenizer: give tokenizer.path")
        for name, model in self.models.items():
            if model.max_length > self.train.micro_batch_tokens and model.objective == "pointwise":
                raise ValueError(
                    f"models.{name}.max_length {model.max_length} does not fit train.micro_batch_tokens "
                    f"{self.train.micro_batch_tokens}: raise that, or lower max_length"
                )
            if model.objective == "pairwise" and 2 * model.max_length > self.train.micro_batch_tokens:
                raise ValueError(
                    f"models.{name}.max_length {model.max_length}: both answers of a pair, "
                    f"{2 * model.max_length} tokens, must fit train.micro_batch_tokens "
                    f"{self.train.micro_batch_tokens}: raise that, or lower max_length"
                )
        return self
