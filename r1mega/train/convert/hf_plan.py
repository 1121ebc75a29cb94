"""Which files a Hugging Face folder has, and where each tensor lies, before anything is written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch

from r1mega.models.fp8 import CODE, SCALE, is_linear, scale_shape
from r1mega.models.hf_write import shard_names
from r1mega.models.safetensors_file import FilePlan, TensorInfo, plan_file
from r1mega.train.convert.source import is_expert_bias

Entry = tuple[torch.dtype, tuple[int, ...]]
"""dtype and shape of a tensor to write."""


@dataclass(frozen=True)
class HFPlan:
    """entries: what is written, by name; files: where, by file; file_of: each tensor's file."""

    entries: Mapping[str, Entry]
    files: Mapping[str, FilePlan]
    file_of: Mapping[str, str]


def plan_folder(
    source: Mapping[str, TensorInfo], dtype: torch.dtype | None, max_shard_bytes: float = 5e9
) -> HFPlan:
    """dtype: of the weights, None to keep the source's, float8_e4m3fn to quantise what DeepSeek-V3 does.

    Expert biases keep their dtype where dtype is None, and are float32 otherwise.
    """
    groups = [dict(_entries(name, info, dtype)) for name, info in source.items()]
    shards: list[dict[str, Entry]] = [{}]
    filled = 0
    for group in groups:
        size = sum(kind.itemsize * prod(shape) for kind, shape in group.values())
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1] |= group
        filled += size
    names = shard_names(len(shards))
    return HFPlan(
        {name: entry for shard in shards for name, entry in shard.items()},
        {name: plan_file(shard) for name, shard in zip(names, shards, strict=True)},
        {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
    )


def _entries(name: str, info: TensorInfo, dtype: torch.dtype | None) -> Iterator[tuple[str, Entry]]:
    """A tensor, and the scales that belong to it, which lie in the same file."""
    if dtype is None:
        yield name, (info.dtype, info.shape)
    elif is_expert_bias(name):
        yield name, (torch.float32, info.shape)
    elif dtype != CODE:
        yield name, (dtype, info.shape)
    elif is_linear(name):
        yield name, (CODE, info.shape)
        yield name + SCALE, (torch.float32, scale_shape(info.shape))
    else:
        yield name, (torch.bfloat16, info.shape)
