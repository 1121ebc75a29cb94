"""What a rank owes its launcher: to die with it, and to say how it ended. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LAUNCHER_PID = "R1MEGA_LAUNCHER_PID"
REPORTS = "R1MEGA_REPORTS"
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Report:
    """How a rank ended. code: its exit code. message: one line. details: a traceback or nothing."""

    rank: int
    code: int
    message: str = ""
    details: str = ""
    time: float = 0.0


def launched() -> bool:
    """Whether this process is a rank that `launch.local` started, and so reports instead of printing."""
    return REPORTS in os.environ


def die_with_launcher() -> None:
    """Ask the kernel to kill this process when its launcher dies, however that happens.

    Linux only (prctl); elsewhere a launcher killed with -9 leaves its ranks running. The variable is taken
    out of the environment, since a grandchild has another parent.
    """
    pid = os.environ.pop(LAUNCHER_PID, None)
    if pid is None or sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(pid):  # it died before the kernel knew
        os._exit(1)


def report(code: int, message: str = "", details: str = "") -> None:
    """Leave the launcher a word about the end of this rank; whole or not at all."""
    entry = Report(int(os.environ.get("RANK", "0")), code, message, details, time.time())
    path = Path(os.environ[REPORTS]) / f"{entry.rank}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(entry)), encoding="utf-8")
    part.replace(path)


def read_reports(folder: Path) -> dict[int, Report]:
    """rank -> its report, of the ranks that left one."""
    entries = [Report(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
    return {entry.rank: entry for entry in entries}
