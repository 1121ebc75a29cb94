"""On the cluster: the doctor looks at nodes, a rank hangs, and what status and logs say meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_hang import processes
from tests.slurm import runs
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slow


def r1mega(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "r1mega.cli", *words]
    return subprocess.run(
        command, cwd=runs.ROOT, capture_output=True, text=True, timeout=2 * runs.PATIENCE, check=False
    )


def test_the_doctor_finds_two_nodes_fit(cluster: Cluster, tmp_path: Path) -> None:
    site = runs.site(tmp_path)
    site.write_text(f'scratch = "{tmp_path}"\n' + site.read_text())
    # Both nodes are one machine's cores: how quick they are says nothing.
    done = r1mega("doctor", "--cluster", str(site), "--nodes", "2", "--ratio", "0.01", "--json")
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"], found["problems"] if "problems" in found else found["rows"]
    assert len(found["hosts"]) == 2 and found["silent"] == []
    text = {(row["host"], row["check"]): row["text"] for row in found["rows"]}
    for host in found["hosts"]:
        assert "over gloo" in text[host, "links"] and "nats apart" in text[host, "sync"]
        assert text[host, "train"].startswith("dp2: loss")


def test_a_rank_that_hangs_on_another_node_ends_the_job_with_its_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    site = str(runs.site(tmp_path, hang_minutes="1.0"))
    long = "stages.base.train.steps=5000"
    job = runs.submitted(tmp_path, out, long, "stages.base.eval.every=0", cluster=site)
    runs.wait_for_step(out, 10)
    shown = r1mega("status", str(out)).stdout
    assert "works: 2 ranks on " in shown and f"job {job.id}  running (Slurm: RUNNING)" in shown
    os.kill(processes(out)[1], signal.SIGSTOP)
    assert runs.wait_for_end(cluster, job.id) == "FAILED"
    ended = runs.newest(out)
    assert ended.state == "failed"
    assert re.search(r"rank 1 of 2 on \S+ hangs at 'base: \S.*', stopped by a signal", ended.message)
    assert processes(out) == {}
    assert (out / "jobs" / job.id / "stacks-0.txt").exists()
    lines = r1mega("logs", str(out), "--rank", "0").stdout
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3}  trainer-0 \| base  \d+/5000 ", lines, re.MULTILINE)
    assert "nobody works on it" in r1mega("status", str(out)).stdout
