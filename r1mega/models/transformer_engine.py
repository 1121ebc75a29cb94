"""The model's layers as Transformer Engine's, through Megatron-Core's own spec. Chosen in models/backend.py.

Nothing of it has run: the project's tests have no GPU. What can be checked without one is in
tests/unit/test_backend.py: when it is chosen, what parameters are called, and what attention is told.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from r1mega.models.packing import Packing

NAME = "transformer_engine"


def block_spec(config: TransformerConfig, chunk: int | None) -> TransformerBlockSubmodules:
    return get_gpt_decoder_block_spec(
        config, use_transformer_engine=True, normalization="RMSNorm", vp_stage=chunk
    )


def norm_and_linear() -> tuple[Any, Any]:
    """The norm, and the linear layer that is cut over TP ranks, for what is outside of decoder layers."""
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

    provider = TESpecProvider()
    return provider.layer_norm(), provider.column_parallel_linear()


def understood(packing: Packing, config: TransformerConfig) -> PackedSeqParams:
    """The packing as the layers want it: our own read `Packing`, Transformer Engine's where sequences end."""
    if config.transformer_impl != NAME:
        return packing
    device = packing.positions_T.device if packing.positions_T is not None else None
    ends = torch.tensor([0, *accumulate(packing.lengths)], dtype=torch.int32, device=device)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=ends,
        cu_seqlens_kv=ends,
        max_seqlen_q=max(packing.lengths),
        max_seqlen_kv=max(packing.lengths),
    )
