"""The task that submitit carries: real processes, real signals, submitit's own LocalExecutor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit
from submitit.helpers import DelayedSubmission

from launch.submitted import RunFailed, Task
from tests.unit.test_launch import alive, wait_for

ROOT = Path(__file__).resolve().parents[2]

# Stands for `r1mega run`: asked to stop, it keeps its state and ends with 130; started again, it goes on.
RUN = """
import json, os, signal, sys, time
from pathlib import Path
out, kept = Path(sys.argv[1]), Path(sys.argv[1]) / "kept"
def stop(*_):
    kept.write_text("3"); sys.exit(130)
signal.signal(signal.SIGINT, stop)
(out / "pids").open("a").write(f"{os.getpid()}\\n")
while not kept.exists() and sys.argv[2] == "wait":
    time.sleep(0.02)
if sys.argv[2] == "fail":
    sys.exit("error: no such thing")
begin = int(kept.read_text()) if kept.exists() else 0
(out / "summary.json").write_text(json.dumps({"from": begin}))
"""


def make(folder: Path, how: str) -> Task:
    (folder / "run.py").write_text(RUN)
    return Task((sys.executable, str(folder / "run.py"), str(folder), how), folder=ROOT, out=folder)


def pids(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def local(folder: Path) -> submitit.LocalExecutor:
    executor = submitit.LocalExecutor(folder / "submitit", max_num_timeout=5)
    executor.update_parameters(timeout_min=60, signal_delay_s=60)
    return executor


def test_the_summary_is_the_result(tmp_path: Path) -> None:
    assert make(tmp_path, "go")() == {"from": 0}


def test_a_run_that_fails_raises(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunFailed, match="ended with code 1; the log says why"):
        make(tmp_path, "fail")()
    assert "no such thing" in capfd.readouterr().err


def test_asked_to_stop_it_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    """Through submitit itself: its signal, its handler, its requeue."""
    job = local(tmp_path).submit(make(tmp_path, "wait"))
    wait_for(lambda: len(pids(tmp_path)) == 1)
    task = children(int(job.job_id))[0]
    os.kill(task, signal.SIGUSR2)
    wait_for(lambda: job.done(), seconds=40)
    assert job.result() == {"from": 3}
    assert len(pids(tmp_path)) == 2 and not any(map(alive, pids(tmp_path)))


def test_what_slurm_sends_to_all_processes_does_not_end_the_run(tmp_path: Path) -> None:
    job = local(tmp_path).submit(make(tmp_path, "wait"))
    wait_for(lambda: len(pids(tmp_path)) == 1)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pids(tmp_path)[0], number)
    time.sleep(0.3)
    assert alive(pids(tmp_path)[0])
    (tmp_path / "kept").write_text("7")
    assert job.result() == {"from": 7}


def test_the_run_dies_with_its_task(tmp_path: Path) -> None:
    job = local(tmp_path).submit(make(tmp_path, "wait"))
    wait_for(lambda: len(pids(tmp_path)) == 1)
    os.kill(children(int(job.job_id))[0], signal.SIGKILL)
    wait_for(lambda: not alive(pids(tmp_path)[0]))


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_cancelled_local_job_leaves_nothing_running(tmp_path: Path) -> None:
    job = local(tmp_path).submit(make(tmp_path, "wait"))
    wait_for(lambda: len(pids(tmp_path)) == 1)
    job.cancel()
    wait_for(lambda: not alive(pids(tmp_path)[0]))


def test_it_travels(tmp_path: Path) -> None:
    """The pickle names the class by its module, which the job's Python imports: nothing heavy comes along."""
    DelayedSubmission(make(tmp_path, "go")).dump(tmp_path / "task.pkl")
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')).result(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "task.pkl")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert json.loads((tmp_path / "summary.json").read_text()) == {"from": 0}


def test_hidden_gpus_are_given_back_to_a_local_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LocalExecutor sets CUDA_VISIBLE_DEVICES to nothing where it was not asked for GPUs."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" not in make(tmp_path, "go")._environment()
    chosen = Task(("true",), tmp_path, tmp_path, gpus="2,3")
    assert chosen._environment()["CUDA_VISIBLE_DEVICES"] == "2,3"
