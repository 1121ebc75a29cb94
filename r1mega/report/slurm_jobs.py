"""What Slurm says of jobs, where it can be asked: squeue of those that live, sacct of those that ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

PATIENCE = 5.0  # seconds that Slurm may take to answer; a controller that is down must not hold up a look


def slurm_states(jobs: Sequence[str]) -> dict[str, str]:
    """job -> what Slurm calls its state, and why it waits. Nothing of jobs that it does not know.

    Empty where there is no Slurm: on the laptop that a run was copied to.
    """
    if not jobs:
        return {}
    ids = ",".join(jobs)
    found = dict(_rows(["squeue", "--noheader", "--array", f"--jobs={ids}", "--format=%A|%T|%r"]))
    ended = [job for job in jobs if job not in found]
    if ended:
        words = ["--allocations", "--noheader", "--parsable2", "--format=JobIDRaw,State,Reason"]
        found |= dict(_rows(["sacct", f"--jobs={','.join(ended)}", *words]))
    return found


def _rows(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(job, state) of each line `job|state|reason`; none where the command is missing, late or refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in done.stdout.splitlines():
        job, state, reason = [*line.split("|"), "", ""][:3]
        if state:
            yield job, f"{state} ({reason})" if reason not in ("", "None") else state
