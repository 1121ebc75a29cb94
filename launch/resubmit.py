"""Submits the job that a cluster file asks for, and stands for it where a smaller one was asked for first."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch import slurm
from launch.batch import Asked
from launch.checks import refuse_missing, refuse_unwritable
from launch.local import INTERRUPTED, Outcome
from launch.records import record, rivals
from launch.request import Request
from launch.slurm import Allocation
from r1mega.report.jobs import read_jobs
from r1mega.types import UserError

SUBMITTED = "R1MEGA_SUBMITTED"
"""Set in a job that was submitted from here, so that it is not submitted once more; to the job that did."""
OFTEN = 10.0  # seconds between two looks at a job
CLOSE = 120  # seconds before its time limit at which a waiting job is signalled, see the scripts' headers


def check(request: Request, mine: Sequence[str] = (), *, inputs: bool = True) -> None:
    """Raises UserError for whatever would end the job after it was queued for days.

    mine: jobs that may live beside it. inputs: whether what the stages need must exist already.
    """
    refuse_unwritable(request.run)
    if inputs:
        refuse_missing(request.config, request.stages, request.command)
    if others := rivals(request.run, mine):
        names = ", ".join(f"{job.id} ({job.script}, {job.state})" for job in others)
        raise UserError(
            f"{request.run} has jobs that are not over: {names}; wait for them, or scancel "
            f"{' '.join(job.id for job in others)}"
        )


def submit(request: Request, dependency: Sequence[str] = (), by: str = "") -> str:
    """Submit the job and return its number. by: the job that waits for it, if any."""
    slurm.require()
    name = f"{Path(request.script).stem}-{request.config.name}"
    log = request.run / "jobs" / "%j.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = slurm.directives(
        request.cluster, nodes=request.nodes, name=name, log=log.absolute(), dependency=dependency
    )
    command = ["bash", f"slurm/{request.script}", *request.script_arguments]
    job = slurm.sbatch(arguments, command, extra={SUBMITTED: by or "person"})
    record(
        request.run,
        job,
        "submitted",
        cluster=request.cluster.name,
        script=request.script,
        stages=request.stages,
        nodes=request.nodes,
        ranks=request.ranks,
        log=str(request.run / "jobs" / f"{job}.log"),
        by=by,
    )
    return job


def stand_for(request: Request, have: Allocation, short: Sequence[str]) -> Outcome:
    """Submit the real job from within a job that is too small, wait for it, and end as it does.

    What this job is sent is passed on: scancel ends the real one; USR1 makes it keep a checkpoint and queue
    itself again. When this job's own time is up, it queues itself again and takes up the wait; so it does
    when Slurm requeues it.
    """
    asked = Asked()
    job = known(request, have)
    if job is None:
        check(request)
        job = submit(request, by=have.job)
        print(f"this allocation has {', '.join(short)}: submitted job {job}, waiting for it", flush=True)
    else:
        print(f"waiting for job {job} again", flush=True)
    print(f"its output: {request.run / 'jobs' / f'{job}.log'}", flush=True)
    return follow(job, have, asked, request.run)


def known(request: Request, have: Allocation) -> str | None:
    """The job that this one submitted before it was requeued."""
    mine = [job.id for job in read_jobs(request.run) if job.by == have.job]
    return mine[-1] if mine and have.restarts else None


def follow(job: str, have: Allocation, asked: Asked, run: Path | None, *, come_back: bool = True) -> Outcome:
    """Wait for a job and end as it does. run: whose records tell more than Slurm does.

    come_back: when this job's own time is up it queues itself again to wait on; else it ends.
    """
    pause = 1.0
    looked = 0.0
    seen: dict[str, Mapping[str, str]] = {}
    while True:
        if asked.by is not None:
            number, asked.by = asked.by, None
            # One that does not come back to its wait would, requeued, submit the real job once more.
            mine = number == signal.SIGTERM and (not come_back or is_cancelled(have))
            if mine or number == signal.SIGINT:
                slurm.scancel(job)
                return Outcome(INTERRUPTED, f"interrupted: job {job} is cancelled, too")
            if number == signal.SIGTERM:  # preempted, or out of time
                print(f"Slurm ends this job, job {job} goes on", file=sys.stderr, flush=True)
                continue
            left = slurm.time_left(have.job)
            if left is not None and left <= CLOSE + 60:
                return again(have, job) if come_back else Outcome(0, f"my own time is up; job {job} goes on")
            slurm.scancel(job, "--batch", "--signal=USR1")
        if time.monotonic() >= looked + pause:
            found = slurm.show(job)
            if found is not None and (outcome := over(job, remember(seen, found), run)) is not None:
                return outcome
            looked, pause = time.monotonic(), min(OFTEN, pause * 1.5)
        time.sleep(0.2)


def is_cancelled(have: Allocation) -> bool:
    return cancelled(have.job, slurm.show(have.job) or [], have.restarts)


def cancelled(job: str, found: Sequence[Mapping[str, str]], restarts: int) -> bool:
    """Whether somebody has cancelled a job, from what Slurm shows; preemption sends the same signal. Pure.

    restarts: of its running attempt. While its nodes are being cleared a cancelled job is COMPLETING; so is
    one that is requeued, which counts one restart more, and one whose time is up.
    """
    shown: Mapping[str, str] = next((one for one in found if one.get("JobId") == job), {})
    if shown.get("JobState") != "COMPLETING":
        return shown.get("JobState") == "CANCELLED"
    limit, ran = (slurm.seconds_of(shown.get(name, "")) for name in ("TimeLimit", "RunTime"))
    out_of_time = limit is not None and ran is not None and ran >= limit
    return shown.get("Restarts") == str(restarts) and not out_of_time


def remember(
    seen: dict[str, Mapping[str, str]], found: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """The newest that is known of each task of an array: Slurm forgets those that ended some minutes ago.

    seen: JobId -> what was shown, which this adds to. [] where Slurm has forgotten all, unless all had ended.
    """
    shown = {one.get("JobId", ""): one for one in found}
    ended = {job: one for job, one in seen.items() if one.get("JobState") in slurm.ENDED}
    whole = {**ended, **shown} if found or ended.keys() == seen.keys() else {}
    seen.update(shown)
    return list(whole.values())


def over(job: str, found: Sequence[Mapping[str, str]], run: Path | None) -> Outcome | None:
    """How a job ended; None while it has not. Where Slurm has forgotten it, our own record tells."""
    recorded = [one for one in (read_jobs(run) if run else []) if one.id == job and one.code is not None]
    said = recorded[0].message if recorded else ""
    if not found:
        code = recorded[0].code if recorded else 1
        return Outcome(code or 0, said or f"job {job}: Slurm has no word of it")
    if any(one.get("JobState") not in slurm.ENDED for one in found):
        return None
    code = max(exit_code(one) for one in found)
    states = ", ".join(sorted({one["JobState"] for one in found}))
    return Outcome(code, (said or f"job {job}: {states}") if code else "")


def exit_code(shown: Mapping[str, str]) -> int:
    """Of a job that has ended: the batch script's, 130 where it was cancelled, 1 where it was killed."""
    if shown["JobState"] == "COMPLETED":
        return 0
    code = int(shown.get("ExitCode", "1:0").split(":")[0])
    return code or (INTERRUPTED if shown["JobState"] == "CANCELLED" else 1)


def again(have: Allocation, job: str) -> Outcome:
    """Put this waiting job back into the queue: it finds the one that it stands for in the records."""
    print(f"my own time is up, job {job} goes on: back into the queue, to wait again", flush=True)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    wrong = slurm.requeue(have.job)
    if wrong:
        print(f"Slurm does not take this job back: {wrong}", file=sys.stderr)
    return Outcome(INTERRUPTED if wrong else 0)
