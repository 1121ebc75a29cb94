"""What each rank of the cluster's doctor runs: every check in a child of its own, with a time limit.

    python -m r1mega.doctor.ranks FOLDER SCRATCH

Standard library only, so that a node on which nothing else works still has a word to say. Rows are written to
FOLDER as soon as they are known; what the children print is kept beside them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from r1mega.doctor.checks import CHECKS, CheckUp
from r1mega.doctor.child import JOIN_SECONDS, MET
from r1mega.doctor.rows import Row, append, read, rows_file

HOST = os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def main(arguments: Sequence[str], checks: Sequence[CheckUp] = CHECKS) -> None:
    folder, scratch = map(Path, arguments)
    rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    folder.mkdir(parents=True, exist_ok=True)
    file = rows_file(folder, rank)
    file.unlink(missing_ok=True)
    file.touch()
    alone = False  # not all ranks came to a check: nor will they to the next one
    with tempfile.TemporaryDirectory(prefix="r1mega-doctor-") as work:
        for check in checks:
            if (check.by == "node" and local) or (check.by == "job" and alone):
                continue
            result = Path(work) / check.name
            rows = attempt(check, scratch, result, folder / f"output-{rank}.txt")
            append(file, [replace(row, host=HOST, rank=rank) for row in rows])
            alone = alone or (check.by == "job" and not Path(f"{result}.{MET}").exists())


def attempt(check: CheckUp, scratch: Path, result: Path, output: Path) -> list[Row]:
    """The rows of a check; one that says what happened where it came to no end."""
    limit = check.seconds + (JOIN_SECONDS if check.by == "job" else 0.0)
    with output.open("a+", encoding="utf-8", errors="replace") as file:
        print(f"== {check.name}", file=file, flush=True)
        began = file.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", "r1mega.doctor.child", check.name, check.place, check.by, scratch, result],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            rows = [_failed(check, f"did not end within {limit:.0f} s", "hangs")]
        else:
            file.seek(began)
            rows = read(result) if process.returncode == 0 else [_crashed(check, process, file.read())]
        finally:
            end(process)
    return rows


def end(process: subprocess.Popen[bytes]) -> None:
    """The child and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _crashed(check: CheckUp, process: subprocess.Popen[bytes], said: str) -> Row:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    code = process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return _failed(check, lines[-1] if lines and code > 0 else how, "failed")


def _failed(check: CheckUp, text: str, cell: str) -> Row:
    rank = os.environ.get("RANK", "0")
    return Row(check.name, "broken", cell, text, advice=f"what it printed is in output-{rank}.txt")


if __name__ == "__main__":
    main(sys.argv[1:])
