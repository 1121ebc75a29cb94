"""The marker of a checkpoint folder: what it says, and what `fault` finds with it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from r1mega.config.identity import settings
from r1mega.config.load import load as load_config
from r1mega.train.complete import MARKER, Mark, check, fault, mark, seal
from r1mega.types import UserError

TOY = Path(__file__).resolve().parents[2] / "configs" / "toy" / "pretrain_v3.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files, one of them in a folder within; sealed."""
    (tmp_path / "model").mkdir()
    for i, name in enumerate(("model/a", "b", "c", "d", "e")):
        (tmp_path / name).write_bytes(bytes(range(i, 200)) * (i + 1))
    seal(tmp_path)
    return tmp_path


def test_the_marker_holds_sizes_and_sums(folder: Path) -> None:
    files = json.loads((folder / MARKER).read_text())["files"]
    assert sorted(files) == ["b", "c", "d", "e", "model/a"]
    for name, one in files.items():
        data = (folder / name).read_bytes()
        assert one == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}
    check(folder, content=True)


def test_what_a_writer_has_summed_is_taken_from_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"123")
    (tmp_path / "other").write_bytes(b"456")
    seal(tmp_path, {"mine": Mark(7, "00000000")})
    files = json.loads((tmp_path / MARKER).read_text())["files"]
    assert files["mine"] == {"bytes": 7, "crc32": "00000000"}
    assert files["other"]["bytes"] == 3


def _unreadable(path: Path) -> None:
    """Linux answers EIO to whoever reads a process's memory at address 0."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    ("damage", "said", "by_size"),
    [
        (lambda f: (f / "c").unlink(), "c is missing", True),
        (lambda f: (f / "model/a").write_bytes(b"short"), "model/a has 5 bytes, 200 were written", True),
        (lambda f: _unreadable(f / "d"), r"d cannot be read \(Input/output error\)", True),
        (lambda f: _unreadable(f / MARKER), r"COMPLETE cannot be read \(Input/output error\)", True),
        (lambda f: (f / "d").write_bytes(bytes((f / "d").stat().st_size)), "d has other content", False),
        (lambda f: (f / MARKER).unlink(), "is no complete checkpoint: it has no COMPLETE file", True),
        (lambda f: (f / MARKER).write_text('{"files": 3}'), "COMPLETE cannot be read", True),
        (lambda f: (f / MARKER).write_text('{"files": {"b": {"size": 3}}}'), "COMPLETE cannot be read", True),
        (lambda f: (f / MARKER).write_bytes(b"\xff\xfe"), "COMPLETE cannot be read", True),
    ],
)
def test_faults_are_named(damage: Callable[[Path], object], said: str, by_size: bool, folder: Path) -> None:
    damage(folder)
    told = fault(folder, content=True)
    assert told is not None and re.search(said, told) and str(folder) in told
    with pytest.raises(UserError, match=said):
        check(folder, content=True)
    assert (fault(folder, content=False) is not None) == by_size


def test_ranks_look_at_all_files_together(folder: Path) -> None:
    (folder / "d").unlink()
    found = [fault(folder, content=True, rank=rank, world=3) for rank in range(3)]
    assert [one is not None for one in found].count(True) == 1


def test_a_marker_without_sums_is_read_by_sizes(folder: Path) -> None:
    """As it was written before there were sums."""
    sizes = {name: (folder / name).stat().st_size for name in ("model/a", "b")}
    (folder / MARKER).write_text(json.dumps({"files": sizes}))
    assert fault(folder, content=True) is None
    (folder / "b").write_bytes(b"")
    assert "b has 0 bytes" in str(fault(folder, content=True))


def test_a_file_is_summed_as_a_whole(tmp_path: Path) -> None:
    """Also one that is longer than what is read at a time."""
    data = bytes(range(256)) * (1 << 17)
    (tmp_path / "big").write_bytes(data)
    assert mark(tmp_path / "big") == Mark(len(data), f"{zlib.crc32(data):08x}")


def test_none_of_it_makes_a_result_another_one() -> None:
    """A stage goes on in another layout, and with its state and its checkpoints kept otherwise."""
    changes = [
        "layout.tp=2",
        "train.optimizer.distributed=true",
        "train.optimizer.overlap_grad_reduce=true",
        "train.recompute=full",
        'train.offload=["optimizer"]',
        "checkpoint.asynchronous=false",
        "checkpoint.keep_every=100",
    ]
    plain, changed = load_config(TOY, []), load_config(TOY, changes)
    for name, stage in plain.stages.items():
        assert stage != changed.stages[name]
        assert settings(stage) == settings(changed.stages[name])
