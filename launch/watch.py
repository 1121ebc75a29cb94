"""Finds a job that stands still, and the rank that keeps the others waiting.

Ranks give signs of life (r1mega/progress.py). While one waits for another in a collective it gives none, so
one silent rank means nothing; a hang is that no rank of the whole job has given a sign for `limit` seconds.
Each node's supervisor watches its own ranks, and publishes what it sees in a folder that all nodes share:
there `r1mega status` looks, and other nodes once their own ranks have been silent for half the limit. Only
counters are compared between nodes, never clocks; what changed since a node looked last changed just now.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.hang import Hang, Sign, culprit
from launch.stacks import collect_stacks, waits_for_others
from r1mega.progress import read_beat

HANG_SECONDS = 1800.0  # where no cluster file says otherwise
HOST = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
OFTEN = 10.0  # seconds between two looks, at most


class Watch:
    """Watches the ranks of one node.

    beats:  the local folder where they give signs of life.
    ranks:  of this node, by their numbers in the job.
    limit:  seconds without a sign that make a hang.
    shared: a job's folder that all nodes see; stacks are kept there. Made when there is something to say.
    """

    def __init__(
        self,
        beats: Path,
        ranks: Sequence[int],
        limit: float,
        *,
        shared: Path,
        node: int = 0,
        nodes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.beats, self.ranks, self.limit, self.shared = beats, tuple(ranks), limit, shared
        self.node, self.nodes, self._clock = node, nodes, clock
        self._often = min(OFTEN, limit / 10)
        self._mine: dict[int, int] = {}
        self._theirs_seen: dict[int, int] = {}
        self._since = self._moved = self._looked = clock()  # _moved: of this node's ranks
        for kind in ("alive", "hang"):  # of an earlier attempt of the same job
            (shared / f"{kind}-{node}.json").unlink(missing_ok=True)

    def look(self, pids: Mapping[int, int]) -> Hang | None:
        """What keeps the job from going on, if anything. Cheap, so call it often. pids: rank -> process."""
        now = self._clock()
        gap = now - self._looked
        if gap < self._often:
            return None
        if gap > 3 * self._often:  # this process did not run either: a suspended job, a sleeping laptop
            self._since += gap
            self._moved += gap
        self._looked = now
        self._publish(ended=False)
        mine = {rank: read_beat(self.beats, rank).beats for rank in self.ranks}
        if mine != self._mine:
            self._mine, self._since, self._moved = mine, now, now
        if now - self._moved <= self.limit / 2:
            return None
        if self.nodes > 1 and self._found_elsewhere():
            return self._find(pids, max(now - self._since, self.limit))
        theirs = dict(self._counters())
        if theirs != self._theirs_seen:
            self._theirs_seen, self._since = theirs, now
        if now - self._since <= self.limit:
            return None
        return self._find(pids, now - self._since)

    def _found_elsewhere(self) -> bool:
        """Whether another node has found a hang: it waits for what this one has to tell, seconds only."""
        return any(self.shared.glob("hang-*.json"))

    def close(self) -> None:
        """The last word: the ranks have ended."""
        self._publish(ended=True)

    def _publish(self, *, ended: bool) -> None:
        """For the other nodes and `r1mega status`. A disk that fails must not end a job that goes on."""
        now = time.monotonic()
        ranks = {}
        for rank in self.ranks:
            beat = read_beat(self.beats, rank)
            age = now - beat.time if beat.beats else None
            ranks[str(rank)] = {"beats": beat.beats, "where": beat.where, "age": age and round(age, 1)}
        entry = {"host": HOST, "time": time.time(), "ended": ended, "ranks": ranks}
        with contextlib.suppress(OSError):
            _write(self.shared / f"alive-{self.node}.json", entry)

    def _counters(self) -> Iterator[tuple[int, int]]:
        """Of every rank of the other nodes, as far as they have told."""
        for node in set(range(self.nodes)) - {self.node}:
            entry = _read(self.shared / f"alive-{node}.json") or {"ranks": {}}
            yield from ((int(rank), one["beats"]) for rank, one in entry["ranks"].items())

    def _find(self, pids: Mapping[int, int], seconds: float) -> Hang:
        stacks = collect_stacks(self.beats, pids)
        mine = [self._sign(rank, pids.get(rank), stacks.get(rank, "")) for rank in self.ranks]
        with contextlib.suppress(OSError):  # a shared disk that is gone may be why they hang
            self._tell(mine, stacks)
        signs = [*mine, *self._others()]
        worst = culprit(signs)
        return Hang(
            worst,
            tuple(sorted(signs, key=lambda one: one.rank)),
            seconds,
            stacks.get(worst.rank, "") or self._theirs(worst.rank),
            self.shared,
        )

    def _tell(self, mine: Sequence[Sign], stacks: Mapping[int, str]) -> None:
        _write(self.shared / f"hang-{self.node}.json", {"signs": [asdict(sign) for sign in mine]})
        for rank, text in stacks.items():
            (self.shared / f"stacks-{rank}.txt").write_text(text, encoding="utf-8")

    def _theirs(self, rank: int) -> str:
        """The stacks of a rank of another node, where that has left them."""
        if rank in self.ranks:
            return ""
        try:
            return (self.shared / f"stacks-{rank}.txt").read_text(encoding="utf-8")
        except OSError:
            return ""

    def _sign(self, rank: int, pid: int | None, stacks: str) -> Sign:
        beat = read_beat(self.beats, rank)
        age = time.monotonic() - beat.time if beat.beats else self.limit
        state = _state(pid) if pid is not None else "X"
        waits = waits_for_others(stacks)
        return Sign(rank, HOST, beat.places, beat.where, round(age, 1), state, bool(stacks), waits)

    def _others(self) -> list[Sign]:
        """What the other nodes find, which see the same at nearly the same time; not all need answer."""
        found: dict[int, list[Sign]] = {}
        until = time.monotonic() + max(OFTEN, 3 * self._often)
        while len(found) < self.nodes - 1 and time.monotonic() < until:
            for node in set(range(self.nodes)) - {self.node} - found.keys():
                entry = _read(self.shared / f"hang-{node}.json")
                if entry is not None:
                    found[node] = [Sign(**one) for one in entry["signs"]]
            time.sleep(min(0.5, self._often / 4))
        return [sign for node in sorted(found) for sign in found[node]]


def _state(pid: int) -> str:
    """The letter that /proc has for a process; X where there is none, or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return text.rsplit(")", 1)[1].split()[0]


def _write(path: Path, value: Any) -> None:
    """Whole or not at all. Not synced to the disk: it is of interest for seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(value), encoding="utf-8")
    os.replace(aside, path)


def _read(path: Path) -> Any:
    """None where there is nothing to read, for now: a shared disk may be late, or away for a while."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
