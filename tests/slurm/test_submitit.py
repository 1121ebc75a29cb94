"""Runs through submitit on a real Slurm: the result comes back, also after the job was queued again."""

from __future__ import annotations

from pathlib import Path

import pytest

import launch
from launch.submitted import RunFailed
from r1mega.report.jobs import read_jobs
from r1mega.types import UserError
from tests.slurm import runs
from tests.slurm.cluster import Cluster


def send(folder: Path, cluster: str = "test", **more: object) -> list[launch.Handle]:
    given = [f"out={folder / 'out'}", *runs.LENGTH]
    return launch.submit(runs.config(folder), cluster, overrides=given, **more)  # type: ignore[arg-type]


def test_before_the_time_limit_it_keeps_a_checkpoint_goes_on_later_and_returns_its_result(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    """USR2 to the batch step is what Slurm sends some time before the limit."""
    [handle] = send(tmp_path)
    runs.wait_for_step(tmp_path / "out", 5)
    cluster.ask("scancel", "--batch", "--signal=USR2", handle.id)
    result = handle.result(timeout=runs.PATIENCE)
    assert [stage["status"] for stage in result["stages"]] == ["done"]
    assert runs.field(cluster, handle.id, "Restarts") == "1"
    assert "Requeued job" in handle.log.read_text()
    runs.same(tmp_path / "out", undisturbed)
    recorded = read_jobs(tmp_path / "out")
    assert [(job.id, job.state, job.restarts) for job in recorded] == [(handle.id, "done", 1)]
    assert len(set(recorded[0].hosts)) == 2


def test_what_the_partition_does_not_have_is_refused_and_nothing_is_submitted(
    cluster: Cluster, tmp_path: Path
) -> None:
    too_much = runs.site(tmp_path, ranks="9\ngpus = 9")
    before = cluster.ask("sacct", "-n", "-X", "-o", "JobID")
    with pytest.raises(UserError, match=r"Slurm cannot run this: Requested node configuration"):
        send(tmp_path, str(too_much), nodes=2)
    with pytest.raises(UserError, match="Slurm cannot run this"):
        send(tmp_path, nodes=6)  # the partition has four
    assert cluster.ask("sacct", "-n", "-X", "-o", "JobID") == before
    assert not (tmp_path / "out" / "jobs.jsonl").exists()


def test_a_run_that_has_a_job_gets_no_second_one(cluster: Cluster, tmp_path: Path) -> None:
    block = cluster.ask("sbatch", "--parsable", "--hold", "--wrap=true", f"--output={tmp_path / 'o'}").strip()
    [handle] = send(tmp_path, after=[block])
    try:
        assert runs.state(cluster, handle.id) == handle.state() == "PENDING"
        assert runs.field(cluster, handle.id, "Dependency").startswith(f"afterok:{block}")
        with pytest.raises(UserError, match=f"job {handle.id} works on .*, or will: wait for it, or scancel"):
            send(tmp_path)
    finally:
        cluster.ask("scancel", block, handle.id)


@pytest.mark.slow
def test_a_cancelled_job_says_so_instead_of_being_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    [handle] = send(tmp_path)
    runs.wait_for_step(tmp_path / "out", 2)
    handle.cancel()
    with pytest.raises(RunFailed, match=f"job {handle.id} has (failed|ended without a result: CANCELLED)"):
        handle.result(timeout=runs.PATIENCE)
    assert runs.state(cluster, handle.id) == "CANCELLED"
    assert runs.field(cluster, handle.id, "Restarts") == "0"


@pytest.mark.slow
def test_preempted_it_goes_on_later(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    [handle] = send(tmp_path)
    runs.wait_for_step(tmp_path / "out", 5)
    runs.preempt(cluster, tmp_path, handle.id)
    assert handle.result(timeout=runs.PATIENCE)["stages"][0]["status"] == "done"
    assert int(runs.field(cluster, handle.id, "Restarts")) >= 1
    runs.same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_a_sweep_is_an_array_with_a_folder_a_run(cluster: Cluster, tmp_path: Path) -> None:
    few = ["stages.base.train.steps=4", "stages.base.train.warmup_steps=1"]
    rates = [[f"stages.base.train.lr={rate}", *few] for rate in ("1e-3", "3e-3")]
    handles = send(tmp_path, sweep=rates)
    results = [handle.result(timeout=runs.PATIENCE) for handle in handles]
    assert [handle.id.split("_")[1] for handle in handles] == ["0", "1"]
    assert len({handle.id.split("_")[0] for handle in handles}) == 1
    folders = [handle.request.run.name for handle in handles]
    assert folders[0].startswith("out-lr=1e-3") and folders[1].startswith("out-lr=3e-3")
    losses = [result["stages"][0]["metrics"]["held_out_loss"] for result in results]
    assert losses[0] != losses[1]


STAGE = """
[stages.more]
kind = "sft"
model.from_stage = "base"
[stages.more.data]
kind = "pairs"
path = "ROWS"
[stages.more.train]
steps = 2
"""


@pytest.mark.slow
def test_a_job_a_stage_and_a_failure_stops_what_follows(cluster: Cluster, tmp_path: Path) -> None:
    path, rows = runs.config(tmp_path), tmp_path / "rows.jsonl"
    path.write_text(path.read_text() + STAGE.replace("ROWS", str(rows)))
    rows.write_text(
        '{"prompt": "1+1", "answer": "2"}\n'
    )  # a question is wanted: the first job finds that out
    first, second = launch.submit(path, "test", overrides=[f"out={tmp_path / 'out'}"], each_stage=True)
    assert (first.request.stages, second.request.stages) == (("base",), ("more",))
    with pytest.raises(RunFailed, match=f"job {first.id} has failed: stage 'more': .* no key 'question'"):
        first.result(timeout=runs.PATIENCE)
    with pytest.raises(RunFailed, match="ended without a result: CANCELLED"):
        second.result(timeout=runs.PATIENCE)
    assert not (tmp_path / "out" / "02-more").exists()
