"""Checks between nodes: clocks, and what the network carries. All ranks run them together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from r1mega import device
from r1mega.doctor.rows import Row
from r1mega.parallel import Launch

ROUNDS = 5
SKEW = 1.0  # seconds
_NETWORK = "look at the link's speed and cables, and at network.interface and nccl in the cluster file"


def _leaders() -> list[int]:
    """The first rank of each node."""
    here = Launch.from_env()
    return list(range(0, here.world, here.local_world))


def clock(scratch: Path) -> list[Row]:
    """This node's clock against the first node's: of several exchanges the quickest counts."""
    here = Launch.from_env()
    mine: list[tuple[float, float]] = []  # (round trip, skew)
    for leader in _leaders()[1:]:
        for _ in range(ROUNDS):
            if here.rank == 0:
                asked = time.time()
                _send(0.0, leader)
                theirs, answered = _receive(leader), time.time()
                _send(theirs - (asked + answered) / 2, leader)
                _send(answered - asked, leader)
            elif here.rank == leader:
                _receive(0)
                _send(time.time(), 0)
                skew, trip = _receive(0), _receive(0)
                mine.append((trip, skew))
        dist.barrier()
    if here.local_rank:
        return []
    skew = min(mine)[1] if mine else 0.0
    text = f"{skew * 1000:+.1f} ms from the first node's"
    if abs(skew) > SKEW:
        advice = "set the clocks (NTP, chrony): munge refuses late messages, logs cannot be merged"
        return [Row("clock", "broken", f"{skew:+.1f} s", text, advice=advice)]
    return [Row("clock", "ok", f"{skew * 1000:+.1f} ms", text)]


def _send(value: float, to: int) -> None:
    dist.send(torch.tensor([value], dtype=torch.float64), to)


def _receive(source: int) -> float:
    box = torch.zeros(1, dtype=torch.float64)
    dist.recv(box, source)
    return float(box)


def _over() -> str:
    return "NCCL" if device.on_cuda() else "gloo"


def _buffer() -> torch.Tensor:
    size = (256 << 20) if device.on_cuda() else (8 << 20)
    return torch.ones(size // 4, dtype=torch.float32, device=device.current())


def _seconds(action: object) -> float:
    """Of the quickest of some rounds, the first of which opens connections."""
    found = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        action()  # type: ignore[operator]
        if device.on_cuda():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def all_reduce(scratch: Path) -> list[Row]:
    """One sum over all ranks, as after each step: the rate that each link must carry."""
    here = Launch.from_env()
    if here.world == 1:
        return [Row("all-reduce", "note", "-", "one rank: nothing to reduce")]
    buffer = _buffer()
    seconds = _seconds(lambda: dist.all_reduce(buffer))
    rate = 2 * (here.world - 1) / here.world * buffer.nbytes / seconds / 1e9
    if here.local_rank:
        return []
    text = f"{rate:.2f} GB/s over {_over()}, {here.world} ranks, {buffer.nbytes >> 20} MiB"
    return [Row("all-reduce", "ok", f"{rate:.2f} GB/s", text, rate, advice=_NETWORK)]


def pairs(scratch: Path) -> list[Row]:
    """Each node with each other one, disjoint pairs at a time: a bad link shows on both its ends, a bad node
    in all its pairs.
    """
    here, leaders = Launch.from_env(), _leaders()
    if len(leaders) == 1:
        return [] if here.local_rank else [Row("links", "note", "-", "one node: no link to measure")]
    buffer, rates = _buffer(), {}
    for meeting in tournament(len(leaders)):
        for a, b in meeting:
            if here.rank in (leaders[a], leaders[b]):
                other = leaders[b] if here.rank == leaders[a] else leaders[a]
                rates[other] = 2 * buffer.nbytes / _seconds(lambda o=other: _exchange(buffer, o)) / 1e9
        dist.barrier()
    if here.local_rank:
        return []
    middle = median(rates.values())
    worst = min(rates, key=lambda rank: rates[rank])
    text = f"{middle:.2f} GB/s to and from another node over {_over()}; least {rates[worst]:.2f}"
    text += f" with node {worst // here.local_world}"
    return [Row("links", "ok", f"{middle:.2f} GB/s", text, middle, advice=_NETWORK)]


def _exchange(buffer: torch.Tensor, other: int) -> None:
    """There and back."""
    if dist.get_rank() < other:
        dist.send(buffer, other)
        dist.recv(buffer, other)
    else:
        dist.recv(buffer, other)
        dist.send(buffer, other)


def tournament(nodes: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Rounds in which each node meets at most one other; over all rounds, each pair once."""
    seats = list(range(nodes + nodes % 2))  # an odd number has a seat that is empty
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        matched = zip(seats[:half], reversed(seats[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in matched if max(a, b) < nodes]
        seats = [seats[0], seats[-1], *seats[1:-1]]
