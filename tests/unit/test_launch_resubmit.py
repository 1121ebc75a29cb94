"""How a waiting job reads the end of the one it stands for, and what a submission is refused for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from launch.checks import left, needed, refuse_missing, refuse_unwritable
from launch.job import refuse_few
from launch.records import ended, record, rivals
from launch.request import ask, parse
from launch.resubmit import cancelled, check, over, remember
from launch.slurm import Allocation
from r1mega.config.load import load
from r1mega.types import UserError

TOY = "configs/toy/r1.toml"


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ([("COMPLETED", "0:0")], 0),
        ([("FAILED", "2:0")], 2),
        ([("CANCELLED", "0:15")], 130),
        ([("TIMEOUT", "0:15")], 1),
        ([("OUT_OF_MEMORY", "0:125")], 1),
        ([("COMPLETED", "0:0"), ("FAILED", "1:0")], 1),  # an array
        ([("RUNNING", "0:0")], None),
        ([("COMPLETED", "0:0"), ("PENDING", "0:0")], None),
        ([("NODE_FAIL", "0:0")], None),  # Slurm queues it again
        ([("PREEMPTED", "0:0")], None),
    ],
)
def test_the_end_that_slurm_shows(shown: list[tuple[str, str]], code: int | None) -> None:
    outcome = over("7", [{"JobState": state, "ExitCode": end} for state, end in shown], None)
    assert (None if outcome is None else outcome.code) == code


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"JobState": "CANCELLED"}, True),
        ({"JobState": "COMPLETING", "Restarts": "2", "TimeLimit": "01:00:00", "RunTime": "00:10:00"}, True),
        ({"JobState": "COMPLETING", "Restarts": "2", "TimeLimit": "UNLIMITED", "RunTime": "00:10:00"}, True),
        ({"JobState": "COMPLETING", "Restarts": "3", "TimeLimit": "01:00:00", "RunTime": "00:10:00"}, False),
        ({"JobState": "COMPLETING", "Restarts": "2", "TimeLimit": "01:00:00", "RunTime": "01:00:20"}, False),
        ({"JobState": "RUNNING", "Restarts": "2"}, False),  # preempted, its grace time runs
    ],
)
def test_whether_a_waiting_job_was_cancelled(shown: dict[str, str], expected: bool) -> None:
    assert cancelled("7", [{"JobId": "7"} | shown], 2) is expected
    assert not cancelled("7", [], 2)


def test_tasks_of_an_array_that_slurm_forgets_count() -> None:
    def task(job: str, state: str, code: str = "0:0") -> dict[str, str]:
        return {"JobId": job, "JobState": state, "ExitCode": code}

    seen: dict[str, Mapping[str, str]] = {}
    remember(seen, [task("7", "PENDING"), task("8", "FAILED", "2:0")])
    outcome = over("7", remember(seen, [task("7", "COMPLETED")]), None)
    assert outcome is not None and outcome.code == 2
    outcome = over("7", remember(seen, []), None)
    assert outcome is not None and outcome.code == 2
    running: dict[str, Mapping[str, str]] = {}
    remember(running, [task("7", "RUNNING")])
    assert remember(running, []) == []


def test_the_end_that_the_job_has_recorded(tmp_path: Path) -> None:
    record(tmp_path, "7", "submitted")
    record(tmp_path, "7", "started")
    ended(tmp_path, "7", "failed", 1, "error: rank 3 of 4 on n1 failed: boom")
    outcome = over("7", [], tmp_path)  # forgotten by Slurm
    assert outcome is not None and (outcome.code, outcome.message[:27]) == (1, "error: rank 3 of 4 on n1 fa")
    outcome = over("7", [{"JobState": "FAILED", "ExitCode": "1:0"}], tmp_path)
    assert outcome is not None and "boom" in outcome.message
    unknown = over("8", [], tmp_path)
    assert unknown is not None and unknown.code == 1 and "Slurm has no word of it" in unknown.message


def test_a_run_that_has_jobs_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without squeue what the records say counts."""
    monkeypatch.setenv("PATH", "/nonexistent")
    request = ask(parse(["--cluster", "test", "--stage", "rl_reasoning", TOY, f"out={tmp_path}"]))
    check(request)
    record(tmp_path, "7", "submitted", script="r1_stage2.sh")
    with pytest.raises(UserError, match=r"jobs that are not over: 7 \(r1_stage2.sh, submitted\).*scancel 7"):
        check(request)
    check(request, ["7"])
    assert rivals(tmp_path, [], ["RUNNING"]) == []  # nobody knows which job of a graph runs
    ended(tmp_path, "7", "requeued", 130, "")
    assert [job.id for job in rivals(tmp_path)] == ["7"]
    ended(tmp_path, "7", "failed", 1, "")
    check(request)


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    config = load(TOY, [f"out={tmp_path}", "with_upstream=false"])
    assert needed(config, ["rl_reasoning"]) == ["rl_reasoning"]
    with pytest.raises(UserError) as error:
        refuse_missing(config, ["rl_reasoning"], lambda stage: f"make {stage}")
    assert "needs what 'cold_start' makes" in str(error.value) and "\n  make cold_start\n" in str(error.value)
    whole = needed(load(TOY, [f"out={tmp_path}"]), ["rl_reasoning"])
    assert whole[0] == "base" and whole[-1] == "rl_reasoning"
    refuse_missing(config, whole, str)
    assert left(config, whole) == whole


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another folder with out=DIR"):
        refuse_unwritable(tmp_path / "file" / "run")
    refuse_unwritable(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()


def test_more_ranks_than_the_allocation_holds() -> None:
    request = ask(parse(["--cluster", "h100x8", "--nodes", "2", "configs/distill/qwen2.5-7b.toml"]))
    have = Allocation("7", nodes=1, gpus=8, cpus=96)
    with pytest.raises(UserError, match="16 ranks need 2 nodes of 8; this allocation has 1, so nproc can be"):
        refuse_few(request, have)
    refuse_few(request, replace(have, nodes=2))
