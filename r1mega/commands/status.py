"""`r1mega status`: how far a run is, while it runs and afterwards, from any machine that sees its folder."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.local import Outcome
from r1mega.report.state import find_run, gather
from r1mega.report.status import describe_state
from r1mega.types import UserError

HELP = "say how far a run is"
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, or its name under runs/")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=float,
        const=5.0,
        help="again every SECONDS (5), until Ctrl-C or the run is done",
    )


def run(options: argparse.Namespace, arguments: Sequence[str]) -> Outcome:
    if options.watch is not None and not options.watch > 0:
        raise UserError(f"--watch {options.watch:g}: give a number of seconds above 0")
    if options.watch is not None and options.json:
        raise UserError("--watch is for a person, --json for a program: choose one")
    folder = find_run(options.run)
    if options.watch is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may set it aside
    with contextlib.suppress(KeyboardInterrupt):  # how one stops looking
        while True:
            now = time.time()
            state = gather(folder, now)
            text = state.to_json() if options.json else describe_state(state, now)
            clear = _CLEAR if options.watch is not None and sys.stdout.isatty() else ""
            print(f"{clear}{text}", flush=True)
            if options.watch is None or (state.life is None and state.stages):
                break
            time.sleep(options.watch)
    return Outcome(0)
