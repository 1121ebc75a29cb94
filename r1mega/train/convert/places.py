"""Where Megatron-Core puts each parameter when it stores a model. Pure.

It stacks the layers of a dense model, parameter by parameter, and the experts of an MoE layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from r1mega.models.blocks import Block, Box, extents
from r1mega.models.families import params
from r1mega.models.spec import ModelSpec
from r1mega.types import UserError

_NAMED = 3  # offenders a message names, besides their number
_LAYER = re.compile(r"(decoder\.layers\.)(\d+)\.(.*)")
_EXPERT = re.compile(r"(.*\bexperts\.)local_experts\.(\d+)\.(.*)")
# Linear layers of Megatron-Core that store, besides their weight, an object (which is empty here).
_WITH_STATE = re.compile(
    r".*\blinear_(proj|qkv|q_proj|q_up_proj|kv_up_proj|fc1|fc2)\.weight|.*\beh_proj\.weight"
)
# Dense layers' norms are stored under the names that they have where they are fused with what follows them.
_FUSED_NAMES = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


def places(spec: ModelSpec, stored: Mapping[str, tuple[int, ...]]) -> list[Block]:
    """parameter of the whole model -> stored tensor.

    stored: the shapes of the tensors that there are. Raises UserError unless they are exactly the model's.
    """
    blocks, missing = [], []
    for name, param in params(spec).items():
        found = next(((key, index) for key, index in _spellings(name) if key in stored), None)
        if found is None:
            missing.append(name)
            continue
        key, index = found
        start, stop = (*index, *(0 for _ in param.shape)), (*(i + 1 for i in index), *param.shape)
        blocks.append(Block(name, Box.whole(param.shape), key, Box(start, stop)))
    shapes = extents((block.dst, block.dst_box) for block in blocks)
    faults = {
        "missing": missing,
        "not in this model": [key for key in stored if key not in shapes],
        "wrongly shaped": [
            f"{key} has {list(stored[key])}, should have {list(shape)}"
            for key, shape in shapes.items()
            if stored[key] != shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in faults.items() if names)
        raise UserError(f"the stored tensors are not those of the {spec.family} model of config.json: {told}")
    return blocks


def as_written(spec: ModelSpec) -> list[Block]:
    """parameter of the whole model -> stored tensor, as Megatron-Core writes and asks for it today.

    tests/dist/test_convert.py compares this with what it does write.
    """
    blocks = []
    for name, param in params(spec).items():
        key, index = _written(name, stacked=spec.moe is None)
        start, stop = (*index, *(0 for _ in param.shape)), (*(i + 1 for i in index), *param.shape)
        blocks.append(Block(name, Box.whole(param.shape), key, Box(start, stop)))
    return blocks


def empty_states(spec: ModelSpec) -> list[str]:
    """The keys of the objects that Megatron-Core stores, and asks for, beside some of the weights."""
    written = as_written(spec)
    shapes = extents((block.dst, block.dst_box) for block in written)
    keys = []
    for block in written:
        if _WITH_STATE.fullmatch(block.dst):
            along = len(shapes[block.dst]) - len(block.src_box.stop)
            assert along <= 1, block
            place = (block.dst_box.start[0], shapes[block.dst][0]) if along else (0, 1)
            keys.append(f"{block.dst.removesuffix('weight')}_extra_state/shard_{place[0]}_{place[1]}")
    return keys


def _written(name: str, *, stacked: bool) -> tuple[str, tuple[int, ...]]:
    """Layers that are all alike are stacked, under the names that their norms have where they are fused."""
    spellings = list(_spellings(name))
    return spellings[-1] if stacked else spellings[0]


def _spellings(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys that a parameter may have, and its place along the leading dims of such a tensor."""
    expert = _EXPERT.fullmatch(name)
    along: tuple[int, ...] = ()
    if expert is not None:
        name, along = f"{expert[1]}experts.{expert[3]}", (int(expert[2]),)
    layer = _LAYER.fullmatch(name)
    if layer is None:
        yield name, along
        return
    stem, number, rest = layer.groups()
    for spelling in (rest, _FUSED_NAMES.get(rest, rest)):
        yield f"{stem}{number}.{spelling}", along
        yield f"{stem}{spelling}", (int(number), *along)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
