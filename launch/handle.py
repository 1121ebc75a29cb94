"""What `launch.submit` gives back for each job: wait for it, ask how far it is, cancel it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch import slurm
from launch.request import Request
from launch.submitted import RunFailed

OFTEN = 5.0  # seconds between two questions to Slurm
WRITTEN = 30.0  # seconds in which a shared file system shows what an ended job has written
FORGOTTEN = "FORGOTTEN"
Executor = Literal["slurm", "local", "debug"]


@dataclass(frozen=True)
class Handle:
    """One job, for one run. job: submitit's own, with stdout(), paths and the rest."""

    request: Request
    executor: Executor
    job: Any

    @property
    def id(self) -> str:
        return str(self.job.job_id)

    @property
    def log(self) -> Path:
        return Path(self.job.paths.stdout)

    def state(self) -> str:
        """Slurm's word, such as PENDING or COMPLETED; of a local job RUNNING, FINISHED or INTERRUPTED."""
        if self.executor != "slurm":
            return str(self.job.state)
        return self.slurm_state() or str(self.job.state)

    def cancel(self) -> None:
        """Ask it to end. Its ranks keep no checkpoint; the newest one is taken up by the next submission."""
        self.job.cancel()

    def result(
        self, timeout: float | None = None, meanwhile: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """The run's summary, as in summary.json, when the job has ended well. It may be requeued on the way.

        timeout: seconds. meanwhile: called twice a second. Raises RunFailed when the job has failed or was
        cancelled, TimeoutError. Works with and without Slurm's accounting; without it submitit alone would
        wait for a cancelled job for ever.
        """
        if self.executor != "debug":  # that one runs when it is asked for its result
            self._wait(timeout, meanwhile)
        if self.executor != "debug" and self.job.exception() is not None:
            raise RunFailed(f"job {self.id} has failed: {self._reason()} (its log: {self.log})")
        found: dict[str, Any] = self.job.result()
        return found

    def _reason(self) -> str:
        """What the run said last, as at a terminal, or else what submitit knows."""
        said = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        told = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
        traced = re.findall(r"^[\w.]*(?:Error|Failed): (.*)$", str(self.job.exception()), re.MULTILINE)
        return (told or traced or ["no reason was told"])[-1]

    def _wait(self, timeout: float | None, meanwhile: Callable[[], None]) -> None:
        began = time.monotonic()
        over = _End(self) if self.executor == "slurm" else self.job.done
        while not over():
            if timeout is not None and time.monotonic() - began > timeout:
                raise TimeoutError(
                    f"job {self.id} ({self.state()}): no end in {timeout:g} s; log: {self.log}"
                )
            meanwhile()
            time.sleep(0.5)
        meanwhile()

    def slurm_state(self) -> str:
        """FORGOTTEN some minutes after its end; "" where Slurm does not answer."""
        found = slurm.show(self.id)
        if found is None:
            return ""
        return found[0].get("JobState", "") if found else FORGOTTEN


class _End:
    """Whether a Slurm job is over: Slurm says so, and its result is there.

    A result alone is not enough. Where Slurm has requeued a preempted job before its ranks have stopped,
    submitit's own requeue fails and leaves an error as the result, while the job is about to go on.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.asked = time.monotonic()
        self.gone_since: float | None = None

    def __call__(self) -> bool:
        """Raises RunFailed where there will be no result."""
        paths, now = self.handle.job.paths, time.monotonic()
        paths.folder.stat()  # makes a shared file system look again
        there = paths.result_pickle.exists()
        if now - self.asked < (1.0 if there else OFTEN):
            return False
        self.asked, state = now, self.handle.slurm_state()
        if state not in (*slurm.ENDED, FORGOTTEN):
            self.gone_since = None
            return False
        self.gone_since = self.gone_since or now
        if not there and now - self.gone_since > WRITTEN:
            told = f"job {self.handle.id} has ended without a result: {state}"
            raise RunFailed(f"{told} (its log: {self.handle.log})")
        return there
