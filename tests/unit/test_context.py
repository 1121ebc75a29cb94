"""Packed sequences cut over context-parallel ranks, against a plain loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.models.packing import pack, rank_by_rank, slices
from r1mega.train.routing import Routers, of_chunk, of_stage


@pytest.mark.parametrize("cp", [1, 2, 3, 4])
def test_slices_deal_every_token_once_and_give_each_rank_an_early_and_a_late_one(cp: int) -> None:
    tokens = 24
    dealt = [[t for part in slices(tokens, cp, rank) for t in part] for rank in range(cp)]
    assert sorted(t for mine in dealt for t in mine) == list(range(tokens))
    assert {len(mine) for mine in dealt} == {tokens // cp}
    # Of one causal sequence every rank attends to equally many tokens, but for the slices' own triangles.
    work = [sum(t + 1 for t in mine) for mine in dealt]
    assert max(work) - min(work) == 0
    assert rank_by_rank(tokens, cp).tolist() == [t for mine in dealt for t in mine]


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, cp=st.sampled_from((1, 2, 3, 4)))
def test_every_query_sees_its_own_sequence_up_to_itself(lengths: list[int], cp: int) -> None:
    """Attention of one head with values that name their token, bucket by bucket, on each rank."""
    fill = -sum(lengths) % (2 * cp) if cp > 1 else 0
    lengths = [*lengths, *([fill] if fill else [])]
    owner = [(b, i) for b, n in enumerate(lengths) for i in range(n)]
    starts = [t - i for t, (_, i) in enumerate(owner)]
    gathered = rank_by_rank(len(owner), cp)
    for rank in range(cp):
        mine = [t for part in slices(len(owner), cp, rank) for t in part]
        packing = pack(lengths, cp, rank)
        assert packing.positions_T is not None and packing.order_T is not None
        assert packing.positions_T.tolist() == [owner[t][1] for t in mine]
        found: list[list[int]] = []
        for bucket in packing.buckets:
            rows = bucket.rows_BS.view(bucket.sequences, bucket.width)
            keys = gathered[bucket.keys_BK].view(bucket.sequences, bucket.keys)
            for place in bucket.real_R.tolist():
                row, column = divmod(place, bucket.width)
                token = mine[int(rows[row, column])]
                seen = keys[row, : column + 1 + bucket.keys - bucket.width].tolist()
                assert seen == list(range(starts[token], token + 1))
                found.append([token])
        in_order = torch.tensor(found)[packing.order_T][:, 0].tolist()
        assert in_order == mine


def test_one_long_sequence_costs_at_most_two_calls_without_padding() -> None:
    for rank in range(4):
        packing = pack([64], 4, rank)
        assert sum(len(bucket.rows_BS) for bucket in packing.buckets) == 16
        assert len(packing.buckets) == 2


@dataclass
class Experts:
    """Of a chunk's routers what is asked."""

    layers: int


def test_a_stages_choices_are_those_of_its_chunks_one_after_the_other() -> None:
    chunks = [cast(Routers, Experts(layers)) for layers in (0, 2, 1)]
    whole_SLK = torch.arange(2 * 3 * 2).view(2, 3, 2)
    parts = [of_chunk(whole_SLK, chunks, i) for i in range(3)]
    assert [part.shape[1] for part in parts if part is not None] == [0, 2, 1]
    assert torch.equal(cast(torch.Tensor, of_stage(parts)), whole_SLK)
    assert of_chunk(None, chunks, 1) is None and of_stage([None, None]) is None
