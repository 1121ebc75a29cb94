"""From one dtype to another, with a word where a value does not fit."""

from __future__ import annotations

import torch

from r1mega.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in another dtype. Raises UserError for a finite value that would become infinite."""
    if tensor.dtype == dtype:
        return tensor
    found = tensor.to(dtype)
    limit = torch.finfo(dtype).max
    if torch.finfo(tensor.dtype).max > limit and not found.isfinite().all():
        largest = float(tensor.where(tensor.isfinite(), 0).abs().max())
        if largest > limit:
            raise UserError(
                f"{name} has values up to {largest:g}, {dtype_name(dtype)} ends at {limit:g}: "
                "choose another one"
            )
    return found


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
