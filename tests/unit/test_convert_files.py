"""The files of a conversion: archives as torch.save writes them, sums of parts, and filling that resumes."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.models.blocks import Box
from r1mega.models.spans import span, steps
from r1mega.train.convert import crc
from r1mega.train.convert import fill as fill_module
from r1mega.train.convert.archive import HEAD, Archive, find
from r1mega.train.convert.cast import cast
from r1mega.train.convert.fill import Plan, Segment, filled, segments
from r1mega.train.convert.progress import Advance, silent
from r1mega.types import UserError

# --- archives -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 64, 32), (300, 1, 1), (1, 1, 70000, 1)], ids=str)
def test_an_archive_is_what_torch_save_writes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).to(dtype)
    data = tensor.view(torch.uint8).numpy().tobytes()
    made, found = Archive(dtype, shape), zlib.crc32(data)
    content = made.head(found) + data + made.tail(found)
    assert len(content) == made.size and len(made.head(found)) == HEAD
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    assert loaded.dtype == dtype and torch.equal(loaded, tensor)
    theirs = io.BytesIO()
    torch.save(tensor, theirs)
    with zipfile.ZipFile(io.BytesIO(content)) as ours, zipfile.ZipFile(theirs) as upstream:
        assert ours.testzip() is None
        for name in ours.namelist():
            assert ours.read(name) == upstream.read(name), name
    for stream in (io.BytesIO(content), theirs):
        described = find(stream)
        assert described is not None
        assert (described.dtype, described.shape, described.crc) == (dtype, shape, found)
        assert stream.getvalue()[described.start :][: len(data)] == data


@pytest.mark.parametrize(
    "value",
    [torch.rand(4, 5).T, torch.rand(6)[2:5], torch.arange(3), [None], torch.rand(2).requires_grad_()],
    ids=["turned", "view", "integers", "no tensor", "with gradient"],
)
def test_an_archive_of_anything_else_is_left_to_torch(value: Any) -> None:
    stream = io.BytesIO()
    torch.save(value, stream)
    try:
        found = find(stream)
    except zipfile.BadZipFile:
        found = None
    if isinstance(value, torch.Tensor) and value.requires_grad:
        assert found is not None and found.shape == (2,)
    else:
        assert found is None


def test_an_archive_runs_nothing() -> None:
    """A pickle that would call os.system when it is loaded."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("exit 3",)

    stream = io.BytesIO()
    torch.save([torch.zeros(1), Evil()], stream)
    assert find(stream) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=6), st.integers(0, 100_000))
def test_sums_of_parts_make_the_sum_of_the_whole(parts: list[bytes], zeros: int) -> None:
    whole = b"".join(parts) + bytes(zeros)
    pairs = [(zlib.crc32(part), len(part)) for part in parts] + [(crc.of_zeros(zeros), zeros)]
    assert crc.combined(pairs) == zlib.crc32(whole)


# --- spans --------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_span_is_where_the_elements_lie(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    spans = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    box = Box(tuple(low for low, _ in spans), tuple(high for _, high in spans))
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    part = whole[box.slices].reshape(-1)
    first, count = int(part[0]), len(part)
    expected = first if torch.equal(part, torch.arange(first, first + count)) else None
    assert span(shape, box) == expected
    cut = list(steps(box, 1, size=3, multiple=2))
    assert torch.equal(torch.cat([whole[one.slices].reshape(-1) for one in cut]), part)


# --- casts --------------------------------------------------------------------------------


def test_a_value_that_does_not_fit_is_named() -> None:
    values = torch.tensor([1.0, 7e4, float("inf")])
    with pytest.raises(UserError, match=r"a\.weight has values up to 70000, float16 ends at 65504"):
        cast("a.weight", values, torch.float16)
    kept = torch.tensor([float("inf"), float("nan"), 3.0])
    assert torch.equal(cast("a", kept, torch.float16).isfinite(), torch.tensor([False, False, True]))


# --- filling ------------------------------------------------------------------------------

FILES = {"a.bin": 1000, "deep/b.bin": 300}
CONTENT = {name: bytes((i * 7 + len(name)) % 251 for i in range(size)) for name, size in FILES.items()}


def plan(key: str = "k") -> Plan[tuple[int, int]]:
    found: list[Segment[tuple[int, int]]] = []
    for name, size in FILES.items():
        items = [((at, min(at + 50, size)), 50) for at in range(0, size, 50)]
        found += segments(name, items, size=100)
    return Plan(key, FILES, found)


class Writer:
    """Writes what CONTENT says, and counts; kills its process, or raises, at some item."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None) -> None:
        self.written, self._stop_at, self._error = 0, stop_at, error

    def write(self, file: int, segment: Segment[tuple[int, int]], advance: Advance) -> Mapping[str, Any]:
        for low, high in segment.items:
            if self.written == self._stop_at:
                if self._error is not None:
                    raise self._error
                os.kill(os.getpid(), signal.SIGKILL)
            os.pwrite(file, CONTENT[segment.file][low:high], low)
            self.written += 1
            advance(high - low)
        return {"first": segment.items[0][0]}


def fill(target: Path, writer: Writer, key: str = "k", workers: int = 1) -> list[Mapping[str, Any]]:
    with filled(target, plan(key), writer.write, workers, silent) as (folder, facts):
        (folder / "small.json").write_text("{}")
        return facts


def is_whole(target: Path) -> bool:
    found = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    same = all((target / name).read_bytes() == content for name, content in CONTENT.items())
    return found == {*FILES, "small.json"} and same and os.listdir(target.parent) == [target.name]


def killed(target: Path, writer: Writer) -> None:
    process = multiprocessing.get_context("fork").Process(target=fill, args=(target, writer))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("workers", [1, 4])
def test_all_is_written_and_then_the_folder_is_there(tmp_path: Path, workers: int) -> None:
    facts = fill(tmp_path / "t", Writer(), workers=workers)
    assert [said["first"] for said in facts] == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 0, 100, 200]
    assert is_whole(tmp_path / "t")


def test_after_a_kill_only_the_rest_is_written(tmp_path: Path) -> None:
    target = tmp_path / "t"
    killed(target, Writer(stop_at=9))
    assert os.listdir(tmp_path) == ["t.partial"]
    killed(target, Writer(stop_at=6))
    writer = Writer()
    facts = fill(target, writer)
    assert (
        writer.written == 26 - 8 - 6 and len(facts) == 13
    )  # segments of two items; a half one is done again
    assert is_whole(target)


def test_what_was_begun_for_something_else_is_thrown_away(tmp_path: Path) -> None:
    killed(tmp_path / "t", Writer(stop_at=9))
    writer = Writer()
    fill(tmp_path / "t", writer, key="other")
    assert writer.written == 26 and is_whole(tmp_path / "t")


@pytest.mark.parametrize("length", [None, 0, 700], ids=["absent", "empty", "short"])
def test_parts_whose_file_is_gone_are_written_again(tmp_path: Path, length: int | None) -> None:
    """Also when the next attempt is killed after it has made the file anew, full of zeros."""
    target, file = tmp_path / "t", tmp_path / "t.partial" / "content" / "a.bin"
    killed(target, Writer(stop_at=22))
    if length is None:
        file.unlink()
    else:
        os.truncate(file, length)
    killed(target, Writer(stop_at=0))
    assert file.stat().st_size == 1000
    writer = Writer()
    fill(target, writer)
    assert writer.written == 26 - 2 and is_whole(target)  # b.bin's one whole segment stayed


def test_a_torn_line_and_a_missing_folder_count_for_nothing(tmp_path: Path) -> None:
    target, room = tmp_path / "t", tmp_path / "t.partial"
    killed(target, Writer(stop_at=9))
    with (room / "journal").open("a") as journal:
        journal.write('{"segment": 12, "fac')
    writer = Writer()
    fill(target, writer)
    assert writer.written == 18 and is_whole(target)
    (tmp_path / "u.partial").mkdir()
    (tmp_path / "u.partial" / "journal").write_text('{"key": "k"}\n{"segment": 0, "facts": {}}\n')
    (tmp_path / "t").rename(tmp_path / "u.partial" / "old")
    assert len(fill(tmp_path / "u", Writer())) == 13 and is_whole(tmp_path / "u")


def test_an_error_of_the_source_leaves_nothing_and_an_interrupt_leaves_what_is_done(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad source"):
        fill(tmp_path / "t", Writer(stop_at=9, error=UserError("bad source")))
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "t", Writer(stop_at=9, error=KeyboardInterrupt()))
    writer = Writer()
    fill(tmp_path / "t", writer)
    assert writer.written == 18 and is_whole(tmp_path / "t")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the kernel offers no /dev/full here")
def test_a_full_disk_is_said_and_what_is_done_stays(tmp_path: Path) -> None:
    class Full(Writer):
        def write(self, file: int, segment: Segment[tuple[int, int]], advance: Advance) -> Mapping[str, Any]:
            if self.written == 8:
                os.write(os.open("/dev/full", os.O_WRONLY), b"x")
            return super().write(file, segment, advance)

    with pytest.raises(UserError, match=r"no space left on the disk while writing .*t .*same command again"):
        fill(tmp_path / "t", Full())
    writer = Writer()
    fill(tmp_path / "t", writer)
    assert writer.written == 18 and is_whole(tmp_path / "t")


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the rest counts, and what is done is not lost."""
    killed(tmp_path / "t", Writer(stop_at=9))
    asked: list[int] = []

    def full(folder: Path, size: int) -> None:
        asked.append(size)
        raise UserError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(fill_module, "check_space", full)
        for name in ("t", "new"):
            with pytest.raises(UserError, match="no room"):
                fill(tmp_path / name, Writer())
    assert asked[0] < asked[1] == sum(FILES.values())
    assert os.listdir(tmp_path) == ["t.partial"]
    writer = Writer()
    fill(tmp_path / "t", writer)
    assert writer.written == 18


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    @contextmanager
    def another(title: str, total: int) -> Iterator[Advance]:
        with pytest.raises(UserError, match=r"another process is writing .*t\.partial"):
            fill(tmp_path / "t", Writer())
        yield lambda count: None

    with filled(tmp_path / "t", plan(), Writer().write, 1, another) as (folder, _):
        (folder / "small.json").write_text("{}")
    assert is_whole(tmp_path / "t")
