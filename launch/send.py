"""`launch.submit`: runs on a cluster or on this machine, from Python; `python -m launch` for a shell.

submitit carries the task to where it runs and brings the result back. What a job asks Slurm for comes from
the cluster file, in the same words as for slurm/*.sh; what runs in it is the same, too.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from launch import slurm
from launch.checks import refuse_missing, refuse_unwritable
from launch.handle import Executor, Handle
from launch.records import record, rivals
from launch.request import Request
from launch.submission import SCRIPT, Batch, Config, plan
from launch.submitted import Task
from r1mega.types import UserError

SIGNAL = "USR2"  # submitit's; NCCL and faulthandler use USR1
FOLDER = "submitit"  # in the run's folder: what is pickled, and logs
LONG = 60 * 24 * 365  # minutes: a local job has no limit
OWN = ("job-name", "output", "time", "open-mode")  # sbatch's, which submitit has words of its own for
GRACE = 120  # seconds in which the ranks of a local job may keep a checkpoint


def submit(
    config: Config | Sequence[Config],
    cluster: str | None = None,
    *,
    stages: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    sweep: Sequence[str | Sequence[str]] = (),
    nodes: int | None = None,
    after: Sequence[str | Handle] = (),
    each_stage: bool = False,
    debug: bool = False,
) -> list[Handle]:
    """Submit a run, or several as an array, and return a handle for each job, in order.

    config:     a TOML file, or several, such as distillation targets: an array over them.
    cluster:    a name in configs/clusters, or a file's path; None: $R1MEGA_CLUSTER. `local`: a process here.
    stages:     only these, in the config's order; default: all.
    overrides:  as on the command line, "train.lr=1e-4".
    sweep:      one run for each element, an override or several, in folders of their own.
    nodes:      so many, full of ranks, instead of what the config's nproc needs.
    after:      jobs that have to end well first (afterok). Slurm only.
    each_stage: a job for each stage, each after the one before, instead of one for all. Slurm only.
    debug:      in this very process, when result() is called (submitit's DebugExecutor).

    Nothing is submitted unless Slurm takes all of it. Raises UserError for a mistake in the config or the
    cluster file, for more than the partition has, and where there is no sbatch.
    """
    configs = [config] if isinstance(config, str | Path) else list(config)
    batches = plan(
        configs, cluster, stages=stages, overrides=overrides, sweep=sweep, nodes=nodes, each_stage=each_stage
    )
    kind = executor_of(batches[0], debug)
    earlier = [one.id if isinstance(one, Handle) else str(one) for one in after]
    refuse(batches, kind, earlier)
    handles: list[Handle] = []
    before: list[str] = []
    for batch in batches:
        jobs = _send(batch, kind, follow(batch, earlier, before))
        before = sorted({str(job.job_id).split("_")[0] for job in jobs})
        handles += [Handle(one, kind, job) for one, job in zip(batch.requests, jobs, strict=True)]
        if kind == "slurm" and len(jobs) == 1:  # one of an array has no number of its own yet
            _write_down(handles[-1])
    return handles


def executor_of(batch: Batch, debug: bool = False) -> Executor:
    if debug:
        return "debug"
    return "slurm" if batch.requests[0].cluster.scheduler == "slurm" else "local"


def refuse(batches: Sequence[Batch], kind: Executor, after: Sequence[str] = ()) -> None:
    """Raise UserError for what could never start, or would fail at once."""
    site = batches[0].requests[0].cluster
    if kind != "slurm":
        if after or len(batches) > 1:
            raise UserError("jobs that wait for others need Slurm; here one job makes all stages in order")
        if batches[0].nodes > 1:
            raise UserError(f"debug runs on this machine, not on {batches[0].nodes} nodes: say cluster local")
    elif site.slurm.seconds is None:
        raise UserError(f"cluster {site.name}: say time in its [slurm]: submitit has to know the limit")
    else:
        slurm.require()
    for request in batches[0].requests:
        refuse_unwritable(request.run)
        runs = [one for batch in batches for one in batch.requests if one.run == request.run]
        refuse_missing(request.config, [name for one in runs for name in one.stages], _maker(request))
        if kind == "slurm" and (found := rivals(request.run)):
            raise UserError(f"job {found[0].id} works on {request.run}, or will: wait for it, or scancel it")
    if kind == "slurm":
        for batch in batches:
            parameters(batch)
            slurm.test_only(arguments(batch))


def _maker(request: Request) -> Callable[[str], str]:
    """stage -> the command that makes it."""
    return lambda stage: f"python -m launch {request.file} --cluster {request.site} --stage {stage}"


def arguments(batch: Batch, dependency: Sequence[str] = ()) -> list[str]:
    """What sbatch is asked for, by this and by slurm/*.sh alike; the signal is submitit's."""
    first = batch.requests[0]
    log = first.run / FOLDER / "%j_0_log.out"
    asked = slurm.directives(
        first.cluster, nodes=batch.nodes, name=batch.name, log=log, dependency=dependency
    )
    own = f"--signal=B:{SIGNAL}@{first.cluster.slurm.stop_before}"
    return [own if one.startswith("--signal=") else one for one in asked]


def parameters(batch: Batch, dependency: Sequence[str] = ()) -> dict[str, Any]:
    """The same, for submitit's SlurmExecutor.

    The task runs in the batch step and starts the nodes itself, as in slurm/*.sh. So nodes and all else go by
    submitit's additional parameters: it would otherwise wait for a result from each node.
    """
    site = batch.requests[0].cluster
    more: dict[str, Any] = {}
    for argument in arguments(batch, dependency):
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise UserError(
                f"cluster {site.name}: extra = '{argument}': submitit needs the long form, --key=value"
            )
        if key not in OWN:
            more[key] = value if equals else True
    return {
        "job_name": batch.name,
        "time": math.ceil((site.slurm.seconds or 0) / 60),
        "use_srun": False,
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": more,
    }


def follow(batch: Batch, after: Sequence[str], before: Sequence[str]) -> list[str]:
    """The dependency of a batch. In an array each job waits for the one of its own run (aftercorr)."""
    if batch.follows:
        word = "aftercorr" if len(batch.requests) > 1 else "afterok"
        return [f"{word}:{':'.join(before)}"]
    return [f"afterok:{':'.join(after)}"] if after else []


def task(request: Request, kind: Executor) -> Task:
    """What the job does: in Slurm the same as slurm/*.sh, here the same as `r1mega run`."""
    command = [sys.executable, *request.rank_arguments]
    if kind == "slurm":
        command = [
            sys.executable,
            "-m",
            "launch.job",
            "--here",
            "--script",
            SCRIPT,
            *request.script_arguments,
        ]
    return Task(
        command=tuple(command),
        folder=Path.cwd(),
        out=request.run,
        variables={} if kind == "slurm" else dict(request.cluster.environment.variables),
        gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _send(batch: Batch, kind: Executor, dependency: Sequence[str]) -> list[Any]:
    """submitit's jobs, one a request."""
    tasks = [task(request, kind) for request in batch.requests]
    with outside_of_jobs() if kind == "slurm" else nullcontext():
        jobs: list[Any] = _executor(batch, kind, dependency).submit_array(tasks)
    return jobs


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Within, this process's environment is what `slurm.outside` leaves of it: submitit's sbatch takes it."""
    kept = slurm.outside()
    hidden = {name: value for name, value in os.environ.items() if name not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _executor(batch: Batch, kind: Executor, dependency: Sequence[str]) -> Any:
    import submitit

    first = batch.requests[0]
    folder, requeues = first.run / FOLDER, first.cluster.slurm.requeues
    if kind == "debug":
        return submitit.DebugExecutor(folder)
    if kind == "local":
        local = submitit.LocalExecutor(folder, max_num_timeout=requeues)
        local.update_parameters(timeout_min=LONG, signal_delay_s=GRACE, stderr_to_stdout=True)
        return local
    # exec: the signal goes to the batch shell, which would not pass it on.
    python = f"exec {shlex.quote(sys.executable)}"
    executor = submitit.SlurmExecutor(folder, max_num_timeout=requeues, python=python)
    executor.update_parameters(**parameters(batch, dependency))
    return executor


def _write_down(handle: Handle) -> None:
    """For `r1mega status`, and for who submits the next one."""
    request = handle.request
    facts = {"stages": list(request.stages), "nodes": request.nodes, "ranks": request.ranks}
    record(
        request.run, handle.id, "submitted", cluster=request.site, script=SCRIPT, log=str(handle.log), **facts
    )
