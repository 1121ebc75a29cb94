"""Checks that go wrong, for the tests of the cluster's doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from r1mega.doctor.rows import Row


def fine(scratch: Path) -> list[Row]:
    print("noise")
    return [Row("fine", "ok", "1.0", "all is well", 1.0)]


def crash(scratch: Path) -> list[Row]:
    raise RuntimeError("NCCL error: unhandled system error")


def killed(scratch: Path) -> list[Row]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def hang(scratch: Path) -> list[Row]:
    """With a process of its own, as an engine has them."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (scratch / "pids").write_text(f"{os.getpid()} {grandchild.pid}")
    time.sleep(600)
    return []
