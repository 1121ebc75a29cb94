"""The model families: what a config says, and which box of a checkpoint is which box of the model."""

from __future__ import annotations

from r1mega.models.blocks import Block, extents
from r1mega.models.families import deepseek_v3, llama, qwen2
from r1mega.models.families.family import Entry, Family, Param, Shard
from r1mega.models.spec import ModelSpec

FAMILIES: dict[str, Family] = {f.model_type: f for f in (qwen2.FAMILY, llama.FAMILY, deepseek_v3.FAMILY)}

__all__ = ["FAMILIES", "Entry", "Family", "Param", "Shard", "checkpoint_shapes", "params", "table"]


def params(spec: ModelSpec) -> dict[str, Param]:
    """Every parameter and saved buffer of the whole, uncut Megatron-Core model."""
    return {entry.name: entry.param for entry in FAMILIES[spec.family].entries(spec)}


def table(spec: ModelSpec) -> list[Block]:
    """checkpoint -> Megatron-Core: each element of either side in exactly one block."""
    return [block for entry in FAMILIES[spec.family].entries(spec) for block in entry.blocks()]


def checkpoint_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this model has."""
    return extents((block.src, block.src_box) for block in table(spec))
