"""The command as a person meets it: what it prints, how fast a mistake is answered, how each end is reported.

What a run does is not tested here: a stand-in for the pipeline ends in each way that a pipeline can.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import launch.agent  # torch, once here instead of in each launcher
from r1mega import cli
from r1mega.report.status import seconds_left

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
name = "toy"
nproc = 2
[model.config]
vocab_size = 300
[tokenizer.train]
vocab_size = 300
[layout]
ep = 2
[train]
steps = 100
batch_size = 4
lr = 3e-3
[stages.base]
kind = "pretrain"
data.kind = "toy"
"""

# Python runs this in every process that has it on its path. `name` in the config chooses the end.
STAND_IN = """
import errno, os, sys, types
from r1mega.types import Interrupted, UserError
def run(config, chosen=None, *, command=""):
    rank = os.environ.get("RANK", "-")
    threads, lr = os.environ["OMP_NUM_THREADS"], config.stages["base"].train.lr
    with open(os.environ["SEEN"] + rank, "w") as file:
        file.write(f"{rank} {','.join(chosen) if chosen else None} {config.nproc} {threads} {lr}")
    ends = {
        "user": UserError("no such data"),
        "stop": Interrupted("interrupted at step 7; run the same command again"),
        "key": KeyboardInterrupt(),
        "disk": OSError(errno.ENOSPC, "No space left on device", "/some/file"),
        "bug": ZeroDivisionError("division by zero"),
    }
    if config.name in ends:
        raise ends[config.name]
stages, module = types.ModuleType("r1mega.stages"), types.ModuleType("r1mega.stages.pipeline")
module.run = run
stages.pipeline = module
sys.modules.update({"r1mega.stages": stages, "r1mega.stages.pipeline": module})
"""
ENDS = [
    ("fine", 0, "", ""),
    ("user", 2, "error: no such data", ""),
    ("stop", 130, "interrupted at step 7; run the same command again", ""),
    (
        "key",
        130,
        "interrupted: the newest complete checkpoint is kept; run the same command again to continue",
        "",
    ),
    (
        "disk",
        2,
        "error: the disk is full while writing /some/file: make room; the newest complete checkpoint",
        "",
    ),
    ("bug", 1, "error: ZeroDivisionError: division by zero", "Traceback"),
]


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """A config that can be run."""
    (tmp_path / "toy.toml").write_text(CONFIG)
    return str(tmp_path / "toy.toml")


def r1mega(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "r1mega", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


def in_a_fork(action: Callable[[], int], shown: Path) -> int:
    """The exit code of `action`, done in a child whose output goes to a file."""

    def child() -> None:
        handle = os.open(shown, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = action()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def test_help_teaches() -> None:
    found = r1mega("--help")
    assert found.returncode == 0
    for text in (
        "r1mega run configs/toy/pretrain_v3.toml profile=smoke",
        "status",
        "doctor",
        "docs/configs.md",
    ):
        assert text in found.stdout
    found = r1mega("run", "--help")
    for text in ("examples:", "metrics.jsonl", "resume:", "Ctrl-C", "--nproc", "--stage", "--list"):
        assert text in found.stdout


def test_the_commands_in_the_help_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split("   ")[0].strip() for line in (cli.HELP + cli.RUN_HELP).splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("r1mega run configs/")]
    assert len(commands) >= 7
    for command in commands:
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in command]
        assert cli.main([*words, "--list"]) == 0, command
        shown = capsys.readouterr().out
        assert "to do" in shown or "cannot read train.jsonl" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "TOY", "train.lrr=1"], "unknown key 'lrr' in [train]; did you mean 'lr'?"),
        (["run", "configs/toy/pretrain_v4.toml"], "did you mean configs/toy/pretrain_v3.toml?"),
        (["run", "profile=smoke", "TOY"], "the config file comes before key=value"),
        (["run", "TOY", "--stage", "bas"], "--stage bas: no such stage; stages: base"),
        (["run", "TOY", "--nproc", "two"], "nproc = 'two': should be a whole number"),
        (["run", "TOY", "--nproc", "3", "layout.tp=2"], "stage 'base' with nproc = 3"),
        (["run", "TOY", "--nproc", "1"], "stage 'base' with nproc = 1"),  # ep = 2 needs two ranks
        (["status", "runs/none"], "no run in runs/none"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    toy: str,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main([toy if word == "TOY" else word for word in arguments]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.startswith("error: ") and said in found.err
    assert len(found.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["run"], ["runn", "TOY"], ["run", "TOY", "--nprocs", "2"], ["status", "a", "b"]]
)
def test_a_wrong_command_line_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "usage: r1mega" in capsys.readouterr().err


def test_a_mistake_costs_less_than_a_second(toy: str) -> None:
    """CPU seconds, which a busy machine does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert r1mega("run", toy, "train.lrr=1").returncode == 2
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("order", [["--nproc", "2", "train.lr=2e-3"], ["train.lr=2e-3", "--nproc", "2"]])
def test_options_and_overrides_mix(toy: str, order: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", toy, "name=mixed", *order, "out=/nowhere", "--list"]) == 0
    head, base = capsys.readouterr().out.splitlines()
    assert head == "mixed  /nowhere" and base.startswith("  01-base  pretrain  to do  ")
    assert base.endswith("  random weights; 100 steps of 4 sequences")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Here and in every rank, the pipeline is the stand-in. A rank writes what it saw to `seen<rank>`."""
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # `run` sets it; put back afterwards
    for name in ("r1mega.stages", "r1mega.stages.pipeline"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    exec(STAND_IN, {})
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("name", "code", "last_line", "first_line"), ENDS)
def test_every_end_of_one_rank(
    toy: str,
    stand_in: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    last_line: str,
    first_line: str,
) -> None:
    words = ["run", toy, f"name={name}", "nproc=1", "layout.ep=1", "threads=3", "--stage", "base"]
    assert cli.main(words) == code
    found = capsys.readouterr()
    lines = found.err.splitlines() or [""]
    assert found.out == "" and lines[-1].startswith(last_line)
    assert lines[0].startswith(first_line) if first_line else len(lines) == 1
    assert (stand_in / "seen-").read_text() == "- base 1 3 0.003"


@pytest.mark.parametrize(
    ("name", "code", "last_line"),
    [
        ("fine", 0, ""),
        ("user", 2, "error: no such data"),
        ("stop", 130, "interrupted at step 7; run the same command again"),
        ("bug", 1, r"error: rank [01] of 2 failed: ZeroDivisionError: division by zero"),
    ],
)
def test_every_end_of_two_ranks(toy: str, stand_in: Path, name: str, code: int, last_line: str) -> None:
    words = ["run", toy, f"name={name}", "train.lr=2e-3", "--nproc", "2", "threads=3"]
    assert in_a_fork(lambda: cli.main(words), stand_in / "shown") == code
    lines = (stand_in / "shown").read_text().splitlines() or [""]
    assert re.fullmatch(last_line, lines[-1])
    tracebacks = sum(line.startswith("Traceback") for line in lines)
    assert tracebacks == 1 if name == "bug" else len(lines) == 1  # said once, not once a rank
    for rank in ("0", "1") if name == "fine" else ():
        assert (stand_in / f"seen{rank}").read_text() == f"{rank} None 2 3 0.002"


def test_status_tells_of_a_run_while_it_runs_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "mine"
    stages = [
        {
            "name": "a",
            "kind": "pretrain",
            "status": "done",
            "seconds": 62.0,
            "metrics": {"held_out_loss": 0.5, "steps": 3},
        },
        {"name": "b", "kind": "sft", "status": "running", "seconds": 1.0, "metrics": {}},
        {"name": "c", "kind": "sft", "status": "waiting", "seconds": 0.0, "metrics": {}},
    ]
    (run / "02-b").mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"name": "mine", "seconds": 63.0, "stages": stages}))
    (run / "02-b" / "config.json").write_text(json.dumps({"train": {"steps": 100}}))
    records = [{"step": s, "loss": 2.0, "tokens_per_second": 500.0, "seconds": 2.0} for s in range(1, 41)]
    records[19]["held_out_loss"] = 1.75
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "02-b" / "metrics.jsonl").write_text(text + '{"step": 41, "lo')  # being written just now
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "runs/mine", str(run)):
        assert cli.main(["status", name]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].startswith("mine  ") and shown[0].endswith("1:03")
        assert shown[1] == "  01-a  pretrain  done  1:02"
        assert shown[2].startswith(
            "  02-b  sft  running  step 40/100  loss 2.0000  held-out 1.7500  500 tok/s  ETA 2:00"
        )
        assert "(last step 0:0" in shown[2]
        assert shown[3] == "  03-c  sft  waiting"


def test_the_seconds_left_are_unknown_where_they_cannot_be_known() -> None:
    assert seconds_left([{"step": 10, "seconds": 0.5}], 30) == pytest.approx(10.0)
    assert seconds_left([{"step": 10}], 30) is None
    assert seconds_left([{"step": 10, "seconds": 0.5}], None) is None


def test_doctor_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1mega import doctor

    given: list[list[str]] = []

    def main(argv: list[str]) -> int:
        given.append(argv)
        return 1

    monkeypatch.setattr(doctor, "main", main)
    assert cli.main(["doctor", "--json", "--help"]) == 1
    assert given == [["--json", "--help"]]
    assert launch.agent
