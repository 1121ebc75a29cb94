"""Checkpoints that are written while training goes on, are damaged, or find no room."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from torch.distributed.checkpoint.api import CheckpointException

from r1mega.config.sections import Checkpoint
from r1mega.train import checkpoint
from r1mega.train.checkpoint_keeper import Keeper
from r1mega.train.checkpoint_write import Writing
from r1mega.train.complete import fault
from r1mega.train.policy import Policy
from r1mega.types import UserError
from tests.ranks import RankError, run_ranks
from tests.training import SHARDED, Run, content, learn, model

ASIDE, AT_ONCE = Checkpoint(asynchronous=True, keep=9), Checkpoint(asynchronous=False, keep=9)


@pytest.fixture(scope="module", autouse=True)
def models() -> None:
    model("qwen2_tied")
    model("v3")


@pytest.mark.parametrize("run", [Run(), Run("v3", 2, "ep2", SHARDED)], ids=str)
def test_what_is_written_meanwhile_is_what_was_then(run: Run, tmp_path: Path) -> None:
    """Training goes on in place while the files are written; what they hold is the step that was kept."""

    def both(rank: int) -> None:
        with run.policy() as policy:
            learn(policy, 1)
            checkpoint.save(policy, tmp_path / "at_once", {})
            with Keeper(tmp_path / "aside", policy, ASIDE) as keeper:
                keeper.save(1, {})
                learn(policy, 2)
                keeper.poll()
                keeper.save(2, {})
                learn(policy, 3)
            assert checkpoint.complete_steps(tmp_path / "aside") == [1, 2]
            one, other = content(tmp_path / "at_once"), content(tmp_path / "aside" / "step_000001")
            assert one.keys() == other.keys()
            for name, tensor in one.items():
                assert torch.equal(tensor, other[name]), name

    run_ranks(run.world, both)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05])
def test_killed_while_it_writes(delay: float, tmp_path: Path) -> None:
    """The one before is there, and the new one is whole or not there; no process is left behind."""

    def die(rank: int) -> None:
        with Run(world=2, optimizer=SHARDED).policy() as policy, Keeper(tmp_path, policy, ASIDE) as keeper:
            for step in (1, 2):
                learn(policy, step)
                keeper.save(step, {"step": step})
            time.sleep(delay)
            assert not psutil.Process().children()
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RankError, match="died without a word"):
        run_ranks(2, die)
    steps = checkpoint.complete_steps(tmp_path)
    assert steps in ([1], [1, 2])
    assert all(fault(checkpoint.step_folder(tmp_path, step), content=True) is None for step in steps)


def _three(folder: Path, run: Run) -> None:
    """Checkpoints of steps 1, 2 and 3 in a folder."""

    def make(rank: int) -> None:
        with run.policy() as policy, Keeper(folder, policy, AT_ONCE) as keeper:
            for step in (1, 2, 3):
                learn(policy, step)
                keeper.save(step, {"step": step})

    run_ranks(run.world, make)


def _largest(folder: Path) -> Path:
    return max(folder.rglob("*.distcp"), key=lambda path: path.stat().st_size)


def _truncate(folder: Path) -> None:
    victim = _largest(folder)
    victim.write_bytes(victim.read_bytes()[:-100])


def _flip(folder: Path) -> None:
    victim = _largest(folder)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)


def _mix(folder: Path) -> None:
    """Two steps' files have the same names and sizes."""
    victim = _largest(folder)
    earlier = folder.with_name("step_000002") / victim.relative_to(folder)
    assert earlier.stat().st_size == victim.stat().st_size
    shutil.copyfile(earlier, victim)


def _mix_loops(folder: Path) -> None:
    shutil.copyfile(folder.with_name("step_000002") / "loop.json", folder / "loop.json")


def _unreadable(path: Path) -> None:
    """Linux answers EIO to whoever reads a process's memory at address 0."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "were written"),
    "a flipped bit": (_flip, "has other content than was written"),
    "tensors of another step": (_mix, "has other content than was written"),
    "a cursor of another step": (_mix_loops, "loop.json has other content"),
    "a file is missing": (lambda folder: (folder / "rng_00000.pt").unlink(), "rng_00000.pt is missing"),
    "a file cannot be read": (lambda folder: _unreadable(folder / "about.json"), "about.json cannot be read"),
    "no marker": (lambda folder: (folder / "COMPLETE").unlink(), "has no COMPLETE file"),
    "an empty marker": (lambda folder: (folder / "COMPLETE").write_text(""), "COMPLETE cannot be read"),
}


def test_goes_on_from_the_newest_whole_one(tmp_path: Path) -> None:
    """The damaged one is named with its fault and kept aside; with all of them damaged nothing is touched."""
    _three(tmp_path / "whole", Run())

    def resume(folder: Path, policy: Policy) -> tuple[Path, int]:
        found = Keeper(folder, policy, AT_ONCE).resume()
        assert found is not None
        return found[0], found[1]["step"]

    def each(rank: int) -> None:
        with Run().policy() as policy:
            for name, (damage, _) in DAMAGE.items():
                here = tmp_path / name
                shutil.copytree(tmp_path / "whole", here)
                damage(here / "step_000003")
                assert resume(here, policy) == (here / "step_000002", 2), name
                assert sorted(path.name for path in here.iterdir()) == [
                    "step_000001",
                    "step_000002",
                    "step_000003.damaged",
                ]
                with Keeper(here, policy, Checkpoint(asynchronous=False, keep=1)) as keeper:
                    keeper.save(3, {"step": 3})
                assert resume(here, policy) == (here / "step_000003", 3)
                assert (here / "step_000003.damaged").exists()
                shutil.rmtree(here)

    run_ranks(1, each)


def test_each_fault_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _three(tmp_path / "whole", Run())
    for name, (damage, said) in DAMAGE.items():
        here = tmp_path / name
        shutil.copytree(tmp_path / "whole", here)
        damage(here / "step_000003")
        told = fault(here / "step_000003", content=True)
        assert told is not None and said in told and str(here / "step_000003") in told

    def all_damaged(rank: int) -> None:
        with Run().policy() as policy:
            here = tmp_path / "a flipped bit"
            assert Keeper(here, policy, AT_ONCE).resume() is not None
            os.rename(here / "step_000003.damaged", here / "step_000003")
            for step in (1, 2):
                _flip(here / f"step_00000{step}")
            with pytest.raises(UserError, match=r"(?s)step_000003.*step_000002.*step_000001.*Nothing was"):
                Keeper(here, policy, AT_ONCE).resume()
            assert checkpoint.complete_steps(here) == [1, 2, 3]

    run_ranks(1, all_damaged)
    warned = capfd.readouterr().out
    assert "WARNING" in warned and "step_000003.damaged" in warned and "going on from step_000002" in warned


def test_half_written_is_not_there(tmp_path: Path) -> None:
    """Under its working name a folder is no checkpoint and no fault either."""
    _three(tmp_path, Run())
    (tmp_path / "step_000003").rename(tmp_path / "step_000003.partial")

    def resume(rank: int) -> None:
        with Run().policy() as policy:
            found = Keeper(tmp_path, policy, AT_ONCE).resume()
            assert found is not None and found[1]["step"] == 2

    run_ranks(1, resume)
    assert (tmp_path / "step_000002").exists()


def test_without_a_marker_nothing_is_begun_anew_or_deleted(tmp_path: Path) -> None:
    """It is the last that is written under the working name: such a folder was whole once."""
    step = tmp_path / "step_000001"

    def each(rank: int) -> None:
        with Run(world=2).policy() as policy:
            keeper = Keeper(tmp_path, policy, AT_ONCE)
            assert keeper.resume() is None
            for _ in range(3):
                keeper.save(1, {})
                policy.mesh.barrier()
                if rank == 0:
                    (step / "COMPLETE").unlink()
                policy.mesh.barrier()
                with pytest.raises(
                    UserError, match=r"(?s)it has no COMPLETE file.*No checkpoint in .* is whole"
                ):
                    keeper.resume()

    run_ranks(2, each)
    names = ["step_000001", "step_000001.damaged", "step_000001.damaged1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all((tmp_path / name / "model").exists() for name in names)


def test_a_thread_that_dies_is_a_checkpoint_that_failed(tmp_path: Path) -> None:
    """Not one that is there: nothing older may go for it."""

    class NoAnswer(BaseException):
        pass

    def lost(self: Writing, value: object) -> list[object]:
        raise NoAnswer("no answer from rank 1")

    def each(rank: int) -> None:
        with Run().policy() as policy:
            keeper = Keeper(tmp_path, policy, Checkpoint(asynchronous=True, keep=1))
            keeper.save(1, {})
            keeper.wait()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Writing, "_gather", lost)
                keeper.save(2, {})
                with pytest.raises(RuntimeError, match=r"step_000002 could not be written.*from rank 1"):
                    keeper.wait()
            assert checkpoint.complete_steps(tmp_path) == [1]
            assert (tmp_path / "step_000002.partial").exists()

    run_ranks(1, each)


@pytest.mark.parametrize("section", [ASIDE, AT_ONCE], ids=["aside", "at once"])
def test_all_ranks_hear_of_a_failure_of_the_first(section: Checkpoint, tmp_path: Path) -> None:
    """Also of a CheckpointException, which is no Exception."""

    def fail(*_: object) -> None:
        raise CheckpointException("the index", {})

    def each(rank: int) -> None:
        with Run(world=2).policy() as policy, pytest.MonkeyPatch.context() as patch:
            patch.setattr(FileSystemWriterAsync, "finish", fail)
            keeper = Keeper(tmp_path, policy, section)
            with pytest.raises(RuntimeError, match=r"step_000001 could not be written.*the index"):
                keeper.save(1, {})
                keeper.wait()

    run_ranks(2, each)
    assert checkpoint.steps(tmp_path) == []


def test_garbage_is_collected_while_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, found = os.fsync, []

    def look(handle: int) -> None:
        found.append((os.readlink(f"/proc/self/fd/{handle}"), gc.isenabled()))
        fsync(handle)

    def each(rank: int) -> list[tuple[str, bool]]:
        monkeypatch.setattr(os, "fsync", look)
        with Run().policy() as policy:
            checkpoint.save(policy, tmp_path / "one", {})
        return found

    seen = run_ranks(1, each)[0]
    assert [is_on for name, is_on in seen if name.endswith(".distcp")] and all(is_on for _, is_on in seen)


def test_each_flipped_bit_is_found(tmp_path: Path) -> None:
    """In any file of the checkpoint, the marker included."""
    _three(tmp_path, Run("v3", 2, "ep2", SHARDED))
    folder = tmp_path / "step_000003"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    dice = random.Random(0)
    for _ in range(100):
        victim = dice.choice(files)
        before = victim.read_bytes()
        data = bytearray(before)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        victim.write_bytes(data)
        assert fault(folder, content=True) is not None, victim
        victim.write_bytes(before)
    assert fault(folder, content=True) is None


def test_what_cannot_be_gone_on_from_is_refused(tmp_path: Path) -> None:
    _three(tmp_path, Run())

    def refused(rank: int, run: Run, said: str, change: Callable[[Path], object]) -> None:
        here = tmp_path / "changed"
        shutil.copytree(tmp_path / "step_000003", here)
        change(here)
        with run.policy() as policy, pytest.raises(UserError, match=said):
            checkpoint.load(policy, here)
        shutil.rmtree(here)

    def untouched(folder: Path) -> None:
        pass

    def weights_only(folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        (folder / "about.json").write_text(json.dumps(about | {"updates": None}))
        _reseal(folder)

    def of_old(folder: Path) -> None:
        (folder / "about.json").unlink()
        _reseal(folder)

    run_ranks(1, refused, Run("v3"), "is of another model: family qwen2, not deepseek_v3", untouched)
    run_ranks(1, refused, Run(dtype="bfloat16"), "is of training in float32", untouched)
    run_ranks(1, refused, Run(), "has weights only: training cannot go on from it", weights_only)
    run_ranks(1, refused, Run(), "was written by an earlier version", of_old)


def _reseal(folder: Path) -> None:
    from r1mega.train.complete import seal

    (folder / "COMPLETE").unlink()
    seal(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: room for two checkpoints of the tiny model, not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1700k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("section", [ASIDE, AT_ONCE], ids=["aside", "at once"])
def test_full_disk(section: Checkpoint, small_disk: Path) -> None:
    """All ranks hear of it, nothing half is left, and what was complete is untouched."""

    def fill(rank: int) -> list[int]:
        with Run(world=2, optimizer=SHARDED).policy() as policy:
            keeper = Keeper(small_disk, policy, section)
            with pytest.raises(UserError, match="no space left on the disk while writing"):
                for step in range(1, 30):
                    keeper.save(step, {"step": step})
                keeper.wait()
            return checkpoint.complete_steps(small_disk)

    first, second = run_ranks(2, fill)
    assert first == second and first
    assert not list(small_disk.glob("*.partial"))
    assert all(fault(checkpoint.step_folder(small_disk, step), content=True) is None for step in first)


def test_the_newest_are_kept_and_every_so_many(tmp_path: Path) -> None:
    """And what was put aside, for a person to look at. Unfinished ones go."""
    for step in (100, 200, 250, 300, 400, 450):
        (tmp_path / f"step_{step:06d}").mkdir()
        (tmp_path / f"step_{step:06d}" / "COMPLETE").write_text("{}")
    for name in ("step_000350.damaged", "step_000500.partial"):
        (tmp_path / name).mkdir()
    checkpoint.prune(tmp_path, keep=1, keep_every=200)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000200",
        "step_000350.damaged",
        "step_000400",
        "step_000450",
    ]
    checkpoint.prune(tmp_path, keep=3)
    assert checkpoint.complete_steps(tmp_path) == [200, 400, 450]
