"""The experts' balance equals plain computations from the paper, in every layout.

The sequence-wise balance loss (arXiv 2412.19437, equations 17-20) is written here over the router scores of
transformers' model, one sequence at a time, and each parameter's gradient of loss + alpha x balance compared.
The bias's update is a plain loop over a whole batch: one step of fixed size, whatever the micro-batches.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.policy import Policy
from r1mega.types import UserError
from tests import tiny
from tests.dist.test_layouts import DENOMINATOR, loss_function, my_batches, name_of, samples
from tests.ranks import run_ranks

ALPHA = 0.5  # far above the paper's 1e-4, so that its gradient shows beside the loss's
RATE = 0.05
STEPS = 3
TRAIN = Train(steps=4, lr=1e-3, expert_bias_rate=RATE, balance_weight=ALPHA, clip_grad=0.0)


def one_layout(
    rank: int, kind: str, sizes: dict[str, Any], world: int, recompute: str = "none"
) -> dict[str, Any]:
    """Gradients; then the biases after each of three updates that change nothing else."""
    with Mesh(Layout.of(world, **sizes)) as mesh:
        model = tiny.make(kind)
        spec = load_spec(model.config.to_dict())
        train = TRAIN.model_copy(update={"recompute": recompute})
        policy = Policy(spec, mesh, dtype="float32", train=train)
        weights.load(spec, mesh, policy.model, tiny.InMemory(tiny.checkpoint(model)))
        policy.prepare_to_learn()
        batches = my_batches(mesh)
        biases, balance = [], []
        for _ in range(STEPS):
            done = policy.update(batches, loss_function, denominator=DENOMINATOR, lr=0.0)
            balance.append(done.sums["balance_loss"] / DENOMINATOR)
            state = {n: t.clone() for n, t in weights.whole(spec, mesh, weights.tensors(policy.model))}
            biases.append({n: t for n, t in state.items() if n.endswith("e_score_correction_bias")})
            if not biases[1:]:
                mine = {name: p.main_grad for name, p in policy.model.named_parameters()}
                mine |= {n: t for n, t in weights.tensors(policy.model).items() if n not in mine}
                gradients = {n: t.clone() for n, t in weights.whole(spec, mesh, mine)}
        found = {"loss": done.loss, "balance": balance, "biases": biases}
        return found | ({"gradients": gradients} if rank == 0 else {})


class Watched:
    """A transformers model whose routers' scores and choices are kept."""

    def __init__(self, kind: str) -> None:
        self.model = tiny.make(kind)
        self.gates = [layer.mlp.gate for layer in self.model.model.layers if hasattr(layer.mlp, "gate")]
        self.said: list[Any] = []
        for gate in self.gates:
            gate.register_forward_hook(lambda _, __, out: self.said.append(out))

    def run(self, tokens: torch.Tensor) -> tuple[torch.Tensor, list[Any]]:
        """The logits, and (router logits [T, E], weights, choices [T, K]) of each layer with experts."""
        self.said.clear()
        logits = self.model(tokens[None, :-1]).logits[0]
        return logits, list(self.said)


def balance_of(scores_TE: torch.Tensor, topk: int) -> torch.Tensor:
    """The sum over experts of f x P, by the letter of the equations."""
    tokens, experts = scores_TE.shape
    total = torch.zeros(())
    chosen = [set(row.topk(topk).indices.tolist()) for row in scores_TE]
    for i in range(experts):
        f = experts / (topk * tokens) * sum(i in row for row in chosen)
        p = sum(scores_TE[t, i] / scores_TE[t].sum() for t in range(tokens)) / tokens
        total = total + f * p
    return total


@cache
def reference(kind: str) -> dict[str, Any]:
    def compute(rank: int) -> dict[str, Any]:
        watched = Watched(kind)
        model, topk = watched.model, watched.model.config.num_experts_per_tok
        batch = [
            (torch.from_numpy(s.tokens.astype(np.int64)), torch.from_numpy(s.mask.astype(np.float32)))
            for s in samples()
        ]
        balances: list[float] = []
        losses: list[float] = []
        biases: list[dict[str, torch.Tensor]] = []
        for _ in range(STEPS):
            loss = balance = torch.zeros(())
            load = [torch.zeros(gate.num_experts) for gate in watched.gates]
            for tokens, mask in batch:
                logits, said = watched.run(tokens)
                nll = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
                loss = loss + (nll * mask[1:]).sum() / DENOMINATOR
                for layer, (router_logits, _, choices) in enumerate(said):
                    of_sequence = balance_of(router_logits.sigmoid(), topk)
                    balance = balance + of_sequence * mask[1:].sum() / DENOMINATOR
                    load[layer] += torch.bincount(choices.flatten(), minlength=len(load[layer]))
            if not biases:
                (loss + ALPHA * balance).backward()
            losses.append(float(loss.detach()))
            balances.append(float(balance.detach()) / len(watched.gates))
            for gate, of_layer in zip(watched.gates, load, strict=True):
                gate.e_score_correction_bias += RATE * torch.sign(of_layer.mean() - of_layer)
            biases.append({n: b.clone() for n, b in model.named_buffers() if "e_score" in n})
        gradients = {n: g.clone() for n, g in tiny.checkpoint(model, gradients=True).items()}
        return {"loss": losses[-1], "balance": balances, "biases": biases, "gradients": gradients}

    return run_ranks(1, compute)[0]


LAYOUTS = [("v3", 1, {}), ("v3", 2, {"tp": 2, "ep": 2}), ("v3", 2, {"pp": 2})]
MORE = [
    ("v3", 2, {}),
    ("v3", 2, {"ep": 2}),
    ("v3", 2, {"tp": 2, "etp": 2}),
    ("v3", 2, {"cp": 2}),
    ("v3", 2, {"pp": 2, "vp": 2}),
    ("v3", 4, {"ep": 2, "pp": 2}),
    ("v3", 4, {"tp": 2, "ep": 4}),
    ("v3_yarn", 4, {"cp": 2, "tp": 2, "ep": 2}),
]


@pytest.mark.parametrize(("kind", "world", "sizes"), LAYOUTS, ids=name_of)
def test_equals_the_paper(kind: str, world: int, sizes: dict[str, Any]) -> None:
    check(kind, world, sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world", "sizes"), MORE, ids=name_of)
def test_equals_the_paper_in_more_layouts(kind: str, world: int, sizes: dict[str, Any]) -> None:
    check(kind, world, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_a_router_that_is_computed_again_has_its_own_micro_batch(recompute: str) -> None:
    """In a pipeline, where other micro-batches have gone forward in between."""
    check("v3", 2, {"pp": 2}, recompute)


def check(kind: str, world: int, sizes: dict[str, Any], recompute: str = "none") -> None:
    expected = reference(kind)
    results = run_ranks(world, one_layout, kind, sizes, world, recompute)
    for name, gradient in expected["gradients"].items():
        ours, scale = results[0]["gradients"][name], float(gradient.abs().max())
        assert torch.allclose(ours, gradient, rtol=1e-4, atol=2e-6 + 1e-5 * scale), (
            f"{name}: {float((ours - gradient).abs().max())} of {scale}"
        )
    for result in results:
        assert result["loss"] == pytest.approx(expected["loss"], abs=2e-6)
        assert result["balance"] == pytest.approx(expected["balance"], abs=2e-6)
        for ours, theirs in zip(result["biases"], expected["biases"], strict=True):
            assert ours.keys() == theirs.keys()
            for name, bias in theirs.items():
                assert torch.allclose(ours[name], bias, atol=1e-6, rtol=0), name


def test_a_dense_model_has_no_use_for_it() -> None:
    def refused(rank: int) -> str:
        with Mesh(Layout()) as mesh:
            spec = load_spec(tiny.make("llama3").config.to_dict())
            with pytest.raises(UserError) as error:
                Policy(spec, mesh, dtype="float32", train=TRAIN).prepare_to_learn()
            return str(error.value)

    assert "balance_weight" in run_ranks(1, refused)[0]
