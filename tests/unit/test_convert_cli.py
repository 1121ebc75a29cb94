"""tools/convert_hf.py as it is typed: what it prints and its exit code. No model is built here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from r1mega.train.convert.target import check_space
from r1mega.types import UserError
from tests import tiny
from tools.convert_hf import main

ROOT = Path(__file__).resolve().parents[2]
NORM = "model.norm.weight"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the tool in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what main sets is taken back

    def one(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    with warnings.catch_warnings():
        yield one


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save("llama3", tmp_path / "model")


def save(kind: str, folder: Path) -> Path:
    tiny.make(kind).to(torch.bfloat16).save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def script(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the tool as a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "convert_hf.py"), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# --- as a process -------------------------------------------------------------------------


def test_help_teaches() -> None:
    helped = script("--help")
    assert helped.returncode == 0
    for command in ("to-megatron", "to-hf", "verify", "inspect"):
        assert f"python tools/convert_hf.py {command} " in helped.stdout


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    told = script("to-megatron", str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert (told.returncode, told.stdout) == (2, "")
    [line] = told.stderr.splitlines()
    assert line.startswith(f"error: there is no folder {tmp_path / 'nowhere'}: give a Hugging Face folder")
    assert os.listdir(tmp_path) == []


# --- verify -------------------------------------------------------------------------------


def flip_lowest_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensors[NORM].view(torch.int16)[5] ^= 1


def negate_zero(tensors: dict[str, torch.Tensor]) -> None:
    tensors[NORM][0] = -0.0


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors[NORM][3] = float("nan")


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        (flip_lowest_bit, [f"{NORM}  1 of 32 values  max abs diff 0.00781"]),
        (negate_zero, [f"{NORM}  1 of 32 values  max abs diff 0"]),
        (not_a_number, [f"{NORM}  1 of 32 values  max abs diff nan"]),
        (lambda t: t.update({NORM: t[NORM].float()}), [f"{NORM}  bfloat16 | float32  max abs diff 0"]),
        (lambda t: t.update({NORM: t[NORM].half() * 2}), [f"{NORM}  bfloat16 | float16  max abs diff 1"]),
        (lambda t: t.update({NORM: t[NORM][:8].clone()}), [f"{NORM}  shape [32] | [8]"]),
        (
            lambda t: t.update({"model.norm.wait": t.pop(NORM)}),
            [f"{NORM}  only in {{model}}", "model.norm.wait    only in {other}"],
        ),
    ],
    ids=["one bit", "sign of zero", "nan", "wider dtype", "other dtype", "shape", "name"],
)
def test_verify_finds(
    run: Run, model: Path, tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], lines: list[str]
) -> None:
    def ones_and_a_zero(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NORM].fill_(1)
        tensors[NORM][0] = 0

    change(model, ones_and_a_zero)
    other = tmp_path / "other"
    shutil.copytree(model, other)
    assert run("verify", model, other) == (0, "39 tensors compared: equal in every bit\n", "")
    change(other, edit)
    code, out, err = run("verify", model, other)
    *told, verdict = out.splitlines()
    assert (code, err) == (1, "")
    assert [" ".join(line.split()) for line in told] == [
        " ".join(line.format(model=model, other=other).split()) for line in lines
    ]
    counted = "38 tensors compared: 2 differences" if len(lines) == 2 else "39 tensors compared: 1 difference"
    assert verdict == counted


def test_verify_reads_the_configs_too(run: Run, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((model / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps(config | {"rms_norm_eps": 1e-6, "transformers_version": "0"})
    )
    code, out, _ = run("verify", model, other)
    assert code == 1
    assert out.splitlines()[0] == "config.json: rms_eps  1e-05 | 1e-06"


def test_verify_counts_what_it_does_not_list(run: Run, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    change(other, lambda tensors: [tensor.add_(1) for tensor in tensors.values()])
    code, out, _ = run("verify", model, other)
    lines = out.splitlines()
    assert code == 1 and len(lines) == 22
    assert lines[-2:] == ["and 19 more differences", "39 tensors compared: 39 differences"]


def test_a_number_of_workers_is_at_least_one(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("0", "two"):
        with pytest.raises(SystemExit) as caught:
            main(["verify", "a", "b", "--workers", given])
        assert caught.value.code == 2
        assert f"{given} is given, and a whole number of at least 1 is needed" in capsys.readouterr().err


# --- there and back -----------------------------------------------------------------------


def test_the_three_commands_of_the_help(run: Run, tmp_path: Path) -> None:
    """bfloat16 and back, then FP8: what is printed, and that verify is content, or is not."""
    source, checkpoint, back, small = (tmp_path / name for name in ("src", "ckpt", "back", "fp8"))
    save("v3", source)
    code, out, err = run("to-megatron", source, checkpoint, "--workers", "2")
    assert (code, out, err) == (0, f"wrote the checkpoint {checkpoint}\n", "")
    assert run("to-hf", checkpoint, back)[0] == 0
    for pair in ((source, back), (source, checkpoint), (checkpoint, back)):
        assert run("verify", *pair) == (0, "103 tensors compared: equal in every bit\n", "")
    code, out, _ = run("to-hf", checkpoint, small, "--dtype", "fp8")
    assert code == 0 and "what FP8 lost: rms 2." in out and "of the largest weight in a block" in out
    assert (
        "bfloat16 (101 tensors), float32 (2 tensors); 80 of them stored in FP8, block-wise"
        in run("inspect", small)[1]
    )
    assert (
        "is in FP8, which transformers runs on some GPUs only" in run("verify", small, small, "--logits")[2]
    )
    code, out, _ = run("verify", small, checkpoint)
    assert code == 1 and out.endswith("103 tensors compared: 80 differences\n")
    again = tmp_path / "again"
    assert run("to-megatron", small, again)[0] == 0
    assert run("verify", small, again) == (0, "103 tensors compared: equal in every bit\n", "")


# --- inspect ------------------------------------------------------------------------------


def test_inspect_says_what_a_folder_holds(run: Run, tmp_path: Path) -> None:
    folder = save("v3", tmp_path / "v3")
    code, out, err = run("inspect", folder)
    assert (code, err) == (0, "")
    parameters = sum(p.numel() for p in tiny.make("v3").parameters())
    for part in (
        f"{folder}: a Hugging Face folder",
        "complete    yes",
        "family      deepseek_v3 (DeepseekV3ForCausalLM)",
        f"parameters  {parameters:,}",
        "layers      4, 2 of them with 8 experts",
        "tensors     103",
        "and 83 more (--all lists them)",
    ):
        assert part in out
    assert "model.layers.3.mlp.experts.7.up_proj.weight" in run("inspect", folder, "--all")[1]


def test_inspect_says_what_is_missing(run: Run, model: Path) -> None:
    change(model, lambda tensors: tensors.pop(NORM))
    code, out, _ = run("inspect", model)
    assert code == 1
    assert f"complete    no: the weights do not fit the llama model of config.json: 1 missing: {NORM}" in out
    (model / "model.safetensors").unlink()
    code, out, _ = run("inspect", model)
    assert code == 1 and "family      llama" in out and "has no weights" in out


# --- mistakes -----------------------------------------------------------------------------


def test_mistakes_are_named(run: Run, model: Path, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    (tmp_path / "remains" / "model").mkdir(parents=True)
    (tmp_path / "remains" / "model" / "__0_0.distcp").write_bytes(b"x")
    said = {
        ("to-hf", model, out): f"{model} is a Hugging Face folder already: to-hf reads a checkpoint",
        ("to-hf", empty, out): f"there is no {empty / 'config.json'}",
        ("to-hf", tmp_path / "remains", out): "is no complete checkpoint: it has no COMPLETE file",
        ("inspect", tmp_path / "remains"): "is no complete checkpoint: it has no COMPLETE file",
        ("to-hf", model, model): f"{model} exists and is not an empty folder",
        ("verify", model, empty): f"there is no {empty / 'config.json'}",
        ("inspect", tmp_path / "nowhere"): f"there is no folder {tmp_path / 'nowhere'}",
    }
    for words, expected in said.items():
        code, told, err = run(*words)
        assert (code, told) == (2, ""), words
        assert err.startswith("error: ") and expected in err and err.count("\n") == 1
    assert not out.exists()


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    free = shutil.disk_usage(tmp_path).free
    check_space(folder, free // 2)
    with pytest.raises(UserError, match=rf"{folder} needs 1.2 EB, the disk has .* free: make room"):
        check_space(folder, 1 << 60)
    assert os.listdir(tmp_path) == []
