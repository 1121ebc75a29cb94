"""Making preference pairs from a model's answers. "R1" is the DeepSeek-R1 paper and its supplement."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from r1mega.config.section import FilePath, Section
from r1mega.config.sections import NotNegative, Rate, only_one
from r1mega.config.stage import Artifact, StageConfig


class Answers(Section):
    """What is compared: several answers to each prompt, as a stage of kind collect makes them."""

    takes = "dataset"
    rivals: ClassVar = (("path", "from_stage"),)

    path: FilePath | None = Field(default=None, description="a .jsonl file with prompt and response a line")
    from_stage: str | None = Field(default=None, description="name of an earlier stage that has made them")
    shown: Literal["summary", "whole"] = Field(
        default="summary",
        description="what is compared and kept: what stands behind the thoughts, or all (R1: the summary)",
    )
    pairs_per_prompt: PositiveInt = Field(
        default=1, description="pairs of the answers to one prompt, at most; no answer is in two"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        only_one(self, self.rivals[0])
        return self


class Comparing(Section):
    """How the model of the stage judges pairs."""

    prompt: FilePath | None = Field(
        default=None,
        description="file with what it is told, with {question}, {answer_a} and {answer_b}; none = the "
        "package's own",
    )
    template: str = Field(
        default="chat", description="chat = the model's own form, else plain or a text with {prompt}"
    )
    votes: PositiveInt = Field(default=4, description="judgments a pair, in random order, averaged (R1: 4)")
    margin: NotNegative = Field(
        default=1.0,
        description="a pair is kept where the mean verdict is above this, from 3, much better, over 1, "
        "better, to 0, alike (R1: 1; its scale is not public)",
    )
    match_lengths: bool = Field(
        default=True, description="as many longer chosen answers as shorter ones, by octaves (R1: comparable)"
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.6, description="of sampling; at 0 votes of the same order are the same"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="smallest share to draw from"
    )
    max_tokens: PositiveInt = Field(default=4096, description="longest judgment, in tokens")
    context: PositiveInt | None = Field(
        default=None, description="tokens of what it reads and writes together; none = the model's own"
    )
    shard: PositiveInt = Field(
        default=256, description="pairs that are judged at a time and lost at most by a kill"
    )
    max_sequences: PositiveInt = Field(default=128, description="judgments that one engine draws at a time")
    kv_cache_gb: Rate = Field(default=1.0, description="GiB of an engine's key-value cache, on each rank")
    tensor_parallel: PositiveInt = Field(default=1, description="ranks that form one engine")


class Preferences(StageConfig):
    """Pairs of answers of which a judge prefers one: what a pairwise reward model learns from.

    `model` is the judge.
    """

    makes: ClassVar[Artifact] = "pairs"
    kind: Literal["preferences"]
    answers: Answers
    compare: Comparing = Comparing()

    @model_validator(mode="after")
    def _has_a_judge(self) -> Self:
        if self.model.config is not None or self.tokenizer.train is not None:
            raise ValueError("the model is the judge and must exist: give model.path or model.from_stage")
        return self
