"""What `python -m launch` and `launch.submit` would submit, and what they refuse, without any Slurm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import launch
from launch.__main__ import main
from launch.plain import parse
from launch.send import arguments, executor_of, follow, outside_of_jobs, parameters, task
from launch.submission import Batch, label, plan
from r1mega.types import UserError

ROOT = Path(__file__).resolve().parents[2]
TOY = "configs/toy/r1.toml"
BASE = "configs/toy/pretrain_v3.toml"


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("R1MEGA_CLUSTER", raising=False)


def folders(batch: Batch) -> list[str]:
    return [request.run.name for request in batch.requests]


def test_one_job_makes_all_stages_on_as_many_nodes_as_the_ranks_need() -> None:
    [batch] = plan([TOY], "test")
    assert (batch.nodes, batch.name, folders(batch)) == (2, "r1mega-toy-r1", ["toy-r1"])
    assert batch.requests[0].stages[:2] == ("base", "r1_zero")
    [wide] = plan([BASE], "h100x8", nodes=3)
    assert (wide.nodes, wide.requests[0].ranks) == (3, 24)
    assert wide.requests[0].config.nproc == 24


def test_a_job_a_stage_each_waits_for_the_one_before() -> None:
    batches = plan([TOY], "test", stages=["r1_zero"], each_stage=True)  # with_upstream = true there
    assert [batch.requests[0].stages for batch in batches] == [("base",), ("r1_zero",)]
    assert [follow(batch, ["5"], ["8"]) for batch in batches] == [["afterok:5"], ["afterok:8"]]
    pair = plan([BASE], "test", sweep=["seed=1", "seed=2"], each_stage=True)[0]
    assert follow(Batch(pair.requests, "x", follows=True), [], ["8"]) == ["aftercorr:8"]


def test_a_sweep_has_a_folder_a_run() -> None:
    sweep = [
        "stages.base.train.lr=1e-3",
        ["stages.base.train.lr=2e-3", "seed=3"],
        ["seed=4", "out=runs/other"],
    ]
    [batch] = plan([BASE], "test", sweep=sweep, overrides=["out=/tmp/x/sweep"])
    assert folders(batch) == ["sweep-lr=1e-3", "sweep-lr=2e-3_seed=3", "other"]
    assert [request.config.seed for request in batch.requests] == [0, 3, 4]
    assert all(request.run.is_absolute() for request in batch.requests)
    with pytest.raises(UserError, match="two runs would share the folder"):
        plan([BASE], "test", sweep=["seed=1", "seed=1"])
    assert label(["data.path=a b/ü.jsonl"]) == "path=a_b_ü.jsonl"


def test_targets_of_distillation_are_an_array() -> None:
    targets = sorted((ROOT / "configs" / "distill").glob("qwen2.5*b.toml"))
    [batch] = plan(targets, "h100x8", overrides=["data.path=rows.jsonl"], nodes=2)
    assert len(batch.requests) == len(targets) > 4 and len(set(folders(batch))) == len(targets)
    with pytest.raises(UserError, match="the same stages"):
        plan(targets, "h100x8", overrides=["data.path=rows.jsonl"], nodes=2, each_stage=True)


def test_jobs_of_an_array_need_the_same_nodes(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(f'base = "{ROOT / BASE}"\nname = "wide"\nnproc = 4\n')
    with pytest.raises(UserError, match=r"the same number of nodes; these need toy-pretrain-v3: 2, wide: 4"):
        plan([BASE, tmp_path / "wide.toml"], "test")


def test_submitit_asks_for_the_same_as_the_scripts() -> None:
    [batch] = plan([BASE], "h100x8", nodes=2)
    asked, given = arguments(batch, ["afterok:7"]), parameters(batch, ["afterok:7"])
    more = given["additional_parameters"]
    assert (given["time"], more["nodes"], more["gres"], more["exclusive"]) == (1440, "2", "gpu:8", True)
    assert more["signal"] == "B:USR2@900" and more["dependency"] == "afterok:7"
    own = {"job-name", "time", "output", "open-mode"}
    assert {one.removeprefix("--").split("=")[0] for one in asked} == own | set(more)


def test_the_submission_file_says_it_and_starts_without_srun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import submitit

    (tmp_path / "srun").write_text("")  # submitit looks for it, and does not call it here
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    [batch] = plan([BASE], "test")
    executor = submitit.SlurmExecutor(tmp_path, python="exec python3")
    executor.update_parameters(**parameters(batch))
    text = executor._make_submission_file_text(executor._submitit_command_str, "x")
    assert "#SBATCH --signal=B:USR2@60\n" in text and "#SBATCH --nodes=2\n" in text
    assert "#SBATCH --time=60\n" in text and "wckey" not in text and "srun" not in text
    assert f"\nexec python3 -u -m submitit.core._submit {tmp_path}\n" in text
    assert executor._num_tasks() == 1  # so that there is one result


def test_submitits_sbatch_sees_no_surrounding_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    with outside_of_jobs():
        assert "SLURM_MEM_PER_NODE" not in os.environ and os.environ["SBATCH_ACCOUNT"] == "mine"
    assert os.environ["SLURM_MEM_PER_NODE"] == "1024"


@pytest.mark.parametrize("words", [["--cluster", "h100x8"], ["--cluster=h100x8"]])
def test_a_plain_commands_cluster_is_ours_wherever_it_stands(words: list[str]) -> None:
    plain = parse(["eval.sh", "model", *words, "--tasks", "math"])
    assert (plain.site, plain.arguments) == ("h100x8", ("model", "--tasks", "math"))


def test_a_python_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1MEGA_PYTHON", "/nowhere/python")
    done = subprocess.run(["bash", "slurm/run.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: R1MEGA_PYTHON=/nowhere/python: no such program\n")


def test_here_it_is_r1mega_run_and_in_slurm_the_job_of_the_scripts() -> None:
    [batch] = plan([BASE], "local")
    assert executor_of(batch) == "local"
    assert task(batch.requests[0], "local").command[1:4] == ("-m", "r1mega.cli", "run")
    [batch] = plan([BASE], "test")
    command = task(batch.requests[0], executor_of(batch)).command
    assert command[1:4] == ("-m", "launch.job", "--here") and "--cluster" in command


def test_a_dry_run_shows_all_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [BASE, "--cluster", "test", "--dry-run", "--sweep", "seed=1 threads=1", "--sweep", "seed=2"]
    assert main([*words, f"out={tmp_path / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert "submission 1: an array of 2 jobs, 2 ranks on 2 nodes of cluster test\n" in shown
    assert "  #SBATCH --mem=4G\n" in shown and "seed=1 threads=1" in shown and "--stage base" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([BASE, "--cluster", "nowhere"], "no cluster 'nowhere'; clusters: a100x8, h100x8"),
        ([BASE], "which cluster?"),
        (["x=1", "--cluster", "local"], "nothing to submit"),
        (["configs/toy/none.toml", "--cluster", "test"], "no such config"),
        ([BASE, "--cluster", "test", "--stage", "bass"], "bass: no such stage"),
        ([BASE, "--cluster", "local", "nproc=128"], "nproc = 128: cluster local is one machine"),
        ([BASE, "--cluster", "local", "--after", "3"], "need Slurm"),
        ([BASE, "--cluster", "test"], "there is no sbatch on this machine"),
        ([TOY, "--cluster", "local", "--stage", "llama", "out=/proc/x"], "cannot write to /proc/x"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and said in shown


def test_debug_runs_are_of_one_machine() -> None:
    with pytest.raises(UserError, match="not on 2 nodes"):
        launch.submit(BASE, "test", debug=True)
