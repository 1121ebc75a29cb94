"""The weights of multi-token-prediction layers in checkpoints: left out, listed, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch

from r1mega.models.blocks import Box
from r1mega.models.families import checkpoint_shapes, copies
from r1mega.models.spec import ModelSpec
from r1mega.types import UserError

_SLAB = 1 << 24  # elements that are compared at a time


def without_mtp(spec: ModelSpec) -> ModelSpec:
    """The same model without these layers, in what is exported, too."""
    if not spec.mtp_layers:
        return spec
    return replace(spec, mtp_layers=0, hf={**spec.hf, "num_nextn_predict_layers": 0})


def mtp_tensors(spec: ModelSpec) -> set[str]:
    """The checkpoint tensors of these layers, the copies of the model's own among them."""
    return checkpoint_shapes(spec).keys() - checkpoint_shapes(without_mtp(spec)).keys()


class Reader(Protocol):
    def read(self, name: str, box: Box) -> torch.Tensor: ...


def check_copies(spec: ModelSpec, reader: Reader, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError where a tensor that repeats another one differs from it, bit by bit.

    Only the original is kept, so the difference would be lost without a word.
    """
    for copy, original in copies(spec).items():
        rows, columns = shapes[original]
        each = max(1, _SLAB // columns)
        for start in range(0, rows, each):
            box = Box((start, 0), (min(rows, start + each), columns))
            one, other = reader.read(copy, box), reader.read(original, box)
            if one.dtype != other.dtype or not torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
                raise UserError(
                    f"{copy} differs from {original}, of which it should be a copy (a multi-token-prediction "
                    'layer shares it with the model): use model.mtp = "drop", or make them equal'
                )
