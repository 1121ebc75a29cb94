"""Whether somebody works on a run: from what its supervisors publish, from its lock, from Slurm.

A run's folder may be looked at from another machine, or may be a copy. So nothing here says that a run is
dead because one of the signs is missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1mega.report.jobs import Job
from r1mega.report.ranklogs import job_folders

FRESH = 60.0  # seconds in which a supervisor writes several times
_FLOCK = "@hhqqi4x"  # C's struct flock on Linux


@dataclass(frozen=True)
class Life:
    """working: somebody does; silent: somebody did, and gives no sign any more; idle: nobody that is known.

    why:   what that is known from.
    age:   seconds since the newest sign of life of a rank, where ranks give any.
    where: what that rank was at.
    """

    state: Literal["working", "silent", "idle"]
    why: str
    age: float | None = None
    where: str = ""


def look(run: Path, now: float, jobs: Sequence[Job], slurm: Mapping[str, str]) -> Life:
    """now: Unix seconds. slurm: job -> state, as far as Slurm was asked and knows."""
    nodes = _nodes(run)
    states = {job.id: slurm.get(job.id, "").split(" ")[0] for job in jobs}
    if nodes and not all(node["ended"] for node in nodes):
        seen = _of_nodes(nodes, now)
        waits = [job for job, state in states.items() if state == "PENDING"]
        if seen.state == "silent" and waits:  # requeued, which left its nodes no time for a last word
            return Life("working", f"Slurm: job {waits[0]} is {slurm[waits[0]]}")
        return seen
    if (holder := lock_holder(run)) is not None:
        who = f"process {holder}" if holder > 0 else "a process of another machine"
        return Life("working", f"{who} holds its lock")
    queued = [job for job, state in states.items() if state in ("RUNNING", "PENDING")]
    if queued:
        return Life("working", f"Slurm: job {queued[0]} is {slurm[queued[0]]}")
    return Life("idle", "no process of this machine holds its lock")


def _nodes(run: Path) -> list[dict[str, Any]]:
    """What each node of the newest job has published."""
    folder = next(reversed(job_folders(run)), None)
    found = []
    for path in sorted(folder.glob("alive-*.json")) if folder else ():
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # is being written, on a disk that does so in parts
            continue
    return found


def _of_nodes(nodes: Sequence[Mapping[str, Any]], now: float) -> Life:
    ranks = [one | {"told": node["time"]} for node in nodes for one in node["ranks"].values()]
    signs = [(now - one["told"] + one["age"], one["where"]) for one in ranks if one["age"] is not None]
    age, where = min(signs, default=(None, ""))
    silence = now - max(node["time"] for node in nodes)
    count = f"{len(ranks)} ranks on {', '.join(node['host'] for node in nodes[:4])}"
    count += ", ..." if len(nodes) > 4 else ""
    if silence > FRESH:
        return Life("silent", f"{count}: no word of them; killed, or moved away", silence, where)
    return Life("working", count, None if age is None else max(0.0, age), where)


def lock_holder(run: Path) -> int | None:
    """The process that works on the run, as its lock tells; 0 or less: one of another machine. None: nobody.

    The lock is asked about, not taken: a run that starts just now must not find it taken.
    """
    if sys.platform != "linux":
        return None
    try:
        handle = os.open(run / ".lock", os.O_RDWR)
    except OSError:
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(handle, fcntl.F_GETLK, question)
    except OSError:
        return None
    finally:
        os.close(handle)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else int(pid)
