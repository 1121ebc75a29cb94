"""Tiny models for vLLM, and ranks that are forked from a process which has imported vLLM already.

Importing vLLM takes ten seconds and changes torch for the whole process, so pytest's own process never does.
"""

from __future__ import annotations

import io
import multiprocessing
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch

from r1mega.models.families import checkpoint_shapes
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.rollout.options import EngineOptions
from r1mega.types import Prompt
from tests.ranks import RankError, run_ranks

VOCABULARY, EOS = 96, 2
OPTIONS = EngineOptions(max_model_len=128, max_num_seqs=64, kv_cache_gb=0.1, dtype="float32")

_SHARED: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=4,
    max_position_embeddings=512,
    rms_norm_eps=1e-6,
    hidden_act="silu",
    rope_theta=1e4,
    tie_word_embeddings=False,
)
_DENSE: dict[str, Any] = _SHARED | dict(num_attention_heads=2, num_key_value_heads=2, intermediate_size=96)
_QWEN2 = _DENSE | dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2")
_V3: dict[str, Any] = _SHARED | dict(
    architectures=["DeepseekV3ForCausalLM"],
    model_type="deepseek_v3",
    num_attention_heads=4,
    num_key_value_heads=4,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    v_head_dim=16,
    rope_interleave=True,
    attention_bias=False,
    attention_dropout=0.0,
    intermediate_size=96,
    moe_intermediate_size=24,
    moe_layer_freq=1,
    first_k_dense_replace=2,
    n_routed_experts=8,
    num_experts_per_tok=4,
    n_shared_experts=1,
    n_group=4,
    topk_group=2,
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    num_nextn_predict_layers=0,
)
_YARN = dict(
    rope_scaling=dict(
        type="yarn",
        factor=40.0,
        mscale=1.0,
        mscale_all_dim=1.0,
        beta_fast=32,
        beta_slow=1,
        original_max_position_embeddings=64,
    )
)
MODELS: dict[str, dict[str, Any]] = {
    "qwen2_tied": _QWEN2 | dict(tie_word_embeddings=True),
    "qwen2_untied": _QWEN2,
    "llama": _DENSE | dict(architectures=["LlamaForCausalLM"], model_type="llama"),
    "v3": _V3,
    "v3_tied": _V3 | dict(tie_word_embeddings=True),
    "v3_yarn": _V3 | _YARN,
    "v3_fused_mla": _V3 | dict(kv_lora_rank=512, qk_rope_head_dim=64),  # vLLM's own MLA kernels take over
}


def spec_of(kind: str) -> ModelSpec:
    return load_spec(MODELS[kind])


def random_weights(spec: ModelSpec, seed: int, dtype: str = "float32") -> dict[str, torch.Tensor]:
    """A whole checkpoint with every tensor random, expert biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, shape in checkpoint_shapes(spec).items():
        noise = torch.randn(shape, generator=generator)
        value = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.2 * noise
        values[name] = value if name.endswith("e_score_correction_bias") else value.to(getattr(torch, dtype))
    return values


def prompts(count: int = 6) -> list[Prompt]:
    """Prompts of different lengths."""
    found = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        ids = torch.randint(3, VOCABULARY, (3 + 4 * i % 23,), generator=generator).tolist()
        found.append(Prompt(f"random/{i}", "random", "", tuple(ids), ""))
    return found


@dataclass(frozen=True)
class Speller:
    """A tokenizer whose text is the ids."""

    vocab_size: int = VOCABULARY
    eos_id: int = EOS

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(map(str, ids))


def run_engines(world: int, fn: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """`run_ranks` in a fork of a process that has imported vLLM. `fn` is a function of a test module.

    The first call of a session takes ten seconds more than the others. Raises RankError.
    """
    context = _warm()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, world, fn, args, timeout))
    process.start()
    theirs.close()
    try:
        outcome, value = ours.recv()
    except EOFError:
        outcome, value = "error", "the ranks' parent died without a word"
    process.join()
    if outcome == "error":
        raise RankError(value)
    return list(torch.load(io.BytesIO(value), weights_only=False))


@cache
def _warm() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm_vllm"])
    return context


def _serve(pipe: Connection, world: int, fn: Callable[..., Any], args: Sequence[Any], timeout: float) -> None:
    try:
        # As bytes: a pipe would pass tensors as shared memory, which ends with this process.
        stream = io.BytesIO()
        torch.save(run_ranks(world, fn, *args, timeout=timeout), stream)
        pipe.send(("result", stream.getvalue()))
    except BaseException:  # whatever it is, the test has to hear of it
        pipe.send(("error", traceback.format_exc()))


def token_ids(groups: Sequence[Sequence[Any]]) -> list[list[tuple[int, ...]]]:
    """Of each prompt's completions."""
    return [[one.token_ids for one in group] for group in groups]


def apart(groups: Sequence[Sequence[Any]], others: Sequence[Sequence[Any]]) -> float:
    """The largest difference of two sets of completions' logprobs, in nats."""
    flat = [[x for group in each for one in group for x in one.logprobs] for each in (groups, others)]
    return max(abs(a - b) for a, b in zip(*flat, strict=True))


def as_reader(tensors: Mapping[str, torch.Tensor]) -> Any:
    """For models.weights.load."""
    from tests.tiny import InMemory

    return InMemory(dict(tensors))
