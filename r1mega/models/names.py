"""What parameters are called in the two layer implementations. Pure.

The tables of families, checkpoints and layouts are written in the local layers' names. Transformer Engine
fuses a norm into the matrix that follows it, and keeps all experts of a rank in one module; the numbers are
the same, and so are their shapes, so a translation of names is all that it takes.
"""

from __future__ import annotations

import re

_LAYER = r"(.*\.(?:layers\.\d+|transformer_layer)\.)"
_LOCAL: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(_LAYER + theirs), r"\1" + ours)
    for theirs, ours in (
        (r"self_attention\.linear_qkv\.layer_norm_weight", "input_layernorm.weight"),
        (r"self_attention\.linear_q_up_proj\.layer_norm_weight", "self_attention.q_layernorm.weight"),
        (r"self_attention\.linear_kv_up_proj\.layer_norm_weight", "self_attention.kv_layernorm.weight"),
        (r"mlp\.linear_fc1\.layer_norm_weight", "pre_mlp_layernorm.weight"),
        (r"mlp\.experts\.(linear_fc[12])\.weight(\d+)", r"mlp.experts.local_experts.\3.\2.weight"),
    )
)


def local_name(name: str) -> str:
    """A parameter's name in either implementation -> its name in the local one."""
    for pattern, ours in _LOCAL:
        found = pattern.fullmatch(name)
        if found is not None:
            return found.expand(ours)
    return name
