"""Filling the files of a folder, several threads at once, so that a killed run is gone on with.

Who fills says beforehand which files there are, how long each is, and into which segments their content is
cut. A segment is written by one thread. Once it is on the disk, a line of the journal says so, and the next
attempt leaves it out. Until all is there the folder is `NAME.partial/content`, beside the journal, so nothing
half-written looks whole.

Threads, not processes: reading, writing, checksums and casts all let go of Python's lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from r1mega.files import disk_errors, sync
from r1mega.train.convert.progress import Advance, Display
from r1mega.train.convert.target import check_space
from r1mega.types import UserError

SEGMENT_BYTES = 1 << 28
"""What a thread writes before it waits for the disk; with it the most that a kill costs a thread."""
_JOURNAL, _CONTENT = "journal", "content"

T = TypeVar("T")


@dataclass(frozen=True)
class Segment(Generic[T]):
    """Some items of one file, written one after another. nbytes: of the file, for progress."""

    file: str
    nbytes: int
    items: tuple[T, ...]


@dataclass(frozen=True)
class Plan(Generic[T]):
    """What is to be written.

    key:      of all that the content depends on. What was begun under another key is thrown away.
    files:    every file by its path in the folder, with its size in bytes.
    segments: what the files hold, together.
    """

    key: str
    files: Mapping[str, int]
    segments: Sequence[Segment[T]]


Write = Callable[[int, Segment[T], Advance], Mapping[str, Any]]
"""(descriptor, segment, progress) -> facts about it for the journal, as JSON. Tells of each byte once."""


class Stopped(Exception):
    """Another thread has failed, or somebody has pressed Ctrl-C."""


def segments(file: str, items: Sequence[tuple[T, int]], size: int = SEGMENT_BYTES) -> Iterator[Segment[T]]:
    """(item, bytes) of a file, in order -> segments of about `size` bytes."""
    group: list[T] = []
    filled = 0
    for item, nbytes in items:
        if group and filled + nbytes > size:
            yield Segment(file, filled, tuple(group))
            group, filled = [], 0
        group.append(item)
        filled += nbytes
    if group:
        yield Segment(file, filled, tuple(group))


@contextmanager
def filled(
    target: Path, plan: Plan[T], write: Write[T], workers: int, show: Display
) -> Iterator[tuple[Path, list[Mapping[str, Any]]]]:
    """A context with the folder, all of whose files are filled, and what `write` said of each segment.

    The caller adds what is small; when the context ends without an error, the folder gets its name.

    Where the source is at fault the folder is removed. It stays, for the next attempt, when the process is
    killed or interrupted and when the disk is full. Raises UserError also where another process writes it.
    """
    room = target.with_name(target.name + ".partial")
    content = room / _CONTENT
    with disk_errors(target), _journal(room, plan) as (journal, done):
        rest = sum(plan.files.values()) - sum(_on_disk(content / file) for file in plan.files)
        try:
            check_space(target, max(0, rest))
        except UserError:
            if not done:
                shutil.rmtree(room)
            raise
        try:
            for file, size in plan.files.items():
                _make(content / file, size)
            _sync_folders(target.parent, room, content)
            with show(_title(done, plan), sum(segment.nbytes for segment in plan.segments)) as advance:
                advance(sum(plan.segments[i].nbytes for i in done))
                _fill(content, plan, write, workers, advance, journal, done)
            _remove_others(content, plan)
            yield content, [done[i] for i in range(len(plan.segments))]
            for path in (content, *content.rglob("*")):  # what the caller has added, and all folders
                sync(path)
        except (KeyboardInterrupt, OSError):
            raise
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise
        os.replace(content, target)
        shutil.rmtree(room)
        sync(target.parent)


def _fill(
    content: Path,
    plan: Plan[T],
    write: Write[T],
    workers: int,
    advance: Advance,
    journal: int,
    done: dict[int, Mapping[str, Any]],
) -> None:
    stop, lock = threading.Event(), threading.Lock()

    def told(count: int) -> None:
        if stop.is_set():
            raise Stopped
        with lock:
            advance(count)

    def one(number: int) -> None:
        segment = plan.segments[number]
        file = os.open(content / segment.file, os.O_WRONLY)
        try:
            facts = write(file, segment, told)
            os.fdatasync(file)
        finally:
            os.close(file)
        with lock:
            os.write(journal, _line(number, facts).encode())
            done[number] = facts

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each of our threads is one
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        todo = [pool.submit(one, i) for i in range(len(plan.segments)) if i not in done]
        _wait(todo)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def _wait(todo: Sequence[Future[None]]) -> None:
    """Until all are done or one has failed; raises what that one raised."""
    ended, _ = wait(todo, return_when=FIRST_EXCEPTION)
    for future in ended:
        future.result()


@contextmanager
def _journal(room: Path, plan: Plan[T]) -> Iterator[tuple[int, dict[int, Mapping[str, Any]]]]:
    """The journal to append to, and what it says. What was begun under another key goes.

    Segments whose file is absent or of another length count for nothing: a crash of the machine, or
    somebody's hand, has taken them. The journal says so before the file is made anew, or the next attempt
    would trust zeros.
    """
    room.mkdir(parents=True, exist_ok=True)
    with _locked(room / _JOURNAL) as journal:
        done = _read(room / _JOURNAL, plan.key) if (room / _CONTENT).exists() else None
        if done is None:
            done = {}
            for other in room.iterdir():  # also what other writers have left under this name
                if other.is_dir():
                    shutil.rmtree(other)
                elif other.name != _JOURNAL:
                    other.unlink()
            os.ftruncate(journal, 0)
            os.write(journal, (json.dumps({"key": plan.key}) + "\n").encode())
            (room / _CONTENT).mkdir()
        if lost := [i for i in done if not _is_whole(room / _CONTENT, plan, plan.segments[i].file)]:
            os.write(journal, "".join(_line(i, None) for i in lost).encode())
            os.fsync(journal)
            done = {i: facts for i, facts in done.items() if i not in lost}
        yield journal, done


@contextmanager
def _locked(journal: Path) -> Iterator[int]:
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise UserError(f"another process is writing {journal.parent}: wait for it, or stop it") from error
    try:
        yield file
    finally:
        os.close(file)


def _read(journal: Path, key: str) -> dict[int, Mapping[str, Any]] | None:
    """The segments that are done; None where there is no journal of this key.

    A line that was torn by a kill counts for nothing.
    """
    try:
        first, *lines = journal.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != {"key": key}:
            return None
    except (OSError, ValueError):
        return None
    done: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        try:
            said = json.loads(line)
            number, facts = said["segment"], said["facts"]
        except (ValueError, KeyError, TypeError):
            continue
        if facts is None:
            done.pop(number, None)
        else:
            done[number] = facts
    return done


def _line(segment: int, facts: Mapping[str, Any] | None) -> str:
    """Of the journal. facts: None for a segment that was done and is lost."""
    return json.dumps({"segment": segment, "facts": facts}) + "\n"


def _is_whole(content: Path, plan: Plan[T], file: str) -> bool:
    path = content / file
    return path.is_file() and path.stat().st_size == plan.files[file]


def _make(file: Path, size: int) -> None:
    """A file of this size; what is in it stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab"):
        os.truncate(file, size)


def _sync_folders(parent: Path, room: Path, content: Path) -> None:
    """Names first: what the journal says is there must be found after a crash of the machine."""
    for folder in (content, *(path for path in content.rglob("*") if path.is_dir()), room, parent):
        sync(folder)


def _remove_others(content: Path, plan: Plan[T]) -> None:
    """What an attempt that was killed at the very end has added."""
    for file in content.rglob("*"):
        if file.is_file() and str(file.relative_to(content)) not in plan.files:
            file.unlink()


def _on_disk(file: Path) -> int:
    return file.stat().st_blocks * 512 if file.exists() else 0


def _title(done: Mapping[int, Any], plan: Plan[T]) -> str:
    return f"going on ({len(done)} of {len(plan.segments)} parts are there)" if done else "writing"
