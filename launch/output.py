"""What ranks print, kept in a file for each, every line with the time; the leader's is shown as well.

A rank writes into a pipe that its launcher has laid for it, so whatever writes to stdout or stderr is
caught, C libraries too, and the last words of a rank that was killed are there. The launcher's side is one
thread that adds the times: it never stops reading, also where the disk is full, for a rank would wait for it.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

OUTPUT = "R1MEGA_OUTPUT"
_LONGEST = 1 << 16  # bytes after which a line is cut
_READ = 1 << 16
LAST_WORDS = 2.0  # seconds for what is in the pipes when the ranks have ended


def use_output() -> None:
    """In a rank, at its start: write to where the launcher keeps what ranks print, if it does."""
    folder = os.environ.pop(OUTPUT, None)
    if folder is None:
        return
    pipe = pipe_of(Path(folder), int(os.environ.get("RANK", "0")))
    if not pipe.exists():  # this rank's output stays where it is
        return
    handle = os.open(pipe, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.close(handle)


def pipe_of(folder: Path, rank: int) -> Path:
    return folder / f"output-{rank}"


def stamp(seconds: float) -> str:
    """A time as lines carry it, UTC: 2026-11-23T03:14:15.123Z. Stamps sort as their times do."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


@dataclass
class _Rank:
    """One rank's pipe and file. rest: of a line that has not ended yet."""

    pipe: int
    file: BinaryIO
    shown: bool
    rest: bytes = b""


@dataclass
class Output:
    """Keeps what the ranks of this node print, while it is open.

    pipes:  a local folder, the value of R1MEGA_OUTPUT in the ranks.
    folder: where ROLE-RANK.log are written.
    ranks:  by their numbers in the job. shown: those of them that are passed on to our own stdout.
    """

    pipes: Path
    folder: Path
    ranks: Sequence[int]
    role: str = "trainer"
    shown: Collection[int] = (0,)
    _open: dict[int, _Rank] = field(default_factory=dict, init=False)
    _ended: float | None = field(default=None, init=False)
    _full: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for rank in self.ranks:
            path = pipe_of(self.pipes, rank)
            os.mkfifo(path)
            # For both directions: so it does not end with its first writer; a rank's children write, too.
            pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            file = (self.folder / f"{self.role}-{rank}.log").open("ab", buffering=0)
            self._open[pipe] = _Rank(pipe, file, rank in self.shown)
        self._thread = threading.Thread(target=self._run, name="ranks' output", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """The ranks have ended: what they wrote last is in the pipes still, and is read.

        Not for ever: a process that a rank has left behind may go on to write.
        """
        self._ended = time.monotonic()
        self._thread.join()
        for one in self._open.values():
            if one.rest:
                self._keep(one, b"\n")
            os.close(one.pipe)
            one.file.close()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select(list(self._open), [], [], 0.2)
            for pipe in ready:
                self._keep(self._open[pipe], os.read(pipe, _READ))
            if self._ended is not None and (not ready or time.monotonic() > self._ended + LAST_WORDS):
                return

    def _keep(self, one: _Rank, chunk: bytes) -> None:
        if one.shown:
            self._write(sys.stdout.fileno(), chunk)
        *lines, one.rest = re.split(rb"[\r\n]+", one.rest + chunk)
        if len(one.rest) > _LONGEST:
            lines, one.rest = [*lines, one.rest], b""
        now = stamp(time.time()).encode()
        self._write(one.file.fileno(), b"".join(b"%s %s\n" % (now, line) for line in lines if line))

    def _write(self, handle: int, text: bytes) -> None:
        """All of it, or none where the disk is full or nobody reads: told once, and the ranks go on."""
        view = memoryview(text)
        try:
            while view:
                view = view[os.write(handle, view) :]
        except OSError as error:
            if not self._full:
                self._full = True
                print(f"warning: the ranks' output is lost from here on: {error.strerror}", file=sys.stderr)
