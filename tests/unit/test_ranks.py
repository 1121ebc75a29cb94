"""`run_ranks` itself: a harness that loses results, errors or processes would make other tests worthless."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import RankError, run_ranks

ROOT = Path(__file__).resolve().parents[2]


def test_results_come_back_in_rank_order_as_plain_tensors() -> None:
    def work(rank: int, scale: float) -> dict[str, Any]:
        weight_2 = torch.nn.Parameter(torch.full((2,), float(rank + 1)))
        (weight_2 * scale).sum().backward()  # autograd works in a fork
        total_2 = weight_2.detach().clone()
        dist.all_reduce(total_2)
        return {"rank": rank, "weight": weight_2, "grads": [weight_2.grad], "total": total_2}

    (
        torch.ones(2, requires_grad=True) * 2
    ).sum().backward()  # nor does it mind that the parent has used autograd
    first, second = run_ranks(2, work, 3.0)

    assert (first["rank"], second["rank"]) == (0, 1)
    assert type(second["weight"]) is torch.Tensor and not second["weight"].requires_grad
    assert second["weight"].tolist() == [2.0, 2.0]
    assert first["grads"][0].tolist() == [3.0, 3.0]
    assert first["total"].tolist() == second["total"].tolist() == [3.0, 3.0]


def test_one_rank_runs_in_a_child_too() -> None:
    [(pid, world_size)] = run_ranks(1, lambda rank: (os.getpid(), dist.get_world_size()))
    assert world_size == 1
    assert pid != os.getpid()
    assert not dist.is_initialized()


def test_an_exception_reaches_the_caller_with_its_rank_and_traceback() -> None:
    def work(rank: int) -> None:
        if rank == 1:
            raise ValueError("the shard is upside down")
        dist.barrier()

    began = time.monotonic()
    with pytest.raises(RankError, match=r"(?s)rank 1 raised.*in work.*ValueError: the shard is upside down"):
        run_ranks(2, work)
    assert time.monotonic() - began < 10, "the waiting rank must not hold up the report"


def test_a_hanging_rank_is_named_with_its_stack_and_ended() -> None:
    def hang_here(rank: int) -> int:
        if rank == 0:
            dist.barrier()
        else:
            time.sleep(60)
        return rank

    began = time.monotonic()
    with pytest.raises(RankError, match=r"(?s)rank 1 did not end in 3 s.*hang_here"):
        run_ranks(2, hang_here, timeout=3.0)
    assert time.monotonic() - began < 12


def test_a_killed_rank_is_reported_with_its_signal() -> None:
    def work(rank: int) -> None:
        if rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    with pytest.raises(RankError, match=r"rank 0 died without a word, exit code -9"):
        run_ranks(2, work)


def test_nothing_a_rank_has_started_outlives_it(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (tmp_path / "pid").write_text(str(sleeper.pid))
        raise RuntimeError("and leaves it running")

    with pytest.raises(RankError):
        run_ranks(1, work)
    assert _ends(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child together with its parent")
def test_ranks_end_when_the_test_process_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, time
from tests.ranks import run_ranks
def work(rank):
    pathlib.Path({str(tmp_path)!r}, f"{{rank}}.pid").write_text(str(os.getpid()))
    time.sleep(60)
run_ranks(2, work)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    until = time.monotonic() + 120  # the new process has to import everything first
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.1)  # between the creation of a file and its text
    parent.kill()
    parent.wait()
    pids = [int(file.read_text()) for file in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    assert all(_ends(pid) for pid in pids)


def _ends(pid: int, within: float = 5.0) -> bool:
    """Whether a process, ours or not, ends in time. A zombie that waits for its parent has ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
