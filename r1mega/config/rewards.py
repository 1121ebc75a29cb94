"""The parts of a reward, one table each. "R1" is the DeepSeek-R1 paper and its supplement."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from r1mega.config.section import FilePath, Section
from r1mega.config.sections import Names, only_one

Finite = Annotated[float, Field(allow_inf_nan=False)]


class RewardPart(Section):
    """A term of the reward; `NAME = 0.5` is short for `NAME.weight = 0.5`."""

    weight: Finite = Field(default=0.0, description="the part's value, 0 to 1, is multiplied by this")
    from_step: PositiveInt | None = Field(default=None, description="first step that it counts in, from 1")
    to_step: PositiveInt | None = Field(default=None, description="last step that it counts in")
    tasks: Names | None = Field(default=None, description="tasks of the mixture it concerns; none = all")

    @model_validator(mode="after")
    def _steps_follow(self) -> Self:
        if self.from_step is not None and self.to_step is not None and self.from_step > self.to_step:
            raise ValueError(f"from_step {self.from_step} comes after to_step {self.to_step}")
        return self


class AccuracyPart(RewardPart):
    """The answer is right by the task's own rule."""

    weight: Finite = Field(default=1.0, description="(R1-Zero: as much as format)")
    where: Literal["answer_tag", "final"] = Field(
        default="answer_tag",
        description="answer_tag: only what stands in <answer> counts; final: or what stands behind the "
        "thoughts, as the last \\boxed",
    )
    tests: Literal["all", "share"] = Field(
        default="all", description="of a program: all tests must pass; or it earns the share that do"
    )
    sandbox: Literal["bubblewrap", "limits"] = Field(
        default="bubblewrap",
        description="what programs run in; limits = go on without bubblewrap, which protects far less",
    )


class FormatPart(RewardPart):
    """Thoughts and answer stand where the template wants them."""

    weight: Finite = Field(default=1.0, description="(R1-Zero: as much as accuracy)")
    rule: Literal["think_answer", "think_first", "chat", "graded"] = Field(
        default="think_answer",
        description="think_answer: one think block, one answer block, nothing else; think_first: a think "
        "block, then text; chat: the same, the prompt having opened the block; graded: 0.25 for a think "
        "block and 0.75 for an answer block",
    )


class LanguagePart(RewardPart):
    """Share of words of the thoughts in one language (R1: from the first RL stage on, weight not public)."""

    target: str = Field(default="en", description="ISO 639-1 code; question = each question's own language")


class RepetitionPart(RewardPart):
    """Repeated n-grams: -1 for a text of one repeated n-gram, 0 for one without repetition."""

    ngram: PositiveInt = Field(default=4, description="words of an n-gram")


class LengthPart(RewardPart):
    """Cosine of the length: short right answers and long wrong ones earn more (arXiv 2502.03373)."""

    longest: PositiveInt | None = Field(
        default=None, description="tokens at which the cosine ends; none = rollout.max_tokens"
    )


class OverlongPart(RewardPart):
    """Soft punishment before the limit: 0 to -1 over the last tokens (DAPO, arXiv 2503.14476)."""

    buffer: PositiveInt = Field(default=4096, description="tokens before rollout.max_tokens where it begins")


class ModelPart(RewardPart):
    """What a reward model says, computed by the trainer's ranks where the part counts."""

    takes = "reward_models"
    rivals: ClassVar = (("from_stage", "path"),)

    from_stage: str | None = Field(default=None, description="an earlier stage of kind reward_models")
    name: str | None = Field(
        default=None, description="which of that stage's models; none = the part's own name"
    )
    path: FilePath | None = Field(default=None, description="or the folder of one such model")
    scale: Literal["sigmoid", "raw"] = Field(
        default="sigmoid",
        description="sigmoid: 0 to 1, as of the other parts, where no outlier rules its group; of a pairwise "
        "model, whose zero is arbitrary, around its mean on held-out answers; raw: as the model gives it, "
        "without bounds (R1: not public)",
    )

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.weight:
            only_one(self, self.rivals[0])
        if self.path is not None and self.name is not None:
            raise ValueError("path names one model's folder already; leave out name")
        return self


class HelpfulPart(ModelPart):
    """Helpfulness, judged on the summary only, so that it does not disturb the thoughts (R1)."""

    missing: Finite = Field(default=0.0, description="value of an answer without summary, scaled already")


class SafetyPart(ModelPart):
    """Safety, judged on the whole response, thoughts included (R1)."""


class Rewards(Section):
    """The parts of the reward; the total is their weighted sum (R1-Zero: accuracy and format, equal)."""

    accuracy: AccuracyPart = AccuracyPart()
    format: FormatPart = FormatPart()
    language: LanguagePart = LanguagePart()
    repetition: RepetitionPart = RepetitionPart()
    length: LengthPart = LengthPart()
    overlong: OverlongPart = OverlongPart()
    helpful: HelpfulPart = HelpfulPart()
    safety: SafetyPart = SafetyPart()

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_weight(cls, value: Any) -> Any:
        return {"weight": float(value)} if type(value) in (int, float) else value

    @model_validator(mode="after")
    def _pays(self) -> Self:
        if not any(getattr(self, name).weight > 0 for name in type(self).model_fields):
            raise ValueError("a part's weight must be above 0, or there is nothing to learn")
        return self
