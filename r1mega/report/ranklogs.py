"""What the ranks of a run have printed, as one text in order of time.

    RUN/jobs/JOB/trainer-3.log   a line: 2026-11-23T03:14:15.123Z what rank 3 printed
    RUN/jobs/JOB/stacks-3.txt    where rank 3 was, of a job that stood still
    RUN/jobs/JOB/alive-0.json    what node 0 last knew of its ranks

A job is a Slurm job's number, or `local`. Files may be huge: only their ends are read.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from r1mega.types import UserError

TAIL = 1 << 18  # bytes of each file that are read for its last lines
SEARCHED = 1 << 23  # bytes of each file that are searched for errors
_LINE = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+Z) (.*)")
_FILE = re.compile(r"(\w+-\d+)\.log")
_ERROR = re.compile(
    r"^\s*(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b(?!s)"  # Python's own, qualified or not
    r"|\berror:|\bERROR\b|\bFATAL\b|NCCL WARN|CUDA error|out of memory|[Ss]egmentation fault|\bKilled\b",
)
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, order=True)
class Line:
    """time: as `launch.output.stamp` writes it. who: role and rank, `trainer-3`."""

    time: str
    who: str
    text: str


def job_folders(run: Path) -> list[Path]:
    """The jobs of which something is kept, the one of which something was heard last behind."""
    found = [path for path in (run / "jobs").glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def log_files(folder: Path, rank: int | None = None) -> dict[str, Path]:
    """role-rank -> its file, by rank; of one rank only, where it is given. Raises UserError without any."""
    named = {match[1]: path for path in folder.glob("*.log") if (match := _FILE.fullmatch(path.name))}
    ordered = dict(sorted(named.items(), key=lambda item: int(item[0].rsplit("-", 1)[1])))
    if rank is None and ordered:
        return ordered
    chosen = {who: path for who, path in ordered.items() if who.endswith(f"-{rank}")}
    if not chosen:
        known = ", ".join(ordered) or "none"
        raise UserError(f"no output of {'ranks' if rank is None else f'rank {rank}'} in {folder}: {known}")
    return chosen


def last_lines(files: Mapping[str, Path], count: int) -> list[Line]:
    """The newest `count` lines of all files together."""
    return newest((tail(who, path, TAIL) for who, path in files.items()), count)


def error_lines(files: Mapping[str, Path], count: int) -> list[Line]:
    """The newest `count` lines of errors and tracebacks that stand near the ends of the files."""
    return newest((_errors(tail(who, path, SEARCHED)) for who, path in files.items()), count)


def newest(each: Iterable[list[Line]], count: int) -> list[Line]:
    merged = list(heapq.merge(*each))
    return merged[len(merged) - min(count, len(merged)) :]


def tail(who: str, path: Path, limit: int) -> list[Line]:
    """The lines within the last `limit` bytes; one that begins before them is left out."""
    with path.open("rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - limit)
        file.seek(start)
        content = file.read(limit)
    whole = content.partition(b"\n")[2] if start else content
    return list(parse(who, whole.rpartition(b"\n")[0]))


def parse(who: str, content: bytes) -> Iterator[Line]:
    """Lines with their times, which never fall: a clock that was set back holds nothing up."""
    latest = ""
    for text in content.decode("utf-8", errors="replace").split("\n"):
        if match := _LINE.fullmatch(text):
            latest = max(latest, match[1])
            yield Line(latest, who, match[2])


def is_error(line: Line) -> bool:
    return _TRACEBACK in line.text or _ERROR.search(line.text) is not None


def _errors(lines: list[Line]) -> list[Line]:
    """Each traceback up to its error, and each other line that tells of one."""
    found = []
    inside = False
    for line in lines:
        inside = inside or _TRACEBACK in line.text
        if inside or is_error(line):
            found.append(line)
        # A traceback ends with the first line that is not indented, the error's.
        if inside and _TRACEBACK not in line.text and not line.text.startswith(" "):
            inside = False
    return found


class Follower:
    """Hands out what is written to the files from now on."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._places = {who: (path, path.stat().st_size) for who, path in files.items()}

    def new(self) -> list[Line]:
        """Whole lines that have come since the last call, at most `TAIL` bytes of each file."""
        found = []
        for who, (path, start) in self._places.items():
            with path.open("rb") as file:
                start = max(start, os.fstat(file.fileno()).st_size - TAIL)
                file.seek(start)
                content = file.read(TAIL)
            whole = content.rpartition(b"\n")[0]
            if whole:
                self._places[who] = (path, start + len(whole) + 1)
                found.append(list(parse(who, whole)))
        return list(heapq.merge(*found))
