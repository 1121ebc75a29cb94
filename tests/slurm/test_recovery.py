"""Whatever happens to a job: the run goes on, and ends with the same figures and the same weights.

Slow: each of these trains anew, twenty seconds on an idle machine. `make test-slurm` runs them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from r1mega.report.jobs import Job
from tests.slurm import network, runs
from tests.slurm.cluster import Cluster
from tests.slurm.daemons import wait_until

pytestmark = pytest.mark.slow
LONGER = ("stages.base.train.steps=5000",)  # minutes, so that a limit of three comes in between
Disturb = Callable[[Cluster, Path, Job], None]


def near_the_limit(cluster: Cluster, folder: Path, job: Job) -> None:
    """What Slurm sends some time before the time limit."""
    cluster.ask("scancel", "--batch", "--signal=USR1", job.id)


def preempted(cluster: Cluster, folder: Path, job: Job) -> None:
    runs.preempt(cluster, folder, job.id)


def cancelled(cluster: Cluster, folder: Path, job: Job) -> None:
    """And submitted again by hand."""
    cluster.ask("scancel", job.id)
    assert runs.wait_for_end(cluster, job.id) == "CANCELLED"
    runs.submitted(folder, folder / "out")


def node_lost(cluster: Cluster, folder: Path, job: Job) -> None:
    """The second node is switched off: its slurmd and whatever runs there end at once, and nobody is told."""
    host = runs.newest(folder / "out").hosts[1]
    number = int(host.removeprefix("tnode"))
    slurmd = cluster.daemons.pid(f"slurmd-{host}")
    assert slurmd is not None
    os.kill(slurmd, signal.SIGKILL)
    cut_off(number)
    try:
        wait_until(lambda: runs.field(cluster, job.id, "Restarts") == "1", 120, "the requeue")
        wait_until(lambda: runs.newest(folder / "out").restarts == 1, 120, "its new start")
        assert host not in runs.newest(folder / "out").hosts
    finally:
        cluster.start_node(number)
        wait_until(lambda: host in cluster.states(), 60, f"the return of {host}")


def cut_off(number: int) -> None:
    """Kill all that runs in a node's network namespace."""
    listed = subprocess.run(
        ["ip", "netns", "pids", network.namespace(number)], capture_output=True, text=True, check=True
    )
    for pid in listed.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("disturb", [near_the_limit, preempted, cancelled, node_lost])
def test_disturbed_it_ends_the_same(
    cluster: Cluster, undisturbed: Path, tmp_path: Path, disturb: Disturb
) -> None:
    job = runs.submitted(tmp_path, tmp_path / "out")
    runs.wait_for_step(tmp_path / "out", 5)
    disturb(cluster, tmp_path, job)
    last = runs.newest(tmp_path / "out").id
    assert runs.wait_for_end(cluster, last) == "COMPLETED", log(tmp_path / "out", last)
    if disturb is not cancelled:
        assert runs.newest(tmp_path / "out").restarts >= 1
    runs.same(tmp_path / "out", undisturbed)


def test_the_time_limit_itself(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm itself sends the signal, one to two minutes after each start, until the run is done."""
    site = runs.site(tmp_path, time='"00:03:00"', stop_before="60")
    limited, whole = tmp_path / "limited", tmp_path / "whole"
    job = runs.submitted(tmp_path, limited, *LONGER, cluster=str(site))
    assert runs.wait_for_end(cluster, job.id, 3000) == "COMPLETED", log(limited, job.id)
    assert runs.newest(limited).restarts >= 1
    again = runs.submitted(tmp_path, whole, *LONGER)
    assert runs.wait_for_end(cluster, again.id, 3000) == "COMPLETED", log(whole, again.id)
    runs.same(limited, whole)


def test_a_stage_asked_for_twice_at_the_same_time(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    job = runs.submitted(tmp_path, tmp_path / "out")
    words = ["--cluster", "test", str(runs.config(tmp_path)), f"out={tmp_path / 'out'}", *runs.LENGTH]
    second = runs.script(*words)
    assert second.returncode == 2 and f"has jobs that are not over: {job.id}" in second.stderr
    log_file = tmp_path / "third"
    third = runs.script(*words, how=f"sbatch --wait --output={log_file}")
    assert third.returncode == 2 and job.id in log_file.read_text()
    assert runs.wait_for_end(cluster, job.id) == "COMPLETED", log(tmp_path / "out", job.id)
    runs.same(tmp_path / "out", undisturbed)


def test_a_rank_that_fails_stops_the_job_and_is_named(cluster: Cluster, tmp_path: Path) -> None:
    job = runs.submitted(tmp_path, tmp_path / "out")
    runs.wait_for_step(tmp_path / "out", 5)
    hosts = runs.newest(tmp_path / "out").hosts
    victims = ranks_on(int(hosts[1].removeprefix("tnode")))
    os.kill(victims[0], signal.SIGKILL)
    assert runs.wait_for_end(cluster, job.id) == "FAILED"
    assert "rank 1" in runs.newest(tmp_path / "out").message and hosts[1] in log(tmp_path / "out", job.id)


def ranks_on(number: int) -> list[int]:
    """Process ids of the ranks on a node."""
    listed = subprocess.run(
        ["ip", "netns", "pids", network.namespace(number)], capture_output=True, text=True, check=True
    )
    found = []
    for pid in map(int, listed.stdout.split()):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in words and b"r1mega.cli" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found


def test_stage_two_of_r1_with_all_that_comes_before(cluster: Cluster, tmp_path: Path) -> None:
    """Megatron over gloo on two nodes, vLLM on CPU: base, R1-Zero, cold start, reasoning RL. Minutes."""
    out = tmp_path / "out"
    words = ["--cluster", "test", "configs/toy/r1.toml", "profile=smoke", f"out={out}", "threads=1"]
    done = subprocess.run(
        ["sbatch", "--wait", f"--output={tmp_path / 'log'}", "slurm/r1_stage2.sh", *words],
        cwd=runs.ROOT,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, (tmp_path / "log").read_text()
    made = {path.parent.name.split("-", 1)[1] for path in out.glob("*/DONE.json")}
    assert {"base", "r1_zero", "cold_start", "rl_reasoning"} <= made
    assert len(runs.newest(out).hosts) == 2


def log(out: Path, job: str) -> str:
    return (out / "jobs" / f"{job}.log").read_text()
