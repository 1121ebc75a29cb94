"""What every kind of stage has in common. The kinds themselves: `schema`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from r1mega.config.benchmarks import Benchmarks
from r1mega.config.section import Section
from r1mega.config.sections import Checkpoint, Data, Eval, LayoutSizes, Log, Model, Tokenizer, Train

Artifact = Literal["model", "dataset", "pairs", "reward_models"]


class StageConfig(Section):
    """The sections of every stage.

    makes:       what later stages can take from it.
    version:     raised by hand when a change of the code changes the results of this kind of stage.
    learns_text: it learns to predict given tokens; further tokens and the experts' balance can be learnt.
    """

    makes: ClassVar[Artifact] = "model"
    version: ClassVar[int] = 1
    learns_text: ClassVar[bool] = False

    kind: str = Field(description="what the stage does")
    label: str | None = Field(default=None, description="its line in tables of results; none = its name")
    minutes: float | None = Field(
        default=None, gt=0, description="its budget: a stage that takes longer says so; nothing is cut short"
    )
    model: Model
    tokenizer: Tokenizer = Tokenizer()
    layout: LayoutSizes = LayoutSizes()
    log: Log = Log()
    benchmarks: Benchmarks = Benchmarks()

    @model_validator(mode="after")
    def _what_only_text_teaches(self) -> Self:
        if self.learns_text:
            return self
        these = f"stages of kind pretrain and sft, and this is {self.kind}"
        if self.model.mtp == "train":
            raise ValueError(f"model.mtp = 'train' is for {these}: use 'keep' or 'drop'")
        train = getattr(self, "train", None)
        if isinstance(train, Train) and train.balance_weight:
            raise ValueError(f"train.balance_weight is for {these}: use 0")
        return self


class TrainingConfig(StageConfig):
    """The sections of every stage that trains a language model. `data_kinds`: what it can learn from."""

    data_kinds: ClassVar[tuple[str, ...]] = ()

    data: Data
    train: Train
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.data.kind not in self.data_kinds:
            kinds = " or ".join(self.data_kinds)
            raise ValueError(f"data.kind = '{self.data.kind}': stages of kind {self.kind} learn from {kinds}")
        training = self.tokenizer.train
        if self.model.config is None:
            if training is not None:
                raise ValueError(
                    "tokenizer.train: weights that exist have a tokenizer already; use tokenizer.path"
                )
            return self
        if training is None and self.tokenizer.path is None:
            raise ValueError(
                "a model with random weights has no tokenizer: give tokenizer.train or tokenizer.path"
            )
        rows = self.model.config.get("vocab_size") if isinstance(self.model.config, dict) else None
        if training is not None and isinstance(rows, int) and rows < training.vocab_size:
            raise ValueError(
                f"model.config.vocab_size {rows} is below tokenizer.train.vocab_size {training.vocab_size}"
            )
        return self
