"""One check in a process of its own: what crashes or hangs there takes nothing else with it.

python -m r1mega.doctor.child NAME MODULE:FUNCTION BY SCRATCH RESULT
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from r1mega.doctor.rows import Row, append

MET = "met"  # a file beside the result: all ranks are there
JOIN_SECONDS = 300.0  # in which all ranks must come: others may still be at a check of their node


def main(arguments: Sequence[str]) -> None:
    end_with_parent()
    name, place, by, scratch, result = arguments
    if by == "job":
        join(name)
    Path(f"{result}.{MET}").touch()
    module, function = place.split(":")
    action: Callable[[Path], list[Row]] = getattr(importlib.import_module(module), function)
    append(Path(result), action(Path(scratch)))
    # Not by way of the interpreter's end: other ranks may be gone, and a library may want to tell them.
    sys.stdout.flush()
    os._exit(0)


def end_with_parent() -> None:
    """A check that hangs must not outlive the rank that has started it, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def join(name: str) -> None:
    """Meet the other ranks, under the check's own name in the store that the launcher (or rank 0) holds."""
    import torch.distributed as dist

    from r1mega import device
    from r1mega.parallel import Launch

    here = Launch.from_env()
    if here.world == 1:
        dist.init_process_group(device.backend(), store=dist.HashStore(), rank=0, world_size=1)
        return
    device.prepare(here.local_rank, here.local_world, None)
    own = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and here.rank == 0
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=own,
        wait_for_workers=False,
        timeout=timedelta(seconds=JOIN_SECONDS),
    )
    dist.init_process_group(
        device.backend(),
        store=dist.PrefixStore(f"doctor/{name}", store),
        rank=here.rank,
        world_size=here.world,
        timeout=timedelta(seconds=JOIN_SECONDS),
    )
    dist.barrier()


if __name__ == "__main__":
    main(sys.argv[1:])
