"""A rank of a real run stops: it is found, named, and the same command goes on afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1mega.logs import read_metrics
from tests.e2e.runs import ROOT, config_file

STEPS = "stages.base.train.steps=400"


def processes(out: Path) -> dict[int, int]:
    """rank -> process, of the run with this folder."""
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [int(one[5:]) for one in environment if one.startswith(b"RANK=")]
        if f"out={out}".encode() in words and ranks and b"r1mega.cli" in words:
            found.setdefault(ranks[0], int(folder.name))
    return found


@pytest.mark.slow
def test_a_stopped_rank_of_a_real_run_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "r1mega.cli", "run", str(config_file(tmp_path)), f"out={out}", STEPS]
    command += ["stages.base.checkpoint.every=5", "--nproc", "2", "--keep-output", "--hang-minutes"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen([*command, "1"], env=env, stdout=said, stderr=said, cwd=ROOT)
        until = time.monotonic() + 300
        while len(read_metrics(out / "01-base" / "metrics.jsonl")) < 12:
            assert run.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.1)
        ranks = processes(out)
        os.kill(ranks[1], signal.SIGSTOP)
        assert run.wait(300) == 1
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert re.match(
        r"error: rank 1 of 2 on \S+ hangs at 'base: \S.*', stopped by a signal: no rank has", last
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    job = out / "jobs" / "local"
    assert "r1mega/train" in (job / "stacks-0.txt").read_text()  # rank 0 waits in the midst of a step
    assert "base  " in (job / "trainer-0.log").read_text()
    done = len(read_metrics(out / "01-base" / "metrics.jsonl"))
    words = [sys.executable, "-m", "r1mega.cli", "status", str(out), "--json"]
    state = json.loads(subprocess.run(words, env=env, capture_output=True, text=True, cwd=ROOT).stdout)
    assert state["stages"][0]["step"] == done and state["life"]["state"] == "idle"
    assert state["stages"][0]["checkpoint"] == done // 5 * 5

    again = [*command, "5", f"stages.base.train.steps={400}", "threads=1"]
    second = subprocess.Popen(
        again, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    assert second.stdout is not None
    for line in second.stdout:
        if "going on from step" in line:
            assert f"from step {done // 5 * 5} of 400" in line
            break
    second.send_signal(signal.SIGTERM)
    assert second.wait(300) == 130
