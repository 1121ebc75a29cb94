"""The cluster's doctor: what crashes or hangs is a row, and slow and broken nodes are named."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega import cli
from r1mega.doctor import ranks
from r1mega.doctor.checks import CHECKS, CheckUp
from r1mega.doctor.cluster_report import describe, to_json
from r1mega.doctor.judge import judge
from r1mega.doctor.link_checks import tournament
from r1mega.doctor.node_checks import gpu_row
from r1mega.doctor.rows import Row, read, rows_file

WRONG = "tests.doctor_checks"


def test_what_crashes_dies_or_hangs_is_a_row_and_the_next_check_runs(tmp_path: Path) -> None:
    checks = [CheckUp(name, f"{WRONG}:{name}", "rank", 60.0) for name in ("crash", "killed", "fine")]
    checks.insert(2, CheckUp("hang", f"{WRONG}:hang", "rank", 2.0))
    checks.append(CheckUp("typo", f"{WRONG}:no_such_check", "rank", 60.0))
    ranks.main([str(tmp_path), str(tmp_path)], checks)
    rows = {row.check: row for row in read(rows_file(tmp_path, 0))}
    assert [row.state for row in rows.values()] == ["broken", "broken", "broken", "ok", "broken"]
    assert rows["crash"].text == "RuntimeError: NCCL error: unhandled system error"
    assert rows["killed"].text == "was killed by SIGSEGV"
    assert rows["hang"].text == "did not end within 2 s"
    assert rows["fine"].host == ranks.HOST and rows["fine"].text == "all is well"
    assert "no attribute 'no_such_check'" in rows["typo"].text
    for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    assert "noise" in (tmp_path / "output-0.txt").read_text()


def test_every_check_is_there() -> None:
    for check in CHECKS:
        module, function = check.place.split(":")
        source = Path(__file__).parents[2] / f"{module.replace('.', '/')}.py"
        assert f"\ndef {function}(scratch: Path) -> list[Row]:\n" in source.read_text()


def node(rank: int, **figures: float) -> list[Row]:
    return [
        Row(check.replace("_", "-"), "ok", f"{figure:g}", f"{figure:g}", figure, host=f"n{rank}", rank=rank)
        for check, figure in figures.items()
    ]


def test_a_node_that_is_slow_beside_the_others_is_named() -> None:
    rows = {rank: node(rank, disk=500.0, links=20.0) for rank in range(4)}
    assert judge(rows).ok
    rows[2] = node(2, disk=490.0, links=9.0)
    found = judge(rows)
    assert not found.ok and found.bad_hosts() == {"n2": "slow (links)"}
    [problem] = found.problems
    assert problem.text == "9; 45% of the median of all"
    assert judge(rows, ratio=0.4).ok
    assert "Not fit: n2 slow (links)." in describe(found)
    assert "All 4 nodes are fit." in describe(judge(rows, ratio=0.4))


@given(st.lists(st.floats(1.0, 1e6), min_size=3, max_size=20), st.floats(0.1, 0.9), st.booleans())
def test_only_what_is_beyond_the_ratio_of_the_median_is_slow(
    figures: list[float], ratio: float, lower: bool
) -> None:
    better: Literal["higher", "lower"] = "lower" if lower else "higher"
    rows = {
        i: [replace(row, better=better) for row in node(i, disk=figure)] for i, figure in enumerate(figures)
    }
    slow = {row.rank for row in judge(rows, ratio).problems}
    middle = sorted(figures)[len(figures) // 2] if len(figures) % 2 else None
    for rank, figure in enumerate(figures):
        if middle is not None:
            assert (rank in slow) == (figure > middle / ratio if lower else figure < ratio * middle)
    assert 2 * len(slow) <= len(figures)


def test_broken_comes_before_slow_and_silence_is_told() -> None:
    rows = {rank: node(rank, disk=500.0) for rank in range(3)}
    rows[1] = [
        *node(1, disk=10.0),
        Row("pins", "broken", "1 wrong", "torch 2.1", host="n1", rank=1, advice="x"),
    ]
    rows[3] = []
    found = judge(rows)
    assert found.bad_hosts() == {"n1": "broken (pins)"} and found.silent == (3,)
    text = describe(found)
    for part in (
        "10 SLOW",
        "1 wrong BROKEN",
        "no word of rank 3",
        "  1. ",
        "n1 broken (pins); 1 silent ranks.",
    ):
        assert part in text
    assert json.loads(to_json(found))["bad_hosts"] == found.bad_hosts()
    assert "the job did not start" in describe(judge({0: [], 1: []}))


H100 = "NVIDIA H100, 81559, 550.54, 0\n"


@pytest.mark.parametrize(
    ("answer", "state", "part"),
    [
        (H100 * 8, "ok", "8 x NVIDIA H100 80 GiB, driver 550.54"),
        (H100 * 7, "broken", "7 x NVIDIA H100 80 GiB, driver 550.54; 8 alike wanted"),
        (H100 * 7 + "NVIDIA A100, 40960, 550.54, 0\n", "broken", "A100 40 GiB and NVIDIA H100"),
        (H100 * 7 + H100.replace(", 0", ", 3"), "broken", "uncorrected ECC errors on [7]"),
        (H100.replace(", 0", ", [N/A]") * 8, "ok", "8 x"),
        ("No devices were found\n", "broken", "0 x no GPU"),
    ],
)
def test_what_nvidia_smi_answers(answer: str, state: str, part: str) -> None:
    row = gpu_row(answer, 8)
    assert row.state == state and part in row.text


@given(st.integers(1, 33))
def test_each_pair_of_nodes_meets_once_and_no_node_is_in_two_pairs_at_a_time(nodes: int) -> None:
    rounds = [list(meeting) for meeting in tournament(nodes)]
    assert sorted(pair for meeting in rounds for pair in meeting) == list(combinations(range(nodes), 2))
    for meeting in rounds:
        busy = [one for pair in meeting for one in pair]
        assert len(busy) == len(set(busy))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster", "mars"], "no cluster 'mars'; clusters: "),
        (["--cluster=local", "--nodes", "2"], "--nodes 2: local is one machine"),
        (["--cluster", "local", "--ratio", "2"], "--ratio between 0 and 1"),
        (["--cluster", "test", "--nodes", "2"], "there is no sbatch on this machine"),
    ],
)
def test_mistakes(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "configs").symlink_to(Path(__file__).parents[2] / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err
