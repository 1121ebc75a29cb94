"""Tensors in files: boxes that lie in one stretch of bytes, and the reading and writing of such stretches.

Reading goes by pread into memory that is used again and again, not through a mapped file: what has been read
is not counted as memory of the process, and no page is faulted in on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import prod

import torch

from r1mega.models.blocks import Box
from r1mega.types import UserError

READ_BYTES = 1 << 20
"""Of one step of a copy: it stays in the processor's cache between reading and writing."""


def span(shape: Sequence[int], box: Box) -> int | None:
    """Where in a tensor's elements a box begins, if its elements follow one another there; None if not."""
    strides = [prod(shape[d + 1 :]) for d in range(len(shape))]
    first = next((d for d, size in enumerate(box.shape) if size > 1), len(shape))
    inner = all(box.shape[d] == shape[d] for d in range(first + 1, len(shape)))
    return sum(map(int.__mul__, box.start, strides)) if inner else None


def steps(box: Box, itemsize: int, size: int = READ_BYTES, multiple: int = 1) -> Iterator[Box]:
    """A box cut along its first dim that is longer than 1 into boxes of about `size` bytes.

    multiple: each but the last has so many rows, or a multiple of it, however many bytes that are.
    """
    dim = next((d for d, length in enumerate(box.shape) if length > 1), None)
    if dim is None:
        yield box
        return
    low, high = box.start[dim], box.stop[dim]
    row = box.volume // (high - low) * itemsize
    rows = max(multiple, size // row // multiple * multiple)
    for at in range(low, high, rows):
        start = (*box.start[:dim], at, *box.start[dim + 1 :])
        yield Box(start, (*box.stop[:dim], min(at + rows, high), *box.stop[dim + 1 :]))


def memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, not copied."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def read_at(file: int, offset: int, tensor: torch.Tensor, name: str) -> None:
    """Fill a contiguous tensor from a descriptor. Raises UserError, naming the file, where it ends before."""
    rest = memory(tensor)
    while rest:
        count = os.preadv(file, [rest], offset)
        if count == 0:
            raise UserError(f"{name} is truncated: it ends at byte {offset}, {len(rest)} more are needed")
        rest, offset = rest[count:], offset + count


def write_at(file: int, offset: int, content: memoryview | bytes) -> None:
    """Write all of it. Raises OSError."""
    rest = memoryview(content)
    while rest:
        count = os.pwrite(file, rest, offset)
        rest, offset = rest[count:], offset + count
