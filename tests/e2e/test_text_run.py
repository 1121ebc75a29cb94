"""A run learns, exports what it trained, and is the same whether or not it was killed on the way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from r1mega.data.tokenizers import load_tokenizer
from r1mega.data.toy import corpus
from r1mega.train import checkpoint
from tests.e2e.runs import config_file, outcome, run, run_until


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run on two ranks with expert parallelism."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(config_file(folder), folder / "out", 2)
    return folder / "out"


def tensors(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "01-base" / "model" / "model.safetensors")


def test_it_learns_and_says_so(undisturbed: Path) -> None:
    said = outcome(undisturbed)["stages"][0]
    assert (said["name"], said["kind"], said["status"]) == ("base", "pretrain", "done")
    assert said["metrics"]["held_out_loss"] < said["metrics"]["held_out_loss_before"] - 0.5
    assert [row["step"] for row in said["log"]] == list(range(1, 9))
    assert all({"loss", "grad_norm", "lr", "tokens"} <= row.keys() for row in said["log"])
    assert [row["step"] for row in said["log"] if "held_out_loss" in row] == [4, 8]
    assert (undisturbed / "01-base" / "plots" / "curves.png").stat().st_size > 10_000


def test_the_export_is_what_was_trained(undisturbed: Path) -> None:
    """transformers loads the folder with its tokenizer and gives the trainer's held-out loss."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = undisturbed / "01-base" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    theirs, ours = AutoTokenizer.from_pretrained(folder, trust_remote_code=True), load_tokenizer(folder)
    for text in corpus(50, 1, (3, 4), held_out=True):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    total, count = 0.0, 0
    for sample in held_out(undisturbed):
        tokens = torch.from_numpy(sample.tokens.astype("int64"))
        with torch.no_grad():
            logits = model(tokens[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum"))
        count += len(tokens) - 1
    said = outcome(undisturbed)["stages"][0]["metrics"]["held_out_loss"]
    assert total / count == pytest.approx(said, abs=2e-6)


def held_out(out: Path) -> Iterator:
    import json

    from r1mega.data.store import open_store

    folder = out / "01-base" / "data" / "held_out"
    store = open_store(folder, json.loads((folder / "meta.json").read_text())["fingerprint"])
    assert store is not None
    return (store[i] for i in range(len(store)))


def test_killed_anywhere_it_ends_the_same(undisturbed: Path, tmp_path: Path) -> None:
    """kill -9 of both ranks while data is made, between steps, and inside the writing of checkpoints."""
    config, out = config_file(tmp_path), tmp_path / "out"
    room = out / "01-base"

    def logged(steps: int) -> bool:
        file = room / "metrics.jsonl"
        return file.exists() and file.read_bytes().count(b"\n") > steps

    moments = [
        lambda: (room / "data" / "train").exists(),
        lambda: logged(1),
        lambda: (room / "checkpoints" / "step_000002.partial").exists(),
        lambda: (room / "checkpoints" / "step_000002" / "COMPLETE").exists() and logged(3),
        lambda: (room / "checkpoints" / "step_000006.partial" / "model").exists(),
        lambda: logged(7),
        lambda: (
            (room / "model.partial").exists() or (room / "checkpoints" / "step_000008" / "COMPLETE").exists()
        ),
    ]
    before = {child.pid for child in psutil.process_iter()}
    killed = [run_until(config, out, 2, moment) for moment in moments]
    left = [
        p for p in psutil.process_iter(["ppid", "cmdline"]) if p.pid not in before and p.info["ppid"] == 1
    ]
    assert not [p.info["cmdline"] for p in left if "multiprocessing" in " ".join(p.info["cmdline"] or ())]
    assert killed == [True] * len(moments)
    run(config, out, 2)
    assert outcome(out) == outcome(undisturbed)
    ours, theirs = tensors(out), tensors(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_asked_to_stop_it_keeps_its_step(undisturbed: Path, tmp_path: Path) -> None:
    """SIGTERM (and Ctrl-C): the step ends, a checkpoint is kept, nothing is lost."""
    config, out = config_file(tmp_path), tmp_path / "out"
    log = out / "01-base" / "metrics.jsonl"
    moment = lambda: log.exists() and log.read_bytes().count(b"\n") > 3  # noqa: E731
    assert run_until(config, out, 2, moment, number=signal.SIGTERM)
    kept = sorted(path.parent.name for path in (out / "01-base" / "checkpoints").glob("*/COMPLETE"))
    steps = log.read_bytes().count(b"\n")
    assert kept[-1] == f"step_{steps:06d}"
    assert outcome(out)["stages"][0]["status"] == "interrupted"
    run(config, out, 2)
    assert outcome(out) == outcome(undisturbed)


def test_a_checkpoint_that_was_sealed_but_not_renamed_is_no_checkpoint(tmp_path: Path) -> None:
    """kill -9 between the marker and the rename: the folder is ignored, and cleaned up later."""
    for name in ("step_000002", "step_000004.partial", "step_000006"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "COMPLETE").write_text("{}")
    assert checkpoint.complete_steps(tmp_path) == [2, 6]
    checkpoint.prune(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000006"]


def test_one_rank_learns_the_same(undisturbed: Path, tmp_path: Path) -> None:
    """Initial weights, data order and denominators do not depend on the layout: only rounding does."""
    out = tmp_path / "out"
    run(config_file(tmp_path), out, 1, "layout.ep=1")
    for ours, theirs in zip(
        outcome(out)["stages"][0]["log"], outcome(undisturbed)["stages"][0]["log"], strict=True
    ):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-4)


def test_a_done_stage_is_skipped_and_another_config_is_not_mixed_in(
    undisturbed: Path, tmp_path: Path
) -> None:
    config, out = config_file(tmp_path), tmp_path / "out"
    first = run(
        config, out, 1, "layout.ep=1", "stages.base.train.steps=3", "stages.base.train.warmup_steps=1"
    )
    again = run(
        config, out, 1, "layout.ep=1", "stages.base.train.steps=3", "stages.base.train.warmup_steps=1"
    )
    assert again["stages"] == first["stages"]
    run(config, out, 1, "layout.ep=1", "stages.base.train.steps=4", "stages.base.train.warmup_steps=1")
    assert outcome(out)["stages"][0]["metrics"]["steps"] == 4
    assert (out / "01-base.old1" / "DONE.json").exists()
