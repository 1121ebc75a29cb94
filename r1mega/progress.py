"""Signs of life: each rank says that it goes on; its supervisor (launch/watch.py) sees when none does.

A rank writes into a page of memory that it shares with the supervisor, through a file in the folder that the
supervisor names in R1MEGA_BEATS: no system call, about a microsecond, so it may be said at each micro-batch.
Where nobody has named a folder, nothing happens.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path

BEATS = "R1MEGA_BEATS"
STACKS_SIGNAL = signal.SIGUSR2
"""Asks a rank for its stacks. Not USR1, with which Slurm announces the end of a job's time."""

_RECORD = struct.Struct("<QQd232s")
_LONGEST = 232  # bytes of a place's name


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a rank.

    beats:  how many signs there were.
    places: how many places it has come by; comparable between ranks, which all come by the same ones.
    time:   of the last sign, seconds of CLOCK_MONOTONIC: comparable on one machine.
    where:  the last place.
    """

    beats: int
    places: int
    time: float
    where: str


class _Page:
    """This rank's page. Only the main thread writes it."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(_RECORD.size)
            self._memory = mmap.mmap(file.fileno(), _RECORD.size)
        self._beats = self._places = 0
        self._where = ""

    def beat(self, where: str | None) -> None:
        self._beats += 1
        if where is not None and where != self._where:
            self._where = where
            self._places += 1
        name = self._where.encode()[:_LONGEST]
        _RECORD.pack_into(self._memory, 0, self._beats, self._places, time.monotonic(), name)


_page: _Page | None = None


def attach() -> None:
    """Begin to give signs of life, and be ready to write down the stacks; once, at the start of a rank.

    The variable is taken out of the environment: a rank's children are not the rank.
    """
    global _page
    folder = os.environ.pop(BEATS, None)
    if folder is None:
        return
    rank = int(os.environ.get("RANK", "0"))
    # The handler keeps the file open. It is C, and so runs in a rank that is stuck, too.
    stacks = stacks_file(Path(folder), rank).open("w")
    faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=True)
    _page = _Page(beat_file(Path(folder), rank))
    beat("start")


def beat(where: str | None = None) -> None:
    """Say that this rank goes on.

    where: a place that every rank comes by, in the same order ("rl: step 12: train"); of two ranks that stand
           still, the one that came by fewer places keeps the other waiting. None within a place: a
           micro-batch, a round of generation, a tensor of a sync, also where only some ranks have any.
    """
    if _page is not None:
        _page.beat(where)


def beat_file(folder: Path, rank: int) -> Path:
    return folder / f"beat-{rank}"


def stacks_file(folder: Path, rank: int) -> Path:
    return folder / f"stacks-{rank}"


def read_beat(folder: Path, rank: int) -> Beat:
    """The last sign of a rank, whether it still runs or not; nothing but zeros before the first one."""
    try:
        content = beat_file(folder, rank).read_bytes()
    except FileNotFoundError:
        content = b""
    if len(content) < _RECORD.size:
        return Beat(0, 0, 0.0, "not started")
    beats, places, at, where = _RECORD.unpack_from(content)
    return Beat(beats, places, at, where.rstrip(b"\0").decode(errors="replace"))
