"""Model FLOPs utilisation of a training step: what the model needs over what the device could do.

A multiplication and an addition are two FLOPs. Forward, a token takes

    2 x parameters of the matrices it passes through          projections, MLP, router, output layer; of the
                                                              experts the `topk` it uses and the shared ones
    2 x heads x (query size + value size) x context, a layer  scores and weighted values; context is the mean
                                                              number of tokens that a token attends to

and training three times that: forward, gradients of activations, gradients of weights. Norms, softmax, rotary
positions, the optimizer and what is computed a second time (recompute) count as nothing, so the share is
never flattered. In packed sequences a token sees its own only: (n + 1) / 2 tokens of n, on average.

Nothing here has run on a GPU so far. tests/unit/test_bench_mfu.py compares the formula with torch's count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1mega.models.spec import ModelSpec, load_spec

LENGTHS = (2048, 1024, 512, 512)
"""Of the packed sequences of a step, in tokens: 4,096 together."""
_YES = dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b": _YES
    | dict(
        model_type="qwen2",
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    ),
    "v3-small": _YES
    | dict(
        model_type="deepseek_v3",
        vocab_size=129_280,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=16,
        n_routed_experts=64,
        num_experts_per_tok=8,
        n_group=8,
        topk_group=4,
        n_shared_experts=1,
        first_k_dense_replace=1,
        q_lora_rank=768,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        routed_scaling_factor=2.5,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    ),
}
"""Qwen2.5-1.5B as it is, and a model shaped like DeepSeek-V3 of 2.8e9 parameters."""
WARM_UP, STEPS = 3, 10


@dataclass(frozen=True)
class Measured:
    tokens_per_second: float
    flops_per_token: float
    peak_tflops: float
    device: str

    @property
    def share(self) -> float:
        return self.tokens_per_second * self.flops_per_token / (self.peak_tflops * 1e12)

    def __str__(self) -> str:
        return (
            f"{self.tokens_per_second:,.0f} tok/s x {self.flops_per_token / 1e9:.2f} GFLOP a token = "
            f"{self.share:.1%} of {self.peak_tflops:g} TFLOP/s ({self.device})"
        )


def context(lengths: Sequence[int]) -> float:
    """How many tokens a token of these sequences attends to on average, itself included."""
    return sum(n * (n + 1) / 2 for n in lengths) / sum(lengths)


def forward_flops(spec: ModelSpec, context: float) -> float:
    """Of one token, see above."""
    moe_layers = len(spec.moe_layers)
    weights = spec.layers * _attention_weights(spec) + (spec.layers - moe_layers) * 3 * spec.hidden * spec.ffn
    if spec.moe is not None:
        active = 3 * spec.moe.ffn * (spec.moe.topk + spec.moe.shared_experts)
        weights += moe_layers * spec.hidden * (spec.moe.experts + active)
    value = spec.mla.v if spec.mla else spec.head_dim
    attention = spec.layers * spec.heads * (spec.head_dim + value) * context
    return 2 * (weights + spec.hidden * spec.vocab + attention)


def training_flops(spec: ModelSpec, lengths: Sequence[int]) -> float:
    """Of one token, forward and backward."""
    return 3 * forward_flops(spec, context(lengths))


def _attention_weights(spec: ModelSpec) -> int:
    mla, hidden, heads = spec.mla, spec.hidden, spec.heads
    if mla is None:
        return hidden * spec.head_dim * 2 * (heads + spec.kv_heads)
    queries = heads * spec.head_dim
    query = hidden * queries if mla.q_lora is None else (hidden + queries) * mla.q_lora
    key_value = hidden * (mla.kv_lora + mla.rope) + mla.kv_lora * heads * (mla.nope + mla.v)
    return query + key_value + heads * mla.v * hidden


def shape_spec(shape: Mapping[str, Any]) -> ModelSpec:
    """A shape with what else a config of its family says."""
    from transformers import AutoConfig

    values = dict(shape)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    names = {"qwen2": "Qwen2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
    config.architectures = [names[config.model_type]]
    return load_spec(config.to_dict())


def measure(
    shape: Mapping[str, Any],
    peak_tflops: float,
    rounds: int,
    threads: int,
    lengths: Sequence[int] = LENGTHS,
    steps: int = STEPS,
) -> Measured:
    """The best of some rounds of optimizer steps with random weights and tokens, in bfloat16."""
    import numpy as np
    import torch

    from r1mega import device
    from r1mega.algo.loss import cross_entropy
    from r1mega.config.sections import Train
    from r1mega.models import weights
    from r1mega.models.init import random_tensors
    from r1mega.parallel import Layout, Mesh
    from r1mega.train.batch import micro_batch
    from r1mega.train.policy import Policy
    from r1mega.types import Sample

    spec, rng, tokens = shape_spec(shape), np.random.default_rng(0), sum(lengths)
    samples = [Sample(rng.integers(0, spec.vocab, n).astype(np.int32), np.ones(n, np.uint8)) for n in lengths]
    device.prepare(0, 1, threads)
    with Mesh(Layout.of(1)) as mesh:
        policy = Policy(spec, mesh, dtype="bfloat16", train=Train(steps=1, lr=1e-5))
        weights.load(spec, mesh, policy.model, random_tensors(spec, 0, torch.bfloat16))
        policy.prepare_to_learn()
        batch = micro_batch(samples)

        def seconds(count: int) -> float:
            device.wait()
            start = time.perf_counter()
            for _ in range(count):
                policy.update(
                    [batch],
                    lambda logp_T, b: cross_entropy(logp_T, b.weights_T),
                    denominator=float(tokens - len(lengths)),
                    lr=1e-5,
                )
            device.wait()
            return time.perf_counter() - start

        seconds(min(WARM_UP, steps))
        best = min(seconds(steps) for _ in range(rounds))
    name = torch.cuda.get_device_name() if device.on_cuda() else "CPU"
    return Measured(tokens * steps / best, training_flops(spec, lengths), peak_tflops, name)
