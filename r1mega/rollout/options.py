"""What an engine may be told, and how the ranks of a job share engines. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r1mega.types import UserError


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    max_model_len:   tokens of the longest prompt and its answer together.
    max_num_seqs:    answers that are written at the same time; more wait their turn.
    kv_cache_gb:     GiB of memory for keys and values, on each rank.
    dtype:           of weights and activations; the trainer's, or the two disagree from the start.
    tensor_parallel: ranks that form one engine. 1: every rank has an engine of its own, and the caller splits
                     the prompts; N: N ranks that follow one another answer the same prompts together.
    eager:           run without CUDA graphs; None: as the device likes it, which on CPU is always eager.
    """

    max_model_len: int
    max_num_seqs: int = 128
    kv_cache_gb: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    tensor_parallel: int = 1
    eager: bool | None = None


@dataclass(frozen=True)
class Share:
    """Which part of the prompts this rank's engine answers: `prompts[index::engines]`, for one.

    Ranks of the same engine have the same share, and must ask the same.
    """

    index: int
    engines: int

    @classmethod
    def of(cls, rank: int, world: int, tensor_parallel: int) -> Share:
        """Raises UserError where the ranks cannot form engines of that size."""
        if tensor_parallel < 1 or world % tensor_parallel:
            fitting = [size for size in range(1, world + 1) if world % size == 0]
            raise UserError(
                f"{world} rank(s) cannot form engines of tensor_parallel {tensor_parallel} ranks each: "
                f"allowed are {', '.join(map(str, fitting))}"
            )
        return cls(rank // tensor_parallel, world // tensor_parallel)
