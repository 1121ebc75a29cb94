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


def _spellings(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys that a parameter may have, and its place along the leading dims of such a tensor."""
    layer = _LAYER.fullmatch(name)
    if layer is None:
        yield name, ()
        return
    stem, number, rest = layer.groups()
    expert = _EXPERT.fullmatch(rest)
    along: tuple[int, ...] = ()
    if expert is not None:
        rest, along = f"{expert[1]}experts.{expert[3]}", (int(expert[2]),)
    for spelling in (rest, _FUSED_NAMES.get(rest, rest)):
        yield f"{stem}{number}.{spelling}", along
        yield f"{stem}{spelling}", (int(number), *along)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
