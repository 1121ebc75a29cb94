"""Whole runs through submitit on this machine: in this process, and in one that is stopped on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from tests.e2e.runs import ROOT, config_file, outcome
from tests.slurm.daemons import wait_until

LENGTH = ("stages.base.train.steps=60", "stages.base.checkpoint.every=20", "threads=1")


@pytest.mark.slow
def test_stopped_and_queued_again_it_ends_as_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config, whole, stopped = config_file(tmp_path), tmp_path / "whole", tmp_path / "stopped"
    [debug] = launch.submit(config, "local", overrides=[f"out={whole}", *LENGTH], debug=True)
    assert not (whole / "summary.json").exists()  # it runs when it is asked for its result
    assert debug.result()["stages"][0]["status"] == "done"

    [handle] = launch.submit(config, "local", overrides=[f"out={stopped}", *LENGTH])
    log = stopped / "01-base" / "metrics.jsonl"
    wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 3, 200, "the third step")
    [task] = Path(f"/proc/{handle.id}/task/{handle.id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    result = handle.result(timeout=300)
    said = handle.log.read_text()
    assert "Requeued job" in said and "stopping after this step" in said
    assert [stage["status"] for stage in result["stages"]] == ["done"]
    assert outcome(stopped) == outcome(whole)
    weights = [out / "01-base" / "model" / "model.safetensors" for out in (whole, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_the_shell_shows_the_run_and_passes_on_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch", str(config_file(tmp_path)), "--cluster", "local", "threads=1"]
    good = subprocess.run(
        [*command, f"out={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert good.returncode == 0, good.stderr
    assert "base  8/8  loss" in good.stdout and "result: " in good.stdout
    bad = subprocess.run(
        [*command, f"out={tmp_path / 'bad'}", "stages.base.data.documents=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert bad.returncode == 1 and "has failed: " in bad.stderr and "no reason" not in bad.stderr, bad.stderr
