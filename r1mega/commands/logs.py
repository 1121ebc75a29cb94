"""`r1mega logs`: what the ranks of a run have printed, in order of time, with the rank named."""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from launch.local import Outcome
from r1mega.report.ranklogs import (
    Follower,
    Line,
    error_lines,
    is_error,
    job_folders,
    last_lines,
    log_files,
)
from r1mega.report.status import find_run
from r1mega.types import UserError

HELP = "show what the ranks of a run printed, merged by time"
PAUSE = 0.5  # seconds between two looks with --follow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, or its name under runs/")
    parser.add_argument("--rank", metavar="N", type=int, help="of one rank only")
    parser.add_argument("--errors", action="store_true", help="only errors and tracebacks")
    parser.add_argument("--follow", action="store_true", help="and what is printed from now on, until Ctrl-C")
    parser.add_argument("--lines", metavar="K", type=int, default=100, help="the newest K lines (100)")
    parser.add_argument("--job", metavar="ID", help="a Slurm job's number, or local; default: the newest")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> Outcome:
    if options.lines < 0:
        raise UserError(f"--lines {options.lines}: give 0 or more")
    folder = _job(find_run(options.run), options.job)
    files = log_files(folder, options.rank)
    follower = Follower(files)
    with contextlib.suppress(KeyboardInterrupt):  # how one stops looking
        for line in (error_lines if options.errors else last_lines)(files, options.lines):
            _show(line)
        if options.follow:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may set it aside
            _follow(follower, lambda line: not options.errors or is_error(line))
    return Outcome(0)


def _follow(follower: Follower, wanted: Callable[[Line], bool]) -> NoReturn:
    while True:
        time.sleep(PAUSE)
        for line in filter(wanted, follower.new()):
            _show(line)


def _job(run: Path, wanted: str | None) -> Path:
    known = [path for path in job_folders(run) if any(path.glob("*.log"))]
    if not known:
        raise UserError(
            f"{run} holds no output of ranks: a local run prints to the terminal; it is kept in a Slurm job, "
            "and with r1mega run --keep-output"
        )
    chosen = [path for path in known if wanted is None or path.name == wanted]
    if not chosen:
        raise UserError(f"--job {wanted}: output is kept of {', '.join(path.name for path in known)}")
    return chosen[-1]


def _show(line: Line) -> None:
    print(f"{line.time[11:23]} {line.who:>10} | {line.text}", flush=True)
