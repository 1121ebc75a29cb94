"""How much memory a conversion takes, as a formula; tools/bench/convert.py measures it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from r1mega.models.fp8 import BLOCK, is_linear
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spans import READ_BYTES

_IMPORTS = 320_000_000  # Python and torch
_PLANNED = 4_500  # bytes a tensor: headers, boxes, the plan
_PIECES = 5  # a thread holds: read, cast, and what arithmetic is made of


def predicted(inventory: Mapping[str, TensorInfo], workers: int, held: int = 0) -> int:
    """Bytes at the peak, with FP8 on either side. It depends on the width of the model, not on its size.

    held: bytes of a training checkpoint's chunks that are no stretches of one tensor (q, k and v together)
          and so are in memory whole: `CheckpointFolder.held`.
    """
    widest = max((info.shape[-1] for name, info in inventory.items() if is_linear(name)), default=0)
    rows = max(BLOCK, READ_BYTES // max(1, widest * torch.float32.itemsize) // BLOCK * BLOCK)
    thread = _PIECES * max(READ_BYTES, rows * widest * torch.float32.itemsize)
    return _IMPORTS + _PLANNED * len(inventory) + workers * thread + held
