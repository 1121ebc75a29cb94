"""`r1mega status` and `r1mega logs`: while a run is on, after it, of a copy, of one that was killed."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.output import stamp
from r1mega import cli
from r1mega.report.jobs import Job, read_jobs
from r1mega.report.life import lock_holder, look
from r1mega.report.ranklogs import Follower, error_lines, job_folders, last_lines, log_files, tail
from r1mega.report.slurm_jobs import slurm_states
from r1mega.report.state import gather

NOW = 1_800_000_000.0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in its second stage: 40 of 100 steps, the last of them 30 s ago, a checkpoint 5 minutes ago."""
    room = tmp_path / "mine" / "02-rl"
    room.mkdir(parents=True)
    row: dict[str, Any] = {"kind": "grpo", "metrics": {}, "benchmarks": {}}
    stages = [
        row | {"name": "base", "status": "done", "seconds": 62.0, "minutes": 1.0},
        row | {"name": "rl", "status": "running", "seconds": 200.0, "minutes": 3.0},
    ]
    summary = {"name": "mine", "seconds": 262.0, "stages": stages}
    (tmp_path / "mine" / "summary.json").write_text(json.dumps(summary))
    (room / "config.json").write_text(json.dumps({"train": {"steps": 100}}))
    records = [
        {"step": s, "reward": s / 100, "seconds": 2.0, "tokens_per_second": 500.0} for s in range(1, 41)
    ]
    (room / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    os.utime(room / "metrics.jsonl", (NOW - 30, NOW - 30))
    for step, age in ((20, 900.0), (40, 300.0)):
        marker = room / "checkpoints" / f"step_{step:06d}" / "COMPLETE"
        marker.parent.mkdir(parents=True)
        marker.touch()
        os.utime(marker, (NOW - age, NOW - age))
    (room / "checkpoints" / "step_000060.partial").mkdir()  # being written, or left by a kill
    return tmp_path / "mine"


def alive(
    run: Path, node: int, *, age: float, told: float = NOW, ended: bool = False, job: str = "local"
) -> None:
    """What node's supervisor published at `told`: its two ranks, which then were silent for `age` seconds."""
    ranks = {str(2 * node + i): {"beats": 5, "where": "rl: step 41: train", "age": age + i} for i in (0, 1)}
    file = run / "jobs" / job / f"alive-{node}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"host": f"n{node}", "time": told, "ended": ended, "ranks": ranks}))


def test_what_a_person_wants_to_know_of_a_stage(run: Path) -> None:
    state = gather(run, NOW)
    done, stage = state.stages
    assert (stage.step, stage.steps, stage.eta, stage.last_step) == (40, 100, 120.0, 30.0)
    assert (stage.checkpoint, stage.checkpoint_age) == (40, 300.0)
    assert (stage.newest["reward"], stage.newest["tokens_per_second"]) == (0.4, 500.0)
    assert (stage.budget, stage.over_budget, done.over_budget) == (180.0, True, True)


def test_programs_get_the_same_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run / "02-rl" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 41, "loss": "NaN", "seconds": 2.0}\n')
    assert cli.main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"][1]["newest"]["loss"] == "NaN" and found["stages"][1]["step"] == 41
    assert found["life"]["state"] == "idle" and found["jobs"] == []


def test_it_works_while_its_ranks_give_signs_of_life(run: Path) -> None:
    alive(run, 0, age=7.0, told=NOW - 5)
    alive(run, 1, age=3.0, told=NOW - 2)
    life = gather(run, NOW).life
    assert life is not None
    assert (life.state, life.age, life.where) == ("working", 5.0, "rl: step 41: train")
    assert life.why == "4 ranks on n0, n1"
    alive(run, 1, age=3.0, told=NOW - 2, ended=True)  # one node is through, the other about to be
    assert gather(run, NOW).life.state == "working"  # type: ignore[union-attr]


def test_silence_is_told_with_where_it_began(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alive(run, 0, age=7.0, told=time.time() - 600)
    assert cli.main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "silent for 10:0" in shown and "at 'rl: step 41: train'" in shown
    assert f"r1mega logs {run} --errors" in shown


def test_the_newest_job_counts(run: Path) -> None:
    alive(run, 0, age=1.0, job="4711")
    os.utime(run / "jobs" / "4711", (NOW, NOW))
    alive(run, 0, age=1.0, ended=True, job="4712")
    os.utime(run / "jobs" / "4712", (NOW + 1, NOW + 1))
    assert gather(run, NOW).life.state == "idle"  # type: ignore[union-attr]


def test_a_lock_tells_of_a_process_of_this_machine_and_is_not_taken_by_looking(run: Path) -> None:
    ready, end = multiprocessing.Event(), multiprocessing.Event()

    def hold() -> None:
        with (run / ".lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            ready.set()
            end.wait(60)

    assert lock_holder(run) is None
    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    assert ready.wait(60)
    try:
        assert lock_holder(run) == process.pid
        life = gather(run, NOW).life
        assert life is not None and life.why == f"process {process.pid} holds its lock"
    finally:
        end.set()
        process.join()
    assert lock_holder(run) is None


@pytest.mark.parametrize("damage", ["", "{", '{"name": "mine", "seco'])
def test_half_a_file_is_no_reason_to_fail(run: Path, damage: str) -> None:
    """A copy of a run that went on meanwhile."""
    alive(run, 0, age=1.0)
    for name in ("02-rl/config.json", "jobs/local/alive-0.json"):
        (run / name).write_text(damage)
    (run / "02-rl" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5, "seconds": 1.0}\n' + damage)
    assert gather(run, NOW).stages[1].step == 1
    (run / "summary.json").write_text(damage)
    assert gather(run, NOW).stages == ()


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """A PATH with these scripts."""
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if commands else "/nowhere")


def test_jobs_are_shown_as_slurm_knows_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        {"job": "7", "event": "submitted", "time": NOW, "stages": ["rl"], "nodes": 2, "ranks": 16},
        {"job": "8", "event": "submitted", "time": NOW, "script": "r1_stage3.sh"},
        {"job": "7", "event": "started", "time": NOW + 1},
        {"job": "9", "event": "submitted", "time": NOW},
    ]
    (run / "jobs.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in events) + '{"job": "7", "ev'
    )
    assert [job.id for job in read_jobs(run)] == ["7", "8", "9"]
    slurm(
        tmp_path,
        monkeypatch,
        squeue='echo "7|RUNNING|None"; echo "8|PENDING|Dependency"',
        sacct='echo "9|NODE_FAIL|None"',
    )
    assert cli.main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "job 7  running (Slurm: RUNNING)  rl  2 nodes, 16 ranks" in shown
    assert "job 8  submitted (Slurm: PENDING (Dependency))  r1_stage3.sh" in shown
    assert "job 9  submitted (Slurm: NODE_FAIL)" in shown
    assert "works: Slurm: job 7 is RUNNING" in shown


def test_a_silent_run_whose_job_is_queued_again_waits(run: Path) -> None:
    alive(run, 0, age=7.0, told=NOW - 600, job="7")
    jobs = [Job("7", "running")]
    waits = look(run, NOW, jobs, {"7": "PENDING (BeginTime)"})
    assert (waits.state, waits.why) == ("working", "Slurm: job 7 is PENDING (BeginTime)")
    assert look(run, NOW, jobs, {"7": "RUNNING"}).state == "silent"


@pytest.mark.parametrize("body", ["sleep 60", "echo 'slurm_load_jobs error' >&2; exit 1", "echo nonsense"])
def test_a_slurm_that_is_down_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr("r1mega.report.slurm_jobs.PATIENCE", 0.3)
    slurm(tmp_path, monkeypatch, squeue=body, sacct=body)
    assert slurm_states(["1", "2"]) == {}
    slurm(tmp_path, monkeypatch)
    assert slurm_states(["1"]) == {}


def test_watching_ends_with_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    for row in summary["stages"]:
        row["status"] = "done"
    (run / "summary.json").write_text(json.dumps(summary))
    assert cli.main(["status", str(run), "--watch"]) == 0
    assert capsys.readouterr().out.count("02-rl") == 1
    for words, said in (
        (["--watch", "0"], "give a number of seconds"),
        (["--watch", "--json"], "choose one"),
    ):
        assert cli.main(["status", str(run), *words]) == 2
        assert said in capsys.readouterr().err


# Logs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def job(run: Path) -> Iterator[Path]:
    folder = run / "jobs" / "4711"
    folder.mkdir(parents=True)
    for rank in range(3):
        lines = [f"{stamp(NOW + 10 * i + rank)} line {i}" for i in range(5)]
        (folder / f"trainer-{rank}.log").write_text("\n".join(lines) + "\n")
    with (folder / "trainer-1.log").open("a") as file:
        for text in (
            "Traceback (most recent call last):",
            '  File "grpo.py", line 1, in _step',
            "    return self._judge()",
            "torch.OutOfMemoryError: CUDA out of memory",
            "bye",
        ):
            file.write(f"{stamp(NOW + 60)} {text}\n")
    (folder / "trainer-10.log").write_text(f"{stamp(NOW)} torn")  # being written
    yield folder


def test_lines_of_all_ranks_come_in_the_order_of_their_times(job: Path) -> None:
    files = log_files(job)
    assert list(files) == ["trainer-0", "trainer-1", "trainer-2", "trainer-10"]
    lines = last_lines(files, 100)
    assert [(line.who[-1], line.text) for line in lines[:4]] == [
        ("0", "line 0"),
        ("1", "line 0"),
        ("2", "line 0"),
        ("0", "line 1"),
    ]
    assert len(lines) == 20 and lines == sorted(lines, key=lambda line: line.time)
    assert [line.text for line in last_lines(files, 2)] == [
        "torch.OutOfMemoryError: CUDA out of memory",
        "bye",
    ]
    assert job_folders(job.parents[1]) == [job]


def test_errors_are_found_with_their_tracebacks(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = error_lines(log_files(job), 100)
    assert found[0].text.startswith("Traceback") and len(found) == 4
    assert cli.main(["logs", str(job.parents[1]), "--errors", "--rank", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4 and shown[-1].endswith(" trainer-1 | torch.OutOfMemoryError: CUDA out of memory")


def test_only_the_ends_of_huge_files_are_read(job: Path) -> None:
    path = job / "trainer-0.log"
    with path.open("ab") as file:
        file.truncate(1 << 40)  # a hole: whoever reads all of it does not come back
        file.seek(0, os.SEEK_END)
        file.write(f"\n{stamp(NOW + 99)} the end\n".encode())
    assert [line.text for line in tail("trainer-0", path, 1 << 16)] == ["the end"]
    assert last_lines(log_files(job), 1)[0].text == "the end"


def test_following_hands_out_whole_lines_once(job: Path) -> None:
    follower = Follower(log_files(job))
    assert follower.new() == []
    with (job / "trainer-2.log").open("a") as file:
        file.write(f"{stamp(NOW + 70)} new\n{stamp(NOW + 71)} ha")
        file.flush()
        assert [line.text for line in follower.new()] == ["new"]
        file.write("lf\n")
    assert [(line.who, line.text) for line in follower.new()] == [("trainer-2", "half")]
    assert follower.new() == []


def test_following_ends_with_ctrl_c(job: Path) -> None:
    command = [sys.executable, "-m", "r1mega.cli", "logs", str(job.parents[1]), "--follow", "--lines", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().endswith("bye\n")
    process.send_signal(2)
    said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank", "7"], "no output of rank 7 in .*4711: trainer-0, trainer-1"),
        (["--job", "1"], "--job 1: output is kept of 4711"),
        (["--lines", "-1"], "--lines -1: give 0 or more"),
    ],
)
def test_mistakes(job: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    assert cli.main(["logs", str(job.parents[1]), *words]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_local_run_says_how_to_keep_output(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", str(run)]) == 2
    assert "r1mega run --keep-output" in capsys.readouterr().err
