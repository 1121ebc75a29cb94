"""Processes that outlive the one that starts them, and are ended by the next that comes along.

Each is written down with its process id and its start time, so that nothing else is ever ended: neither
another process that has got the number since, nor one of the same name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BARE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def started_at(pid: int) -> str | None:
    """When a process began, in clock ticks since boot; None when it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def wait_until(happened: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises TimeoutError, naming what did not happen."""
    until = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


class Daemons:
    """folder/NAME.rec: process id and start time. folder/NAME.out: what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[int, subprocess.Popen[bytes]] = {}  # to be waited for, else they stay as zombies

    def start(self, name: str, command: Sequence[str], **variables: str) -> None:
        """In a session of its own and a bare environment: neither Ctrl-C nor our SLURM_* reaches it."""
        with (self.folder / f"{name}.out").open("ab") as out:
            child = subprocess.Popen(
                command,
                env=BARE | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._children[child.pid] = child
        self._record(name).write_text(f"{child.pid} {started_at(child.pid)}")

    def names(self) -> list[str]:
        """Those that were started, in that order."""
        return [
            path.stem for path in sorted(self.folder.glob("*.rec"), key=lambda path: path.stat().st_mtime_ns)
        ]

    def alive(self, name: str) -> bool:
        return self.pid(name) is not None

    def pid(self, name: str) -> int | None:
        """None when it has ended."""
        try:
            pid, began = self._record(name).read_text().split()
        except FileNotFoundError:
            return None
        if child := self._children.get(int(pid)):
            child.poll()
        return int(pid) if started_at(int(pid)) == began else None

    def stop(self, name: str, seconds: float = 15.0) -> None:
        """Ask it to end, then make it."""
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            pid = self.pid(name)
            if pid is None:
                break
            os.kill(pid, number)
            try:
                wait_until(lambda: not self.alive(name), patience, f"the end of {name}")
            except TimeoutError:
                if number == signal.SIGKILL:
                    raise
        self._record(name).unlink(missing_ok=True)

    def told(self, name: str, lines: int = 5) -> str:
        path = self.folder / f"{name}.out"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.rec"
