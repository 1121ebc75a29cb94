"""Which rank computes which samples in which micro-batch.

Ranks are the data-parallel ranks that share one optimizer step; the budget is the most tokens of one
micro-batch (one forward and backward).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace

from r1mega.types import UserError

Bin = list[int]  # the positions of the samples of one micro-batch


def plan(lengths: Iterable[int], ranks: int, budget: int) -> list[list[Bin]]:
    """[ranks][micro-batches] of sample positions, from the samples' token counts.

    - Every sample is in exactly one micro-batch.
    - A micro-batch has at most `budget` tokens.
    - All ranks have the same number of micro-batches: expert parallel ranks exchange tokens in each of them
      and would wait for ever otherwise. Where samples are fewer than micro-batches, some are empty ([]); such
      a rank takes part with a dummy that counts for nothing.
    - That number is at most what Best-Fit-Decreasing needs, whose micro-batches are at most 11/9 of the
      fewest possible, plus 6/9.
    - Micro-batches of the same index are of similar size, since ranks wait for each other, and so are the
      ranks' sums.
    - The same arguments give the same plan. No samples give no micro-batches.

    Raises UserError for a sample that is longer than the budget.
    """
    lengths = [int(length) for length in lengths]  # of an array too: Python's integers are faster here
    assert ranks >= 1, ranks
    assert all(length >= 1 for length in lengths), "an empty sample"
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if not longest_first:
        return [[] for _ in range(ranks)]
    if lengths[longest_first[0]] > budget:
        raise UserError(
            f"sample {longest_first[0]} has {lengths[longest_first[0]]} tokens, a micro-batch holds at most "
            f"{budget}: raise the tokens per micro-batch or lower the maximum length"
        )
    return _deal(_pack(lengths, longest_first, ranks, budget), lengths, ranks)


def _pack(lengths: Sequence[int], longest_first: Sequence[int], ranks: int, budget: int) -> list[Bin]:
    """A multiple of `ranks` bins: evenly filled ones, if that needs no more of them than best fit does."""
    tight = _best_fit(lengths, longest_first, budget)
    rounds = -(-len(tight) // ranks)
    fewest = -(-sum(lengths) // (budget * ranks))
    for count in range(fewest, rounds + 1):
        if even := _spread(lengths, longest_first, count * ranks, budget):
            return even
    return tight + [[] for _ in range(rounds * ranks - len(tight))]


def _best_fit(lengths: Sequence[int], longest_first: Sequence[int], budget: int) -> list[Bin]:
    """Best-Fit-Decreasing: each sample into the bin that it leaves the least room in."""
    bins: list[Bin] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for i in longest_first:
        at = bisect_left(room, (lengths[i], -1))
        if at < len(room):
            left, chosen = room.pop(at)
        else:
            left, chosen = budget, len(bins)
            bins.append([])
        bins[chosen].append(i)
        insort(room, (left - lengths[i], chosen))
    return bins


def _spread(
    lengths: Sequence[int], longest_first: Sequence[int], count: int, budget: int
) -> list[Bin] | None:
    """Each sample into the emptiest of `count` bins; None where that does not fit."""
    bins: list[Bin] = [[] for _ in range(count)]
    loads = [(0, chosen) for chosen in range(count)]
    heapify(loads)
    for i in longest_first:
        load, chosen = loads[0]
        if load + lengths[i] > budget:
            return None
        bins[chosen].append(i)
        heapreplace(loads, (load + lengths[i], chosen))
    return bins


def _deal(bins: list[Bin], lengths: Sequence[int], ranks: int) -> list[list[Bin]]:
    """Fullest first, a round of `ranks` bins at a time; its fullest goes to the rank with least so far."""
    sizes = [sum(lengths[i] for i in members) for members in bins]
    fullest_first = sorted(range(len(bins)), key=lambda b: (-sizes[b], b))
    dealt: list[list[Bin]] = [[] for _ in range(ranks)]
    totals = [0] * ranks
    for begin in range(0, len(bins), ranks):
        neediest_first = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, b in zip(neediest_first, fullest_first[begin : begin + ranks], strict=True):
            dealt[rank].append(sorted(bins[b]))
            totals[rank] += sizes[b]
    return dealt
