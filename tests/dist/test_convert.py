"""Hugging Face -> checkpoint -> Hugging Face, bit by bit, for every family, layout and way to fail.

What is compared was written by transformers and is read by the safetensors library, by transformers, or by
Megatron-Core's own loader.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from r1mega.models import weights
from r1mega.models.blocks import Box
from r1mega.models.hf import HFFolder
from r1mega.models.hf_write import HFWriter
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train import checkpoint
from r1mega.train.convert.progress import Advance, Display, silent
from r1mega.train.convert.source import CheckpointFolder, open_weights
from r1mega.train.convert.to_hf import to_hf
from r1mega.train.convert.to_megatron import to_megatron
from r1mega.train.convert.verify import compare
from r1mega.train.policy import Policy
from r1mega.types import UserError
from tests import tiny
from tests.dist.test_layouts import DENOMINATOR, TRAIN, loss_function, my_batches
from tests.ranks import RankError, run_ranks

SMALL_FILES = {"tokenizer.json": b'{"version":"1.0"}\r\n\xc3\xa9', "merges.txt": b"a b\n"}
BIAS = "e_score_correction_bias"


def save(kind: str, folder: Path, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Path:
    """Let transformers save a tiny model, and put tokenizer files beside it."""
    model = tiny.make(kind).to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder, **options)
    for name, content in SMALL_FILES.items():
        (folder / name).write_bytes(content)
    return folder


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Edit the tensors of a folder in place; it has one file."""
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, {"format": "pt"})
    return folder


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def large(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] = 1e5


def finer_bias(tensors: dict[str, torch.Tensor]) -> None:
    """As DeepSeek ships it: bfloat16 weights, float32 biases whose last bits matter."""
    tensors |= {name: tensor.float() + 1e-6 for name, tensor in tensors.items() if name.endswith(BIAS)}


def of_no_use(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


ROUND_TRIPS = [(kind, dtype) for kind in tiny.CONFIGS for dtype in (torch.float32, torch.bfloat16)]
ROUND_TRIPS += [("v3", torch.float16)]
SPECIAL: dict[str, tuple[str, torch.dtype, Callable[[dict[str, torch.Tensor]], None]]] = {
    "large": ("qwen2_tied", torch.float32, large),
    "finer bias": ("v3", torch.bfloat16, finer_bias),
    "of no use": ("llama_tied", torch.bfloat16, of_no_use),
}


@dataclass(frozen=True)
class Pair:
    """A folder of transformers and the checkpoint made from it. Shared by the tests: do not change them."""

    hf: Path
    checkpoint: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Pair]:
    """Every conversion, by (kind, dtype) or the name of the special case, in one process."""
    room = tmp_path_factory.mktemp("made")
    cases = [*ROUND_TRIPS, *SPECIAL]
    pairs: dict[Any, Pair] = {
        case: Pair(room / f"{i}-hf", room / f"{i}-ckpt") for i, case in enumerate(cases)
    }
    for kind, dtype in ROUND_TRIPS:
        shard = "20KB" if dtype == torch.bfloat16 else "1GB"
        save(kind, pairs[kind, dtype].hf, dtype, max_shard_size=shard)
    for name, (kind, dtype, edit) in SPECIAL.items():
        change(save(kind, pairs[name].hf, dtype), edit)
    convert(*pairs.values())
    return pairs


def convert(*pairs: Pair, show: Display = silent) -> None:
    """to_megatron, in a process of its own: Megatron-Core's state stays there."""

    def all_of_them(rank: int) -> None:
        for pair in pairs:
            to_megatron(pair.hf, pair.checkpoint, show)

    run_ranks(1, all_of_them)


def refusal(source: Path, target: Path) -> str:
    """What to_megatron says instead of converting; nothing may be left of the attempt."""
    with pytest.raises(UserError) as caught:
        to_megatron(source, target)
    assert not target.with_name(target.name + ".partial").exists()
    return str(caught.value)


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


# --- round trips --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dtype"), ROUND_TRIPS, ids=str)
def test_there_and_back_is_bitwise(
    made: dict[Any, Pair], tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    pair, target = made[kind, dtype], tmp_path / "out"
    assert (pair.hf / "model.safetensors.index.json").exists() == (dtype == torch.bfloat16)
    to_hf(pair.checkpoint, target)
    assert_same(read(target), read(pair.hf))
    small = {file.name for file in pair.hf.iterdir() if "safetensors" not in file.name}
    assert {"config.json", "generation_config.json", *SMALL_FILES} <= small
    assert {file.name for file in target.iterdir() if "safetensors" not in file.name} == small
    for name in small:
        assert (target / name).read_bytes() == (pair.hf / name).read_bytes()
    for other in (pair.checkpoint, target):
        assert compare(HFFolder.open(pair.hf), open_weights(other)).differences == ()
    assert os.listdir(tmp_path) == ["out"]


def test_real_checkpoints_keep_the_expert_bias_in_float32(made: dict[Any, Pair], tmp_path: Path) -> None:
    pair = made["finer bias"]
    to_hf(pair.checkpoint, tmp_path / "out")
    tensors = read(pair.hf)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16, torch.float32}
    assert_same(read(tmp_path / "out"), tensors)


def test_another_dtype_is_what_torch_casts_to_and_the_config_says_so(
    made: dict[Any, Pair], tmp_path: Path
) -> None:
    pair, out = made["v3", torch.float32], tmp_path / "out"
    to_hf(pair.checkpoint, out, dtype=torch.bfloat16)
    assert_same(read(out), {n: t if n.endswith(BIAS) else t.bfloat16() for n, t in read(pair.hf).items()})
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, pair.hf))
    assert ours == theirs | {"dtype": "bfloat16"}
    assert (out / "tokenizer.json").read_bytes() == SMALL_FILES["tokenizer.json"]


def test_values_beyond_the_dtype_are_refused(made: dict[Any, Pair], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.norm\.weight has values up to 100000, float16 ends at 65504"
    ):
        to_hf(made["large"].checkpoint, tmp_path / "out", dtype=torch.float16)
    assert os.listdir(tmp_path) == []


def test_what_a_model_has_no_use_for_is_left_out_and_said(made: dict[Any, Pair], tmp_path: Path) -> None:
    pair, source, out = made["of no use"], tmp_path / "hf", tmp_path / "out"
    to_hf(pair.checkpoint, out)
    tensors = read(pair.hf)
    extra = {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert_same(read(out), {name: tensor for name, tensor in tensors.items() if name not in extra})
    found = compare(HFFolder.open(pair.hf), HFFolder.open(out))
    assert (found.differences, found.left_out) == ((), tuple(sorted(extra)))
    change(copied(pair.hf, source), lambda tensors: tensors["lm_head.weight"][0].add_(1))
    assert "lm_head.weight differs from model.embed_tokens.weight" in refusal(source, tmp_path / "ckpt")
    found = compare(HFFolder.open(source), HFFolder.open(out))
    assert [difference.name for difference in found.differences] == ["lm_head.weight"]


# --- other layouts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("qwen2_tied", {"pp": 2}), ("llama3", {"tp": 2}), ("v3", {"ep": 2, "tp": 2})],
    ids=str,
)
def test_megatron_loads_a_converted_checkpoint_in_any_layout(
    made: dict[Any, Pair], kind: str, sizes: dict[str, int]
) -> None:
    pair = made[kind, torch.bfloat16]

    def load(rank: int) -> dict[str, torch.Tensor]:
        with Mesh(Layout.of(2, **sizes)) as mesh:
            policy = Policy(load_spec(pair.checkpoint), mesh, dtype="bfloat16", seed=7)
            loop = checkpoint.load(policy, pair.checkpoint, optimizer=False)
            assert loop["converted_from"] == str(pair.hf)
            return {n: t.clone() for n, t in weights.whole(policy.spec, mesh, weights.tensors(policy.model))}

    expected = {name: t.float() if name.endswith(BIAS) else t for name, t in read(pair.hf).items()}
    for loaded in run_ranks(2, load):
        assert_same(loaded, expected)


@pytest.mark.parametrize(
    ("kind", "sizes", "dtype"),
    [
        ("qwen2_tied", {"pp": 2}, "bfloat16"),
        ("llama3", {"tp": 2}, "float32"),
        ("v3", {"tp": 2, "ep": 2}, "bfloat16"),
        ("v3_no_q_lora", {"tp": 2, "etp": 2}, "float32"),
    ],
    ids=str,
)
def test_a_training_checkpoint_gives_what_the_policy_exports(
    made: dict[Any, Pair], tmp_path: Path, kind: str, sizes: dict[str, int], dtype: str
) -> None:
    """After an optimizer step, with optimizer state and a reference model in the same files."""
    source = made[kind, getattr(torch, dtype)].hf
    folder, exported = tmp_path / "step_000001", tmp_path / "exported"

    def train(rank: int) -> None:
        with Mesh(Layout.of(2, **sizes)) as mesh:
            spec, start = load_spec(source), HFFolder.open(source)
            policy = Policy(spec, mesh, dtype=dtype, train=TRAIN)
            reference = Policy(spec, mesh, dtype=dtype)
            for each in (policy, reference):
                weights.load(spec, mesh, each.model, start)
            policy.prepare_to_learn()
            policy.update(my_batches(mesh), loss_function, denominator=DENOMINATOR, lr=1e-2)
            checkpoint.save(policy, folder, {}, reference=reference)
            trained = weights.whole(spec, mesh, weights.tensors(policy.model))
            tensors = {name: tensor.clone() for name, tensor in trained}
        if rank == 0:
            with HFWriter(exported, spec.hf, source) as writer:
                for name, tensor in tensors.items():
                    writer.add(name, tensor)

    run_ranks(2, train)
    to_hf(folder, tmp_path / "out", carry_from=source)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == {
        file.name: file.read_bytes() for file in exported.iterdir()
    }
    moved = [d.name for d in compare(HFFolder.open(source), CheckpointFolder.open(folder)).differences]
    assert len(moved) > len(read(source)) / 2
    to_hf(folder, tmp_path / "bare")
    assert not list((tmp_path / "bare").glob("tokenizer*"))


# --- verify -------------------------------------------------------------------------------


def test_one_bit_is_found_in_a_checkpoint(made: dict[Any, Pair], tmp_path: Path) -> None:
    name = "model.layers.3.mlp.experts.5.up_proj.weight"

    def flip(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(torch.int16)[7, 9] ^= 1

    source = change(copied(made["finer bias"].hf, tmp_path / "hf"), flip)
    found = compare(HFFolder.open(source), CheckpointFolder.open(made["finer bias"].checkpoint))
    [difference] = found.differences
    assert (difference.name, difference.what) == (name, "1 of 768 values")
    assert difference.largest is not None and 0 < difference.largest < 1e-2


@pytest.mark.parametrize("kind", ["llama3", "v3_yarn"])
def test_logits_of_both_sides_agree_and_a_wrong_weight_shows(
    made: dict[Any, Pair], tmp_path: Path, kind: str
) -> None:
    pair = made[kind, torch.float32]
    other = copied(pair.hf, tmp_path / "other")
    change(other, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][0].fill_(1))

    def gaps(rank: int) -> list[float]:
        from r1mega.train.convert.logits import logits_gap, random_tokens

        first = open_weights(pair.hf)
        sides = [open_weights(folder) for folder in (pair.checkpoint, pair.hf, other)]
        return [logits_gap(first, side, random_tokens(first)) for side in sides]

    [(checkpoint_gap, own_gap, wrong_gap)] = run_ranks(1, gaps)
    assert checkpoint_gap == own_gap < 1e-5
    assert wrong_gap > 1e-3


# --- what is refused ----------------------------------------------------------------------


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_sources_that_cannot_be_converted_are_refused_by_name(tmp_path: Path) -> None:
    target, source = tmp_path / "ckpt", save("qwen2_untied", tmp_path / "hf")
    tensors = read(source)
    norm, name = tensors["model.norm.weight"], "model.norm.weight"

    def with_(changes: dict[str, torch.Tensor | None]) -> str:
        kept = {n: t for n, t in (tensors | changes).items() if t is not None}
        save_file(kept, source / "model.safetensors", {"format": "pt"})
        return refusal(source, target)

    assert "1 missing: model.norm.weight" in with_({name: None})
    assert "1 not in this model: odd.weight" in with_({"odd.weight": norm.clone()})
    assert "model.norm.weight has [16], should have [32]" in with_({name: norm[:16].clone()})
    said = with_({name: norm.float()})
    assert "mixes dtypes: 50 tensors are bfloat16, 1 not (model.norm.weight is float32)" in said
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[:-10])
    assert "model.safetensors is truncated" in refusal(source, target)
    (source / "model.safetensors").write_bytes(content)
    edit_config(source, model_type="gpt_bigcode")
    assert 'model_type is "gpt_bigcode"; allowed is one of deepseek_v3, llama' in refusal(source, target)
    assert os.listdir(tmp_path) == ["hf"]


def test_multi_token_prediction_is_refused(tmp_path: Path) -> None:
    source = save("v3", tmp_path / "hf")
    edit_config(source, num_nextn_predict_layers=1)
    said = refusal(source, tmp_path / "ckpt")
    assert "declares 1 multi-token-prediction layer(s) (num_nextn_predict_layers)" in said


def test_targets_that_cannot_be_written_are_refused_first(made: dict[Any, Pair], tmp_path: Path) -> None:
    pair = made["qwen2_tied", torch.bfloat16]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    (tmp_path / "file").write_text("mine")
    assert "is not an empty folder" in refusal(pair.hf, tmp_path / "full")
    assert "is not an empty folder" in refusal(pair.hf, tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file" in refusal(pair.hf, tmp_path / "file" / "ckpt")
    if os.geteuid():
        (tmp_path / "locked").mkdir(0o500)
        assert "you may not write into" in refusal(pair.hf, tmp_path / "locked" / "ckpt")
    assert "is a checkpoint already" in refusal(pair.checkpoint, tmp_path / "new")
    for target in ("full", "file"):
        with pytest.raises(UserError, match="is not an empty folder"):
            to_hf(pair.checkpoint, tmp_path / target)
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path / "full") == ["mine"]


def flip_a_bit_of_a_weight(folder: Path) -> None:
    """Inside a tensor's data, where torch.load would not notice."""
    file = folder / "model" / "__0_0.distcp"
    with_weights = CheckpointFolder.open(folder)
    name = "model.layers.2.mlp.gate.weight"
    weight = with_weights.read(name, Box.whole(with_weights.inventory[name].shape))
    content = bytearray(file.read_bytes())
    content[content.index(weight.view(torch.uint8).numpy().tobytes()) + 40] ^= 4
    file.write_bytes(content)


def declare_another_model(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    assert '"num_hidden_layers": 4' in text
    (folder / "config.json").write_text(text.replace('"num_hidden_layers": 4', '"num_hidden_layers": 3'))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "COMPLETE").unlink(), "is no complete checkpoint: it has no COMPLETE file"),
        (lambda f: os.truncate(f / "model/__0_0.distcp", 100), "model/__0_0.distcp has 100 bytes"),
        (lambda f: (f / "model/.metadata").unlink(), "model/.metadata is missing"),
        (flip_a_bit_of_a_weight, "decoder.layers.2.mlp.router.weight[0:8, 0:32] is not what was written"),
        (declare_another_model, "not those of the deepseek_v3 model of config.json: 15 not in this model"),
    ],
    ids=["unfinished", "truncated", "lost file", "flipped bit", "another model"],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(
    made: dict[Any, Pair], tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = copied(made["v3", torch.bfloat16].checkpoint, tmp_path / "ckpt")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        to_hf(folder, tmp_path / "out")
    assert said in str(caught.value) and str(folder) in str(caught.value)
    assert os.listdir(tmp_path) == ["ckpt"]


def test_the_folder_of_all_checkpoints_is_not_one(made: dict[Any, Pair], tmp_path: Path) -> None:
    copied(made["v3", torch.bfloat16].checkpoint, tmp_path / "step_000003")
    with pytest.raises(UserError, match=r"holds 1 checkpoints: give one of them, such as .*step_000003$"):
        to_hf(tmp_path, tmp_path / "out")


# --- kill -9 ------------------------------------------------------------------------------


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def die_halfway(title: str, total: int) -> Iterator[Advance]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done > total / 2:
            die()

    yield advance


def test_killed_while_it_makes_a_checkpoint(
    made: dict[Any, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While weights are read, and when all but the marker is written. The next attempt sweeps up."""
    pair = Pair(made["qwen2_tied", torch.bfloat16].hf, tmp_path / "ckpt")
    with pytest.raises(RankError, match="exit code -9"):
        convert(pair, show=die_halfway)
    assert os.listdir(tmp_path) == []
    with monkeypatch.context() as patch, pytest.raises(RankError, match="exit code -9"):
        patch.setattr(checkpoint, "seal", die)
        convert(pair)
    assert os.listdir(tmp_path) == ["ckpt.partial"]
    with pytest.raises(UserError, match="is no complete checkpoint"):
        open_weights(tmp_path / "ckpt.partial")
    convert(pair)
    assert os.listdir(tmp_path) == ["ckpt"]
    assert compare(HFFolder.open(pair.hf), open_weights(pair.checkpoint)).differences == ()


def test_killed_while_it_makes_a_hugging_face_folder(made: dict[Any, Pair], tmp_path: Path) -> None:
    pair = made["qwen2_tied", torch.bfloat16]
    with pytest.raises(RankError, match="exit code -9"):
        run_ranks(1, lambda rank: to_hf(pair.checkpoint, tmp_path / "out", show=die_halfway))
    assert os.listdir(tmp_path) == ["out.partial"]
    to_hf(pair.checkpoint, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert_same(read(tmp_path / "out"), read(pair.hf))
