"""Reward models compute what transformers' sequence classifiers compute, in every layout.

The reference is transformers on each answer alone and plain torch for the losses; values, each parameter's
gradient and the weights after an optimizer step are compared under checkpoint names. A pair's micro-batch is
packed, so isolation of packed answers is under test as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from r1mega.algo.judgments import judged
from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.reward_head import reward_spec
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.policy import Policy
from r1mega.train.reward_model import LOSSES, ask
from r1mega.types import Sample
from tests import tiny
from tests.ranks import run_ranks

LENGTHS = (7, 30, 3, 19, 12, 41, 25, 9)
PAIRS = len(LENGTHS) // 2
BUDGET = 128
TRAIN = Train(steps=4, lr=1e-3, batch_size=8, clip_grad=1.0, weight_decay=0.01, expert_bias_rate=0.0)


def samples() -> list[Sample]:
    """Pairs one behind another; as single answers every other one is safe."""
    rng = np.random.default_rng(0)
    return [judged(rng.integers(3, 96, n).tolist(), label=1 - i % 2) for i, n in enumerate(LENGTHS)]


def head() -> torch.Tensor:
    return torch.randn((1, 32), generator=torch.Generator().manual_seed(5)) * 0.3


def spec_of(model: Any) -> ModelSpec:
    return reward_spec(load_spec(model.config.to_dict()))


def classifier(kind: str) -> Any:
    """transformers' classifier with the body of the tiny language model."""
    import transformers

    language_model = tiny.make(kind)
    name, _ = tiny.CONFIGS[kind]
    config = language_model.config
    config.num_labels = 1
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).float().eval()
    model.model.load_state_dict(language_model.model.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(head())
    return model


def make_policy(kind: str, mesh: Mesh) -> Policy:
    model = tiny.make(kind)
    policy = Policy(spec_of(model), mesh, dtype="float32", train=TRAIN)
    tensors = tiny.checkpoint(model) | {"score.weight": head()}
    weights.load(policy.spec, mesh, policy.model, tiny.InMemory(tensors))
    return policy


def my_batches(mesh: Mesh) -> list[MicroBatch]:
    """Two micro-batches of whole pairs on each data-parallel rank."""
    whole = samples()
    pairs = [whole[i : i + 2] for i in range(0, len(whole), 2)][mesh.at.dp :: mesh.layout.dp]
    half = (len(pairs) + 1) // 2
    return [
        micro_batch([one for pair in part for one in pair], mesh.layout.tp)
        for part in (pairs[:half], pairs[half:])
    ]


def one_layout(rank: int, kind: str, objective: str, sizes: dict[str, Any], world: int) -> dict[str, Any]:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy(kind, mesh)
        values = ask(policy, samples(), BUDGET)
        policy.prepare_to_learn()
        loss, together = LOSSES[objective]
        denominator = float(len(LENGTHS) // together)
        policy.gradients(my_batches(mesh), loss, denominator=denominator)
        mine = {name: p.main_grad for name, p in policy.model.named_parameters()}
        mine |= {n: t for n, t in weights.tensors(policy.model).items() if n not in mine}
        gradients = {n: t.clone() for n, t in weights.whole(policy.spec, mesh, mine)}
        first = policy.update(my_batches(mesh), loss, denominator=denominator, lr=1e-3)
        after = policy.evaluate(my_batches(mesh), loss, denominator=denominator)
        result = {"values": values, "loss": first.loss, "sums": first.sums, "norm": first.grad_norm}
        result |= {"after": after.loss}
        return result | ({"gradients": gradients} if rank == 0 else {})


def reference(kind: str, objective: str) -> dict[str, Any]:
    model = classifier(kind)

    def values() -> torch.Tensor:
        each = [torch.from_numpy(s.tokens[:-1].astype(np.int64)) for s in samples()]
        model.config.pad_token_id = None  # one sequence at a time
        return torch.stack([model(tokens[None]).logits[0, 0] for tokens in each])

    def loss(value_B: torch.Tensor) -> torch.Tensor:
        if objective == "pairwise":
            return -torch.log(torch.sigmoid(value_B[0::2] - value_B[1::2])).mean()
        safe_B = torch.tensor([1.0, 0.0]).repeat(PAIRS)
        return F.binary_cross_entropy(torch.sigmoid(value_B), safe_B)

    value_B = values()
    first = loss(value_B)
    first.backward()
    gradients = {name: g.clone() for name, g in tiny.checkpoint(model, gradients=True).items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=TRAIN.betas,
        eps=TRAIN.eps,
    )
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    right = (
        (value_B[0::2] > value_B[1::2]).sum()
        if objective == "pairwise"
        else ((value_B > 0) == torch.tensor([True, False]).repeat(PAIRS)).sum()
    )
    return {
        "values": value_B.detach(),
        "loss": float(first),
        "norm": float(norm),
        "right": float(right),
        "gradients": gradients,
        "after": float(loss(values())),
    }


LAYOUTS = [
    ("qwen2_tied", "pairwise", 2, {"tp": 2}),
    ("v3", "pairwise", 2, {"ep": 2}),
]
MORE = [
    ("qwen2_tied", "pairwise", 1, {}),
    ("llama_tied", "pointwise", 2, {"pp": 2}),
    ("qwen2_tied", "pairwise", 2, {"pp": 2}),
    ("qwen2_untied", "pairwise", 2, {}),
    ("llama3", "pointwise", 2, {"tp": 2}),
    ("v3", "pointwise", 2, {"tp": 2, "ep": 2}),
    ("v3", "pairwise", 2, {"pp": 2}),
    ("v3_yarn", "pairwise", 4, {"tp": 2, "ep": 2, "pp": 2}),
]


@pytest.mark.parametrize(
    ("kind", "objective", "world", "sizes"),
    [*LAYOUTS, *(pytest.param(*row, marks=pytest.mark.slow) for row in MORE)],
)
def test_a_layout_computes_what_transformers_computes(
    kind: str, objective: str, world: int, sizes: dict[str, Any]
) -> None:
    expected = run_ranks(1, lambda rank: reference(kind, objective))[0]
    results = run_ranks(world, one_layout, kind, objective, sizes, world)
    for found in results:
        torch.testing.assert_close(torch.tensor(found["values"]), expected["values"], rtol=1e-4, atol=1e-4)
        assert found["values"] == results[0]["values"], "every rank has the same values, to the bit"
        for name in ("loss", "norm", "after"):
            assert found[name] == pytest.approx(expected[name], rel=2e-4), name
        assert found["sums"]["right"] == expected["right"]
    gradients = results[0]["gradients"]
    assert gradients.keys() == expected["gradients"].keys() | {n for n in gradients if "correction" in n}
    for name, theirs in expected["gradients"].items():
        scale = max(float(theirs.abs().max()), 1e-6)
        torch.testing.assert_close(gradients[name] / scale, theirs / scale, rtol=1e-3, atol=1e-4, msg=name)
