"""Run a function on several gloo ranks, each a process forked from this one.

Importing torch and Megatron-Core takes seconds, a fork of a process that has them takes milliseconds. Every
world, one rank included, runs in children, so that Megatron-Core's global state never leaks between tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

DIED = "died without a word"
AFTERMATH_SECONDS = 1.0  # how long the other ranks may take to report after the first failure
PR_SET_PDEATHSIG = 1


class RankError(AssertionError):
    """A rank raised, died or did not end in time. The message holds every rank's traceback."""


@dataclass
class _Rank:
    """The parent's end of one child."""

    rank: int
    process: BaseProcess
    pipe: Connection
    stacks: Path  # where the child writes its stacks when it is asked to
    result: Any = None
    failure: str = ""
    is_done: bool = False


def run_ranks(world_size: int, fn: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """Run `fn(rank, *args)` on `world_size` ranks joined by gloo; the results, by rank.

    `fn` may be a closure. Results travel by torch.save, their tensors as detached copies on the CPU.
    `timeout` is in seconds for the whole run. Raises RankError; no child of this call is ever left behind.
    """
    _warm_up()
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        try:
            for one in _start(world_size, fn, args, timeout, Path(folder)):
                ranks.append(one)
            _collect(ranks, timeout)
        finally:
            for one in ranks:
                _end(one)
    failures = [f"rank {one.rank} {one.failure}" for one in ranks if one.failure]
    if failures:
        raise RankError(f"{len(failures)} of {world_size} ranks failed\n\n" + "\n\n".join(failures))
    return [one.result for one in ranks]


def _warm_up() -> None:
    """Import what every child needs, once. No thread pool may start here: a fork would not carry it over."""
    import torch

    importlib.import_module("megatron.core.models.gpt")
    torch.set_num_threads(1)


def _start(
    world_size: int, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float, folder: Path
) -> Iterator[_Rank]:
    context = multiprocessing.get_context("fork")
    port = _free_port()
    sys.stdout.flush()  # or every child would flush the same buffered text again
    sys.stderr.flush()
    for rank in range(world_size):
        ours, theirs = context.Pipe(duplex=False)
        stacks = folder / f"stacks-{rank}"
        environment = _environment(rank, world_size, port)
        process = context.Process(target=_child, args=(rank, environment, fn, args, timeout, theirs, stacks))
        process.start()
        theirs.close()  # so that the pipe ends when the child does
        yield _Rank(rank, process, ours, stacks)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
    }


def _collect(ranks: list[_Rank], timeout: float) -> None:
    """Wait until every rank has reported. After a first failure the others get a moment, then no more."""
    deadline = time.monotonic() + timeout
    while pending := [one for one in ranks if not one.is_done]:
        remaining = deadline - time.monotonic()
        ready = wait([one.pipe for one in pending], max(0.0, remaining))
        if not ready:
            _mark_late(pending, timeout, has_failure=any(one.failure for one in ranks))
            return
        for one in pending:
            if one.pipe in ready:
                _receive(one)
                if one.failure:
                    deadline = min(deadline, time.monotonic() + AFTERMATH_SECONDS)


def _receive(one: _Rank) -> None:
    import torch

    one.is_done = True
    try:
        kind, payload = one.pipe.recv()
    except EOFError:
        one.failure = DIED  # _end adds the exit code
        return
    if kind == "result":
        one.result = torch.load(io.BytesIO(payload), weights_only=False)
    else:
        one.failure = f"raised\n{payload}"


def _mark_late(pending: list[_Rank], timeout: float, *, has_failure: bool) -> None:
    why = "was still running when another one had failed" if has_failure else f"did not end in {timeout:g} s"
    for one in pending:
        one.failure = f"{why}\n{_stacks_of(one)}"


def _stacks_of(one: _Rank) -> str:
    """Ask the child where it is; empty when it cannot answer."""
    assert one.process.pid is not None
    os.kill(one.process.pid, signal.SIGUSR1)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        time.sleep(0.02)
        text = one.stacks.read_text() if one.stacks.exists() else ""
        if text.endswith("\n"):
            return text
    return ""


def _end(one: _Rank) -> None:
    """End the child and whatever it started: it leads a process group of its own.

    The group goes before the child is waited for, while its number cannot have passed to somebody else.
    """
    assert one.process.pid is not None
    with contextlib.suppress(ProcessLookupError):  # it had no time to become the leader of a group
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.kill()
    one.process.join()
    one.pipe.close()
    if one.failure == DIED:
        one.failure += f", exit code {one.process.exitcode} (a negative one is a signal)"


def _child(
    rank: int,
    environment: Mapping[str, str],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    timeout: float,
    pipe: Connection,
    stacks: Path,
) -> None:
    _end_with_parent()
    os.environ.update(environment)
    with stacks.open("w") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=False)
        try:
            pipe.send(("result", _in_group(rank, fn, args, timeout)))
        except BaseException:  # also SystemExit, KeyboardInterrupt: all of it is the parent's to report
            pipe.send(("error", traceback.format_exc()))
    pipe.close()


def _end_with_parent() -> None:
    """Lead a process group, and end when the parent is killed (Linux; elsewhere gloo's time limit does)."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _in_group(rank: int, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> bytes:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    result = fn(rank, *args)
    if dist.is_initialized():
        dist.barrier()  # rank 0 holds the rendezvous: nobody leaves before all are done
        dist.destroy_process_group()
    stream = io.BytesIO()
    torch.save(_plain(result), stream)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    """Tensors inside tuples, lists and dicts as detached copies on the CPU, of the plain class."""
    import torch

    match value:
        case torch.Tensor():
            return value.detach().to("cpu", copy=True).as_subclass(torch.Tensor)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple() if type(value) in (list, tuple):
            return type(value)(_plain(item) for item in value)
        case _:
            return value
