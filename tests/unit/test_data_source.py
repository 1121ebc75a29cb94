"""The split and the endless source: nothing lost, nothing twice, and a cursor that continues exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.data.source import Source, split
from r1mega.types import UserError


@given(st.integers(2, 500), st.floats(0.001, 0.5), st.integers(0, 5))
def test_a_split_has_every_row_once(size: int, fraction: float, seed: int) -> None:
    train, held_out = split(size, fraction, seed)
    assert sorted([*train, *held_out]) == list(range(size))
    assert len(held_out) == max(1, round(size * fraction))
    again = split(size, fraction, seed)
    assert np.array_equal(train, again[0]) and np.array_equal(held_out, again[1])


def test_splits_differ_by_seed_and_are_spread() -> None:
    held_out = split(1000, 0.1, 0)[1]
    assert not np.array_equal(held_out, split(1000, 0.1, 1)[1])
    assert 350 < held_out.mean() < 650
    assert (np.diff(held_out) > 0).all()


def test_nothing_held_out() -> None:
    train, held_out = split(5, 0, 0)
    assert train.tolist() == [0, 1, 2, 3, 4] and held_out.size == 0


@pytest.mark.parametrize(("size", "fraction"), [(1, 0.1), (0, 0), (0, 0.5), (3, 0.9)])
def test_too_little_data(size: int, fraction: float) -> None:
    with pytest.raises(UserError, match="too little data"):
        split(size, fraction, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(UserError, match="not possible"):
        split(10, fraction, 0)


@given(st.integers(1, 40), st.data())
def test_every_epoch_has_every_index_once(size: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, size))
    source = Source(size, batch_size, seed=3)
    drawn = np.concatenate([source.next() for _ in range(3 * size)])
    assert all(len(source.next()) == batch_size for _ in range(5))
    for epoch in range(3):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    source, other = Source(50, 50, seed=0), Source(50, 50, seed=1)
    first, second = source.next(), source.next()
    assert len({tuple(order) for order in (range(50), first, second, other.next())}) == 4


@given(st.integers(1, 30), st.integers(0, 70), st.data())
def test_a_restored_source_continues(size: int, batches: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, size))
    straight = Source(size, batch_size, seed=7)
    for _ in range(batches):
        straight.next()
    restored = Source(size, batch_size, seed=7)
    restored.load_state(json.loads(json.dumps(straight.state())))
    for _ in range(5):
        assert np.array_equal(restored.next(), straight.next())


def test_the_batch_size_may_change_on_resume() -> None:
    source = Source(10, 3, seed=0)
    before = [source.next(), source.next()]
    resumed = Source(10, 4, seed=0)
    resumed.load_state(source.state())
    assert sorted(np.concatenate([*before, resumed.next()])) == list(range(10))


def test_states_of_another_run_are_refused() -> None:
    state = Source(10, 3, seed=0).state()
    with pytest.raises(UserError, match=r"size 10.*size 11"):
        Source(11, 3, seed=0).load_state(state)
    with pytest.raises(UserError, match=r"seed 0.*seed 1"):
        Source(10, 3, seed=1).load_state(state)
    with pytest.raises(UserError, match="has no cursor, epoch"):
        Source(10, 3, seed=0).load_state({"size": 10, "seed": 0})
    with pytest.raises(UserError, match="is not one of 10 rows"):
        Source(10, 3, seed=0).load_state(state | {"cursor": 10})


@pytest.mark.parametrize(("size", "batch_size"), [(3, 4), (3, 0), (0, 1)])
def test_impossible_batches(size: int, batch_size: int) -> None:
    with pytest.raises(UserError, match=f"a batch of {batch_size} from {size} rows"):
        Source(size, batch_size, seed=0)
