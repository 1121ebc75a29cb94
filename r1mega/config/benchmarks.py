"""What a stage's model is measured on when the stage is done."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from r1mega.config.section import FilePath, Section
from r1mega.config.sections import FILE_TASKS, Names, TaskShare


class Benchmarks(Section):
    """The table of results after each stage; empty: none is made. Changing it measures again, no more."""

    names: Names = Field(default=(), description="of docs/benchmarks.md: aime24, math500, gpqa_diamond ...")
    tasks: dict[str, TaskShare] = Field(
        default={}, description="a table for each further task; its held-out prompts are asked"
    )
    data: FilePath | None = Field(
        default=None, description="folder with the files of `names`; none = the hub's"
    )
    template: str | None = Field(
        default=None,
        description="of `names`: chat, r1_zero, plain, or a text with {prompt}; none = chat where the model "
        "has a template of its own, else r1_zero",
    )
    prompts: PositiveInt | None = Field(
        default=None, description="questions of each, at most; none = all of `names`, 256 of each of `tasks`"
    )
    samples: PositiveInt | None = Field(
        default=None,
        description="answers to each question; none = each benchmark's own (R1: 64 for AIME and GPQA, 16 for "
        "MATH-500, 8 for LiveCodeBench), 4 for `tasks`",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.6, description="of sampling (R1: 0.6); 0 = greedy"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, description="(R1: 0.95)")
    max_tokens: PositiveInt | None = Field(
        default=None, description="longest answer; none = 32,768 (R1's), or what the model's context allows"
    )
    held_out: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="of a task's file: the fraction of rows that is never trained on",
    )
    tensor_parallel: PositiveInt = Field(default=1, description="ranks that form one engine")
    max_sequences: PositiveInt = Field(default=256, description="answers that one engine draws at a time")
    kv_cache_gb: float | None = Field(
        default=None, gt=0, description="GiB of an engine's key-value cache; none = what is free"
    )
    sandbox: Literal["bubblewrap", "limits"] = Field(
        default="bubblewrap", description="what programs run in; see rewards.accuracy.sandbox"
    )

    @model_validator(mode="after")
    def _files_are_named(self) -> Self:
        for name, task in self.tasks.items():
            if name in self.names:
                raise ValueError(f"'{name}' is a benchmark and a task: call the task otherwise")
            if task.kind in FILE_TASKS and task.path is None:
                raise ValueError(f"task '{name}' needs a file: benchmarks.tasks.{name}.path=FILE")
        return self

    @property
    def any(self) -> bool:
        return bool(self.names or self.tasks)
