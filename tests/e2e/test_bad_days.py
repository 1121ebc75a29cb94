"""Full disks, damaged checkpoints, taken ports, two runs in one folder: a clear error each, nothing lost."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1mega.parallel import connect
from r1mega.stages import pipeline
from r1mega.types import UserError
from tests.e2e.runs import config_file, outcome, run
from tests.ranks import RankError, run_ranks

ONE = "layout.ep=1"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, too small for the run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """The run says so and stops; with more room the same command goes on, to the same result."""
    config, out = config_file(tmp_path), small_disk / "out"
    with pytest.raises(RankError, match="no space left on the disk while writing"):
        run(config, out, 1, ONE)
    room = out / "01-base"
    assert not list((room / "checkpoints").glob("*.partial")) and not (room / "model").exists()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    run(config, out, 1, ONE)
    run(config, tmp_path / "roomy", 1, ONE)
    assert outcome(out) == outcome(tmp_path / "roomy")


def test_damaged_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is named with its fault and put aside, and the run goes on from the one before."""
    config, out = config_file(tmp_path), tmp_path / "out"
    run(config, out, 1, ONE)
    room = out / "01-base"
    (room / "DONE.json").unlink()
    newest, before = sorted((room / "checkpoints").iterdir())[::-1]
    victim = max(newest.rglob("*.distcp"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-100])
    capfd.readouterr()
    run(config, out, 1, ONE)
    told = capfd.readouterr().out
    assert re.search(rf"WARNING: .*{newest.name} is damaged: .*{victim.name} has ", told)
    assert f"going on from {before.name}" in told
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert outcome(out)["stages"][0]["status"] == "done"


def test_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        def join(rank: int) -> str:
            import torch.distributed as dist

            dist.destroy_process_group()
            os.environ |= {"MASTER_PORT": str(port), "WORLD_SIZE": "2"}
            with pytest.raises(UserError) as caught:
                connect()
            return str(caught.value)

        said = run_ranks(1, join)[0]
    assert f"127.0.0.1:{port}" in said and "port may be in use" in said


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    from contextlib import ExitStack

    def take(rank: int) -> None:
        with ExitStack() as stack:
            pipeline._lock(tmp_path / "out", stack)

    with ExitStack() as first:
        pipeline._lock(tmp_path / "out", first)
        with pytest.raises(RankError, match="another process is working on"):
            run_ranks(1, take, timeout=60)
    run_ranks(1, take, timeout=60)  # the lock went with its holder
