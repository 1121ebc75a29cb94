"""Real ranks under the launcher: their environment, their ends, signals, kill -9."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import launch.agent  # torch, once here instead of in each launcher
from launch.agent import Ended
from launch.local import Outcome, cpu_threads, verdict
from launch.local import launch as run_launcher
from launch.worker import LAUNCHER_PID, REPORTS, Report, read_reports, report

ROOT = Path(__file__).resolve().parents[2]

# A rank that says what it is and then waits to be stopped; the file it writes then stands for a checkpoint.
RANK = """
import json, os, signal, sys, time
from pathlib import Path
from launch.worker import die_with_launcher, report
die_with_launcher()
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
def wait():
    while not asked:
        time.sleep(0.01)
def keep():
    time.sleep(0.2)
    (folder / f"kept{rank}").touch()
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "MASTER_ADDR", "MASTER_PORT")
facts = {name: os.environ[name] for name in NAMES} | {"pid": os.getpid()}
(folder / f"part{rank}").write_text(json.dumps(facts))
(folder / f"part{rank}").rename(folder / f"rank{rank}")
"""


class Launcher:
    """A launcher in a process of its own, with what it printed and the outcome it came to."""

    def __init__(self, folder: Path, body: str, nproc: int = 2, **options: Any) -> None:
        self.folder, self.nproc = folder, nproc
        (folder / "rank.py").write_text(RANK + body)
        self.process = multiprocessing.get_context("fork").Process(target=self._main, args=(nproc, options))
        self.process.start()

    def _main(self, nproc: int, options: dict[str, Any]) -> None:
        shown = os.open(self.folder / "shown", os.O_WRONLY | os.O_CREAT)
        os.dup2(shown, 1)
        os.dup2(shown, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # pytest has put others there
        os.environ["PYTHONPATH"] = str(ROOT)
        outcome = run_launcher(
            nproc, [sys.executable, str(self.folder / "rank.py"), str(self.folder)], **options
        )
        (self.folder / "outcome").write_text(json.dumps(asdict(outcome)))

    def facts(self) -> list[dict[str, Any]]:
        """What the ranks said when they were up."""
        files = [self.folder / f"rank{rank}" for rank in range(self.nproc)]
        wait_for(lambda: all(file.exists() for file in files))
        return [json.loads(file.read_text()) for file in files]

    def end(self) -> Outcome:
        self.process.join(30)
        assert self.process.exitcode == 0, self.shown()
        assert not [fact["pid"] for fact in self.facts() if alive(fact["pid"])]
        return Outcome(**json.loads((self.folder / "outcome").read_text()))

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def shown(self) -> str:
        return (self.folder / "shown").read_text()

    def kept(self) -> int:
        return len(list(self.folder.glob("kept*")))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    started: list[Launcher] = []

    def launcher(body: str, **options: Any) -> Launcher:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Launcher(folder, body, **options))
        return started[-1]

    yield launcher
    for one in started:
        one.process.kill()
        one.process.join()


def wait_for(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Runs; a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_ranks_know_their_place(start: Callable[..., Launcher]) -> None:
    one, other = start("sys.exit(0)", nproc=3, threads=5), start("time.sleep(0.5)", nproc=1)
    assert [one.end(), other.end()] == [Outcome(0), Outcome(0)]
    ports = {facts.pop("MASTER_PORT") for facts in one.facts()}
    assert len(ports) == 1 and ports.isdisjoint(facts["MASTER_PORT"] for facts in other.facts())
    for rank, facts in enumerate(one.facts()):
        expected = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "3",
            "OMP_NUM_THREADS": "5",
            "MASTER_ADDR": "127.0.0.1",
        }
        assert facts.items() >= expected.items()
    assert one.shown() == ""


def test_ranks_meet_and_compute_together(start: Callable[..., Launcher]) -> None:
    one = start("""
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
(folder / f"sum{rank}").write_text(str(total.item()))
dist.destroy_process_group()
""")
    assert one.end() == Outcome(0)
    assert [(one.folder / f"sum{rank}").read_text() for rank in (0, 1)] == ["3.0", "3.0"]


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            "if rank == 1: report(1, 'KeyError: lr', 'the traceback'); sys.exit(1)\nwait()",
            1,
            "error: rank 1 of 2 failed: KeyError: lr",
        ),
        ("report(2, 'error: no such file'); sys.exit(2)", 2, "error: no such file"),
        ("if rank == 0: sys.exit(7)\nwait()", 7, "error: rank 0 of 2 exited with code 7"),
        (
            "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nwait()",
            1,
            "error: rank 1 of 2 was killed by SIGKILL (out of memory, or kill -9); the newest complete",
        ),
        (
            "if rank == 1: os.kill(os.getpid(), signal.SIGUSR2)\nwait()",
            1,
            "error: rank 1 of 2 was killed by SIGUSR2; the newest",
        ),
    ],
)
def test_a_rank_that_fails_takes_the_others_down_and_is_named(
    start: Callable[..., Launcher], body: str, code: int, message: str
) -> None:
    one = start(f"time.sleep(0.1)  # so that both are up\n{body}")
    outcome = one.end()
    assert outcome.code == code and outcome.message.startswith(message)
    assert outcome.details == ("the traceback" if "traceback" in body else "")
    assert one.shown() == ""  # nothing of torchrun's own


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_alone_lets_the_ranks_keep_their_state(
    start: Callable[..., Launcher], number: int
) -> None:
    one = start("wait(); keep(); report(130, f'interrupted at step {rank}'); sys.exit(130)")
    one.facts()
    one.send(number)
    assert one.end() == Outcome(130, "interrupted at step 0")
    assert one.kept() == 2
    assert one.shown() == "stopping: keeping a checkpoint (once more to stop at once)\n"


def test_ranks_that_finish_when_asked_to_stop_have_finished(start: Callable[..., Launcher]) -> None:
    one = start("wait(); keep(); sys.exit(0)")
    one.facts()
    one.send(signal.SIGINT)
    assert one.end() == Outcome(0)


def test_a_second_signal_kills_at_once(start: Callable[..., Launcher]) -> None:
    one = start("time.sleep(60)")
    one.facts()
    one.send(signal.SIGINT)
    wait_for(lambda: "stopping" in one.shown())
    began = time.monotonic()
    one.send(signal.SIGINT)
    outcome = one.end()
    assert outcome.code == 130 and outcome.message.startswith("interrupted twice: killed at once; the newest")
    assert time.monotonic() - began < 5


def test_ranks_that_do_not_stop_in_time_are_killed_and_named(start: Callable[..., Launcher]) -> None:
    one = start("wait()\nif rank == 1: time.sleep(60)\nkeep(); sys.exit(130)", grace=1)
    one.facts()
    one.send(signal.SIGTERM)
    outcome = one.end()
    assert outcome.code == 130
    assert outcome.message.startswith("interrupted: rank 1 did not stop in 1 s, killed; the newest")


def test_no_rank_outlives_a_launcher_that_is_killed(start: Callable[..., Launcher]) -> None:
    one = start("time.sleep(60)")
    pids = [facts["pid"] for facts in one.facts()]
    assert all(alive(pid) for pid in pids)
    one.send(signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in pids), seconds=5)


def test_a_rank_whose_launcher_died_before_it_started_ends_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    env = {**os.environ, "PYTHONPATH": str(ROOT), LAUNCHER_PID: str(gone.pid)}
    code = "from launch.worker import die_with_launcher; die_with_launcher(); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_reports_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPORTS, str(tmp_path))
    for rank in (0, 3):
        monkeypatch.setenv("RANK", str(rank))
        report(rank, f"回 {rank}", "line\nline")
    found = read_reports(tmp_path)
    assert {rank: (one.code, one.message, one.details) for rank, one in found.items()} == {
        rank: (rank, f"回 {rank}", "line\nline") for rank in (0, 3)
    }


def closed(rank: int, at: float) -> Report:
    return Report(rank, 1, "RuntimeError: Connection closed by peer", time=at)


@pytest.mark.parametrize(
    ("ended", "reports", "code", "part"),
    [
        # A killed rank cannot report; that its peer does, and is found first, makes the peer no culprit.
        (Ended({0: 1, 1: -9}, (0, 1)), {0: closed(0, 5.0)}, 1, "rank 1 of 2 was killed by SIGKILL"),
        # torchrun stops the others with SIGTERM, and kills those that do not heed it (not in `order`).
        (
            Ended({0: 1, 1: -15}, (0, 1)),
            {0: Report(0, 1, "ValueError: x")},
            1,
            "rank 0 of 2 failed: ValueError: x",
        ),
        (
            Ended({0: -9, 1: 1}, (1,)),
            {1: Report(1, 1, "ValueError: x")},
            1,
            "rank 1 of 2 failed: ValueError: x",
        ),
        # Of two that report, the earlier one.
        (
            Ended({0: 1, 1: 1}, (0, 1)),
            {0: closed(0, 5.1), 1: Report(1, 1, "OSError: y", time=5.0)},
            1,
            "OSError: y",
        ),
        (Ended({0: 2, 1: 1}, (0, 1)), {0: Report(0, 2, "error: z", time=1), 1: closed(1, 2)}, 2, "error: z"),
        # A rank that was stopped while leaving has ended as it said; one that crashed while leaving has not.
        (Ended({0: 2, 1: -15}, (0, 1)), {0: Report(0, 2, "b", time=2), 1: Report(1, 2, "a", time=1)}, 2, "a"),
        (Ended({0: -15, 1: -11}, (1, 0)), {1: Report(1, 0)}, 1, "rank 1 of 2 was killed by SIGSEGV"),
        (Ended({0: 1, 1: 0}, stopped=True), {0: Report(0, 130, "interrupted at 3")}, 130, "interrupted at 3"),
        # A failure while stopping is a failure; a stop that all ranks heeded is an interruption.
        (
            Ended({0: 1, 1: 130}, stopped=True),
            {0: Report(0, 1, "OSError: disk")},
            1,
            "rank 0 of 2 failed: OSError",
        ),
        (
            Ended({0: -2, 1: 130}, stopped=True),
            {},
            130,
            "interrupted: the newest complete checkpoint is kept",
        ),
        (Ended({}, stopped=True), {}, 130, "interrupted: the newest complete checkpoint is kept"),
        (Ended({0: 0, 1: 0}, stopped=True), {}, 0, ""),
    ],
)
def test_the_verdict_names_who_failed_first(
    ended: Ended, reports: dict[int, Report], code: int, part: str
) -> None:
    outcome = verdict(ended, reports)
    assert outcome.code == code and part in outcome.message


def test_threads_are_the_ranks_share_of_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert [cpu_threads(n) for n in (1, cores, 10 * cores)] == [cores, 1, 1]
    assert launch.agent  # imported for its side effect
