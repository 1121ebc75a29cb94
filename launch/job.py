"""What every script under slurm/ runs: as a batch step, on a login node, or on a machine without Slurm.

In an allocation that holds what the cluster file asks for, the stages are made there (`batch`). In a smaller
one, as after a bare `sbatch slurm/r1_stage2.sh`, the real job is submitted and waited for (`resubmit`).
Outside of Slurm it is submitted, or, with a cluster file that has no scheduler, the stages are made here.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from launch import slurm
from launch.batch import work
from launch.checks import left, refuse_missing, refuse_unwritable
from launch.local import Outcome
from launch.records import ended
from launch.request import Request, ask, parse
from launch.resubmit import SUBMITTED, check, stand_for, submit
from launch.slurm import Allocation, mismatches
from launch.targets import mine, run_array
from r1mega.config.cluster import load_cluster
from r1mega.types import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `r1mega run`: 0 done, 1 failed, 2 a mistake of the user's, 130 stopped."""
    options = parse(argv)
    try:
        outcome = run(options)
    except UserError as error:
        outcome = Outcome(2, f"error: {error}")
    sys.stdout.flush()
    for text in filter(None, (outcome.details, outcome.message)):
        print(text, file=sys.stderr)
    return outcome.code


def run(options: argparse.Namespace) -> Outcome:
    have = Allocation.from_env()
    each = options.each and options.stage is None
    task = "SLURM_ARRAY_TASK_ID" in os.environ
    if each and not task and load_cluster(options.cluster).scheduler == "slurm":
        return run_array(options)
    request = mine(options) if each and task else ask(options)
    if request.cluster.scheduler == "none":
        return run_here(request)
    if not left(request.config, request.stages):
        print(f"{', '.join(request.stages)} of {request.run}: done, nothing to do")
        return Outcome(0)
    if have is None:
        slurm.require()
        check(request)
        job = submit(request)
        where = f"{request.nodes} nodes of {request.cluster.name}"
        print(
            f"submitted job {job}: {', '.join(request.asked)} on {where}\n"
            f"  r1mega status {request.run}\n  tail -f {request.run / 'jobs' / f'{job}.log'}"
        )
        return Outcome(0)
    real = SUBMITTED in os.environ or options.here
    if not real and (short := mismatches(have, request.cluster, request.nodes, slurm.time_limit(have.job))):
        return stand_for(request, have, short)
    try:
        refuse_few(request, have)
        refuse_unwritable(request.run)
        refuse_missing(request.config, request.stages, request.command)
        return work(request, have)
    except UserError as error:
        with suppress(OSError):  # it may be the run's folder that is wrong
            ended(request.run, have.job, "failed", 2, f"error: {error}")
        raise


def refuse_few(request: Request, have: Allocation) -> None:
    """Raises UserError where the ranks do not fit into the allocation."""
    if have.nodes < request.nodes:
        per_node = request.cluster.nodes.ranks
        raise UserError(
            f"{request.ranks} ranks need {request.nodes} nodes of {per_node}; this allocation has "
            f"{have.nodes}, so nproc can be {have.nodes * per_node}"
        )


def run_here(request: Request) -> Outcome:
    """Become `r1mega run` on this machine."""
    cluster = request.cluster
    if request.ranks > cluster.nodes.ranks:
        raise UserError(
            f"{request.ranks} ranks; {cluster.name} is one machine with {cluster.nodes.ranks}: say nproc=N, "
            "or --cluster NAME for a cluster with Slurm"
        )
    refuse_missing(request.config, request.stages, request.command)
    command = [sys.executable, *request.rank_arguments]
    print(shlex.join(["r1mega", *request.rank_arguments[2:]]), flush=True)
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
