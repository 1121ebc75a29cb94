"""Only what was started is ended: by process id and start time, never by name. Needs no Slurm."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.daemons import Daemons, started_at, wait_until


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same name as ours, which nobody may end."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_the_next_session_ends_what_a_killed_one_has_left(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    Daemons(tmp_path).start("one", ["sleep", "60"])
    pid = Daemons(tmp_path).pid("one")
    assert pid is not None and Daemons(tmp_path).names() == ["one"]
    Daemons(tmp_path).stop("one")
    assert started_at(pid) is None
    assert Daemons(tmp_path).names() == []
    assert stranger.poll() is None


def test_a_process_that_has_got_the_number_since_is_left_alone(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "one.rec").write_text(f"{stranger.pid} 1")  # another one, of long ago
    Daemons(tmp_path).stop("one")
    assert stranger.poll() is None


def test_one_that_does_not_obey_is_made_to(tmp_path: Path) -> None:
    daemons = Daemons(tmp_path)
    daemons.start("deaf", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"])
    wait_until(lambda: daemons.told("deaf") == "up", 10, "its start")
    daemons.stop("deaf", seconds=0.3)
    assert not daemons.alive("deaf")


def test_ctrl_c_at_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    import os

    daemons = Daemons(tmp_path)
    daemons.start("one", ["sleep", "60"])
    pid = daemons.pid("one")
    assert pid is not None and os.getpgid(pid) == pid != os.getpgid(0)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not daemons.alive("one"), 5, "its end")
