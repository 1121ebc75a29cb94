"""From a `ModelSpec` to this rank's part of a Megatron-Core GPTModel."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

from r1mega import device
from r1mega.models.families import params
from r1mega.models.layers import (
    CoreAttention,
    OutputLayer,
    PackedMLASelfAttention,
    PackedSelfAttention,
    RMSNorm,
)
from r1mega.models.reward_head import ScoreLayer
from r1mega.models.shards import check_layout, local_blocks, stage_ranges
from r1mega.models.spec import ModelSpec, Rope
from r1mega.parallel import Mesh
from r1mega.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(spec: ModelSpec, mesh: Mesh, *, dtype: torch.dtype, seed: int = 0) -> GPTModel:
    """This rank's stage of the model, its weights not yet set (see models/weights.py).

    The last stage gives hidden states, not logits (see `OutputLayer`); of a reward model, values.

    Raises UserError for a layout that the model cannot have or that Megatron-Core computes wrongly.
    """
    check_layout(spec, mesh.layout)
    if mesh.layout.cp > 1:
        raise UserError(f"cp {mesh.layout.cp}: context parallelism is not built yet; use cp 1")
    if spec.mtp_layers:
        raise UserError(
            f"the config declares {spec.mtp_layers} multi-token-prediction layer(s) "
            "(num_nextn_predict_layers), which are not built yet: use a checkpoint without them and say "
            "num_nextn_predict_layers 0"
        )
    model_parallel_cuda_manual_seed(seed)
    config = transformer_config(spec, mesh, dtype)
    with device.literal_cuda_means_here():
        model = GPTModel(
            config,
            _block_spec(config),
            vocab_size=spec.vocab,
            max_sequence_length=spec.max_positions,
            pre_process=mesh.is_first_stage,
            post_process=mesh.is_last_stage,
            share_embeddings_and_output_weights=spec.tied,
            position_embedding_type="rope",
            rotary_base=spec.rope.theta,
            parallel_output=True,
        )
    if spec.rope.kind == "llama3":
        # Upstream hard-codes Llama 3.1's wavelengths; the config may say others.
        model.rotary_pos_emb.inv_freq = llama3_inverse_frequencies(spec.rope, spec.head_dim).to(
            device.current()
        )
    if mesh.is_last_stage:
        model.output_layer = ScoreLayer(config) if spec.scalar else OutputLayer(model.output_layer)
    _mark_shards(spec, mesh, model)
    return model


def _mark_shards(spec: ModelSpec, mesh: Mesh, model: GPTModel) -> None:
    """Tell Megatron-Core which parameters are cut over tensor-parallel ranks.

    It marks them itself only while it initialises them, which we skip; unmarked, each rank's piece counts as
    a copy of the first rank's, and the gradient's norm (so clipping, too) leaves out all pieces but the
    first.
    """
    named = dict(model.named_parameters())
    cut = params(spec)
    layers = stage_ranges(spec.layers, mesh.layout.pp)[mesh.at.pp]
    held = {block.dst: cut[block.src] for block in local_blocks(cut, mesh.layout, mesh.at, layers, spec.tied)}
    for name, param in held.items():
        if param.shard is not None and not hasattr(named[name], "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(named[name], True, param.shard.dim, param.shard.parts)


def transformer_config(spec: ModelSpec, mesh: Mesh, dtype: torch.dtype) -> TransformerConfig:
    layout = mesh.layout
    shared: dict[str, Any] = dict(
        num_layers=spec.layers,
        hidden_size=spec.hidden,
        num_attention_heads=spec.heads,
        ffn_hidden_size=spec.ffn,
        normalization="RMSNorm",
        layernorm_epsilon=spec.rms_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=spec.qkv_bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        perform_initialization=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        # Always with tensor parallelism: it saves memory at no cost, and without it Megatron-Core loses
        # gradients in MLA's shared rope key (each TP rank sums over its own heads only).
        sequence_parallel=layout.tp > 1,
        # Micro-batches are packed to different lengths, which pipeline stages must tell each other.
        variable_seq_lengths=layout.pp > 1,
        # Gradients are plain sums; the denominator enters through grad_scale_func (train/policy.py).
        calculate_per_token_loss=True,
        **device.fusions(),
    )
    # gloo cannot do the uneven all-to-all of expert tensor parallelism; the other dispatcher needs equal
    # lengths.
    dispatcher = "alltoall" if layout.etp == 1 or device.on_cuda() else "allgather"
    if dispatcher == "allgather" and (layout.pp > 1 or layout.ep * layout.etp != layout.tp):
        raise UserError(
            f"on CPU, etp {layout.etp} needs pp 1 and ep x etp equal to tp, so that ranks that share experts "
            f"have the same tokens; this is {layout}: use etp 1 with ep"
        )
    shared |= _moe_fields(spec, dispatcher)
    if spec.mla is None:
        if spec.rope.kind not in ("default", "llama3"):
            raise UserError(
                f"rope '{spec.rope.kind}' is not built for {spec.family}: allowed are default, llama3"
            )
        return TransformerConfig(num_query_groups=spec.kv_heads, kv_channels=spec.head_dim, **shared)
    return MLATransformerConfig(
        multi_latent_attention=True,
        qk_layernorm=True,
        q_lora_rank=spec.mla.q_lora,
        kv_lora_rank=spec.mla.kv_lora,
        qk_head_dim=spec.mla.nope,
        qk_pos_emb_head_dim=spec.mla.rope,
        v_head_dim=spec.mla.v,
        **_mla_rope_fields(spec.rope),
        **shared,
    )


def _moe_fields(spec: ModelSpec, dispatcher: str) -> dict[str, Any]:
    moe = spec.moe
    if moe is None:
        return dict(moe_token_dispatcher_type=dispatcher)
    return dict(
        num_moe_experts=moe.experts,
        moe_ffn_hidden_size=moe.ffn,
        moe_shared_expert_intermediate_size=moe.ffn * moe.shared_experts or None,
        moe_layer_freq=[0] * moe.first_dense + [1] * (spec.layers - moe.first_dense),
        moe_router_topk=moe.topk,
        moe_router_num_groups=moe.groups if moe.groups > 1 else None,
        moe_router_group_topk=moe.topk_groups if moe.groups > 1 else None,
        moe_router_score_function="sigmoid",
        moe_router_pre_softmax=True,
        moe_router_topk_scaling_factor=moe.scale,
        moe_router_dtype="fp32",
        moe_router_enable_expert_bias=True,
        moe_router_bias_update_rate=0.0,  # the trainer raises it where the bias is to be learnt
        moe_router_load_balancing_type="none",
        moe_aux_loss_coeff=0.0,
        moe_token_dispatcher_type=dispatcher,
        moe_enable_routing_replay=True,  # without effect until train/routing.py asks for it
    )


def _mla_rope_fields(rope: Rope) -> dict[str, Any]:
    if rope.kind == "default":
        return dict(
            rope_type="rope",
            rotary_base=rope.theta,
            rotary_scaling_factor=1.0,
            mscale=1.0,
            mscale_all_dim=0.0,
        )
    assert rope.kind == "yarn", rope.kind
    return dict(
        rope_type="yarn",
        rotary_base=rope.theta,
        rotary_scaling_factor=rope.factor,
        original_max_position_embeddings=rope.original_max_positions,
        beta_fast=rope.beta_fast,
        beta_slow=rope.beta_slow,
        mscale=rope.mscale,
        mscale_all_dim=rope.mscale_all_dim,
    )


def _block_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    """Megatron-Core's local layer spec with our norm, attention and (MLA) down-projections in its places."""
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization="RMSNorm")
    for layer in block.layer_specs:
        parts: Any = layer.submodules
        parts.input_layernorm = parts.pre_mlp_layernorm = RMSNorm
        attention: ModuleSpec = parts.self_attention
        attention.submodules.core_attention = CoreAttention
        if config.multi_latent_attention:
            attention.module = PackedMLASelfAttention
            attention.submodules.q_layernorm = attention.submodules.kv_layernorm = RMSNorm
        else:
            attention.module = PackedSelfAttention
    block.layer_norm = RMSNorm
    return block


def llama3_inverse_frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """float32 [head_dim / 2]: Llama 3.1's stretched rope (its technical report, section 3.4.3, and model
    card).

    Wavelengths shorter than original / high_freq_factor stay, longer than original / low_freq_factor are
    divided by `factor`, those between are interpolated.
    """
    frequencies = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    turns = rope.original_max_positions * frequencies / (2 * math.pi)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / rope.factor)
