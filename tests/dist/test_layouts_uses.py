"""What the stages ask of a policy, in layouts that cut a micro-batch's tokens or a stage's layers.

The computations are those of the tests of each use; here they run under context parallelism and in virtual
stages, where a rank has part of the tokens, or several chunks of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from r1mega.parallel import Layout, Mesh
from r1mega.stages.loop import batch_of
from r1mega.train.context import filled, take
from r1mega.train.routing import from_outside
from tests.dist import test_grpo_layouts as grpo
from tests.dist import test_reward_model as reward
from tests.dist import test_routing as routing
from tests.parity import make_policy, my_batches, reference_of, samples
from tests.ranks import run_ranks

slow = pytest.mark.slow
CP2: dict[str, Any] = {"cp": 2}
VP2: dict[str, Any] = {"pp": 2, "vp": 2}


def name_of(case: Any) -> str:
    return "".join(f"{axis}{size}" for axis, size in case.items()) if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(
    ("kind", "world", "sizes", "algorithm"),
    [
        ("llama3", 2, CP2, "gspo"),  # ratios of whole sequences, whose tokens are on both ranks
        pytest.param("v3", 2, CP2, "dapo_mis", marks=slow),
        pytest.param("qwen2_tied", 2, VP2, "grpo", marks=slow),
        pytest.param("v3", 4, {"cp": 2, "tp": 2, "ep": 2}, "grpo", marks=slow),
        pytest.param("v3", 4, {"cp": 2, "pp": 2, "vp": 2}, "rloo", marks=slow),
    ],
    ids=name_of,
)
def test_every_update_of_grpo_equals_transformers(
    kind: str, world: int, sizes: dict[str, Any], algorithm: str
) -> None:
    grpo.test_every_update_equals_transformers(kind, world, sizes, algorithm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "objective", "world", "sizes"),
    [
        ("llama3", "pairwise", 2, CP2),
        ("qwen2_tied", "pointwise", 2, VP2),
        ("v3", "pairwise", 4, {"cp": 2, "tp": 2, "ep": 2}),
    ],
    ids=name_of,
)
def test_reward_models_equal_transformers(
    kind: str, objective: str, world: int, sizes: dict[str, Any]
) -> None:
    reward.test_a_layout_computes_what_transformers_computes(kind, objective, world, sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "sizes"), [(2, CP2), (4, {"cp": 2, "tp": 2, "ep": 2})], ids=name_of)
def test_choices_of_experts_are_replayed(world: int, sizes: dict[str, Any]) -> None:
    reference_of("v3")
    run_ranks(world, routing.replay, "v3", sizes, world)


def replay_in_chunks(rank: int, sizes: dict[str, Any], world: int) -> None:
    """As routing.replay, but for the order in which routers are called, which interleaving changes."""
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy, batches = make_policy("v3", mesh), my_batches(mesh)
        policy.prepare_to_learn()
        plain = routing.gradients(policy, batches)
        scored = policy.score(batches, record_routing=True)
        routed = routing.with_routing(batches, scored)
        assert all(torch.equal(plain[name], g) for name, g in routing.gradients(policy, routed).items())
        routing.shake(policy)
        old = [each.logp_T for each in scored]
        anew = policy.logprobs(batches)
        assert not mesh.is_last_stage or not all(map(torch.equal, anew, old)), "the shaking must matter"
        assert all(map(torch.equal, policy.logprobs(routed), old))
        assert all(torch.equal(plain[name], g) for name, g in routing.gradients(policy, routed).items())


@pytest.mark.slow
@pytest.mark.parametrize(("world", "sizes"), [(2, VP2), (4, {"cp": 2, **VP2})], ids=name_of)
def test_choices_of_experts_are_replayed_in_chunks(world: int, sizes: dict[str, Any]) -> None:
    reference_of("v3")
    run_ranks(world, replay_in_chunks, sizes, world)


def outside(rank: int, sizes: dict[str, Any], world: int) -> None:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy("v3", mesh)
        spec, moe = policy.spec, policy.spec.moe
        assert moe is not None
        batch = my_batches(mesh)[0]
        place_TNK = np.add.outer(np.arange(batch.tokens), np.add.outer(np.arange(4), np.arange(moe.topk)))
        routed = from_outside([place_TNK % moe.experts], batch.tokens, spec, mesh)
        assert routed is not None
        stage = [layer for chunk in policy._chunks for layer in chunk.decoder.layers]
        layers = [each.layer_number - 1 for each in stage if each.layer_number - 1 in spec.moe_layers]
        mine = take(torch.arange(batch.tokens), mesh).chunk(mesh.layout.tp)[mesh.at.tp]
        tokens = filled(batch.tokens, mesh) // (mesh.layout.tp * mesh.layout.cp)
        assert routed.shape == (tokens, len(layers), moe.topk)
        for choice_LK, token in zip(routed, mine.tolist(), strict=True):
            for choice_K, layer in zip(choice_LK, layers, strict=True):
                assert choice_K.tolist() == (place_TNK[token, layer] % moe.experts).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sizes"), [(2, CP2), (2, VP2), (4, {"cp": 2, "tp": 2, "ep": 2})], ids=name_of
)
def test_choices_from_outside_reach_the_ranks_that_have_the_tokens(world: int, sizes: dict[str, Any]) -> None:
    reference_of("v3")
    run_ranks(world, outside, sizes, world)


def scores(rank: int, kind: str, sizes: dict[str, Any], world: int) -> list[list[torch.Tensor | None]]:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy(kind, mesh)
        batches = batch_of([[one] for one in samples()], policy, 64).mine
        # Rounds of the pipeline are filled up: an odd number of micro-batches.
        found = policy.score(batches[:3], entropy=True)
        assert [len(each.logp_T) for each in found] == [batch.tokens for batch in batches[:3]]
        return [[each.logp_T, each.entropy_T] for each in found]


@pytest.mark.parametrize(
    ("kind", "world", "sizes"),
    [
        ("v3", 2, CP2),
        pytest.param("llama3", 2, VP2, marks=slow),
        pytest.param("qwen2_tied", 3, {"cp": 3}, marks=slow),
        pytest.param("qwen2_tied", 4, {"cp": 2, **VP2}, marks=slow),
    ],
    ids=name_of,
)
def test_every_rank_of_the_last_stage_has_all_scores(kind: str, world: int, sizes: dict[str, Any]) -> None:
    reference_of(kind)
    alone = run_ranks(1, scores, kind, {}, 1)[0]
    everyones = run_ranks(world, scores, kind, sizes, world)
    for rank, found in enumerate(everyones):
        if rank // (world // sizes.get("pp", 1)) < sizes.get("pp", 1) - 1:
            assert all(not values.any() for each in found for values in each)
            continue
        for ours, theirs in zip(found, alone, strict=True):
            for values, expected in zip(ours, theirs, strict=True):
                torch.testing.assert_close(values[: len(expected)], expected, rtol=0, atol=5e-6)
