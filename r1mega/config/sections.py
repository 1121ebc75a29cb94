"""The shared sections, one typed model each. Descriptions say the unit and, where public, the paper's value.

"R1" in a description is the DeepSeek-R1 paper and its supplement, "V3" the DeepSeek-V3 report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from r1mega.config.section import FilePath, Section

Names = Annotated[tuple[str, ...], Field(strict=False)]  # TOML gives lists
Layers = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def only_one(section: Section, keys: tuple[str, ...]) -> None:
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(keys)}; given: {' and '.join(given) or 'none'}")


class Model(Section):
    """Which network, and where its weights come from: exactly one of path, config, from_stage."""

    rivals: ClassVar = (("path", "config", "from_stage"),)

    path: FilePath | None = Field(default=None, description="Hugging Face folder with weights to start from")
    config: FilePath | dict[str, Any] | None = Field(
        default=None, description="config.json, or its keys as a table: random weights of that shape"
    )
    from_stage: str | None = Field(
        default=None, description="name of an earlier stage whose exported model is the start"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="number format of weights and activations"
    )
    changes: dict[str, Any] | None = Field(
        default=None,
        description="keys of its config.json that are replaced, here and in what is exported, such as a "
        "longer max_position_embeddings; tie_word_embeddings = false begins with a copy",
    )
    mtp: Literal["drop", "keep", "train"] = Field(
        default="drop",
        description="its multi-token-prediction layers, where it has some: left out, here and in what is "
        "exported; kept as they are; or trained (pretrain, sft)",
    )
    backend: Literal["auto", "local", "transformer_engine"] = Field(
        default="auto",
        description="whose layers: Transformer Engine's (NVIDIA GPUs), or our own ones on Megatron-Core's; "
        "auto = Transformer Engine's where they can be had",
    )
    fp8: bool = Field(
        default=False,
        description="matrix products in FP8, scaled in blocks of 128 x 128; Transformer Engine only (V3: "
        "true)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        only_one(self, self.rivals[0])
        return self


class TokenizerTraining(Section):
    """A SentencePiece model trained on the stage's own texts."""

    vocab_size: int = Field(
        gt=256, description="pieces, the 256 byte pieces and the symbols included (V3: 129,280)"
    )
    symbols: Names = Field(default=(), description="texts that are always one token, such as <think>")
    documents: PositiveInt = Field(default=20_000, description="texts to train on, at most")


class Tokenizer(Section):
    """Text to tokens. Empty where the model's own folder brings one."""

    rivals: ClassVar = (("path", "train"),)

    path: FilePath | None = Field(
        default=None, description="a SentencePiece .model, a tokenizer.json, or a folder with one"
    )
    train: TokenizerTraining | None = Field(default=None, description="train one on the stage's texts")
    graft: Literal["r1"] | None = Field(
        default=None,
        description="give the model's own tokenizer R1's tags, its tokens for turns and its chat template",
    )


class LayoutSizes(Section):
    """How the ranks are divided; sizes are numbers of ranks. Data parallelism takes what the others leave."""

    tp: PositiveInt = Field(default=1, description="tensor parallel")
    pp: PositiveInt = Field(default=1, description="pipeline parallel")
    ep: PositiveInt = Field(default=1, description="expert parallel")
    etp: PositiveInt | None = Field(default=None, description="tensor parallel inside an expert; none = 1")
    cp: PositiveInt = Field(
        default=1, description="context parallel: each has tokens / cp of every sequence, for long ones"
    )
    vp: PositiveInt = Field(
        default=1,
        description="virtual pipeline: chunks of the model on each stage, for shorter waits at more exchange",
    )
    first_stage_layers: PositiveInt | None = Field(
        default=None,
        description="layers of the pipeline's first part (a stage, or with vp a chunk); the others share the "
        "rest equally; none = as the others",
    )
    last_stage_layers: PositiveInt | None = Field(
        default=None, description="the same of its last part (61 layers on pp 16: last_stage_layers = 1)"
    )
    stage_layers: Layers | None = Field(
        default=None,
        description="instead of those: the layers of every part, pp x vp numbers in the model's order",
    )

    rivals: ClassVar = (
        ("first_stage_layers", "stage_layers"),
        ("last_stage_layers", "stage_layers"),
    )

    @model_validator(mode="after")
    def _fits_pipeline(self) -> Self:
        given = [k for k in ("first_stage_layers", "last_stage_layers") if getattr(self, k) is not None]
        if self.stage_layers is not None and given:
            raise ValueError(f"stage_layers says all: leave out {' and '.join(given)}")
        parts = self.pp * self.vp
        if self.stage_layers is not None and len(self.stage_layers) != parts:
            raise ValueError(
                f"stage_layers has {len(self.stage_layers)} numbers, and pp {self.pp} x vp {self.vp} needs "
                f"{parts}, one for each part of the model in its order"
            )
        if self.pp == 1 and (self.vp > 1 or given):
            what = given[0] if given else f"vp {self.vp}"
            raise ValueError(f"{what} is for a pipeline, and pp is 1: leave it out or raise pp")
        return self


FILE_TASKS = (
    "gsm8k", "math", "aime", "olympiad", "kaoyan", "svamp", "messages", "kk", "choice", "gpqa", "humaneval",
    "mbpp", "code_contests", "codeforces", "livecodebench", "code", "ifeval",
)  # fmt: skip
"""Kinds of tasks that read a file: the keys of r1mega.data.formats.FORMATS."""


def known_levels(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not all(re.fullmatch(r"c([2-9]|1\d)", level) for level in value):
        raise ValueError("must be a list of c2 ... c19, the number of terms in a sum")
    return value


class TaskShare(Section):
    """One task of a mixture."""

    kind: Literal[
        "sums", "countdown", "toy_countdown", "logic", "toy_logic", "toy_code", "toy_general",
        "gsm8k", "math", "aime", "olympiad", "kaoyan", "svamp", "messages", "kk", "choice", "gpqa",
        "humaneval", "mbpp", "code_contests", "codeforces", "livecodebench", "code", "ifeval",
    ] = Field(
        description="what is asked; sums, countdown, logic, toy_... are generated, the others read a file in "
        "the format of that name (docs/benchmarks.md)"
    )  # fmt: skip
    weight: Rate = Field(
        default=1.0, description="against the others (R1: math 26K, code 17K, STEM 22K, logic 15K prompts)"
    )
    template: str = Field(
        default="r1_zero", description="r1_zero (as published), toy, plain, or a text with {prompt} in it"
    )
    levels: Names = Field(default=("c3", "c4", "c5"), description="of sums: ck has k terms")
    path: FilePath | None = Field(default=None, description="the task's .jsonl file; default: data.path")

    _known_levels = field_validator("levels")(known_levels)


class Data(Section):
    """What is learned from."""

    kind: Literal["toy", "text", "pairs", "tasks"] = Field(
        description="toy = generated sums; text = JSONL of texts; pairs = JSONL of prompts and answers; "
        "tasks = questions that a rule grades"
    )
    path: FilePath | None = Field(
        default=None, description="the .jsonl file (text, pairs; tasks: of those that name none themselves)"
    )
    from_stage: str | None = Field(
        default=None, description="an earlier stage that has made a data set, instead of a file (pairs)"
    )
    text_key: str = Field(default="text", description="JSON key of the text (text)")
    prompt_key: str = Field(default="question", description="JSON key of the prompt (pairs)")
    answer_key: str = Field(default="answer", description="JSON key of the answer (pairs)")
    template: str = Field(
        default="User: {prompt} Assistant:",
        description="what stands before an answer; {prompt} is replaced; or chat, the model's own (pairs)",
    )
    documents: PositiveInt = Field(default=80_000, description="documents to generate (toy)")
    levels: Names = Field(
        default=("c2", "c3", "c4", "c5", "c6"), description="problems: ck is a sum of k terms (toy)"
    )
    extra: dict[str, Rate] | None = Field(
        default=None,
        description="shares of documents about other things than sums: general, code, countdown, logic (toy)",
    )
    tasks: dict[str, TaskShare] | None = Field(
        default=None, description="the mixture: a table for each task, by its name (tasks)"
    )
    max_prompt: PositiveInt = Field(
        default=1024, description="longest prompt, in tokens; longer ones are left out and counted (tasks)"
    )
    max_length: int = Field(default=2048, ge=8, description="longest sequence, in tokens (R1's SFT: 32,768)")
    held_out: float = Field(
        default=0.02, ge=0, lt=1, description="fraction kept for evaluation, never trained on"
    )

    takes = "dataset"
    rivals: ClassVar = (("path", "from_stage"),)
    only_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "path": ("text", "pairs", "tasks"),
        "from_stage": ("pairs",),
        "text_key": ("text",),
        "prompt_key": ("pairs",),
        "answer_key": ("pairs",),
        "template": ("pairs",),
        "documents": ("toy",),
        "levels": ("toy",),
        "extra": ("toy",),
        "tasks": ("tasks",),
        "max_prompt": ("tasks",),
    }

    @classmethod
    def outdated(cls, table: Mapping[str, Any], later: Mapping[str, Any]) -> set[str]:
        gone = super().outdated(table, later)
        if "kind" not in later:
            return gone
        kind = later["kind"]
        lost = {key for key in table if kind not in cls.only_for.get(key, (kind,))}
        return gone | (lost - later.keys())

    def _has_own(self, key: str) -> bool:
        return getattr(self, key) != type(self).model_fields[key].default

    @field_validator("template")
    @classmethod
    def _has_prompt(cls, value: str) -> str:
        if value.count("{prompt}") != 1 and value != "chat":
            raise ValueError("must contain {prompt} exactly once, or be chat")
        return value

    _known_levels = field_validator("levels")(known_levels)

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "text" and self.path is None:
            raise ValueError("kind 'text' needs data.path, a .jsonl file; say data.path=FILE")
        if self.kind == "pairs" and (self.path is None) == (self.from_stage is None):
            raise ValueError(
                "kind 'pairs' needs data.path, a .jsonl file (say data.path=FILE), or data.from_stage"
            )
        if self.kind == "tasks" and not self.tasks:
            raise ValueError("kind 'tasks' needs a table data.tasks.NAME for each task of the mixture")
        for name, task in (self.tasks or {}).items():
            if task.kind in FILE_TASKS and (task.path or self.path) is None:
                raise ValueError(f"task '{name}' needs a file: data.path=FILE or data.tasks.{name}.path=FILE")
        foreign = sorted(
            key for key, kinds in self.only_for.items() if self.kind not in kinds and self._has_own(key)
        )
        if foreign:
            raise ValueError(f"kind '{self.kind}' has no use for {', '.join(foreign)}; leave it out")
        return self


class Optimizer(Section):
    """Where AdamW's state lives, and when ranks exchange what they have. None of it changes the result."""

    distributed: bool = Field(
        default=False,
        description="each data-parallel rank keeps its share of the state (12 bytes a parameter in bfloat16) "
        "instead of all of it",
    )
    overlap_grad_reduce: bool = Field(
        default=False, description="sum gradients over ranks while the backward pass still runs"
    )
    overlap_param_gather: bool = Field(
        default=False,
        description="gather updated weights while the next forward pass runs; needs distributed and "
        "overlap_grad_reduce",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.overlap_param_gather and not (self.distributed and self.overlap_grad_reduce):
            raise ValueError(
                "overlap_param_gather needs distributed = true and overlap_grad_reduce = true beside it"
            )
        return self


class Train(Section):
    """The optimizer and its schedule."""

    rivals: ClassVar = (("steps", "epochs"),)

    steps: PositiveInt | None = Field(default=None, description="optimizer steps; of grpo: rollouts")
    epochs: Rate | None = Field(
        default=None, description="passes over the data, instead of steps (R1's SFT: 2-3)"
    )
    batch_size: PositiveInt = Field(
        default=128,
        description="sequences an optimizer step, over all ranks (R1's SFT: 128, distillation: 64)",
    )
    micro_batch_tokens: PositiveInt = Field(
        default=16_384,
        description="tokens a forward on one data-parallel rank, at most; sets memory, not the result",
    )
    lr: Rate = Field(
        default=5e-5, description="highest learning rate (R1's SFT: 5e-5; distillation: 2e-5 ... 1e-4)"
    )
    min_lr: NotNegative = Field(
        default_factory=lambda values: values["lr"] / 10,
        description="learning rate at the end, absolute; default lr / 10 (R1's SFT: 5e-6)",
    )
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps of linear rise to lr")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="from lr to min_lr (R1: cosine)"
    )
    weight_decay: NotNegative = Field(default=0.1, description="AdamW's, on matrices only (R1: not public)")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.95), strict=False, description="AdamW's decay rates of both moments (R1: not public)"
    )
    eps: Rate = Field(default=1e-8, description="AdamW's epsilon")
    clip_grad: NotNegative = Field(default=1.0, description="largest gradient norm; 0 = no clipping")
    expert_bias_rate: NotNegative = Field(
        default=1e-3,
        description="step of the bias that balances the experts, MoE only; 0 freezes it (V3: 1e-3)",
    )
    balance_weight: NotNegative = Field(
        default=0.0,
        description="weight of the sequence-wise balance loss, MoE only (pretrain, sft; V3: 1e-4)",
    )
    mtp_weight: NotNegative = Field(
        default=0.1,
        description="weight of the multi-token-prediction loss, with model.mtp = train (V3: 0.3, then 0.1)",
    )
    optimizer: Optimizer = Optimizer()
    recompute: Literal["none", "selective", "full"] = Field(
        default="none",
        description="activations that the backward pass computes again instead of keeping them: selective = "
        "attention and the feed-forward parts, full = whole layers; costs time, saves memory",
    )
    offload: Annotated[tuple[Literal["optimizer", "reference"], ...], Field(strict=False)] = Field(
        default=(),
        description="what waits in the host's memory while it is not used: optimizer = AdamW's state, "
        "reference = the reference model (grpo); on a CPU nothing",
    )

    @field_validator("betas")
    @classmethod
    def _are_rates(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("must be two numbers in [0, 1)")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        only_one(self, self.rivals[0])
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than steps {self.steps}")
        return self


class Eval(Section):
    """On held-out data: the loss (pretrain, sft) or the accuracy of answers (grpo)."""

    every: int = Field(default=0, ge=0, description="steps between evaluations; 0 = only at the end")
    samples: PositiveInt = Field(default=512, description="held-out sequences or prompts, at most")
    answers: PositiveInt = Field(default=1, description="answers to each prompt, k of pass@1 (grpo)")
    patience: int = Field(
        default=0, ge=0, description="evaluations without a gain that end the stage; 0 = all steps (grpo)"
    )
    min_delta: NotNegative = Field(default=0.01, description="least rise of pass@1 that is a gain (grpo)")


class Checkpoint(Section):
    """Model, optimizer, random state and data cursor, from which a run goes on by itself."""

    every: int = Field(
        default=200, ge=0, description="steps between checkpoints; 0 = only at the end or when interrupted"
    )
    keep: PositiveInt = Field(default=2, description="newest checkpoints to keep")
    keep_every: int = Field(
        default=0, ge=0, description="also keep those whose step is a multiple of this; 0 = none"
    )
    asynchronous: bool = Field(
        default=True, description="the steps go on while files are written; costs a copy in the host's memory"
    )


class Log(Section):
    """What is shown and where numbers go. metrics.jsonl always gets every step."""

    every: int = Field(
        default=0, ge=0, description="steps between lines where output is no terminal; 0 = a line every 5 s"
    )
    tensorboard: bool = Field(default=False, description="also write TensorBoard files")
    wandb_project: str | None = Field(default=None, description="also send to this Weights & Biases project")
    wandb_entity: str | None = Field(
        default=None, description="Weights & Biases user or team; none = your default"
    )
    wandb_mode: Literal["online", "offline"] = Field(
        default="online", description="offline = write files to sync later"
    )
