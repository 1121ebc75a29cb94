"""Jobs that stand still: real ranks under the launcher, of which one sleeps, is stopped, or does not come."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch.agent  # torch, once here instead of in each launcher
import launch.stacks
from launch.hang import Sign, culprit
from launch.local import launch as run_launcher
from launch.stacks import waits_for_others
from launch.watch import Watch
from r1mega import progress
from r1mega.progress import BEATS, read_beat

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1.0

# While a rank starts, which on a busy machine takes longer than the limit, a child gives its signs of life.
RANK = """
import os, signal, sys, time
from pathlib import Path
from launch.output import use_output
from launch.worker import die_with_launcher
from r1mega.progress import attach, beat
die_with_launcher(); use_output(); attach()
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
(folder / f"pid{rank}").write_text(str(os.getpid()))
def everyone():
    return all((folder / f"up{rank}").exists() for rank in (0, 1))
if not (nurse := os.fork()):
    while not everyone():
        beat()
        time.sleep(0.05)
    os._exit(0)
def meet():
    (folder / f"up{rank}").touch()
    os.waitpid(nurse, 0)
    beat("step 1")
    beat("step 2")
def wait():
    while True:
        time.sleep(0.1)
"""
GLOO = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
meet()
beat("step 3")
if rank == 1:
    wait()
dist.all_reduce(torch.ones(1))
"""


def run(folder: Path, body: str) -> dict[str, Any]:
    """The outcome of two ranks, and what was shown; no process is left of them."""
    (folder / "rank.py").write_text(RANK + body)

    def main() -> None:
        shown = os.open(folder / "shown", os.O_WRONLY | os.O_CREAT)
        os.dup2(shown, 1)
        sys.stdout = os.fdopen(1, "w")  # pytest has put another there
        os.environ["PYTHONPATH"] = str(ROOT)
        launch.agent.HUNG_GRACE, launch.stacks.PATIENCE = 1, 1.0
        ranks = [sys.executable, str(folder / "rank.py"), str(folder)]
        room = folder / "room"
        outcome = run_launcher(2, ranks, threads=1, room=room, hang_seconds=LIMIT, keep_output=True)
        (folder / "outcome").write_text(json.dumps(asdict(outcome)))

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    for rank in (0, 1):
        assert not Path(f"/proc/{(folder / f'pid{rank}').read_text()}").exists()
    return json.loads((folder / "outcome").read_text()) | {"shown": (folder / "shown").read_text()}


@pytest.mark.parametrize(
    ("body", "named", "stack"),
    [
        # Rank 1 does not come to the all-reduce in which rank 0 waits; both came by the same places.
        pytest.param(GLOO, "rank 1 of 2 on .* hangs at 'step 3': no rank has", "in wait", id="collective"),
        # Rank 0 never comes to step 3.
        pytest.param(
            "meet()\nif rank == 0: wait()\nbeat('step 3')\nwait()",
            r"rank 0 of 2 on .* hangs at 'step 2' \(others at 'step 3'\): no rank has gone on for",
            "in wait",
            id="behind",
        ),
        # A rank that is stopped cannot say where it is.
        pytest.param(
            "meet()\nbeat('step 3')\nif rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\nwait()",
            "rank 1 of 2 on .* hangs at 'step 3', stopped by a signal: no rank has gone on for",
            "",
            id="stopped",
        ),
    ],
)
def test_the_rank_that_keeps_the_others_waiting_is_named_and_all_are_ended(
    tmp_path: Path, body: str, named: str, stack: str
) -> None:
    outcome = run(tmp_path, body)
    assert outcome["code"] == 1
    assert re.search(f"error: {named}.*; stacks in .*room; the newest complete", outcome["message"])
    assert stack in outcome["details"] and bool(stack) == bool(outcome["details"])
    kept = sorted(path.name for path in (tmp_path / "room").glob("stacks-*"))
    assert kept == ["stacks-0.txt", "stacks-1.txt"][: 2 if stack else 1]
    if body == GLOO:
        assert "in all_reduce" in (tmp_path / "room" / "stacks-0.txt").read_text()
    last_word = json.loads((tmp_path / "room" / "alive-0.json").read_text())
    assert last_word["ended"] and last_word["ranks"].keys() == {"0", "1"}


def test_what_ranks_print_is_kept_with_the_time_and_the_leaders_is_shown(tmp_path: Path) -> None:
    body = """
print(f"hello from {rank}", end="\\r")
print("half ", end="", flush=True); print("a line")
os.write(2, b"from C\\n")
(folder / f"up{rank}").touch()
os.waitpid(nurse, 0)
if rank == 1:
    os.write(1, b"last words")
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    outcome = run(tmp_path, body)
    assert outcome["message"].startswith("error: rank 1 of 2 was killed by SIGKILL")
    assert outcome["shown"] == "hello from 0\nhalf a line\nfrom C\n"  # Python reads \r as \n
    for rank, last in ((0, []), (1, ["last words"])):
        lines = (tmp_path / "room" / f"trainer-{rank}.log").read_text().splitlines()
        stamps, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
        assert list(texts) == [f"hello from {rank}", "half a line", "from C", *last]
        assert list(stamps) == sorted(stamps) and re.fullmatch(
            r"20\d\d-\d\d-\d\dT[\d:]{8}\.\d{3}Z", stamps[0]
        )


def sign(rank: int, **more: Any) -> Sign:
    return replace(Sign(rank, "n1", places=5, where="step 5", age=60.0), **more)


@pytest.mark.parametrize(
    "signs",
    [
        [sign(0, waits=True), sign(1)],  # alike, but one waits for the other
        [sign(0), sign(1, places=4, waits=True)],  # behind
        [sign(0, places=4), sign(1, state="T", answered=False)],  # cannot run
        [sign(0, places=4), sign(1, state="D", answered=False)],
        [sign(0, age=50.0), sign(1)],  # silent for longer
        [sign(1), sign(2), sign(3)],
    ],
)
def test_the_culprit(signs: list[Sign]) -> None:
    assert culprit(signs).rank == 1
    assert culprit(signs[::-1]).rank == 1


@given(st.permutations(range(6)), st.integers(0, 5), st.integers(0, 4))
def test_a_rank_behind_all_others_is_the_culprit_however_they_are_listed(
    order: list[int], slow: int, places: int
) -> None:
    signs = [sign(rank, places=places if rank == slow else 5, waits=rank % 2 == 0) for rank in order]
    assert culprit(signs).rank == slow


def test_only_the_main_threads_innermost_calls_tell_whether_it_waits() -> None:
    def stack(name: str, file: str) -> str:
        return f'{name} 0x7f (most recent call first):\n  File "{file}", line 1 in f\n'

    waiting, working = (
        "site-packages/torch/distributed/distributed_c10d.py",
        "site-packages/torch/nn/linear.py",
    )
    assert waits_for_others(stack("Thread", working) + stack("Current thread", waiting))
    assert not waits_for_others(stack("Thread", waiting) + stack("Current thread", working))
    outer = "".join(f'  File "a.py", line {i} in f\n' for i in range(20))
    assert not waits_for_others("Current thread 0x7f:\n" + outer + f'  File "{waiting}", line 1 in g\n')
    assert not waits_for_others("")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process gives signs of life, as rank 0."""
    monkeypatch.setattr(progress, "_page", progress._Page(progress.beat_file(tmp_path, 0)))
    return tmp_path


def test_signs_of_life(page: Path) -> None:
    assert read_beat(page, 1) == progress.Beat(0, 0, 0.0, "not started")
    for where in ("step 1", None, "step 1", "step 2", "é" * 300):
        progress.beat(where)
    found = read_beat(page, 0)
    assert (found.beats, found.places, found.where) == (5, 3, "é" * 116)
    assert 0 <= time.monotonic() - found.time < 60
    assert BEATS not in os.environ


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_leader_that_works_while_the_others_wait_is_no_hang_also_on_another_node(page: Path) -> None:
    """Node 1's ranks say nothing for hours, while rank 0, on node 0, reads a corpus."""
    clock, shared = Clock(), page / "shared"
    here = Watch(page, [0], 100.0, shared=shared, node=0, nodes=2, clock=clock)
    there = Watch(page, [1], 100.0, shared=shared, node=1, nodes=2, clock=clock)
    for _ in range(60):
        clock.now += 10.0
        progress.beat()
        assert here.look({}) is None and there.look({}) is None


def test_time_in_which_the_supervisor_did_not_run_either_does_not_count(page: Path) -> None:
    """A suspended job wakes up: its ranks have been silent for a week, and get their time."""
    clock = Clock()
    watch = Watch(page, [0], 100.0, shared=page / "shared", clock=clock)
    clock.now += 7 * 24 * 3600.0
    assert watch.look({}) is None
    for _ in range(9):
        clock.now += 10.0
        assert watch.look({}) is None
    clock.now += 10.0
    assert watch.look({}) is None
    clock.now += 10.0
    hang = watch.look({})
    assert hang is not None and hang.sign.rank == 0


def test_the_other_nodes_files_are_left_alone_while_the_own_ranks_move(page: Path) -> None:
    """Read once in half a limit at most: hundreds of nodes share that disk."""
    clock, looks = Clock(), []

    class Counting(Watch):
        def _counters(self) -> Iterator[tuple[int, int]]:
            looks.append(clock.now)
            return super()._counters()

    watch = Counting(page, [0], 100.0, shared=page / "shared", nodes=2, clock=clock)
    for _ in range(20):
        clock.now += 10.0
        progress.beat()
        assert watch.look({}) is None
    assert looks == []
    for _ in range(6):
        clock.now += 10.0
        watch.look({})
    assert looks == [260.0]
    (page / "shared" / "hang-1.json").write_text('{"signs": []}')  # node 1 has waited for longer
    clock.now += 10.0
    assert watch.look({}) is not None


def test_nodes_put_together_what_they_see(tmp_path: Path) -> None:
    """Two supervisors, a rank each; the one that is behind is the other node's, and both name it."""
    code = """
import sys, time
from pathlib import Path
from launch.watch import Watch
from r1mega import progress
node, folder = int(sys.argv[1]), Path(sys.argv[2])
progress._page = progress._Page(progress.beat_file(folder, node))
for place in range(5 - node):
    progress.beat(f"step {place}")
watch = Watch(folder, [node], 1.0, shared=folder / "shared", node=node, nodes=2)
while (hang := watch.look({})) is None:
    time.sleep(0.02)
print(hang.message())
"""
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(node), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    for process in nodes:
        said, _ = process.communicate(timeout=60)
        assert re.match(r"error: rank 1 of 2 on \S+ hangs at 'step 3' \(others at 'step 4'\)", said)
    assert {path.name for path in (tmp_path / "shared").glob("hang-*")} == {"hang-0.json", "hang-1.json"}


def test_a_sign_costs_next_to_nothing(page: Path) -> None:
    """It is given at each micro-batch: a thousand of them are far below a millisecond each."""
    began = time.perf_counter()
    for _ in range(1000):
        progress.beat("step")
    assert time.perf_counter() - began < 1.0
    assert signal.SIGUSR2 == progress.STACKS_SIGNAL and launch.agent
