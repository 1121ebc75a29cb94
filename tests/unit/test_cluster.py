"""Cluster files: those that come along, what is refused, and what sbatch and srun are told."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.batch import grace_of
from launch.slurm import (
    Allocation,
    directives,
    mismatches,
    outside,
    require,
    seconds_of,
    state_of,
    time_left,
)
from launch.step import environment, python, step
from r1mega.config.cluster import Cluster, cluster_names, load_cluster
from r1mega.types import UserError

SITE = {
    "name": "site",
    "description": "a site",
    "nodes": {"ranks": 8, "gpus": 8, "cpus": 96, "memory_gb": 0},
    "slurm": {"partition": "gpu", "account": "me", "time": "1-00:00:00", "extra": ["--reservation=r"]},
}


def site(**changes: object) -> Cluster:
    return Cluster.model_validate({**SITE, **changes})


@pytest.mark.parametrize("name", ["local", "test", "h100x8", "h800x8", "a100x8"])
def test_the_cluster_files_load(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.name == name and cluster.description


def test_what_sbatch_is_told() -> None:
    told = directives(site(), nodes=64, name="job", log="log-%j", dependency=["afterok:1:2", "afterany:3"])
    assert told == [
        "--job-name=job",
        "--nodes=64",
        "--ntasks=64",
        "--ntasks-per-node=1",
        "--cpus-per-task=96",
        "--mem=0",
        "--partition=gpu",
        "--account=me",
        "--time=1-00:00:00",
        "--signal=B:USR1@600",
        "--output=log-%j",
        "--open-mode=append",
        "--dependency=afterok:1:2,afterany:3",
        "--kill-on-invalid-dep=yes",
        "--gres=gpu:8",
        "--exclusive",
        "--requeue",
        "--reservation=r",
    ]


@pytest.mark.parametrize(
    ("nodes", "asked"),
    [
        ({"ask_gpus_by": "gpus-per-node", "gpu_type": "h100"}, ["--gpus-per-node=h100:8"]),
        ({"ask_gpus_by": "gres", "gpu_type": "h100"}, ["--gres=gpu:h100:8"]),
        ({"ask_gpus_by": "nothing"}, []),
    ],
)
def test_how_gpus_are_asked_for(nodes: dict[str, object], asked: list[str]) -> None:
    told = directives(site(nodes={**SITE["nodes"], **nodes}), nodes=1, name="job", log="log")  # type: ignore[dict-item]
    assert [one for one in told if "gpu" in one and "partition" not in one] == asked


def test_an_allocation_is_compared_with_the_file() -> None:
    whole = Allocation("1", nodes=2, gpus=8, cpus=96, partition="gpu", account="me")
    assert mismatches(whole, site(), 2, 86400) == []
    assert mismatches(whole, site(), 1, None) == []  # more than needed, no limit
    assert mismatches(replace(whole, memory_mb=1024), site(), 2, None) == ["1024 MB of memory a node"]
    assert mismatches(replace(whole, memory_mb=0), site(), 2, None) == []
    bare = Allocation("1", nodes=1, gpus=0, cpus=1, partition="cpu", account="me")
    assert mismatches(bare, site(), 2, 3600) == [
        "1 of 2 nodes",
        "0 of 8 GPUs a node",
        "1 of 96 CPUs a node",
        "partition cpu instead of gpu",
        "a time limit of 60 min instead of 1440",
    ]


def test_an_allocation_is_read_from_the_environment() -> None:
    env = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_GPUS": "0,1",
        "SLURM_CPUS_ON_NODE": "4",
    }
    have = Allocation.from_env(env)
    assert have is not None and (have.job, have.nodes, have.gpus, have.cpus) == ("7", 3, 2, 4)
    salloc = Allocation.from_env({"SLURM_JOB_ID": "7", "SLURM_JOB_CPUS_PER_NODE": "96(x2)"})
    assert salloc is not None and salloc.cpus == 96
    assert Allocation.from_env({}) is None


def test_a_jobs_variables_do_not_reach_the_job_it_submits() -> None:
    kept = {"SBATCH_ACCOUNT": "x", "SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "c", "HOME": "/root"}
    job = {"SLURM_JOB_ID": "7", "SBATCH_EXPORT": "NONE", "SBATCH_MEM_BIND": "local", "SRUN_DEBUG": "3"}
    assert outside(kept | job) == kept


def test_a_job_that_slurm_ends_is_not_wanted() -> None:
    """Tasks of an array are told apart by their own numbers; the last one has the array's."""
    found = [{"JobId": "7", "JobState": "RUNNING"}, {"JobId": "8", "JobState": "CANCELLED"}]
    assert [state_of(job, found) for job in ("7", "8", "9")] == ["RUNNING", "CANCELLED", ""]
    assert state_of("7", None) is None


def test_the_end_of_a_job_is_told_by_its_environment() -> None:
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 600)}
    left = time_left("7", env)
    assert left is not None and 590 <= left <= 600


@pytest.mark.parametrize(("stop_before", "grace"), [(60, 120), (180, 120), (900, 840)])
def test_ranks_have_the_time_that_the_cluster_file_gives(stop_before: int, grace: float) -> None:
    assert grace_of(site(slurm={"stop_before": stop_before})) == grace


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("10:30", 630),
        ("2:00:00", 7200),
        ("1-12", 129600),
        ("1-00:00:30", 86430),
        ("UNLIMITED", None),
    ],
)
def test_slurms_times(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


def test_the_step_on_bare_metal() -> None:
    command = step(site(), nodes=2, cpus=96, arguments=["-m", "x"], folders=[Path("/repo"), Path("/run")])
    assert command[0] == "srun" and {"--nodes=2", "--ntasks=2", "--cpus-per-task=96", "--chdir=/repo"} <= {
        *command
    }
    assert command[-3:] == [python(site()), "-m", "x"]


def test_the_step_in_containers() -> None:
    folders = [Path("/repo"), Path("/run")]
    box = {"image": "/i.sqsh", "mounts": ["/data:/data"]}
    command = step(
        site(container={"kind": "pyxis", **box}), nodes=1, cpus=1, arguments=["-m", "x"], folders=folders
    )
    assert "--container-image=/i.sqsh" in command and command[-3:] == ["python3", "-m", "x"]
    assert "--container-mounts=/repo:/repo,/run:/run,/data:/data" in command
    command = step(
        site(container={"kind": "apptainer", **box}), nodes=1, cpus=1, arguments=["-m", "x"], folders=folders
    )
    inner = command[command.index("apptainer") :]
    assert inner[:3] == ["apptainer", "exec", "--nv"] and "--bind=/data:/data" in inner
    assert inner[-4:] == ["/i.sqsh", "python3", "-m", "x"]


def test_modules_are_loaded_before_the_command_runs(tmp_path: Path) -> None:
    """A bash whose `module` only says its arguments stands for a site's."""
    (tmp_path / ".bash_profile").write_text('module() { echo "loaded $@"; }\n')
    loads = site(environment={"modules": ["gcc", "a b"], "python": "echo"})
    command = step(loads, nodes=1, cpus=1, arguments=["ran", "$x"], folders=[tmp_path])
    shell = command[command.index("bash") :]
    done = subprocess.run(
        shell, capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    )
    assert done.stdout.splitlines() == ["loaded load gcc a b", "ran $x"]


def test_nccl_settings_are_those_of_the_file_alone() -> None:
    assert environment(site()) == {}
    told = environment(site(network={"interface": "ib0", "nccl": {"NCCL_IB_HCA": "mlx5"}}))
    assert told == {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0", "NCCL_IB_HCA": "mlx5"}


HEAD = 'description = "x"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD + "[nodes]\nrank = 8", "unknown key 'rank' in [nodes]; did you mean 'ranks'?"),
        (HEAD + 'qos = "a"\n[nodes]\nranks = 1', "unknown key 'qos'; it belongs into [slurm]"),
        (HEAD + "[nodes]\nranks = 9\ngpus = 8", "a rank takes a GPU of its own"),
        (HEAD + "[nodes]\nranks = 1\nexclusive = false", "cpus is missing"),
        (HEAD + '[nodes]\nranks = 1\n[slurm]\ntime = "1h"', "slurm.time: '1h': say [DAYS-]HH:MM:SS"),
        (HEAD + '[nodes]\nranks = 1\n[slurm]\ntime = "00:05:00"', "stop_before = 600: not before"),
        (HEAD + '[nodes]\nranks = 1\n[slurm]\nextra = ["gpu"]', "an argument of sbatch"),
        (HEAD + '[nodes]\nranks = 1\n[container]\nkind = "docker"', "'none', 'pyxis' or 'apptainer'"),
        (HEAD + '[nodes]\nranks = 1\n[container]\nkind = "pyxis"', "kind and image go together"),
        (HEAD + '[nodes]\nranks = 1\n[network]\nnccl = { IB_HCA = "x" }', "'IB_HCA' is no variable of NCCL"),
        (HEAD + "nodes = 3", "nodes: should be a"),
        ("[nodes]\nranks = 1", "description is missing"),
        ("x", "cannot read the cluster file"),
    ],
)
def test_what_a_cluster_file_may_not_say(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UserError) as error:
        load_cluster(str(tmp_path / "bad.toml"))
    assert complaint in str(error.value) and "bad.toml" in str(error.value)


def test_which_clusters_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"no cluster 'h100'; clusters: {', '.join(cluster_names())}"):
        load_cluster("h100")
    monkeypatch.delenv("R1MEGA_CLUSTER", raising=False)
    with pytest.raises(UserError, match="say --cluster NAME or set R1MEGA_CLUSTER"):
        load_cluster(None)
    monkeypatch.setenv("R1MEGA_CLUSTER", "test")
    assert load_cluster(None).name == "test"


def test_scratch_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT", "p")
    assert site(scratch="/scratch/$PROJECT").scratch_folder() == Path("/scratch/p")
    with pytest.raises(UserError, match="a variable in it is not set"):
        site(scratch="/scratch/$NO_SUCH_VARIABLE").scratch_folder()


def test_without_sbatch_it_is_said_where_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="no sbatch on this machine"):
        require()
