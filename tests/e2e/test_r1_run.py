"""All of R1 as users run it, in its smallest form: the whole graph, and kill -9 at random moments of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "base", "r1_zero", "cold_start_data", "cold_start", "rl_reasoning", "rejection_data", "rejection_sft",
    "reward_models", "rl_general", "distill_data", "qwen2", "llama", "distill-qwen2", "distill-llama",
)  # fmt: skip
KILLS = 10


def command(out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "r1mega",
        "run",
        "configs/toy/r1.toml",
        "profile=smoke",
        f"out={out}",
        *more,
    ]


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *more), cwd=ROOT, text=True, capture_output=True)


def results(out: Path) -> dict[str, Any]:
    """Every stage's state, metrics and benchmarks."""
    rows = json.loads((out / "summary.json").read_text())["stages"]
    return {row["name"]: (row["status"], row["metrics"], row["benchmarks"]) for row in rows}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("r1") / "out"
    started = time.monotonic()
    done = run(out)
    assert done.returncode == 0, done.stderr[-3000:]
    (out.parent / "seconds").write_text(str(time.monotonic() - started))
    return out


@pytest.mark.slow
def test_the_whole_graph(undisturbed: Path) -> None:
    found = results(undisturbed)
    assert tuple(found) == STAGES
    assert {state for state, _, _ in found.values()} == {"done"}
    models = [
        name
        for name in STAGES
        if name not in ("cold_start_data", "rejection_data", "distill_data", "reward_models")
    ]
    assert {name for name, (_, _, benchmarks) in found.items() if benchmarks} == set(models)
    marks = {p.parent.name: json.loads(p.read_text()) for p in undisturbed.glob("*/DONE.json")}
    assert {mark["artifact"]["type"] for mark in marks.values()} == {"model", "dataset", "reward_models"}
    for room, mark in marks.items():
        assert (undisturbed / room / mark["artifact"]["path"]).is_dir()


@pytest.mark.slow
def test_the_students_can_be_loaded_and_chat(undisturbed: Path) -> None:
    """By transformers, with R1's template; vLLM has answered the benchmarks from the same folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for number, name, architecture in ((13, "distill-qwen2", "Qwen2"), (14, "distill-llama", "Llama")):
        folder = undisturbed / f"{number}-{name}" / "model"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert type(model).__name__ == f"{architecture}ForCausalLM"
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        turns = [{"role": "user", "content": "2+9-6=?"}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
        ids = prompt["input_ids"] if hasattr(prompt, "keys") else prompt
        assert tokenizer.decode(ids[0]).endswith("<｜User｜>2+9-6=?<｜Assistant｜><think>\n")  # noqa: RUF001
        answer = model.generate(ids, max_new_tokens=8, do_sample=False)
        assert answer.shape[1] > ids.shape[1]
        assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_the_same(undisturbed: Path, tmp_path: Path) -> None:
    """Moments are shares of the time that the undisturbed run took, so that ten fit in on any machine."""
    out, rng = tmp_path / "out", random.Random(0)
    kills, seconds = 0, float((undisturbed.parent / "seconds").read_text())
    while kills < KILLS:
        process = subprocess.Popen(
            command(out),
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * rng.uniform(0.03, 0.17))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    done = run(out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert kills == KILLS, "the run was over before"
    assert results(out) == results(undisturbed)


@pytest.mark.slow
def test_a_changed_stage_is_made_again_with_what_depends_on_it(undisturbed: Path) -> None:
    """And the run goes on elsewhere."""
    moved = undisturbed.with_name("moved")
    undisturbed.rename(moved)
    try:
        before = {room.name: (room / "DONE.json").stat().st_mtime_ns for room in moved.glob("[01]*-*")}
        done = run(moved, "stages.distill-llama.train.lr=1e-3")
        assert done.returncode == 0, done.stderr[-3000:]
        assert (
            "distill-llama will be made again, since something has changed: train.lr: 0.002 -> 0.001"
            in done.stdout
        )
        after = {room.name: (room / "DONE.json").stat().st_mtime_ns for room in moved.glob("[01]*-*")}
        assert {name for name in after if before.get(name) != after[name]} == {"14-distill-llama"} | {
            name for name in after if name.endswith(".old1")
        }
    finally:
        moved.rename(undisturbed)
