"""The model families: what a config says, and which box of a checkpoint is which box of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from r1mega.models.blocks import Block, extents
from r1mega.models.families import deepseek_v3, llama, mistral, qwen2
from r1mega.models.families.family import Entry, Family, Param, Shard
from r1mega.models.spec import ModelSpec

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (qwen2.FAMILY, llama.FAMILY, mistral.FAMILY, deepseek_v3.FAMILY)
}

__all__ = ["FAMILIES", "Entry", "Family", "Param", "Shard", "checkpoint_shapes", "copies", "params", "table"]


def params(spec: ModelSpec) -> dict[str, Param]:
    """Every parameter and saved buffer of the whole, uncut Megatron-Core model."""
    return {entry.name: entry.param for entry in FAMILIES[spec.family].entries(spec)}


def table(spec: ModelSpec, *, with_copies: bool = False) -> list[Block]:
    """checkpoint -> Megatron-Core: each element of either side in exactly one block.

    with_copies: each tensor of the checkpoint, also those that are copies of others, whose originals are then
                 in several blocks: for writing checkpoints.
    """
    blocks = [block for entry in FAMILIES[spec.family].entries(spec) for block in entry.blocks()]
    if with_copies:
        held = {name: [block for block in blocks if block.src == name] for name in set(copies(spec).values())}
        blocks += [
            replace(block, src=copy) for copy, original in copies(spec).items() for block in held[original]
        ]
    return blocks


def copies(spec: ModelSpec) -> Mapping[str, str]:
    """Tensors of a checkpoint that repeat another one -> that one."""
    return FAMILIES[spec.family].copies(spec)


def checkpoint_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this model has."""
    return extents((block.src, block.src_box) for block in table(spec, with_copies=True))
