"""An update whose loss or gradient is not finite leaves no trace on any rank, wherever it was seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1mega.algo.loss import LossParts, cross_entropy
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.batch import MicroBatch
from r1mega.train.policy import Policy
from tests import tiny
from tests.dist.test_layouts import DENOMINATOR, TRAIN, loss_function, my_batches, name_of
from tests.ranks import run_ranks

LEARNING = TRAIN.model_copy(update={"expert_bias_rate": 0.01})


def make_policy(kind: str, mesh: Mesh, dtype: str) -> Policy:
    model = tiny.make(kind)
    spec = load_spec(model.config.to_dict())
    policy = Policy(spec, mesh, dtype=dtype, train=LEARNING)
    weights.load(spec, mesh, policy.model, tiny.InMemory(tiny.checkpoint(model)))
    policy.prepare_to_learn()
    return policy


def everything(policy: Policy) -> dict[str, torch.Tensor]:
    """Weights, expert biases and the optimizer's masters and moments, as copies."""
    assert policy.optimizer is not None
    found = {name: tensor.clone() for name, tensor in weights.tensors(policy.model).items()}
    for i, part in enumerate(policy.optimizer.chained_optimizers):
        for j, (master, state) in enumerate(part.optimizer.state.items()):
            found[f"{i}.{j}"] = master.detach().clone()
            found |= {f"{i}.{j}.{name}": value.clone() for name, value in state.items()}
    return found


def bad_loss(kind: str, mesh: Mesh) -> Any:
    """A loss that is NaN or has a bad gradient in the last data-parallel rank's second micro-batch alone."""
    calls = 0

    def loss(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
        nonlocal calls
        calls += 1
        parts = cross_entropy(logp_T, batch.weights_T)
        if calls % 2 or mesh.at.dp != mesh.layout.dp - 1:
            return parts
        if kind == "loss":
            return LossParts(parts.sum * torch.nan)
        # sqrt has the value 0 and an infinite slope there: a finite loss with a gradient of 0 x inf.
        return LossParts(parts.sum + (logp_T - logp_T.detach()).clamp(min=0).sqrt().sum())

    return loss


def skip(rank: int, kind: str, sizes: dict[str, Any], world: int, dtype: str) -> Any:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy, untroubled = make_policy(kind, mesh, dtype), make_policy(kind, mesh, dtype)
        batches = my_batches(mesh)
        for each in (policy, untroubled):
            each.update(batches, loss_function, denominator=DENOMINATOR, lr=1e-3)
        before = everything(policy)
        done = []
        for bad in ("loss", "gradient"):
            done.append(
                policy.update(
                    batches, bad_loss(bad, mesh), denominator=DENOMINATOR, lr=1e-3, skip_nonfinite=True
                )
            )
        with pytest.raises(FloatingPointError, match="update 2: loss nan"):
            policy.update(batches, bad_loss("loss", mesh), denominator=DENOMINATOR, lr=1e-3)
        after, version = everything(policy), policy.version
        for each in (policy, untroubled):
            each.update(batches, loss_function, denominator=DENOMINATOR, lr=1e-3)
        flags = [(u.skipped, u.loss, u.grad_norm) for u in done]
        return before, after, version, flags, everything(policy), everything(untroubled)


@pytest.mark.parametrize(
    ("kind", "world", "sizes", "dtype"),
    [
        ("v3", 1, {}, "float32"),
        ("v3", 2, {"ep": 2}, "bfloat16"),
        ("qwen2_tied", 2, {"pp": 2}, "float32"),
        ("v3", 2, {"tp": 2, "ep": 2}, "float32"),
    ],
    ids=name_of,
)
def test_leaves_no_trace(kind: str, world: int, sizes: dict[str, Any], dtype: str) -> None:
    for before, after, version, flags, later, untroubled in run_ranks(world, skip, kind, sizes, world, dtype):
        assert before.keys() == after.keys() and len(before) > 10
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]), name
        assert version == 1
        (by_loss, loss, _), (by_gradient, finite, norm) = flags
        assert by_loss and loss != loss
        assert by_gradient and finite == finite and not norm < torch.inf
        for name, tensor in untroubled.items():
            assert torch.equal(tensor, later[name]), f"{name}: the next update is another"
        moved = [name for name, tensor in before.items() if not torch.equal(tensor, later[name])]
        assert len(moved) > len(before) / 2, "the next update has done something"
