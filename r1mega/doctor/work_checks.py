"""Checks that do the real work on a tiny model: two steps of training, and weights pushed into vLLM."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r1mega import device
from r1mega.doctor.rows import Row
from r1mega.parallel import Launch, Layout, Mesh
from r1mega.types import Completion, Prompt, Sample, Sampling

VOCABULARY, LENGTH = 256, 64
TINY: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLOSE = {"float32": 1e-3, "bfloat16": 0.5}
"""How far trainer and generator may be apart, in nats: above rounding, below wrong weights."""


@dataclass(frozen=True)
class _Numbers:
    """A tokenizer whose text is the numbers."""

    vocab_size: int = VOCABULARY
    eos_id: int = 2

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(map(str, ids))


def _policy(mesh: Mesh, *, learns: bool) -> Any:
    from r1mega.config.sections import Train
    from r1mega.models import weights
    from r1mega.models.build import DTYPES
    from r1mega.models.init import random_tensors
    from r1mega.models.spec import load_spec
    from r1mega.train.policy import Policy

    spec = load_spec(TINY)
    train = Train(steps=2, lr=1e-3) if learns else None
    made = Policy(spec, mesh, dtype=_dtype(), train=train)
    weights.load(spec, mesh, made.model, random_tensors(spec, 0, DTYPES[_dtype()]))
    if learns:
        made.prepare_to_learn()
    return made


def _dtype() -> str:
    return "bfloat16" if device.on_cuda() else "float32"


def train(scratch: Path) -> list[Row]:
    """Two optimizer steps over all ranks, with tensor parallelism inside nodes where they have ranks for it.

    Afterwards all replicas must hold the same weights.
    """
    from r1mega.algo.loss import cross_entropy
    from r1mega.models import weights
    from r1mega.stages.loop import batch_of

    here = Launch.from_env()
    device.prepare(here.local_rank, here.local_world, None)
    rng = np.random.default_rng(0)
    rows = [_sample(rng.integers(3, VOCABULARY, LENGTH)) for _ in range(2 * here.world)]
    with Mesh(Layout.of(here.world, tp=2 - here.local_world % 2)) as mesh:
        policy = _policy(mesh, learns=True)
        losses, seconds = [], 0.0
        for _ in range(2):
            began = time.perf_counter()
            batch = batch_of([[row] for row in rows], policy, 4 * LENGTH)
            update = policy.update(
                batch.mine,
                lambda logp_T, of: cross_entropy(logp_T, of.weights_T),
                denominator=batch.weight,
                lr=1e-3,
            )
            losses.append(update.loss)
            seconds = time.perf_counter() - began
        total = sum(
            float(tensor.detach().double().sum()) for tensor in weights.tensors(policy.model).values()
        )
        totals = mesh.gather((mesh.at.tp, total))
        layout = str(mesh.layout)
    if here.local_rank:
        return []
    agree = all(one == totals[tp][1] for tp, one in totals)
    text = f"{layout}: loss {losses[0]:.4f}, then {losses[1]:.4f}; {seconds:.2f} s the second step"
    if not (all(map(math.isfinite, losses)) and losses[1] < losses[0] and agree):
        why = "" if agree else "; the replicas' weights differ after it"
        advice = "the nodes compute or exchange wrong numbers: look at the rows above, then halve the nodes"
        return [Row("train", "broken", "wrong", text + why, advice=advice)]
    return [Row("train", "ok", f"{seconds:.2f} s", text)]


def _sample(tokens: np.ndarray) -> Sample:
    return Sample(tokens.astype(np.int32), np.ones(len(tokens), np.uint8))


def sync(scratch: Path) -> list[Row]:
    """Weights from Megatron-Core into a running vLLM engine, and the proof: sums of what arrives, and the
    log-probabilities of both sides for the same answers.
    """
    from r1mega.rollout.options import EngineOptions
    from r1mega.rollout.vllm_engine import VLLMGenerator
    from r1mega.sync import PolicyWeights, probe, push
    from r1mega.train.batch import micro_batch

    here = Launch.from_env()
    device.prepare(here.local_rank, here.local_world, None)
    dtype = _dtype()
    options = EngineOptions(
        max_model_len=128,
        max_num_seqs=8,
        kv_cache_gb=0.1,
        dtype="float32" if dtype == "float32" else "bfloat16",
    )
    prompts = [Prompt(f"doctor/{i}", "doctor", "", tuple(range(3 + i, 9 + i)), "") for i in range(2)]
    with Mesh(Layout.of(here.world)) as mesh:
        policy = _policy(mesh, learns=False)

        def score(pairs: Sequence[tuple[Prompt, Completion]], temperature: float) -> list[list[float]]:
            samples = [_sample(np.array([*p.token_ids, *c.token_ids])) for p, c in pairs]
            logp_T = policy.logprobs([micro_batch(samples, mesh.layout.tp)])[0]
            ends = np.cumsum([len(sample) - 1 for sample in samples])
            return [
                logp_T[end - len(one.token_ids) : end].tolist()
                for (_, one), end in zip(pairs, ends, strict=True)
            ]

        with VLLMGenerator(policy.spec.hf, _Numbers(), options) as generator:
            report = push(PolicyWeights(policy), generator, 0)
            apart = probe(generator, score, prompts, Sampling(16, seed=1), tolerance=CLOSE[dtype])
    if here.local_rank:
        return []
    text = f"{report.tensors} tensors in {report.seconds:.2f} s, log-probabilities {apart:.1e} nats apart"
    return [Row("sync", "ok", f"{apart:.0e}", text)]
