"""The `r1mega` command with a generator that disagrees: its weights are rounded to 8 bits at each sync.

For studies of the trainer-generator mismatch only. Ranks of `algorithms.py` run this instead of `r1mega`; the
proof of the weight sync (checksums, probe) then holds for the rounded weights, or is too wide to complain.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from r1mega.cli import main
from r1mega.models import weights
from r1mega.stages import grpo
from r1mega.sync import source

FORMAT = torch.float8_e4m3fn
"""Three bits of mantissa: a weight is off by up to a sixteenth of itself."""


def rounded(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.to(FORMAT).to(tensor.dtype) for name, tensor in weights.tensors(model).items()}


@contextmanager
def _coarse() -> Iterator[None]:
    source.weights = SimpleNamespace(whole=weights.whole, tensors=rounded)  # type: ignore[assignment]
    try:
        yield
    finally:
        source.weights = weights


class CoarseWeights(source.PolicyWeights):
    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        with _coarse():
            tensors = super().__iter__()
        return tensors

    def checksums(self) -> dict[str, int]:
        with _coarse():
            return super().checksums()


if __name__ == "__main__":
    grpo.PolicyWeights = CoarseWeights  # type: ignore[misc]
    grpo.PROBE_TOLERANCE = dict.fromkeys(grpo.PROBE_TOLERANCE, 100.0)
    sys.exit(main())
