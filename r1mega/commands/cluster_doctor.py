"""`r1mega doctor --cluster NAME`: the first hour on a new cluster in one command."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import slurm
from launch.examine import here, on_nodes
from launch.local import INTERRUPTED, Outcome
from launch.resubmit import over
from launch.slurm import Allocation
from launch.step import python
from r1mega.config.cluster import Cluster, load_cluster
from r1mega.doctor.cluster_report import describe, to_json
from r1mega.doctor.judge import RATIO, Finding, judge
from r1mega.doctor.rows import read, rows_file
from r1mega.types import UserError

TIME = "00:45:00"
HELP = """\
Submits one short job over some nodes (in an allocation: runs there) and tells, for each node, what it has
and how well it works: GPUs and driver, packages against the pins, the disk where runs are kept, speed of the
device, clock, network, Transformer Engine and apex against plain torch, two training steps, one weight sync
into vLLM. Slow and broken nodes are named. The exit code is 0 when all are fit, else 1.
"""


def main(argv: Sequence[str]) -> Outcome:
    options = _parser().parse_args(argv)
    if options.nodes < 1 or not 0 < options.ratio < 1:
        raise UserError("--nodes is 1 or more, --ratio between 0 and 1")
    cluster = load_cluster(options.cluster)
    ranks = options.ranks or (cluster.nodes.ranks if cluster.scheduler == "slurm" else _ranks_here())
    folder = _folder(cluster)
    have = Allocation.from_env()
    print(f"what the nodes say goes to {folder}", file=sys.stderr, flush=True)
    if cluster.scheduler == "none":
        if options.nodes > 1:
            raise UserError(f"--nodes {options.nodes}: {cluster.name} is one machine")
        ended = here(cluster, ranks, folder)
    elif have is not None:
        ended = on_nodes(cluster, have, options.nodes, ranks, folder)
    else:
        ended = submit(cluster, options.cluster, options.nodes, ranks, folder)
    if ended.code == INTERRUPTED:
        return ended
    finding = judge(
        {rank: read(rows_file(folder, rank)) for rank in range(options.nodes * ranks)}, options.ratio
    )
    print(to_json(finding) if options.json else describe(finding))
    return Outcome(0 if finding.ok else 1, _why(ended, finding))


def _why(ended: Outcome, finding: Finding) -> str:
    """What the job itself said, where the nodes said nothing."""
    return "" if finding.rows else ended.message


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "r1mega doctor --cluster", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cluster", metavar="NAME", required=True, help="a file in configs/clusters, or a path"
    )
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="how many nodes to look at (1)")
    parser.add_argument("--ranks", metavar="R", type=int, help="ranks on each; default: the cluster file's")
    parser.add_argument(
        "--ratio",
        metavar="F",
        type=float,
        default=RATIO,
        help=f"slow is what is below so much of the median ({RATIO})",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return parser


def _ranks_here() -> int:
    """A rank a GPU; two on a machine without."""
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
        return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) or 2
    return 2


def _folder(cluster: Cluster) -> Path:
    """A new one, where runs are kept: the doctor measures that disk. Raises UserError where it cannot be."""
    home = cluster.scratch_folder() or Path("runs")
    folder = home / f"doctor-{cluster.name}" / time.strftime("%Y%m%d-%H%M%S")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {home}: {error.strerror}; scratch in the cluster file says where runs are kept"
        ) from None
    return folder


def submit(cluster: Cluster, name: str, nodes: int, ranks: int, folder: Path) -> Outcome:
    """A job of its own; returns when it has ended. Ctrl-C cancels it."""
    slurm.require()
    log = folder.absolute() / "job.log"
    arguments = slurm.directives(cluster, nodes=nodes, name="r1mega-doctor", log=log)
    words = [python(cluster) if cluster.container.kind == "none" else sys.executable, "-m", "launch.examine"]
    words += [
        "--cluster",
        name,
        "--nodes",
        str(nodes),
        "--ranks",
        str(ranks),
        "--folder",
        str(folder.absolute()),
    ]
    job = slurm.sbatch([*arguments, f"--time={TIME}", "--no-requeue", f"--wrap=exec {shlex.join(words)}"])
    print(f"job {job} on {nodes} nodes of {cluster.name}; its output: {log}", file=sys.stderr, flush=True)
    try:
        return _wait(job)
    except KeyboardInterrupt:
        slurm.scancel(job)
        return Outcome(INTERRUPTED, f"interrupted: job {job} is cancelled")


def _wait(job: str) -> Outcome:
    told = ""
    while True:
        found = slurm.show(job)
        if found is not None and (outcome := over(job, found, None)) is not None:
            return outcome
        state = found[0].get("JobState", "") if found else told
        if state != told:
            told = state
            print(f"job {job}: {state}", file=sys.stderr, flush=True)
        time.sleep(2.0)
