"""From a `ModelSpec` to this rank's part of a Megatron-Core GPTModel."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel import ColumnParallelLinear, model_parallel_cuda_manual_seed
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

from r1mega import device
from r1mega.models import transformer_engine
from r1mega.models.backend import Backend
from r1mega.models.chunks import Chunks
from r1mega.models.families import params
from r1mega.models.layers import (
    CoreAttention,
    OutputLayer,
    PackedMLASelfAttention,
    PackedSelfAttention,
    RMSNorm,
)
from r1mega.models.mtp import MTPModel, mtp_block_spec
from r1mega.models.reward_head import ScoreLayer
from r1mega.models.router import BalancedRouter
from r1mega.models.shards import check_layout, local_blocks
from r1mega.models.spec import ModelSpec, Rope
from r1mega.models.stages import part_layers
from r1mega.models.weights import tensors
from r1mega.parallel import Layout, Mesh
from r1mega.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(
    spec: ModelSpec,
    mesh: Mesh,
    *,
    dtype: torch.dtype,
    seed: int = 0,
    recompute: str = "none",
    backend: Backend | None = None,
) -> GPTModel | Chunks:
    """This rank's stage of the model, its weights not yet set (see models/weights.py); in virtual pipeline
    stages all its chunks. recompute: none, selective or full, see config.sections.Train. backend: whose
    layers; None: the local ones.

    The last part gives hidden states, not logits (see `OutputLayer`); of a reward model, values.

    Raises UserError for a layout that the model cannot have or that Megatron-Core computes wrongly.
    """
    check_layout(spec, mesh.layout)
    model_parallel_cuda_manual_seed(seed)
    config = transformer_config(spec, mesh, dtype, recompute, backend)
    chunks = [_build_chunk(spec, mesh, config, number) for number in range(mesh.layout.vp)]
    model = Chunks(chunks) if len(chunks) > 1 else chunks[0]
    _mark_shards(spec, mesh, model)
    return model


def _build_chunk(spec: ModelSpec, mesh: Mesh, config: TransformerConfig, number: int) -> GPTModel:
    first = mesh.is_first_stage and number == 0
    last = mesh.is_last_stage and number == mesh.layout.vp - 1
    chunk = number if mesh.layout.vp > 1 else None
    with device.literal_cuda_means_here():
        block = _block_spec(config, chunk)
        norm, linear = _norm_and_linear(config)
        model = (MTPModel if spec.mtp_layers else GPTModel)(
            config,
            block,
            vocab_size=spec.vocab,
            max_sequence_length=spec.max_positions,
            pre_process=first,
            post_process=last,
            share_embeddings_and_output_weights=spec.tied,
            position_embedding_type="rope",
            rotary_base=spec.rope.theta,
            parallel_output=True,
            # Layers like the last one.
            mtp_block_spec=mtp_block_spec(block.layer_specs[-1], norm, linear, spec.mtp_layers)
            if last and spec.mtp_layers
            else None,
            vp_stage=chunk,
        )
    if spec.rope.kind == "llama3":
        # Upstream hard-codes Llama 3.1's wavelengths; the config may say others.
        model.rotary_pos_emb.inv_freq = llama3_inverse_frequencies(spec.rope, spec.head_dim).to(
            device.current()
        )
    if spec.mla is None:
        model.rotary_pos_emb.cp_group = None  # of the whole table, see layers.PackedSelfAttention
    if last:
        model.output_layer = ScoreLayer(config) if spec.scalar else OutputLayer(model.output_layer)
    return model


def _mark_shards(spec: ModelSpec, mesh: Mesh, model: torch.nn.Module) -> None:
    """Tell Megatron-Core which parameters are cut over tensor-parallel ranks.

    It marks them itself only while it initialises them, which we skip; unmarked, each rank's piece counts as
    a copy of the first rank's, and the gradient's norm (so clipping, too) leaves out all pieces but the
    first.
    """
    named = tensors(model)
    cut = params(spec)
    blocks = local_blocks(cut, mesh.layout, mesh.at, spec.layers, spec.tied, spec.mtp_layers > 0)
    held = {block.dst: cut[block.src] for block in blocks}
    for name, param in held.items():
        if param.shard is not None and not hasattr(named[name], "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(named[name], True, param.shard.dim, param.shard.parts)


def transformer_config(
    spec: ModelSpec,
    mesh: Mesh,
    dtype: torch.dtype,
    recompute: str = "none",
    backend: Backend | None = None,
) -> TransformerConfig:
    layout = mesh.layout
    shared: dict[str, Any] = dict(
        num_layers=spec.layers,
        mtp_num_layers=spec.mtp_layers or None,
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
        **_pipeline_fields(spec, layout),
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
        transformer_impl=backend.name if backend is not None else "local",
        **device.fusions() | (backend.fields if backend is not None else {}),
        **_recompute_fields(spec, recompute),
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


def _pipeline_fields(spec: ModelSpec, layout: Layout) -> dict[str, Any]:
    """Which layers the parts have, where Megatron-Core's own equal parts are not meant."""
    counts = [len(layers) for layers in part_layers(spec.layers, layout)]
    if len(set(counts)) == 1 and layout.vp == 1:
        return {}
    parts = [["decoder"] * count for count in counts]
    parts[0].insert(0, "embedding")
    parts[-1] += ["mtp"] * spec.mtp_layers + ["loss"]
    fields: dict[str, Any] = dict(pipeline_model_parallel_layout=parts)
    if layout.vp > 1:
        # One direction at a time: with pp 2 the other way, which is the default, mistakes activations for
        # gradients, since both then travel between the same two ranks at once.
        fields |= dict(
            virtual_pipeline_model_parallel_size=layout.vp, overlap_p2p_comm=True, batch_p2p_comm=False
        )
    return fields


def _recompute_fields(spec: ModelSpec, recompute: str) -> dict[str, Any]:
    if recompute == "full":
        # Layer by layer: the input of each is kept, nothing else.
        return dict(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    if recompute == "selective":
        parts = ["core_attn", "mlp", *(["moe"] if spec.moe else [])]
        return dict(recompute_granularity="selective", recompute_modules=parts)
    return {}


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


def _block_spec(config: TransformerConfig, chunk: int | None) -> TransformerBlockSubmodules:
    """Of one chunk's layers, with our router."""
    if config.transformer_impl == transformer_engine.NAME:
        block = transformer_engine.block_spec(config, chunk)
    else:
        block = _local_block_spec(config, chunk)
    for layer in block.layer_specs:
        if layer.submodules.mlp.module is MoELayer:
            layer.submodules.mlp.submodules.router = BalancedRouter
    return block


def _local_block_spec(config: TransformerConfig, chunk: int | None) -> TransformerBlockSubmodules:
    """Megatron-Core's local layer spec with our norm, attention and (MLA) down-projections in its places."""
    block = get_gpt_decoder_block_spec(
        config, use_transformer_engine=False, normalization="RMSNorm", vp_stage=chunk
    )
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


def _norm_and_linear(config: TransformerConfig) -> tuple[Any, Any]:
    """For what is outside of decoder layers."""
    if config.transformer_impl == transformer_engine.NAME:
        return transformer_engine.norm_and_linear()
    return RMSNorm, ColumnParallelLinear


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
