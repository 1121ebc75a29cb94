"""The test bed itself: real nodes with addresses of their own, GPUs to ask for, and an end that is clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm import network
from tests.slurm.cluster import Cluster
from tests.slurm.daemons import wait_until
from tests.slurm.packages import ASKED, Unavailable, allowed

# What a rank does: meet the others at the address of the first node, and count.
RANK = """
import os, socket
import torch, torch.distributed as dist
rank, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
head = "tcp://%s:29500" % os.environ["HEAD"]
dist.init_process_group("gloo", init_method=head, rank=rank, world_size=world)
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(socket.gethostname(), int(total), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def batch(cluster: Cluster, folder: Path, text: str, *options: str) -> str:
    """What a job prints; it has to end well."""
    (folder / "job.sh").write_text(f"#!/bin/bash\nset -euo pipefail\n{text}\n")
    where = [f"--output={folder / 'out'}", f"--chdir={folder}"]
    try:
        cluster.ask("sbatch", "--wait", *where, *options, str(folder / "job.sh"), seconds=120)
    except subprocess.CalledProcessError:
        pytest.fail((folder / "out").read_text())
    return (folder / "out").read_text()


def test_nodes_have_names_addresses_and_gpus_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    asked = "echo $(hostname) $(hostname -I) $CUDA_VISIBLE_DEVICES"
    said = batch(cluster, tmp_path, f"srun bash -c '{asked}'", "-N2", "--ntasks-per-node=1", "--gres=gpu:8")
    assert sorted(said.splitlines()) == [
        f"{network.node(number)} {network.address(number)} 0,1,2,3,4,5,6,7" for number in (1, 2)
    ]


def test_ranks_on_two_nodes_meet(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    head = 'export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) GLOO_SOCKET_IFNAME=eth0'
    said = batch(cluster, tmp_path, f"{head}\nsrun {sys.executable} rank.py", "-N2", "--ntasks-per-node=1")
    words = [line.split() for line in said.splitlines() if line.startswith("tnode")]
    assert sorted(words) == [[network.node(1), "3"], [network.node(2), "3"]]


def test_a_node_cannot_be_reached_at_the_address_of_another(cluster: Cluster, tmp_path: Path) -> None:
    """Were all nodes one, a rendezvous at the wrong place would work here and nowhere else."""
    there = f"timeout 20 python3 -m http.server 8123 --bind {network.address(2)} >/dev/null 2>&1"
    knock = "import socket, sys; socket.create_connection((sys.argv[1], 8123), 5)"
    text = f"""
srun -N1 -n1 -w {network.node(2)} --overlap bash -c '{there}' &
for i in $(seq 50); do srun -N1 -n1 -w {network.node(1)} --overlap {sys.executable} -c '{knock}' {network.node(2)} 2>/dev/null && break; sleep 0.2; done
srun -N1 -n1 -w {network.node(1)} --overlap {sys.executable} -c '{knock}' {network.node(2)} && echo reached
srun -N1 -n1 -w {network.node(1)} --overlap {sys.executable} -c '{knock}' {network.node(1)} 2>/dev/null || echo refused
kill %1; wait || true"""  # noqa: E501
    assert batch(cluster, tmp_path, text, "-N2").split()[:2] == ["reached", "refused"]


def test_accounting_knows_how_a_job_ended(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.ask("sbatch", "--parsable", "--wrap=sleep 60", f"--output={tmp_path / 'out'}").strip()
    cluster.ask("scancel", job)
    told = lambda: cluster.ask("sacct", "-n", "-X", "-j", job, "-o", "State%20")  # noqa: E731
    wait_until(lambda: "CANCELLED" in told(), 30, "sacct's word of it")


def test_nobody_gets_a_cluster_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv(ASKED, raising=False)
    with pytest.raises(Unavailable, match=f"set {ASKED}=1"):
        allowed()
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv(ASKED, "0")
    with pytest.raises(Unavailable, match=f"{ASKED}=0"):
        allowed()
