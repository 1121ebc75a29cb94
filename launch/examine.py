"""The cluster's doctor on the nodes: one supervisor a node, as for a run, whose ranks are the doctor's.

    python -m launch.examine --cluster NAME --nodes N --ranks R --folder DIR

Runs in an allocation, where `r1mega doctor --cluster` has put it, or a person; or on this machine, with a
cluster file that has no scheduler. It leaves rows-RANK.jsonl in the folder.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import slurm
from launch.address import address_for
from launch.batch import Asked, wait
from launch.control import TOKEN, Head
from launch.local import Outcome, launch
from launch.slurm import Allocation
from launch.step import environment, step
from r1mega.config.cluster import Cluster, load_cluster
from r1mega.types import UserError

GPUS = "R1MEGA_DOCTOR_GPUS"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.examine", description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True, help="on each node")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        cluster = load_cluster(options.cluster)
        have = Allocation.from_env()
        if have is None:
            outcome = here(cluster, options.ranks, options.folder)
        else:
            outcome = on_nodes(cluster, have, options.nodes, options.ranks, options.folder)
    except UserError as error:
        outcome = Outcome(2, f"error: {error}")
    if outcome.message:
        print(outcome.message, file=sys.stderr)
    return outcome.code


def rank_arguments(folder: Path, scratch: Path) -> list[str]:
    """Of python, for each rank."""
    return ["-m", "r1mega.doctor.ranks", str(folder.absolute()), str(scratch.absolute())]


def here(cluster: Cluster, ranks: int, folder: Path) -> Outcome:
    """On this machine, without Slurm."""
    os.environ |= {GPUS: str(cluster.nodes.gpus), **environment(cluster)}
    return launch(ranks, [sys.executable, *rank_arguments(folder, folder)])


def on_nodes(cluster: Cluster, have: Allocation, nodes: int, ranks: int, folder: Path) -> Outcome:
    """In an allocation: one process a node. Raises UserError where it has too few nodes."""
    if have.nodes < nodes:
        raise UserError(f"--nodes {nodes}: this allocation has {have.nodes}")
    hosts = slurm.hosts_of(have.hosts)[:nodes]
    asked = Asked()
    head = Head(nodes, secrets.token_hex(16))
    address = address_for(hosts[1:], cluster.network.interface)
    # The doctor looks for missing GPUs itself: a node without them has a row, not a refusal.
    arguments = ["-m", "launch.node", "--head", f"{address}:{head.port}", "--ranks", str(nodes * ranks)]
    arguments += ["--ranks-per-node", str(ranks), "--folder", str(folder.absolute()), "--"]
    command = step(
        cluster,
        nodes=nodes,
        cpus=cluster.nodes.cpus or have.cpus,
        arguments=[*arguments, *rank_arguments(folder, folder)],
        folders=[Path.cwd(), folder.absolute()],
    )
    env = {**os.environ, TOKEN: head.token, GPUS: str(cluster.nodes.gpus), **environment(cluster)}
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    wait(process, head, asked, lambda: None)
    head.close()
    return Outcome(process.returncode or 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
