"""Tensors compared bit by bit, a box at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from r1mega.models.blocks import Box
from r1mega.models.safetensors_file import TensorInfo

_BOX_BYTES = 1 << 26
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def boxes(info: TensorInfo) -> Iterator[Box]:
    """A tensor cut along its first dim into boxes of about 64 MiB."""
    if not info.shape:
        yield Box((), ())
        return
    rows = info.shape[0]
    step = max(1, _BOX_BYTES * rows // max(1, info.nbytes))
    for low in range(0, rows if info.nbytes else 0, step):
        yield Box((low, *(0 for _ in info.shape[1:])), (min(low + step, rows), *info.shape[1:]))


def different(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """bool, of the tensors' shape: where their bits differ (0.0 and -0.0 do, a NaN is equal to itself)."""
    assert first.dtype == second.dtype, (first.dtype, second.dtype)
    integer = _INTEGERS[first.element_size()]
    return first.contiguous().view(integer) != second.contiguous().view(integer)
