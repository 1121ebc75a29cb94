"""Writes a run's jobs.jsonl, and says which of its jobs still live. The format: r1mega.report.jobs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from launch.slurm import listed
from r1mega.report.jobs import Job, State, jobs_file, read_jobs


def record(run: Path, job: str, event: Literal["submitted", "started", "ended"], **facts: Any) -> None:
    """Append one event. `ended` needs state= (a `State`), code= and message=.

    One write of one line: writers on a machine never mix their lines. (Over NFS two machines that append in
    the same instant may; a run has one live job at a time.)
    """
    run.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"job": job, "event": event, "time": time.time(), **facts}, ensure_ascii=False)
    handle = os.open(jobs_file(run), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def rivals(run: Path, mine: Collection[str] = (), states: Collection[str] = ()) -> list[Job]:
    """Jobs that work on this run or will, as Slurm says now; `mine` do not count.

    states: of Slurm's, such as RUNNING; none: all. Where Slurm does not answer, what the records say counts;
    they do not tell which of the jobs runs, so that then there is none in `states`.
    """
    recorded = [job for job in read_jobs(run) if job.state not in ("done", "failed") and job.id not in mine]
    there = listed([job.id for job in recorded]) if recorded else {}
    if there is None:
        return [] if states else [job for job in recorded if job.live]
    return [job for job in recorded if job.id in there and (not states or there[job.id] in states)]


def ended(run: Path, job: str, state: State, code: int, message: str) -> None:
    record(run, job, "ended", state=state, code=code, message=message)
