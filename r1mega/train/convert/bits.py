"""Tensors compared bit by bit, a box at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from r1mega.models.blocks import Box
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spans import steps

_BOX_BYTES = 1 << 23
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def boxes(info: TensorInfo) -> Iterator[Box]:
    """A tensor cut along its first dim into boxes of about 8 MiB."""
    if info.nbytes:
        yield from steps(Box.whole(info.shape), info.dtype.itemsize, _BOX_BYTES)


def different(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """bool, of the tensors' shape: where their bits differ (0.0 and -0.0 do, a NaN is equal to itself)."""
    assert first.dtype == second.dtype, (first.dtype, second.dtype)
    integer = _INTEGERS[first.element_size()]
    return first.contiguous().view(integer) != second.contiguous().view(integer)
