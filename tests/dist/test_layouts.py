"""Every layout computes what transformers computes: logits, loss and each parameter's gradient.

The reference is transformers on each sequence alone, so packing, position reset and the isolation of packed
sequences are under test as well. Norms would hide errors (Adam and clipping cancel scale), so gradients are
compared one parameter at a time, under checkpoint names, gathered from whatever ranks hold them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from r1mega.algo.loss import LossParts, cross_entropy
from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.policy import Policy
from r1mega.types import Sample
from tests import tiny
from tests.ranks import run_ranks

LENGTHS = (7, 30, 2, 19, 12, 41, 25, 9)
TRAIN = Train(steps=4, lr=1e-3, batch_size=8, clip_grad=1.0, weight_decay=0.01, expert_bias_rate=0.0)


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(rng.integers(0, 96, n).astype(np.int32), (rng.random(n) < 0.8).astype(np.uint8))
        for n in LENGTHS
    ]


DENOMINATOR = float(sum(int(s.mask[1:].sum()) for s in samples()))


def loss_function(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    return cross_entropy(logp_T, batch.weights_T)


def make_policy(kind: str, mesh: Mesh) -> Policy:
    model = tiny.make(kind)
    spec = load_spec(model.config.to_dict())
    policy = Policy(spec, mesh, dtype="float32", train=TRAIN)
    weights.load(spec, mesh, policy.model, tiny.InMemory(tiny.checkpoint(model)))
    return policy


def my_batches(mesh: Mesh) -> list[MicroBatch]:
    """Two micro-batches on each data-parallel rank, of different lengths."""
    mine = samples()[mesh.at.dp :: mesh.layout.dp]
    half = (len(mine) + 1) // 2
    return [micro_batch(part, mesh.layout.tp) for part in (mine[:half], mine[half:])]


def one_layout(rank: int, kind: str, sizes: dict[str, int], world: int) -> dict[str, Any]:
    """Loss, gradients and logits of a layout, then the loss after an optimizer step."""
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy(kind, mesh)
        logits = policy.logits(micro_batch(samples(), mesh.layout.tp))
        policy.prepare_to_learn()
        batches = my_batches(mesh)
        policy.gradients(batches, loss_function, denominator=DENOMINATOR)
        mine = {name: p.main_grad for name, p in policy.model.named_parameters()}
        mine |= {n: t for n, t in weights.tensors(policy.model).items() if n not in mine}
        gradients = {n: t.clone() for n, t in weights.whole(policy.spec, mesh, mine)}
        first = policy.update(batches, loss_function, denominator=DENOMINATOR, lr=1e-3)
        second = policy.evaluate(batches, loss_function, denominator=DENOMINATOR)
        result = {"logits": logits, "loss": first.loss, "norm": first.grad_norm, "after": second.loss}
        return result | ({"gradients": gradients} if rank == 0 else {})


def reference(kind: str) -> dict[str, Any]:
    """The same from transformers and torch's AdamW, one sequence at a time."""
    model = tiny.make(kind)

    def loss() -> torch.Tensor:
        total = torch.zeros(())
        for sample in samples():
            tokens = torch.from_numpy(sample.tokens.astype(np.int64))
            logits = model(tokens[None]).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            total = total + (nll * torch.from_numpy(sample.mask[1:].astype(np.float32))).sum()
        return total / DENOMINATOR

    with torch.no_grad():
        logits = torch.cat(
            [model(torch.from_numpy(s.tokens.astype(np.int64))[None, :-1]).logits[0] for s in samples()]
        )
    first = loss()
    first.backward()
    gradients = {name: g.clone() for name, g in tiny.checkpoint(model, gradients=True).items()}
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        betas=TRAIN.betas,
        eps=TRAIN.eps,
    )
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        after = float(loss())
    return {
        "logits": logits,
        "loss": float(first),
        "norm": float(norm),
        "after": after,
        "gradients": gradients,
    }


_REFERENCES: dict[str, dict[str, Any]] = {}


def reference_of(kind: str) -> dict[str, Any]:
    if kind not in _REFERENCES:
        _REFERENCES[kind] = run_ranks(1, lambda rank: reference(kind))[0]
    return _REFERENCES[kind]


SINGLE: list[tuple[str, int, dict[str, int]]] = [(kind, 1, {}) for kind in tiny.CONFIGS]
LAYOUTS = [
    ("qwen2_tied", 2, {}),
    ("qwen2_tied", 2, {"tp": 2}),
    ("qwen2_tied", 2, {"pp": 2}),
    ("llama3", 2, {"tp": 2}),
    ("llama3", 2, {"pp": 2}),
    ("v3", 2, {}),
    ("v3", 2, {"ep": 2}),
    ("v3", 2, {"tp": 2, "ep": 2}),
    ("v3", 2, {"tp": 2, "etp": 2}),
    ("v3", 2, {"pp": 2}),
    ("v3_yarn", 2, {"pp": 2}),
    ("v3_no_q_lora", 2, {"tp": 2, "ep": 2}),
]
MORE = [
    ("qwen2_untied", 4, {"tp": 2, "pp": 2}),
    ("llama_tied", 4, {"tp": 2}),
    ("v3_yarn", 4, {"ep": 2, "pp": 2}),
    ("v3", 4, {"tp": 2, "ep": 2}),
    ("v3", 4, {"ep": 4}),
    ("v3", 4, {"tp": 2, "ep": 2, "pp": 2}),
]


def name_of(case: Any) -> str:
    return (
        "".join(f"{axis}{size}" for axis, size in case.items()) or "dp"
        if isinstance(case, dict)
        else str(case)
    )


@pytest.mark.parametrize(("kind", "world", "sizes"), SINGLE + LAYOUTS, ids=name_of)
def test_equals_transformers(kind: str, world: int, sizes: dict[str, int]) -> None:
    check(kind, world, sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world", "sizes"), MORE, ids=name_of)
def test_equals_transformers_on_four_ranks(kind: str, world: int, sizes: dict[str, int]) -> None:
    check(kind, world, sizes)


def check(kind: str, world: int, sizes: dict[str, int]) -> None:
    expected = reference_of(kind)
    results = run_ranks(world, one_layout, kind, sizes, world)
    gradients = results[0]["gradients"]
    biases = {name for name in gradients if name.endswith("e_score_correction_bias")}
    assert gradients.keys() - biases == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        scale = float(gradient.abs().max())
        assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=2e-6 + 1e-5 * scale), (
            f"{name}: {float((gradients[name] - gradient).abs().max())} of {scale}"
        )
    logits = results[-1]["logits"]
    assert torch.allclose(logits[: len(expected["logits"])], expected["logits"], atol=1e-4, rtol=0)
    for result in results:
        assert result["loss"] == pytest.approx(expected["loss"], abs=2e-6)
        assert result["norm"] == pytest.approx(expected["norm"], rel=1e-5)
        assert result["after"] == pytest.approx(expected["after"], abs=1e-5)
