"""Tiny models made by transformers: the independent reference for everything about models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from r1mega.models.blocks import Box

YARN = dict(
    rope_type="yarn",
    rope_theta=1e4,
    factor=40.0,
    mscale=1.0,
    mscale_all_dim=1.0,
    beta_fast=32,
    beta_slow=1,
    original_max_position_embeddings=64,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5e5,
    factor=8.0,
    low_freq_factor=1.5,
    high_freq_factor=5.0,
    original_max_position_embeddings=16,
)
PLAIN = dict(rope_type="default", rope_theta=1e4)

SHARED: dict[str, Any] = dict(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=512,
    attn_implementation="eager",
)
DENSE: dict[str, Any] = SHARED | dict(num_key_value_heads=2, intermediate_size=64)
V3: dict[str, Any] = SHARED | dict(
    num_key_value_heads=4,
    intermediate_size=64,
    moe_intermediate_size=24,
    n_routed_experts=8,
    num_experts_per_tok=4,
    n_group=4,
    topk_group=2,
    n_shared_experts=1,
    first_k_dense_replace=2,
    routed_scaling_factor=2.5,
    norm_topk_prob=True,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    rope_interleave=True,
    tie_word_embeddings=False,
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    num_nextn_predict_layers=0,
)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_tied": ("Qwen2", DENSE | dict(tie_word_embeddings=True, rope_parameters=PLAIN)),
    "qwen2_untied": ("Qwen2", DENSE | dict(tie_word_embeddings=False, rope_parameters=PLAIN)),
    "llama3": ("Llama", DENSE | dict(tie_word_embeddings=False, rope_parameters=LLAMA3, rms_norm_eps=1e-5)),
    "llama_tied": (
        "Llama",
        DENSE | dict(tie_word_embeddings=True, rope_parameters=LLAMA3, rms_norm_eps=1e-5),
    ),
    "mistral": (
        "Mistral",
        DENSE | dict(tie_word_embeddings=False, rope_parameters=PLAIN, sliding_window=None, head_dim=16),
    ),
    "v3": ("DeepseekV3", V3 | dict(rope_parameters=PLAIN)),
    "v3_yarn": ("DeepseekV3", V3 | dict(rope_parameters=YARN)),
    "v3_no_q_lora": ("DeepseekV3", V3 | dict(rope_parameters=PLAIN, q_lora_rank=None)),
}

DEEP: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_deep": ("Llama", DENSE | dict(num_hidden_layers=9, rope_parameters=PLAIN, rms_norm_eps=1e-5)),
}
"""For pipelines of many parts; not a family of its own."""


def make(kind: str) -> Any:
    """A transformers model with random weights far from their initial ones: float32, on CPU."""
    import transformers

    name, values = (CONFIGS | DEEP)[kind]
    config = getattr(transformers, f"{name}Config")(**values)
    config.architectures = [f"{name}ForCausalLM"]
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in parameter_name else noise * 0.12)
        for buffer_name, buffer in model.named_buffers():
            if "e_score_correction_bias" in buffer_name:
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model


def checkpoint(model: Any, *, gradients: bool = False) -> dict[str, torch.Tensor]:
    """A transformers model's weights (or gradients) under checkpoint names: its fused experts taken apart."""
    found: dict[str, torch.Tensor] = {}
    named = dict(model.named_parameters())
    if not gradients:
        named |= {n: b for n, b in model.named_buffers() if "e_score_correction_bias" in n}
    for name, tensor in named.items():
        value = tensor.grad if gradients else tensor.detach()
        value = torch.zeros_like(tensor) if value is None else value
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for e, both in enumerate(value):
                gate, up = both.chunk(2)
                found |= {f"{stem}{e}.gate_proj.weight": gate, f"{stem}{e}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            found |= {f"{stem}{e}.down_proj.weight": part for e, part in enumerate(value)}
        else:
            found[name] = value
    return found


@dataclass(frozen=True)
class InMemory:
    """A reader over tensors in memory."""

    tensors: dict[str, torch.Tensor]

    def read(self, name: str, box: Box) -> torch.Tensor:
        return self.tensors[name][box.slices]
