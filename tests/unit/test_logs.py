"""metrics.jsonl through kills and full disks, the views, the other sinks, the curves."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r1mega.config import Log as LogSettings
from r1mega.logs import MetricsWriter, open_log, read_metrics
from r1mega.logs.view import Pace, PlainView, clock_time
from r1mega.report.plots import plot_curves, smoothed
from r1mega.types import UserError

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, steps: range, resume_step: int | None = None) -> None:
    writer = MetricsWriter(path, resume_step)
    for step in steps:
        writer.log(step, {"loss": 1 / step})
    writer.close()


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_metrics(path)]


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = MetricsWriter(path)
    given = {
        "loss": 0.1 + 0.2,
        "tokens": 2**60,
        "inf": math.inf,
        "minus": -math.inf,
        "nan": math.nan,
        "what": "回",
    }
    writer.log(1, given | {"numpy": np.float32(0.5)})
    writer.close()
    [found] = read_metrics(path)
    assert math.isnan(found.pop("nan")) and math.isnan(given.pop("nan"))  # type: ignore[arg-type]
    assert found == {"step": 1, **given, "numpy": 0.5}

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    strict = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert (strict["nan"], strict["inf"], strict["minus"]) == ("NaN", "Infinity", "-Infinity")


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    path, straight = tmp_path / "metrics.jsonl", tmp_path / "straight.jsonl"
    write(straight, range(1, 11))
    write(path, range(1, 8))
    write(path, range(5, 11), resume_step=4)
    assert path.read_bytes() == straight.read_bytes()
    write(path, range(11, 12))
    assert steps_in(path) == list(range(1, 12))
    write(path, range(0), resume_step=0)
    assert steps_in(path) == []


@pytest.mark.parametrize(
    "torn", ['{"step": 4, "lo', '{"step": 4, "lo\n', "\x00\x00\x00\n", '{"step":', "null\n"]
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    with open(path, "a", encoding="utf-8") as file:
        file.write(torn)
    assert steps_in(path) == [1, 2, 3]
    write(path, range(4, 6))
    assert steps_in(path) == [1, 2, 3, 4, 5]


def test_a_broken_line_within_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is no record"):
        MetricsWriter(path, resume_step=1)
    assert path.read_text() == '{"step": 1}\n{"loss": 2}\n{"step": 3}\n'


def test_a_killed_writer_loses_no_record_that_it_logged(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from r1mega.logs import MetricsWriter\n"
        "writer = MetricsWriter(Path(sys.argv[1]))\n"
        "for step in range(10**9): writer.log(step, {'text': 'x' * 500}); print(step, flush=True)"
    )
    path = tmp_path / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    logged = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    logged += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    assert steps_in(path)[: len(logged)] == logged and len(logged) >= 50


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")  # takes an open, refuses every write for want of space
    writer = MetricsWriter(path)
    with pytest.raises(UserError, match=rf"no space left on the disk while writing {re.escape(str(path))}"):
        writer.log(1, {"loss": 1.0})
    writer.close()


def test_only_rank_0_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with open_log(tmp_path, LogSettings(tensorboard=True), title="a", total_steps=3) as log:
        log.log(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    with open_log(tmp_path, LogSettings(), title="a", total_steps=3) as log:
        log.log(1, {"loss": 1.0})
    assert steps_in(tmp_path / "metrics.jsonl") == [1]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_that_of_the_last_steps() -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    assert pace.eta(500) is None  # resumed here: what it took to come so far says nothing
    for step in range(501, 601):
        clock.now += 1.0
        assert pace.eta(step) == pytest.approx(1000 - step)
    for step in range(601, 701):  # twice as fast from now on; the old pace is forgotten
        clock.now += 0.5
        left = pace.eta(step)
    assert left == pytest.approx(150.0)


def test_clock_times() -> None:
    assert [clock_time(s) for s in (None, 0, 59.6, 62, 3661)] == ["-:--", "0:00", "1:00", "1:02", "1:01:01"]


@pytest.mark.parametrize(
    ("every", "expected"),
    [(10, [1, 10, 15, 20, 25]), (0, [1, 6, 11, 15, 20, 25])],  # one second a step; a line every 5 s
)
def test_lines_come_when_they_are_due(
    every: int, expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    view = PlainView("base", 25, every, clock)
    for step in range(1, 26):
        clock.now += 1.0
        view.log(step, {"loss": 2.0, **({"held_out_loss": 1.5} if step == 15 else {})})
    lines = capsys.readouterr().out.splitlines()
    assert [int(re.search(r"(\d+)/25", line)[1]) for line in lines] == expected  # type: ignore[index]
    assert "loss 2.0000" in lines[0] and "held-out 1.5000" in lines[expected.index(15)]
    assert "ETA 0:05" in lines[expected.index(20)] and "ETA" not in lines[-1]


def in_a_terminal(code: str, *args: str) -> str:
    """What a program shows when its output is a terminal, 100 columns wide."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=theirs, stderr=theirs, cwd=ROOT, env=env
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says EIO when the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_a_terminal_gets_a_live_view(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from r1mega.config import Log; from r1mega.logs import open_log, say\n"
        "with open_log(Path(sys.argv[1]), Log(), title='base', total_steps=40, resume_step=30) as log:\n"
        "    log.log(31, {'loss': 2.5, 'held_out_loss': 2.25})\n"
        "    say('a word in between')\n"
        "    log.log(40, {'loss': 0.5, 'grad_norm': 1.25, 'lr': 3e-4, 'tokens_per_second': 12345.6})"
    )
    shown = in_a_terminal(code, str(tmp_path))
    assert "a word in between" in shown
    last = shown.rsplit("\x1b[2K", 1)[-1]
    for text in (
        "40/40",
        "ETA 0:00",
        "loss 0.5000",
        "held-out 2.2500",
        "grad 1.250",
        "lr 3.00e-04",
        "12,346 tok/s",
    ):
        assert text in last
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resumed, last in ((0, 5), (3, 8)):
        settings = LogSettings(tensorboard=True)
        with open_log(tmp_path, settings, title="a", total_steps=8, resume_step=resumed) as log:
            for step in range(resumed + 1, last + 1):
                log.log(step, {"loss": 10.0 * resumed + step, "note": "no number"})
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [
        (s, s if s <= 3 else 30 + s) for s in range(1, 9)
    ]


def test_wandb_goes_on_in_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    settings = LogSettings(wandb_project="p", wandb_mode="offline")
    for resumed, loss in ((0, 0.12345), (2, 0.54321)):
        with open_log(
            tmp_path, settings, title="a", total_steps=4, resume_step=resumed, config={"x": 1}
        ) as log:
            log.log(resumed + 1, {"loss": loss})
            log.log(resumed + 2, {"loss": 0.5})
    kept = (tmp_path / "wandb_id").read_text()
    files = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{kept}.wandb"))  # what `wandb sync` sends
    assert len(files) == 2
    for file, written in zip(files, (b"0.12345", b"0.54321"), strict=True):
        until = time.monotonic() + 30  # W&B's own process writes them, behind us on a busy machine
        while written not in file.read_bytes() and time.monotonic() < until:
            time.sleep(0.05)
        assert written in file.read_bytes()


@pytest.mark.parametrize(
    ("package", "settings"), [("tensorboard", {"tensorboard": True}), ("wandb", {"wandb_project": "p"})]
)
def test_a_missing_package_is_named(tmp_path: Path, package: str, settings: dict[str, Any]) -> None:
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == package}
    hidden |= {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.startswith("torch.utils.tensorboard")
    }
    sys.modules[package] = None  # type: ignore[assignment]  # what Python takes for not installed
    try:
        with pytest.raises(UserError, match=f"pip install {package}"):
            open_log(tmp_path, LogSettings(**settings), title="a", total_steps=1)
    finally:
        del sys.modules[package]
        sys.modules.update(hidden)


def test_smoothing_lags_behind_nowhere() -> None:
    line = [3.0 * x + 1 for x in range(200)]
    assert smoothed(line) == pytest.approx(line)
    noise = np.random.default_rng(0).normal(size=400).tolist()
    assert np.std(smoothed(noise)[20:-20]) < 0.35 * np.std(noise)  # 21 values in a mean: 1/sqrt(21) = 0.22


def test_curves_are_drawn_for_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert plot_curves(path, tmp_path / "plots") == []
    writer = MetricsWriter(path)
    for step in range(1, 61):
        metrics: dict[str, Any] = {"loss": 5.0 / step if step != 7 else math.nan, "note": "text"}
        writer.log(step, metrics | ({"held_out_loss": 5.2 / step} if step % 20 == 0 else {}))
    writer.close()
    [picture] = plot_curves(path, tmp_path / "plots")
    one = Image.open(picture)
    assert one.format == "PNG" and one.width > 500
    colors = {color for _, color in one.convert("RGB").getcolors(1 << 20)}  # type: ignore[union-attr]
    assert {(0x1F, 0x4E, 0x8C), (0xD1, 0x49, 0x5B)} <= colors  # the curve and the held-out points
    writer = MetricsWriter(path)
    for step in range(61, 70):
        writer.log(step, {"loss": 0.1, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_second": 1e4})
    writer.close()
    [picture] = plot_curves(path, tmp_path / "plots")
    four = Image.open(picture)
    assert (four.width, four.height) == (2 * one.width, 2 * one.height)


def test_an_open_log_costs_little_a_step(tmp_path: Path) -> None:
    with open_log(tmp_path, LogSettings(every=10**9), title="a", total_steps=10**9) as log:
        started = time.process_time()
        for step in range(1, 1001):
            log.log(step, {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "tokens": 1536})
        assert (time.process_time() - started) / 1000 < 0.002
