"""vLLM's executor for engines that live in the ranks of a job. Imports vllm."""

from __future__ import annotations

import os
from pathlib import Path

from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

IDENTITY = "R1MEGA_ENGINE"
"""Environment variable: a name that all ranks of a job agree on, new for each start of their engines."""

_SHARED_MEMORY = Path("/dev/shm")


class RanksExecutor(ExecutorWithExternalLauncher):
    """One worker in this process; torch.distributed exists already, and stays the trainer's.

    Tensor-parallel ranks on one host exchange activations through shared memory
    (distributed/device_communicators/cpu_communicator.py). Upstream's class derives its name from "env://",
    so that it is the same in every job: two jobs on a host write into each other's, and what a killed job
    leaves behind lets no other one start. Here the name is the job's own, and leaves the file system as
    soon as all ranks have the memory mapped.
    """

    def _init_executor(self) -> None:
        super()._init_executor()
        for file in _SHARED_MEMORY.glob(f"{os.environ[IDENTITY]}-*"):
            file.unlink(missing_ok=True)  # by whichever rank comes first

    def _distributed_args(self) -> tuple[str, int, int]:
        _, rank, local_rank = super()._distributed_args()
        return f"file://{os.environ[IDENTITY]}", rank, local_rank
