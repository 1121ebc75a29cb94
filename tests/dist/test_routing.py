"""Replayed routing: the recorded experts are used, the log-probabilities are the old ones to the last bit,
and the router's gradient is what it is without replay.

Between recording and replay the expert biases are changed at random, as an optimizer step would change them.
They decide the choice of experts and nothing else: with replay nothing may differ, and without it nearly
everything does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.transformer.moe.router import TopKRouter

from r1mega.algo.loss import LossParts
from r1mega.models.stages import chunk_layers
from r1mega.parallel import Layout, Mesh
from r1mega.train.batch import MicroBatch
from r1mega.train.policy import Policy
from r1mega.train.routing import from_outside
from tests.dist.test_layouts import (
    DENOMINATOR,
    loss_function,
    make_policy,
    my_batches,
    name_of,
    samples,
)
from tests.ranks import run_ranks

CASES = [
    ("v3", 1, {}),
    ("v3", 2, {"ep": 2}),
    ("v3", 2, {"pp": 2}),
    ("v3", 2, {"tp": 2, "ep": 2}),
]
MORE = [
    ("v3", 4, {"tp": 2, "ep": 2, "pp": 2}),
    ("v3", 2, {"tp": 2, "etp": 2}),
    ("v3_no_q_lora", 4, {"ep": 4}),
]


def routers(policy: Policy) -> list[TopKRouter]:
    return [module for module in policy.model.modules() if isinstance(module, TopKRouter)]


def shake(policy: Policy) -> None:
    """Change every expert bias, alike on all ranks, by more than most scores differ."""
    generator = torch.Generator().manual_seed(7)
    for router in routers(policy):
        router.expert_bias.add_(torch.randn(router.expert_bias.shape, generator=generator) * 0.3)


@contextmanager
def watched(policy: Policy) -> Iterator[list[torch.Tensor]]:
    """bool [S, experts] for each router's call inside: the experts that the tokens are sent to."""
    seen: list[torch.Tensor] = []
    hooks = [r.register_forward_hook(lambda _, __, out: seen.append(out[1].clone())) for r in routers(policy)]
    yield seen
    for hook in hooks:
        hook.remove()


def as_maps(batches: list[MicroBatch], experts: int) -> list[torch.Tensor]:
    """The batches' choices in the form and order in which `watched` sees them."""
    maps = []
    for batch in batches:
        assert batch.routing_SLK is not None
        for choice_SK in batch.routing_SLK.unbind(1):
            maps.append(torch.zeros(len(choice_SK), experts, dtype=torch.bool))
            maps[-1].scatter_(1, choice_SK.long(), True)
    return maps


def gradients(policy: Policy, batches: list[MicroBatch]) -> dict[str, torch.Tensor]:
    policy.gradients(batches, loss_function, denominator=DENOMINATOR)
    return {name: p.main_grad.clone() for name, p in policy.model.named_parameters()}


def with_routing(batches: list[MicroBatch], scored: Any) -> list[MicroBatch]:
    return [replace(batch, routing_SLK=s.routing_SLK) for batch, s in zip(batches, scored, strict=True)]


def replay(rank: int, kind: str, sizes: dict[str, Any], world: int) -> None:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy, batches = make_policy(kind, mesh), my_batches(mesh)
        policy.prepare_to_learn()
        moe = policy.spec.moe
        assert moe is not None
        plain = gradients(policy, batches)
        with watched(policy) as chosen:
            scored = policy.score(batches, record_routing=True)
        routed = with_routing(batches, scored)
        old = [s.logp_T for s in scored]
        assert all(torch.equal(a, b) for a, b in zip(as_maps(routed, moe.experts), chosen, strict=True))
        assert all(s.routing_SLK is not None and s.routing_SLK.dtype == torch.uint8 for s in scored)

        # Nothing has changed: to the last bit the same gradients with replay, the routers' too.
        again = gradients(policy, routed)
        assert any("router" in name and float(g.abs().max()) > 0 for name, g in plain.items()) or not chosen
        assert all(torch.equal(plain[name], again[name]) for name in plain)

        shake(policy)
        anew = policy.logprobs(batches)
        assert not mesh.is_last_stage or not all(map(torch.equal, anew, old)), "the shaking must matter"
        assert all(map(torch.equal, policy.logprobs(routed), old))
        with watched(policy) as used:
            kept = policy.score(routed, record_routing=True)
        assert all(map(torch.equal, used, chosen))
        assert all(s.routing_SLK is batch.routing_SLK for s, batch in zip(kept, routed, strict=True))
        assert all(torch.equal(plain[name], g) for name, g in gradients(policy, routed).items())

        # The first update sees ratios of exactly 1, the second one the same experts still.
        ratios = []

        def loss(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
            ratios.append((logp_T - batch.columns["old"]).exp().detach())
            return loss_function(logp_T, batch)

        filled = [replace(b, columns={"old": s.logp_T}) for b, s in zip(routed, scored, strict=True)]
        policy.update(filled, loss, denominator=DENOMINATOR, lr=1e-2)
        assert all(torch.equal(ratio_T, torch.ones_like(ratio_T)) for ratio_T in ratios)
        with watched(policy) as used:
            policy.update(filled, loss, denominator=DENOMINATOR, lr=1e-2)
        assert all(map(torch.equal, used, chosen))
        if mesh.is_last_stage:
            assert max(float((ratio_T - 1).abs().max()) for ratio_T in ratios) > 1e-3
        with watched(policy) as free:
            policy.logprobs(batches)
        assert not free or not all(map(torch.equal, free, chosen)), "replay ends with its micro-batches"


@pytest.mark.parametrize(("kind", "world", "sizes"), CASES, ids=name_of)
def test_replay(kind: str, world: int, sizes: dict[str, Any]) -> None:
    run_ranks(world, replay, kind, sizes, world)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world", "sizes"), MORE, ids=name_of)
def test_replay_in_more_layouts(kind: str, world: int, sizes: dict[str, Any]) -> None:
    run_ranks(world, replay, kind, sizes, world)


def recomputed(rank: int, sizes: dict[str, Any], world: int) -> None:
    """Layers that backward computes once more use each micro-batch's own choices again."""
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy("v3", mesh)
        policy.prepare_to_learn()
        batches = my_batches(mesh) + my_batches(mesh)[::-1]
        routed = with_routing(batches, policy.score(batches, record_routing=True))
        shake(policy)
        once = gradients(policy, routed)
        policy.config.recompute_granularity = "full"
        policy.config.recompute_method, policy.config.recompute_num_layers = "uniform", 1
        with watched(policy) as used:
            twice = gradients(policy, routed)
        assert len(used) == 2 * len(routed) * len(routers(policy))
        for name, gradient in once.items():
            torch.testing.assert_close(twice[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("world", "sizes"), [(1, {}), (2, {"pp": 2})], ids=name_of)
def test_replay_with_recomputation(world: int, sizes: dict[str, Any]) -> None:
    run_ranks(world, recomputed, sizes, world)


def outside(rank: int, sizes: dict[str, Any], world: int) -> None:
    """Choices made elsewhere, for all layers and tokens, reach the routers of the ranks that want them."""
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy("v3", mesh)
        spec, moe = policy.spec, policy.spec.moe
        assert moe is not None
        mine = samples()[mesh.at.dp :: mesh.layout.dp]
        half = (len(mine) + 1) // 2
        batches = my_batches(mesh)
        # A choice that tells where it belongs: token t of the sequence, layer l, place k.
        layer_N1, place_K = np.arange(spec.layers)[:, None], np.arange(moe.topk)
        choices = [
            (len(s) + np.arange(len(s) - 1)[:, None, None] + layer_N1 + place_K) % moe.experts for s in mine
        ]
        for choice in choices:
            choice[:, : moe.first_dense] = 99  # a layer without experts: whatever stands there is ignored
        routed = [
            replace(batch, routing_SLK=from_outside(part, batch.tokens, spec, mesh))
            for batch, part in zip(batches, (choices[:half], choices[half:]), strict=True)
        ]
        with watched(policy) as used:
            policy.logprobs(routed)
        seen = iter(used)
        for batch, part in zip(batches, (choices[:half], choices[half:]), strict=True):
            real = sum(len(choice) for choice in part)
            each = batch.tokens // mesh.layout.tp
            for layer in chunk_layers(spec.layers, mesh.layout, mesh.at.pp)[0]:
                if layer < moe.first_dense:
                    continue
                sent = next(seen)
                assert sent.shape == (each, moe.experts) and bool((sent.sum(1) == moe.topk).all())
                for t in range(each):
                    place = mesh.at.tp * each + t
                    if place < real:
                        expected = np.concatenate(part)[place, layer]
                        assert set(sent[t].nonzero()[:, 0].tolist()) == set(expected.tolist())
        if routers(policy):
            with pytest.raises(AssertionError, match="differ"):
                from_outside([np.zeros((3, spec.layers, moe.topk), np.int16)], 4, spec, mesh)
            with pytest.raises(AssertionError, match="does not have"):
                from_outside([np.full((4, spec.layers, moe.topk), 8)], 4, spec, mesh)


@pytest.mark.parametrize(("world", "sizes"), [(1, {}), (2, {"tp": 2, "ep": 2}), (2, {"pp": 2})], ids=name_of)
def test_choices_from_outside(world: int, sizes: dict[str, Any]) -> None:
    run_ranks(world, outside, sizes, world)


def dense(rank: int) -> None:
    with Mesh(Layout()) as mesh:
        policy, batches = make_policy("qwen2_tied", mesh), my_batches(mesh)
        assert [s.routing_SLK for s in policy.score(batches, record_routing=True)] == [None, None]
        assert from_outside([], 8, policy.spec, mesh) is None


def test_a_model_without_experts_has_no_routing() -> None:
    run_ranks(1, dense)
