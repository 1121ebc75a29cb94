"""r1mega checkpoint -> Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from r1mega.models.blocks import Box
from r1mega.models.hf_write import HFWriter
from r1mega.models.safetensors_file import TensorInfo
from r1mega.train.convert.progress import Display, silent
from r1mega.train.convert.source import CheckpointFolder, dtype_name, is_expert_bias, open_weights
from r1mega.train.convert.target import check_space, check_target
from r1mega.types import UserError


def to_hf(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    carry_from: Path | None = None,
    show: Display = silent,
) -> None:
    """Write a checkpoint's weights, of whatever layout, as a Hugging Face folder. No model is built.

    dtype:      of the weights, None to keep theirs; expert biases are float32 then, as DeepSeek's are.
    carry_from: the Hugging Face folder whose tokenizer and other small files are copied; None: those that
                came along when the checkpoint was converted, if it was.

    Raises UserError for whatever is wrong with source or target; the target appears whole or not at all.
    """
    check_target(target)
    checkpoint = open_weights(source)
    if not isinstance(checkpoint, CheckpointFolder):
        raise UserError(f"{source} is a Hugging Face folder already: to-hf reads a checkpoint")
    config = checkpoint.config if dtype is None else _with_dtype(checkpoint.config, dtype)
    total = sum(info.nbytes for info in checkpoint.inventory.values())
    check_space(target, sum(_size(info, dtype) for info in checkpoint.inventory.values()))
    carry_from = carry_from or checkpoint.carried
    with HFWriter(target, config, carry_from) as writer, show("writing", total) as advance:
        for name, info in checkpoint.inventory.items():
            tensor = checkpoint.read(name, Box.whole(info.shape))
            if dtype is not None:
                tensor = _cast(name, tensor, torch.float32 if is_expert_bias(name) else dtype)
            writer.add(name, tensor)
            advance(info.nbytes)


def _size(info: TensorInfo, dtype: torch.dtype | None) -> int:
    """Bytes of the tensor in this dtype."""
    return info.nbytes // info.dtype.itemsize * (dtype or info.dtype).itemsize


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    cast = tensor.to(dtype)
    if tensor.isfinite().all() and not cast.isfinite().all():
        largest, limit = float(tensor.abs().max()), torch.finfo(dtype).max
        raise UserError(
            f"{name} has values up to {largest:g}, {dtype_name(dtype)} ends at {limit:g}: choose another one"
        )
    return cast


def _with_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The config with its dtype said anew, under the name it has there (transformers 5 says dtype)."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return {**config, **dict.fromkeys(keys, dtype_name(dtype))}
