"""The cluster's doctor on two ranks over gloo, each a node of its own as far as it knows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from r1mega.doctor.cluster_report import describe
from r1mega.doctor.judge import judge
from r1mega.doctor.rows import read, rows_file

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys
from r1mega.doctor import ranks
from r1mega.doctor.checks import CHECKS
folder, *names = sys.argv[1:]
ranks.main([folder, folder], [check for check in CHECKS if check.name in names])
"""


def examine(folder: Path, *names: str, nodes: int = 2) -> dict[int, list]:
    """The rows of each node. They meet at a store that rank 0 of each check holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(nodes):
        env = {"RANK": rank, "WORLD_SIZE": nodes, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        env |= {"MASTER_ADDR": "127.0.0.1", "SLURMD_NODENAME": f"n{rank}", "OMP_NUM_THREADS": 1}
        env |= {"PYTHONPATH": ROOT}
        command = [sys.executable, "-c", CODE, str(folder), *names]
        running.append(subprocess.Popen(command, env={**os.environ, **{k: str(v) for k, v in env.items()}}))
    for process in running:
        assert process.wait(600) == 0
    return {rank: read(rows_file(folder, rank)) for rank in range(nodes)}


def test_links_clocks_and_the_sum_over_all_ranks(tmp_path: Path) -> None:
    rows = examine(tmp_path, "clock", "all-reduce", "links")
    for rank, theirs in rows.items():
        found = {row.check: row for row in theirs}
        assert list(found) == ["clock", "all-reduce", "links"], (tmp_path / f"output-{rank}.txt").read_text()
        assert {row.host for row in theirs} == {f"n{rank}"} and {row.state for row in theirs} == {"ok"}
        assert abs(float(found["clock"].cell.removesuffix(" ms"))) < 100.0  # one machine, one clock
        assert found["all-reduce"].figure > 0 and found["links"].figure > 0
        assert "over gloo, 2 ranks, 8 MiB" in found["all-reduce"].text
        assert f"least {found['links'].figure:.2f} with node {1 - rank}" in found["links"].text


@pytest.mark.slow
def test_two_steps_of_training_and_a_weight_sync_on_both_nodes(tmp_path: Path) -> None:
    rows = examine(tmp_path, "machine", "disk", "compute", "train", "sync")
    found = judge(rows, ratio=0.01)
    assert found.ok, describe(found)
    assert [row.check for row in rows[1]] == ["cpu", "gpus", "disk", "compute", "train", "sync"]
    assert rows[0][4].text.startswith("dp2: loss 5.") and "nats apart" in rows[1][5].text
