"""Ranks on this machine: start them, wait, and say in one line how it ended.

Ctrl-C (or SIGTERM, also to the launcher alone) asks the ranks to finish their step and keep a checkpoint; a
second one kills them. A rank that fails takes the others down. Should the launcher itself be killed, the
kernel kills the ranks (see `worker.die_with_launcher`).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from launch.output import OUTPUT, Output
from launch.watch import HANG_SECONDS, Watch
from launch.worker import LAUNCHER_PID, REPORTS, Report, read_reports
from r1mega.progress import BEATS

if TYPE_CHECKING:
    from launch.agent import Ended

GRACE = 120.0
INTERRUPTED = 130  # what a shell calls a process that ended by Ctrl-C
GO_ON = "the newest complete checkpoint is kept; run the same command again to continue"


@dataclass(frozen=True)
class Outcome:
    """How a command ended. message: the last line for the person. details: a traceback, shown before it."""

    code: int
    message: str = ""
    details: str = ""


def cpu_threads(nproc: int) -> int:
    """CPU threads a rank when `nproc` ranks share the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // nproc)


def launch(
    nproc: int,
    command: Sequence[str],
    *,
    threads: int | None = None,
    grace: float = GRACE,
    room: Path | None = None,
    hang_seconds: float = HANG_SECONDS,
    keep_output: bool = False,
) -> Outcome:
    """Run `command` as `nproc` ranks under torchrun (RANK, WORLD_SIZE and the like are set) and wait.

    threads: OMP_NUM_THREADS of each rank, by default its share of the cores. grace: seconds the ranks have to
    keep a checkpoint when stopped. A rank's exit code is passed on, 1 when a signal killed it.

    room: where what is known of the ranks is kept; None: nobody looks for ranks that hang. hang_seconds:
    without a sign of life of any rank (see launch/watch.py). keep_output: of each rank in a file there, too.
    """
    with tempfile.TemporaryDirectory(prefix="r1mega-") as folder, ExitStack() as stack:
        os.environ["OMP_NUM_THREADS"] = str(threads or cpu_threads(nproc))
        os.environ |= {LAUNCHER_PID: str(os.getpid()), REPORTS: folder, BEATS: folder}
        os.environ.setdefault(
            "TORCH_CPP_LOG_LEVEL", "ERROR"
        )  # else name look-ups of sockets are warned about
        try:
            from launch.agent import run_ranks

            watcher = Watch(Path(folder), range(nproc), hang_seconds, shared=room) if room else None
            if room is not None and keep_output:
                # A terminal is the leader's own: its live view is no text to keep.
                kept = range(int(sys.stdout.isatty()), nproc)
                os.environ[OUTPUT] = folder
                stack.enter_context(Output(Path(folder), room, kept))
            ended = run_ranks(nproc, command, reports=Path(folder), grace=grace, watcher=watcher)
            return verdict(ended, read_reports(Path(folder)), grace)
        finally:
            for name in (LAUNCHER_PID, REPORTS, BEATS, OUTPUT):
                os.environ.pop(name, None)
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h")  # a rank killed under its live view leaves the cursor hidden
                sys.stdout.flush()


def verdict(
    ended: Ended,
    reports: Mapping[int, Report],
    grace: float = GRACE,
    hosts: Mapping[int, str] = MappingProxyType({}),
) -> Outcome:
    """From how each rank ended to how the run did.

    What a rank reports counts more than its exit code: torchrun may stop it while it is leaving. hosts: of
    ranks on several nodes.
    """
    if ended.hang is not None:
        return Outcome(1, f"{ended.hang.message()}; {GO_ON}", ended.hang.stacks)
    told = {rank: one for rank, one in reports.items() if one.code != 0}
    failed = {
        rank: told[rank].code if rank in told else code for rank, code in ended.codes.items() if code != 0
    }
    if not failed and ended.codes:
        return Outcome(0)
    if ended.killed:
        return Outcome(INTERRUPTED, f"interrupted twice: killed at once; {GO_ON}")
    if ended.stopped:
        failed = {rank: code for rank, code in failed.items() if not was_stopped(code)}
        if not failed:
            said = [told[rank].message for rank in sorted(told)]
            return Outcome(INTERRUPTED, said[0] if said else f"interrupted: {GO_ON}")
        # Who was killed late is not to blame, nor are its peers, which find their connections closed.
        killed = [rank for rank, code in failed.items() if code == -signal.SIGKILL]
        if late := ", ".join(str(rank) for rank in sorted(killed) if rank not in ended.order):
            return Outcome(
                INTERRUPTED, f"interrupted: rank {late} did not stop in {grace:g} s, killed; {GO_ON}"
            )
    rank = root_cause([rank for rank in ended.order if rank in failed] or sorted(failed), failed, told)
    who = f"rank {rank} of {len(ended.codes)}" + (f" on {hosts[rank]}" if rank in hosts else "")
    return describe(who, failed[rank], told.get(rank))


def was_stopped(code: int | None) -> bool:
    return code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)


def root_cause(order: Sequence[int], codes: Mapping[int, int | None], reports: Mapping[int, Report]) -> int:
    """Which rank failed by itself; the others fail because it left them, or are stopped for it.

    A rank that a signal killed cannot report, while the peers that it leaves report at once; so a rank found
    dead by a signal comes before the earliest report. Not SIGTERM: torchrun stops the others with it.
    """
    silent = [rank for rank in order if rank not in reports]
    killed = [rank for rank in silent if (codes[rank] or 0) < 0 and codes[rank] != -signal.SIGTERM]
    telling = sorted((rank for rank in order if rank in reports), key=lambda rank: reports[rank].time)
    return [*killed, *(silent if order[0] in silent else ()), *telling, *silent][0]


def describe(who: str, code: int | None, report: Report | None) -> Outcome:
    if report is not None:
        # A mistake of the user (2) and an interruption (130) are the run's, whichever rank said it first.
        said = (
            report.message
            if code in (2, INTERRUPTED)
            else f"error: {who} failed: {report.message.removeprefix('error: ')}"
        )
        return Outcome(report.code, said, report.details)
    if code is not None and code < 0:
        hint = " (out of memory, or kill -9)" if code == -signal.SIGKILL else ""
        return Outcome(1, f"error: {who} was killed by {signal.Signals(-code).name}{hint}; {GO_ON}")
    return Outcome(code or 1, f"error: {who} exited with code {code}")
