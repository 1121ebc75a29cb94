"""Checksums of tensors that add up over their parts.

The checksum of a tensor is the sum over its elements of bits x (2 i + 1) mod 2^64, where i is the element's
position in the whole tensor in row order. So ranks that hold different boxes can each compute their part, and
the sum over the ranks is what must arrive, if every element arrives where it belongs, once, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from r1mega.models.blocks import Box

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(part: torch.Tensor, box: Box, columns: int) -> torch.Tensor:
    """int64 []: what the elements of `box`, given as `part`, add to the checksum of their tensor.

    columns: of the whole tensor, which is a matrix, or a vector and then counts as one row.
    """
    bits = part.detach().view(_BITS[part.element_size()])
    low = (0, *box.start)[-2:]
    size = (1, *box.shape)[-2:]
    bits_RC = bits.reshape(size)
    # Through sums of rows and columns, so that no table of positions as large as the tensor is needed.
    of_rows = bits_RC.sum(dim=1, dtype=torch.int64)
    of_columns = bits_RC.sum(dim=0, dtype=torch.int64)
    rows = torch.arange(low[0], low[0] + size[0], device=bits.device)
    cols = torch.arange(low[1], low[1] + size[1], device=bits.device)
    return (of_rows * (2 * columns * rows)).sum() + (of_columns * (2 * cols + 1)).sum()


def digest(sums: Mapping[str, int]) -> str:
    """16 hex digits for a whole model: the same for the same weights, whatever layout they come from."""
    text = "\n".join(f"{name} {value}" for name, value in sorted(sums.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
