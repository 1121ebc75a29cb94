"""The scripts under slurm/: what they ask Slurm for, on a cluster that has it; and what they refuse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launch import slurm
from launch.request import ask, parse
from r1mega.config.cluster import load_cluster
from tests.slurm import runs
from tests.slurm.cluster import Cluster

SCRIPTS = sorted(path for path in (runs.ROOT / "slurm").glob("*.sh") if "#SBATCH" in path.read_text())
PAPER = "configs/r1/r1_v3_671b.toml"
NODES = 64  # ours: 512 GPUs for the 671B


def stage_line(script: Path) -> list[str] | None:
    """The script's own arguments of launch.job; None for one that makes no stages."""
    found = re.search(r'^stages (.*) "\$@"$', script.read_text(), re.MULTILINE)
    return shlex.split(found[1]) if found else None


def test_there_are_scripts() -> None:
    assert {"r1_zero.sh", "r1_stage2.sh", "eval.sh"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_slurm_takes_the_header_as_it_stands(cluster: Cluster, script: Path) -> None:
    cluster.ask("sbatch", "--test-only", str(script))


@pytest.mark.parametrize("site", ["h100x8", "h800x8", "a100x8"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_slurm_could_run_the_real_job(cluster: Cluster, script: Path, site: str, tmp_path: Path) -> None:
    """The resources of the job that the script submits; `paper` is a partition of 256 nodes of 8 GPUs."""
    own = stage_line(script)
    if own is None or "--each" in own:
        nodes, array = 1, "" if own is None else "0-7"
        asked = slurm.directives(
            load_cluster(site), nodes=nodes, name=script.stem, log=tmp_path / "%j", array=array
        )
    else:
        words = ["--script", *own, PAPER, "--cluster", site, "--nodes", str(NODES)]
        request = ask(parse(words))
        assert (request.nodes, request.ranks) == (NODES, 8 * NODES)
        asked = slurm.directives(request.cluster, nodes=request.nodes, name=script.stem, log=tmp_path / "%j")
    assert "--gres=gpu:8" in asked
    cluster.ask("sbatch", "--test-only", "--partition=paper", *asked, str(script))


def test_the_same_is_refused_where_there_is_less(cluster: Cluster, tmp_path: Path) -> None:
    """So that the tests above prove something: `main` has four nodes."""
    asked = slurm.directives(load_cluster("h100x8"), nodes=NODES, name="x", log=tmp_path / "%j")
    refused = runs.subprocess.run(
        ["sbatch", "--test-only", *asked, "slurm/r1_stage2.sh"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0 and "not available" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster", "nowhere"], "no cluster 'nowhere'"),
        ([], "which cluster?"),
        (["--cluster", "test", "--stage", "nothing"], "no such stage"),
        (["--cluster", "test", "out=/proc/x"], "cannot write to /proc/x"),
        (["--cluster", "test", "--nodes", "6"], "Slurm cannot run this"),
    ],
    ids=["cluster", "no-cluster", "stage", "unwritable", "too-many-nodes"],
)
def test_mistakes_are_told_before_a_node_is_asked_for(
    cluster: Cluster, tmp_path: Path, words: list[str], said: str
) -> None:
    config = runs.config(tmp_path)
    before = cluster.ask("squeue", "-h")
    done = runs.script(*words, str(config), *([] if "out=" in str(words) else [f"out={tmp_path / 'out'}"]))
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert cluster.ask("squeue", "-h") == before


def test_what_is_done_is_not_submitted(cluster: Cluster, undisturbed: Path) -> None:
    done = runs.script(
        "--cluster", "test", str(runs.config(undisturbed.parent)), f"out={undisturbed}", *runs.LENGTH
    )
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr


def test_a_missing_input_is_told_with_the_command_that_makes_it(cluster: Cluster, tmp_path: Path) -> None:
    words = ["--cluster", "test", "configs/toy/r1.toml", "with_upstream=false", f"out={tmp_path / 'out'}"]
    done = runs.script(*words, name="r1_stage2.sh")
    assert done.returncode == 2
    assert "needs what 'cold_start' makes, which is not done: make it with" in done.stderr
    assert "--stage cold_start" in done.stderr
