"""The Slurm jobs of a run, as its folder tells: RUN/jobs.jsonl, a line an event, only ever appended.

    {"job": "4711", "event": "submitted", "time": 1700000000.0, "cluster": "h100x8", "script": "r1_stage2.sh",
     "stages": ["rl_reasoning"], "nodes": 64, "ranks": 512, "log": "runs/r1/jobs/4711.log"}
    {"job": "4711", "event": "started", "time": ..., "hosts": ["n001", ...], "restarts": 0, ...}
    {"job": "4711", "event": "ended", "time": ..., "state": "requeued", "code": 130, "message": "..."}

A job that was not submitted by us (its allocation fitted) begins with `started`. A requeued one has several
`started` and `ended`. What a job leaves besides lies in RUN/jobs/ID/. `launch.records` writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

State = Literal["submitted", "running", "requeued", "done", "failed", "stopped"]
LIVE: tuple[State, ...] = ("submitted", "running", "requeued")
"""States of a job that will work on the run or does; only Slurm knows whether it still can."""


@dataclass(frozen=True)
class Job:
    """One job, from the newest that is known of it. Times are Unix seconds, None where not known.

    id:       Slurm's number; of an array's task its own number, not ARRAY_TASK.
    stages:   what it was asked to make, in order.
    hosts:    where it runs, or last ran; the first one is the head.
    started:  when its newest attempt began. ended: when that ended.
    restarts: requeues so far.
    code:     exit code of the newest attempt. message: how that ended, one line.
    log:      the batch step's output, relative to where the run was started.
    by:       the job that submitted it and waits for it, "" where a person did.
    """

    id: str
    state: State = "submitted"
    cluster: str = ""
    script: str = ""
    stages: tuple[str, ...] = ()
    nodes: int = 0
    ranks: int = 0
    hosts: tuple[str, ...] = ()
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    restarts: int = 0
    code: int | None = None
    message: str = ""
    log: str = ""
    by: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


def jobs_file(run: Path) -> Path:
    return run / "jobs.jsonl"


def job_folder(run: Path, job: str) -> Path:
    """What a job leaves: node-K.json, how node K's ranks ended, and the ranks' logs."""
    return run / "jobs" / job


def read_jobs(run: Path) -> list[Job]:
    """All jobs of a run, in the order in which they were first heard of. None: an empty list.

    A last line that is cut short (a power cut) is left out.
    """
    path = jobs_file(run)
    if not path.is_file():
        return []
    found: dict[str, Job] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found[event["job"]] = _after(found.get(event["job"], Job(event["job"])), event)
    return list(found.values())


def _after(job: Job, event: Mapping[str, Any]) -> Job:
    """The job once an event is taken in."""
    known = {field.name for field in fields(Job)} - {"id", "state"}
    told: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in event.items()
        if key in known
    }
    job = replace(job, **told)
    match event["event"]:
        case "submitted":
            return replace(job, state="submitted", submitted=event["time"])
        case "started":
            return replace(job, state="running", started=event["time"], ended=None, code=None, message="")
        case _:
            return replace(job, state=event["state"], ended=event["time"])
