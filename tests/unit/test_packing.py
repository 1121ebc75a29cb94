"""The packing plan: invariants on any input, the optimum on small ones, balance and speed on large ones."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.algo.packing import plan
from r1mega.types import UserError

Plan = list[list[list[int]]]


def assert_sound(planned: Plan, lengths: list[int], ranks: int, budget: int) -> None:
    assert len(planned) == ranks
    assert len({len(micro_batches) for micro_batches in planned}) == 1
    members = [i for micro_batches in planned for micro_batch in micro_batches for i in micro_batch]
    assert sorted(members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in micro_batch) <= budget for rank in planned for micro_batch in rank)


def fewest_bins(lengths: list[int], budget: int) -> int:
    """By trying everything: each sample into each bin that has room, or into a new one."""
    best = len(lengths)

    def place(i: int, loads: list[int]) -> None:
        nonlocal best
        if len(loads) >= best:
            return
        if i == len(lengths):
            best = len(loads)
            return
        for load in set(loads):
            if load + lengths[i] <= budget:
                at = loads.index(load)
                place(i + 1, [*loads[:at], load + lengths[i], *loads[at + 1 :]])
        place(i + 1, [*loads, lengths[i]])

    place(0, [])
    return best


@given(st.lists(st.integers(1, 100), max_size=200), st.integers(1, 9), st.integers(100, 400))
@settings(max_examples=300, deadline=None)
def test_invariants(lengths: list[int], ranks: int, budget: int) -> None:
    planned = plan(lengths, ranks, budget)
    assert_sound(planned, lengths, ranks, budget)
    assert plan(np.array(lengths, np.int64), ranks, budget) == planned
    rounds = list(zip(*planned, strict=True))
    assert all(any(together) for together in rounds), "no micro-batch is empty on every rank"
    loads = [[sum(lengths[i] for i in micro_batch) for micro_batch in together] for together in rounds]
    assert all(min(one) >= max(other) for one, other in pairwise(loads)), "fullest first"


@given(st.lists(st.integers(1, 10), min_size=1, max_size=9), st.integers(1, 3), st.integers(10, 20))
@settings(max_examples=300, deadline=None)
def test_the_count_is_near_the_optimum(lengths: list[int], ranks: int, budget: int) -> None:
    best = fewest_bins(lengths, budget)
    count = len(plan(lengths, ranks, budget)[0])
    assert count >= -(-best // ranks)
    assert count <= -(-((11 * best + 6) // 9) // ranks)  # Best-Fit-Decreasing's proven bound


def test_the_count_is_the_optimum_almost_always() -> None:
    rng = np.random.default_rng(0)
    optimal = 0
    for _ in range(300):
        lengths = rng.integers(1, 11, size=rng.integers(1, 9)).tolist()
        optimal += len(plan(lengths, 2, 12)[0]) == -(-fewest_bins(lengths, 12) // 2)
    assert optimal >= 295


def test_by_hand() -> None:
    assert plan([6, 4, 5, 5], ranks=1, budget=10) == [[[0, 1], [2, 3]]]
    assert plan([6, 4, 5, 5], ranks=2, budget=10) == [[[0, 1]], [[2, 3]]]
    assert plan([7], ranks=2, budget=10) == [[[0]], [[]]]  # the second rank has nothing to do
    assert plan([9, 9, 9], ranks=2, budget=10) == [[[0], [2]], [[1], []]]
    assert plan([9, 8, 7, 6], ranks=2, budget=10) == [[[0], [3]], [[1], [2]]]  # 15 tokens each
    assert plan([], ranks=2, budget=10) == [[], []]


def test_work_is_spread_and_not_poured_into_the_first_ranks() -> None:
    """Three full micro-batches and none would also be sound; every rank is given its share."""
    planned = plan([10] * 30, ranks=4, budget=100)
    assert sorted(sum(map(len, rank)) for rank in planned) == [7, 7, 8, 8]


@pytest.mark.parametrize(("count", "ranks", "budget"), [(128, 2, 512), (128, 8, 512), (8192, 64, 8192)])
def test_balance(count: int, ranks: int, budget: int) -> None:
    lengths = np.clip(np.random.default_rng(0).normal(45, 15, count), 5, 120).astype(int)
    if count > 1000:
        lengths *= 20
    planned = plan(lengths, ranks, budget)
    assert_sound(planned, lengths.tolist(), ranks, budget)
    loads = np.array([[lengths[micro_batch].sum() for micro_batch in rank] for rank in planned])
    assert loads.sum(1).max() <= 1.02 * loads.sum(1).mean()
    # Ranks wait for the largest micro-batch of each index.
    assert loads.max(0).sum() <= 1.03 * loads.sum() / ranks
    assert loads.shape[1] <= -(-lengths.sum() // (budget * ranks)) + 1


def test_a_sample_beyond_the_budget_is_named() -> None:
    with pytest.raises(UserError, match="sample 2 has 11 tokens, a micro-batch holds at most 10"):
        plan([3, 10, 11, 4], ranks=2, budget=10)


@pytest.mark.parametrize(("count", "ranks", "seconds"), [(128, 2, 0.005), (8192, 64, 1.0)])
def test_speed(count: int, ranks: int, seconds: float) -> None:
    lengths = np.random.default_rng(0).integers(1, 4000, count)

    def timed() -> float:
        start = time.perf_counter()
        plan(lengths, ranks, 8192)
        return time.perf_counter() - start

    assert min(timed() for _ in range(5)) < seconds
