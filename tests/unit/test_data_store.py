"""The store: what goes in comes out, and a folder of that name is a whole store whatever happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.store import TokenStore, build_store, open_store
from r1mega.types import Sample, UserError

MADE_FROM = {"file": "a.jsonl", "max_length": 8}


def sample(*tokens: int) -> Sample:
    mask = np.arange(len(tokens)) % 2
    return Sample(np.array(tokens, np.int32), mask.astype(np.uint8))


def samples(count: int) -> Iterator[Sample]:
    return (sample(*range(i % 300, i % 300 + 1 + i % 7)) for i in range(count))


def assert_holds(store: TokenStore, expected: list[Sample]) -> None:
    assert len(store) == len(expected)
    assert store.lengths.tolist() == [len(one) for one in expected]
    for one, other in zip(store, expected, strict=True):  # type: ignore[call-overload]
        assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.mask, other.mask)
        assert (one.tokens.dtype, one.mask.dtype) == ("int32", "uint8")


@given(st.lists(st.lists(st.integers(0, 2**17 - 1), min_size=1, max_size=9), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    folder = tmp_path_factory.mktemp("store") / "s"
    expected = [sample(*row) for row in rows]
    assert_holds(build_store(expected, folder, MADE_FROM, vocab_size=2**17), expected)
    store = open_store(folder, MADE_FROM)
    assert store is not None
    assert_holds(store, expected)


@pytest.mark.parametrize(("vocab_size", "width"), [(65536, 2), (65537, 4)])
def test_tokens_take_as_little_as_the_vocabulary_allows(tmp_path: Path, vocab_size: int, width: int) -> None:
    expected = [sample(0, vocab_size - 1)]
    assert_holds(build_store(expected, tmp_path / "s", MADE_FROM, vocab_size=vocab_size), expected)
    assert (tmp_path / "s/tokens.bin").stat().st_size == 2 * width
    with pytest.raises(AssertionError):
        build_store([sample(vocab_size)], tmp_path / "t", MADE_FROM, vocab_size=vocab_size)


def test_a_store_of_something_else_is_none(tmp_path: Path) -> None:
    assert open_store(tmp_path / "s", MADE_FROM) is None
    build_store(samples(5), tmp_path / "s", MADE_FROM | {"keys": ("a", "b")}, vocab_size=400)
    assert open_store(tmp_path / "s", MADE_FROM) is None
    assert open_store(tmp_path / "s", MADE_FROM | {"keys": ("a", "b")}) is not None
    build_store(samples(7), tmp_path / "s", MADE_FROM, vocab_size=400)  # takes its place
    store = open_store(tmp_path / "s", MADE_FROM)
    assert store is not None and len(store) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_a_store_is_read_only_and_bounded(tmp_path: Path) -> None:
    store = build_store(samples(5), tmp_path / "s", MADE_FROM, vocab_size=400)
    store[0].tokens[0] = 99  # a copy: the store does not change
    assert store[0].tokens[0] == 0
    for i in (5, -1):
        with pytest.raises(IndexError):
            store[i]


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "offsets.bin"])
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    build_store(samples(50), tmp_path / "s", MADE_FROM, vocab_size=400)
    file = tmp_path / "s" / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(UserError, match=rf"{name} has \d+ bytes, \d+ are expected: delete the folder"):
        open_store(tmp_path / "s", MADE_FROM)
    file.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        open_store(tmp_path / "s", MADE_FROM)


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    build_store(samples(5), tmp_path / "s", MADE_FROM, vocab_size=400)
    meta = tmp_path / "s/meta.json"
    whole = meta.read_text()
    for content in ("", whole[:40], "[]", json.dumps({"format": 1})):
        meta.write_text(content)
        with pytest.raises(UserError, match="no readable store"):
            open_store(tmp_path / "s", MADE_FROM)
    meta.unlink()
    with pytest.raises(UserError, match="no readable store"):
        open_store(tmp_path / "s", MADE_FROM)
    meta.write_text(whole.replace('"format": 1', '"format": 0'))  # of another version: made anew
    assert open_store(tmp_path / "s", MADE_FROM) is None


def test_nothing_is_left_of_a_failed_build(tmp_path: Path) -> None:
    build_store(samples(5), tmp_path / "s", MADE_FROM, vocab_size=400)

    def interrupted() -> Iterator[Sample]:
        yield sample(1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(interrupted(), tmp_path / "s", {"other": 1}, vocab_size=400)
    with pytest.raises(UserError, match="no samples"):
        build_store([], tmp_path / "s", {"other": 1}, vocab_size=400)
    assert [file.name for file in tmp_path.iterdir()] == ["s"]
    store = open_store(tmp_path / "s", MADE_FROM)
    assert store is not None
    assert_holds(store, list(samples(5)))


SLOW_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from r1mega.data.store import build_store
from r1mega.types import Sample

def slow():
    while True:
        yield Sample(np.arange(500, dtype=np.int32), np.ones(500, np.uint8))
        time.sleep(0.001)

build_store(slow(), Path(sys.argv[1]), {"slow": 1}, vocab_size=500)
"""


def test_a_killed_writer_leaves_no_store(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(tmp_path / "s")])
    written = tmp_path / ".s.partial" / "tokens.bin"
    deadline = time.monotonic() + 60
    while not (written.exists() and written.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(timeout=10) == -signal.SIGKILL
    assert written.stat().st_size > 0, "killed in the middle of it"
    assert open_store(tmp_path / "s", {"slow": 1}) is None
    assert_holds(build_store(samples(3), tmp_path / "s", {"slow": 1}, vocab_size=400), list(samples(3)))
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_building_takes_little_memory_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[int] = []
    tracemalloc.start()
    store = build_store(samples(10_500), tmp_path / "s", MADE_FROM, vocab_size=400, progress=told.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(store) == 10_500
    assert peak < 300_000  # bytes; the samples together would take ten times that
    assert told[0] == 1000 and told[-1] == 10_500 and told == sorted(told)
