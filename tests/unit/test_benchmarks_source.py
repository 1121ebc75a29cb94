"""Where rows come from: kinds of files, folders, the hub's cache; and the same rows everywhere."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1mega.data.benchmarks import load
from r1mega.types import UserError

ROWS: list[dict[str, Any]] = [
    {"problem": f"{i} + 0, 或\n?", "answer": f"{i}", "id": f"q{i}"} for i in range(3)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = "id,problem,answer\r\n" + "".join(f'q{i},"{i} + 0, 或\n?",{i}\r\n' for i in range(3))
HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.jsonl", LINES),
        ("M.JSONL", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n")),
        ("m.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("m.json", json.dumps(ROWS, indent=1).encode()),
        ("m.json", b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode()),
        ("m.json", LINES),
        ("m.csv", CSV.encode()),
        ("m.csv", b"\xef\xbb\xbf" + CSV.encode()),
    ],
)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    questions = load("math500", tmp_path / name)
    assert [(q.key, q.text, q.answer) for q in questions] == [
        (r["id"], r["problem"], r["answer"]) for r in ROWS
    ]


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed")
def test_parquet(tmp_path: Path) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "m.parquet")
    assert [q.key for q in load("math500", tmp_path / "m.parquet")] == ["q0", "q1", "q2"]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"bad\.parquet is no parquet file"):
        load("math500", tmp_path / "bad.parquet")


@pytest.mark.skipif(HAS_PYARROW, reason="pyarrow is installed")
def test_parquet_without_pyarrow(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").touch()
    with pytest.raises(UserError, match=r"install pyarrow \(pip install pyarrow\), or give the same"):
        load("math500", tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.jsonl", b"", "m.jsonl is empty"),
        ("m.jsonl", LINES + b"{", "m.jsonl, line 4: no valid JSON"),
        ("m.jsonl", LINES + b"[1]", "m.jsonl, line 4: a list where an object"),
        ("m.jsonl.gz", gzip.compress(b"\n", mtime=0), "m.jsonl.gz is empty"),
        ("m.jsonl.gz", gzip.compress(LINES + b"[1]", mtime=0), r"m.jsonl.gz, line 4: an object"),
        ("m.jsonl.gz", gzip.compress(LINES + b"\xff", mtime=0), "m.jsonl.gz, line 4: no valid JSON"),
        ("m.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "m.jsonl.gz is damaged"),
        ("m.jsonl.gz", LINES, "m.jsonl.gz is damaged"),
        ("m.json", b"[]", "m.json is empty"),
        ("m.json", b"[" * 100_000, "m.json: no valid JSON"),
        ("m.json", json.dumps([*ROWS, 7]).encode(), "m.json, row 4: an object"),
        ("m.csv", b"", "m.csv is empty"),
        ("m.csv", CSV.encode() + b"q3,?", "m.csv, row 4: not as many cells"),
        ("m.csv", CSV.encode() + b"q3,?,1,2", "m.csv, row 4: not as many cells"),
        ("m.csv", CSV.encode() + b"q3,\xff,1", "m.csv is no CSV file in UTF-8"),
        ("m.txt", LINES, "its kind is unknown; give a file that ends in .jsonl, .jsonl.gz, "),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        load("math500", tmp_path / name)


def test_a_folder_is_searched_for_known_names(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has none of math/MATH500\.jsonl, math500\.jsonl, .*: give its file"
    ):
        load("math500", tmp_path)
    (tmp_path / "math500.json").write_text(json.dumps(ROWS[:1]))
    assert len(load("math500", tmp_path)) == 1
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "MATH500.jsonl").write_bytes(LINES)
    assert len(load("math500", tmp_path)) == len(load("math500", str(tmp_path / "math"))) == 3


def test_all_files_of_a_pattern_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    for name, answer in (("test-1.jsonl", 1), ("test-0.jsonl", 0)):
        row = {"question": f"{answer}?", "choices": ["a", "b"], "answer": answer}
        (tmp_path / "mmlu" / name).write_text(json.dumps(row))
    assert [(q.key, q.answer) for q in load("mmlu", tmp_path)] == [("0", "A"), ("1", "B")]


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("math500", "no/such.jsonl", r"math500: no.such.jsonl does not exist: give its file"),
        ("math500", "no/such/folder/at/all", "does not exist"),
        ("math500", None, "HuggingFaceH4/MATH-500 is no local path and does not come from the hub"),
        ("math500", "some/where", "some/where is no local path and .* hub .*: give its file"),
        ("math500", "some/where:data/x.parquet", "some/where is no local path"),
        ("kaoyan", None, "kaoyan is on no hub in a form that is read here: give its file"),
    ],
)  # fmt: skip
def test_without_file_and_network_it_says_what_to_give(name: str, source: str | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load(name, source)


IN_ANOTHER_PROCESS = """
import hashlib, sys
from r1mega.data.benchmarks import load
for argument in sys.argv[1:]:
    name, _, source = argument.partition("=")
    questions = load(name, source or None)
    print(len(questions), hashlib.sha256(repr(questions).encode()).hexdigest())
"""


def elsewhere(*arguments: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def test_the_hubs_cache_serves_without_a_network(tmp_path: Path) -> None:
    """A cache as the hub's client keeps it, other files of the repository beside ours."""
    data = tmp_path / "datasets--HuggingFaceH4--MATH-500"
    snapshot = data / "snapshots" / ("0" * 40)
    (snapshot / "data").mkdir(parents=True)
    (data / "refs").mkdir()
    (data / "refs" / "main").write_text("0" * 40)
    (snapshot / "test.jsonl").write_bytes(LINES)
    (snapshot / "data" / "test.csv").write_text(CSV)
    (snapshot / "README.md").write_text("test")
    sources = ("math500", "math500=HuggingFaceH4/MATH-500", "math500=HuggingFaceH4/MATH-500:data/*.csv")
    first, second, third, _ = elsewhere(*sources, HF_HUB_CACHE=str(tmp_path))
    assert first == second == third and first.startswith("3 ")


def test_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the seed of Python's hashes; the shuffled options of GPQA above all."""
    incorrect = {f"Incorrect Answer {i}": f"no {i}" for i in (1, 2, 3)}
    rows = [{"Question": f"{i}?", "Correct Answer": "yes", **incorrect} for i in range(50)]
    path = tmp_path / "gpqa.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    one, other = (elsewhere(f"gpqa_diamond={path}", PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert one == other and one[0].startswith("50 ")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_source_is_a_text_or_a_path(tmp_path: Path, kind: Callable[[Path], str | Path]) -> None:
    (tmp_path / "m.jsonl").write_bytes(LINES)
    assert len(load("math500", kind(tmp_path / "m.jsonl"))) == 3
