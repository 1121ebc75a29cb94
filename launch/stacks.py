"""Asks ranks where they are: each writes the stacks of all its threads when it gets a signal."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from r1mega.progress import STACKS_SIGNAL, stacks_file

PATIENCE = 3.0  # seconds in which a rank answers, since the handler is C and waits for nothing
_WAITS = re.compile(r"torch/distributed/|megatron/core/(distributed|pipeline_parallel)/")
_TOP = 12  # calls from the innermost one


def collect_stacks(beats: Path, pids: Mapping[int, int]) -> dict[int, str]:
    """rank -> the stacks of its threads, of those that answer. beats: the folder where they write.

    A rank that is stopped or sits in the kernel does not answer; nothing but its silence is told of it.
    """
    before = {rank: _size(stacks_file(beats, rank)) for rank in pids}
    asked = [rank for rank, pid in pids.items() if before[rank] is not None and _ask(pid)]
    until = time.monotonic() + PATIENCE
    found: dict[int, str] = {}
    while len(found) < len(asked) and time.monotonic() < until:
        time.sleep(0.05)
        for rank in asked:
            text = stacks_file(beats, rank).read_bytes()[before[rank] :].decode(errors="replace")
            if text.endswith("\n") and (_is_whole(text) or time.monotonic() > until - PATIENCE / 2):
                found[rank] = text
    return found


def _ask(pid: int) -> bool:
    """Send the signal; False where the process is gone."""
    try:
        os.kill(pid, STACKS_SIGNAL)
    except ProcessLookupError:
        return False
    return True


def _size(path: Path) -> int | None:
    """None where the rank has not said that it can answer: then the signal would kill it."""
    return path.stat().st_size if path.is_file() else None


def _is_whole(text: str) -> bool:
    """The main thread is written last; its outermost call is the module's."""
    return text.rstrip().splitlines()[-1].endswith("in <module>")


def waits_for_others(stacks: str) -> bool:
    """Whether the main thread, which comes last, is in a collective: its innermost calls tell."""
    main = re.split(r"^(?:Current thread|Thread) ", stacks, flags=re.MULTILINE)[-1]
    return bool(_WAITS.search("\n".join(main.splitlines()[1 : _TOP + 1])))
