"""What submitit pickles and calls in a job: it starts the run there and waits for it.

submitit calls `checkpoint` from a signal handler while `__call__` waits, before the time limit and when a job
is preempted. The ranks then finish their step and keep a checkpoint; the same task is queued again, and a run
that is started again goes on where it was.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch import slurm
from launch.local import INTERRUPTED
from launch.worker import PR_SET_PDEATHSIG

STOPPED = (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl if hasattr(ctypes.CDLL(None), "prctl") else None


class RunFailed(RuntimeError):
    """The ranks ended otherwise than well."""


@dataclass
class Task:
    """One run, or some stages of it, in one job. It is called in the batch step, on the first node.

    command: starts the ranks, of all nodes; has them keep a checkpoint on SIGINT, and ends with 0 (done), 130
             (stopped, and what was done is kept), 2 (a mistake of the user's) or 1.
    folder:  where it is started: paths in a config are relative to it.
    out:     the run's folder, in which summary.json lies afterwards.
    gpus:    CUDA_VISIBLE_DEVICES of whoever submits, for LocalExecutor, which hides all GPUs.
    """

    command: tuple[str, ...]
    folder: Path
    out: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    gpus: str | None = None
    pid: int | None = field(default=None, init=False)  # of the running command, in the job only

    def __call__(self) -> dict[str, Any]:
        """The run's summary. Raises RunFailed with how it ended."""
        process = subprocess.Popen(
            self.command, cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL, preexec_fn=_tied
        )
        self.pid = process.pid
        try:
            while process.poll() is None:  # not wait(): `checkpoint` may come between, and looks, too
                time.sleep(0.2)
        except KeyboardInterrupt:  # a local job that is cancelled
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if process.returncode in STOPPED:
            self._stopped()
        if process.returncode:
            raise RunFailed(f"the ranks ended with code {process.returncode}; the log says why")
        return summary(self.out)

    def checkpoint(self) -> Any:
        """Stop the ranks with a checkpoint, and say what is to be queued again: the same."""
        from submitit.helpers import DelayedSubmission

        if self.pid is not None and _runs(self.pid):
            os.kill(self.pid, signal.SIGINT)
            while _runs(self.pid):
                time.sleep(0.2)
        return DelayedSubmission(replace(self))

    def _stopped(self) -> None:
        """The ranks were stopped, and not by `checkpoint`: by Slurm's SIGTERM, which submitit lets pass.

        A site that preempts without the signal it was asked for sends that one. Then the job has to be queued
        again, unless it is being cancelled.
        """
        from submitit import JobEnvironment

        here = JobEnvironment()
        if still_wanted(here):
            signal.raise_signal(here._usr_sig())  # submitit's own way, as if Slurm had sent it

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, **self.variables}
        if environment.get("SUBMITIT_EXECUTOR") == "local" and not environment.get("CUDA_VISIBLE_DEVICES"):
            environment.pop("CUDA_VISIBLE_DEVICES", None)
            if self.gpus is not None:
                environment["CUDA_VISIBLE_DEVICES"] = self.gpus
        return environment


def summary(out: Path) -> dict[str, Any]:
    """What the run has come to: its summary.json."""
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def still_wanted(here: Any) -> bool:
    """Whether Slurm takes this job to be running: not one that is being cancelled or has run out of time."""
    if here.cluster != "slurm":
        return False
    return slurm.wanted(os.environ["SLURM_JOB_ID"])


def _tied() -> None:
    """In the new process: it dies with the task, and what Slurm sends to all of a step does not end it."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if _PRCTL is not None:
        _PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def _runs(pid: int) -> bool:
    """Whether our child runs. It is left for `Popen.poll` to collect: that one may be at it this moment."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
