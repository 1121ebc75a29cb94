"""Packed sequences as attention sees them: several behind one another, cut over context-parallel ranks.

Under context parallelism the tokens of a micro-batch are cut into 2 x cp equal slices; rank r has slice r and
slice 2 cp - 1 - r, behind one another. Of a causal sequence the early slices attend to little and the late
ones to much, so that each rank has about the same work (as in ring attention, arXiv 2310.01889, zigzag).

T tokens of a micro-batch, W tokens of this rank (T / cp), B sequences, S longest of a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from r1mega import device


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, laid out as one right-padded batch for one attention call.

    width:   S, places of a row of queries.
    keys:    places of a row of keys: as many, or more for a sequence whose beginning is on other ranks. The
             queries then stand at its end.
    rows_BS: int64 [B * S], the token of this rank at each place; padding repeats the row's last token.
             Under a causal mask nothing real attends to padding on the right, so no mask is needed.
    keys_BK: int64 [B * keys], the same for keys and values, among all ranks' tokens rank by rank.
    real_R:  int64 [R], the places of `rows_BS` that hold a real token.
    """

    sequences: int
    width: int
    keys: int
    rows_BS: torch.Tensor
    keys_BK: torch.Tensor
    real_R: torch.Tensor


@dataclass
class Packing(PackedSeqParams):
    """Several sequences behind one another as one micro-batch [W, 1, ...], without padding tokens.

    qkv_format stays "sbhd": Megatron-Core's own "thd" path applies rope sequence by sequence in a Python loop
    and needs Transformer Engine for attention. Instead our attention modules read the fields below, which
    travel through the same argument.

    lengths:     of all sequences of the micro-batch, in tokens.
    positions_T: int64 [W], each token's position in its own sequence, of this rank's tokens.
    buckets:     how to cut the tokens into padded batches for attention, every token in exactly one.
    order_T:     int64 [W], where each token is in the concatenation of the buckets' real tokens.
    """

    lengths: tuple[int, ...] = ()
    positions_T: torch.Tensor | None = None
    buckets: tuple[Bucket, ...] = ()
    order_T: torch.Tensor | None = None


@dataclass(frozen=True)
class _Piece:
    """What of a sequence is in one slice: its tokens first .. stop - 1 of the micro-batch, as this rank's
    tokens from `here`. begin: the sequence's first token."""

    begin: int
    first: int
    stop: int
    here: int

    @property
    def keys(self) -> int:
        return self.stop - self.begin

    @property
    def queries(self) -> int:
        return self.stop - self.first


def slices(tokens: int, cp: int, rank: int) -> list[range]:
    """Which of a micro-batch's tokens a rank has, in this order. tokens: a multiple of 2 x cp, if cp > 1."""
    if cp == 1:
        return [range(tokens)]
    assert tokens % (2 * cp) == 0, (tokens, cp)
    each = tokens // (2 * cp)
    return [range(i * each, (i + 1) * each) for i in (rank, 2 * cp - 1 - rank)]


def rank_by_rank(tokens: int, cp: int) -> torch.Tensor:
    """int64 [T]: the tokens in the order in which gathering over the ranks brings them together."""
    parts = [part for rank in range(cp) for part in slices(tokens, cp, rank)]
    return torch.cat([torch.arange(part.start, part.stop) for part in parts])


# Sequences shorter than this share of a bucket's longest one start a new bucket: fewer padded places against
# fewer attention calls. 0.7 wastes at most half of the quadratic work in the worst case.
_BUCKET_RATIO = 0.7
_BUCKET_SLACK = 16


def pack(lengths: Sequence[int], cp: int = 1, rank: int = 0) -> Packing:
    """The `Packing` of sequences with these lengths (tokens), in this order, as rank `rank` of cp sees it."""
    assert lengths and min(lengths) > 0
    where, tokens = device.current(), sum(lengths)
    gathered_T = torch.arange(tokens) if cp == 1 else torch.argsort(rank_by_rank(tokens, cp))
    pieces = _pieces(lengths, slices(tokens, cp, rank))
    buckets = [_bucket(group, gathered_T) for group in _groups(pieces)]
    order = torch.cat([bucket.rows_BS[bucket.real_R] for bucket in buckets])
    positions = torch.cat([torch.arange(piece.first, piece.stop) - piece.begin for piece in pieces])
    # A power of two, so that upstream's cache of rope tables hits.
    longest = 1 << (max(lengths) - 1).bit_length()
    return Packing(
        qkv_format="sbhd",
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        lengths=tuple(lengths),
        positions_T=positions.to(where),
        buckets=tuple(buckets),
        order_T=torch.argsort(order).to(where),
    )


def _pieces(lengths: Sequence[int], mine: Sequence[range]) -> list[_Piece]:
    """In the order of this rank's tokens."""
    starts = [0, *accumulate(lengths)]
    found, here = [], 0
    for part in mine:
        for begin, end in pairwise(starts):
            first, stop = max(begin, part.start), min(end, part.stop)
            if first < stop:
                found.append(_Piece(begin, first, stop, here))
                here += stop - first
    return found


def _groups(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces that share a bucket. One whose beginning is elsewhere has a bucket of its own: two at most."""
    alone = [[piece] for piece in pieces if piece.first > piece.begin]
    groups: list[list[_Piece]] = []
    for piece in sorted((p for p in pieces if p.first == p.begin), key=lambda p: -p.queries):
        widest = groups[-1][0].queries if groups else 0
        if groups and (piece.queries >= _BUCKET_RATIO * widest or widest - piece.queries <= _BUCKET_SLACK):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups + alone


def _bucket(group: Sequence[_Piece], gathered_T: torch.Tensor) -> Bucket:
    where = device.current()
    width, keys = group[0].queries, group[0].keys
    here_B = torch.tensor([piece.here for piece in group])
    length_B = torch.tensor([piece.queries for piece in group])
    place_S = torch.arange(width)
    rows = here_B[:, None] + torch.minimum(place_S[None], length_B[:, None] - 1)
    begin_B = torch.tensor([piece.begin for piece in group])
    last_B = torch.tensor([piece.keys - 1 for piece in group])
    token = begin_B[:, None] + torch.minimum(torch.arange(keys)[None], last_B[:, None])
    real = (place_S[None] < length_B[:, None]).flatten().nonzero()[:, 0]
    return Bucket(
        len(group),
        width,
        keys,
        rows.flatten().to(where),
        gathered_T[token.flatten()].to(where),
        real.to(where),
    )
