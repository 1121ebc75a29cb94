"""Multi-token prediction in every layout equals the paper's equations, computed one sequence at a time.

Compared are the model's own loss and logits, the further loss, and each parameter's gradient of their
weighted sum, those of embedding and output layer, which get both, among them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train import checkpoint
from r1mega.train.batch import micro_batch
from r1mega.train.policy import Policy
from tests import tiny, tiny_mtp
from tests.dist.test_layouts import DENOMINATOR, loss_function, my_batches, name_of, samples
from tests.ranks import run_ranks

WEIGHT = 0.3
TRAIN = Train(steps=4, lr=1e-3, expert_bias_rate=0.0, mtp_weight=WEIGHT, clip_grad=0.0)


def one_layout(
    rank: int, kind: str, depths: int, sizes: dict[str, Any], world: int, recompute: str = "none"
) -> dict[str, Any]:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        model = tiny_mtp.make(kind, depths)
        spec = load_spec(model.main.config.to_dict())
        train = TRAIN.model_copy(update={"recompute": recompute})
        policy = Policy(spec, mesh, dtype="float32", train=train, mtp=True)
        weights.load(spec, mesh, policy.model, tiny.InMemory(model.checkpoint()))
        logits = policy.logits(micro_batch(samples(), mesh.layout.tp))
        policy.prepare_to_learn()
        batches = my_batches(mesh)
        policy.gradients(batches, loss_function, denominator=DENOMINATOR)
        mine = {name: p.main_grad for name, p in policy.model.named_parameters()}
        mine |= {n: t for n, t in weights.tensors(policy.model).items() if n not in mine}
        gradients = {n: t.clone() for n, t in weights.whole(policy.spec, mesh, mine)}
        done = policy.update(batches, loss_function, denominator=DENOMINATOR, lr=1e-3)
        after = {n: t.clone() for n, t in weights.whole(policy.spec, mesh, weights.tensors(policy.model))}
        found = {
            "logits": logits,
            "loss": done.loss,
            "mtp_loss": done.sums["mtp_loss"] / DENOMINATOR,
            "norm": done.grad_norm,
        }
        return found | ({"gradients": gradients, "after": after} if rank == 0 else {})


@cache
def reference(kind: str, depths: int) -> dict[str, Any]:
    def compute(rank: int) -> dict[str, Any]:
        model = tiny_mtp.make(kind, depths)
        total = torch.zeros(1 + depths)
        logits = []
        for sample in samples():
            tokens = torch.from_numpy(sample.tokens.astype(np.int64))
            mask = torch.from_numpy(sample.mask.astype(np.float32))
            total = total + torch.stack(model.losses(tokens, mask))
            logits.append(model.main(tokens[None, :-1]).logits[0].detach())
        main, further = total[0] / DENOMINATOR, total[1:].mean() / DENOMINATOR
        (main + WEIGHT * further).backward()
        parameters = [p for part in (model.main, *model.depths) for p in part.parameters()]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return {
            "loss": float(main.detach()),
            "mtp_loss": float(further.detach()),
            "norm": float(norm),
            "logits": torch.cat(logits),
            "gradients": {n: g.clone() for n, g in model.checkpoint(gradients=True).items()},
        }

    return run_ranks(1, compute)[0]


LAYOUTS = [
    ("v3", 1, 1, {}),
    ("v3_no_q_lora", 2, 1, {}),
    ("v3", 1, 2, {"pp": 2}),
    ("v3", 1, 2, {"tp": 2, "ep": 2}),
]
MORE = [
    ("v3", 1, 2, {}),
    ("v3", 1, 2, {"ep": 2}),
    ("v3", 1, 2, {"tp": 2, "etp": 2}),
    ("v3", 1, 2, {"cp": 2}),
    ("v3_yarn", 2, 2, {"pp": 2}),
    ("v3", 1, 2, {"pp": 2, "vp": 2}),
    ("v3", 1, 2, {"pp": 2, "last_stage_layers": 1}),
    ("v3_yarn", 1, 4, {"tp": 2, "pp": 2, "ep": 2}),
    ("v3", 1, 4, {"cp": 2, "pp": 2}),
    ("v3", 2, 4, {"cp": 2, "tp": 2, "ep": 2}),
]


@pytest.mark.parametrize(("kind", "depths", "world", "sizes"), LAYOUTS, ids=name_of)
def test_equals_the_paper(kind: str, depths: int, world: int, sizes: dict[str, Any]) -> None:
    check(kind, depths, world, sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "depths", "world", "sizes"), MORE, ids=name_of)
def test_equals_the_paper_in_more_layouts(kind: str, depths: int, world: int, sizes: dict[str, Any]) -> None:
    check(kind, depths, world, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_equals_the_paper_with_recomputation(recompute: str) -> None:
    check("v3", 1, 2, {"pp": 2}, recompute)


def check(kind: str, depths: int, world: int, sizes: dict[str, Any], recompute: str = "none") -> None:
    expected = reference(kind, depths)
    results = run_ranks(world, one_layout, kind, depths, sizes, world, recompute)
    gradients = results[0]["gradients"]
    biases = {name for name in gradients if name.endswith("e_score_correction_bias")}
    assert gradients.keys() - biases == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        scale = float(gradient.abs().max())
        assert scale > 0 or "experts" in name, f"{name} has no gradient in the reference"
        assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=2e-6 + 1e-5 * scale), (
            f"{name}: {float((gradients[name] - gradient).abs().max())} of {scale}"
        )
    logits = results[-1]["logits"]
    assert torch.allclose(logits[: len(expected["logits"])], expected["logits"], atol=1e-4, rtol=0)
    for result in results:
        assert result["loss"] == pytest.approx(expected["loss"], abs=2e-6)
        assert result["mtp_loss"] == pytest.approx(expected["mtp_loss"], abs=2e-6)
        assert result["norm"] == pytest.approx(expected["norm"], rel=1e-5)
    after, layer = results[0]["after"], "model.layers.4."
    assert torch.equal(after[f"{layer}embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert torch.equal(after[f"{layer}shared_head.head.weight"], after["lm_head.weight"])


def two_steps(
    rank: int, folder: Path, sizes: dict[str, Any], learns: bool, *, resume: bool
) -> dict[str, Any]:
    """Save after the first of two updates, or go on from there with the second."""
    with Mesh(Layout.of(2, **sizes)) as mesh:
        model = tiny_mtp.make("v3", 1)
        spec = load_spec(model.main.config.to_dict())
        policy = Policy(spec, mesh, dtype="float32", train=TRAIN, mtp=learns)
        weights.load(spec, mesh, policy.model, tiny.InMemory(model.checkpoint()))
        policy.prepare_to_learn()
        batches = my_batches(mesh)
        if resume:
            checkpoint.load(policy, folder)
        else:
            policy.update(batches, loss_function, denominator=DENOMINATOR, lr=1e-3)
            checkpoint.save(policy, folder, {"version": policy.version})
        done = policy.update(batches, loss_function, denominator=DENOMINATOR, lr=1e-3)
        after = {n: t.clone() for n, t in weights.whole(spec, mesh, weights.tensors(policy.model))}
        return {"loss": done.loss, "sums": done.sums, "after": after}


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False], ids=["train", "keep"])
def test_a_checkpoint_goes_on_in_another_layout(tmp_path: Path, learns: bool) -> None:
    """From two stages to two tensor-parallel ranks; and layers that are only kept do not change."""
    folder = tmp_path / "step_000001"
    one = run_ranks(2, lambda rank: two_steps(rank, folder, {"pp": 2}, learns, resume=False))[0]
    other = run_ranks(2, lambda rank: two_steps(rank, folder, {"tp": 2, "ep": 2}, learns, resume=True))[0]
    assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert other["sums"] == pytest.approx(one["sums"], rel=1e-5)
    assert ("mtp_loss" in one["sums"]) == learns
    for name, tensor in one["after"].items():
        assert torch.allclose(other["after"][name], tensor, atol=2e-5, rtol=0), name
    before = tiny_mtp.make("v3", 1).checkpoint()
    own = [n for n in before if n.startswith("model.layers.4.") and "embed" not in n and "head.head" not in n]
    still = [name for name in own if torch.equal(one["after"][name], before[name])]
    assert still == (own if not learns else [name for name in own if "e_score_correction_bias" in name])
