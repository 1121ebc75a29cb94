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
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.blocks import Box
from r1mega.models.families import checkpoint_shapes
from r1mega.models.fp8 import CODE
from r1mega.models.hf import HFFolder
from r1mega.models.hf_write import HFWriter
from r1mega.models.init import random_tensors
from r1mega.models.reward_head import reward_spec
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train import checkpoint
from r1mega.train.complete import fault
from r1mega.train.convert import fill
from r1mega.train.convert import source as source_module
from r1mega.train.convert import to_hf as to_hf_module
from r1mega.train.convert import to_megatron as to_megatron_module
from r1mega.train.convert.dist_plan import metadata, plan_chunks
from r1mega.train.convert.dist_tensors import DistTensors
from r1mega.train.convert.progress import Advance, Display, silent
from r1mega.train.convert.source import CheckpointFolder, open_weights
from r1mega.train.convert.to_hf import to_hf
from r1mega.train.convert.to_megatron import to_megatron
from r1mega.train.convert.verify import compare
from r1mega.train.policy import Policy
from r1mega.types import UserError
from tests import fp8, tiny, tiny_mtp
from tests.parity import DENOMINATOR, loss_function, my_batches
from tests.ranks import RankError, run_ranks
from tests.unit.test_convert_fp8 import WIDE

SMALL_FILES = {"tokenizer.json": b'{"version":"1.0"}\r\n\xc3\xa9', "merges.txt": b"a b\n"}
BIAS = "e_score_correction_bias"
TRAIN = Train(steps=4, lr=1e-3, batch_size=8, expert_bias_rate=0.0)


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
            to_megatron(pair.hf, pair.checkpoint, show=show)

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
    made: dict[Any, Pair], kind: str, sizes: dict[str, Any]
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
    made: dict[Any, Pair], tmp_path: Path, kind: str, sizes: dict[str, Any], dtype: str
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


def test_columns_are_read_in_bands_and_checked(
    made: dict[Any, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row-parallel weights of a TP2 layout: no chunk is in memory whole, and a flipped bit shows."""
    source, folder = made["llama3", torch.float32].hf, tmp_path / "ckpt"

    def write(rank: int) -> None:
        with Mesh(Layout.of(2, tp=2)) as mesh:
            policy = Policy(load_spec(source), mesh, dtype="float32")
            weights.load(policy.spec, mesh, policy.model, HFFolder.open(source))
            checkpoint.save(policy, folder, {}, optimizer=False)

    run_ranks(2, write)
    limit = 1024
    loads: list[str] = []
    monkeypatch.setattr(source_module, "READ_BYTES", limit)
    load = DistTensors._load

    def counted(self: DistTensors, chunk: str) -> torch.Tensor:
        loads.append(chunk)
        return load(self, chunk)

    monkeypatch.setattr(DistTensors, "_load", counted)
    opened, tensors = CheckpointFolder.open(folder), read(source)
    columns = [name for name in tensors if name.endswith(("o_proj.weight", "down_proj.weight"))]
    assert len(columns) == 8
    for name in columns:
        pieces = list(opened.stream(name, Box.whole(tensors[name].shape)))
        assert max(piece.nbytes for piece in pieces) <= limit < tensors[name].nbytes
        assert torch.equal(torch.cat(pieces), tensors[name])
    assert loads == []
    q, k, v = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")
    whole = sum(tensors[name].nbytes for name in (q, k, v))
    assert opened.held() == 5 * whole // 2  # a chunk is half of q, k and v
    value = tensors[columns[-1]][-1, -4:].clone().view(torch.uint8).numpy().tobytes()
    for file in folder.glob("model/*.distcp"):
        file.write_bytes(file.read_bytes().replace(value, bytes(16)))
    with pytest.raises(UserError, match="is not what was written"):
        list(opened.stream(columns[-1], Box.whole(tensors[columns[-1]].shape)))


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


class Told:
    """A display that keeps its titles and how much was done before it began to count."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.first: list[int] = []

    @contextmanager
    def show(self, title: str, total: int) -> Iterator[Advance]:
        counts: list[int] = []
        yield counts.append
        self.titles.append(title)
        self.first.append(counts[0])
        assert sum(counts) == total


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_killed_conversion_goes_on_to_the_same_bytes(
    made: dict[Any, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a checkpoint and back: killed half-way, and when all but the marker, or the index, is there."""
    monkeypatch.setattr(fill.segments, "__defaults__", (20_000,))
    pair, told = made["v3", torch.bfloat16], Told()
    target, out = tmp_path / "ckpt", tmp_path / "out"
    steps: list[tuple[Path, Any, str, Callable[..., Any]]] = [
        (target, to_megatron_module, "seal", lambda show: to_megatron(pair.hf, target, workers=1, show=show)),
        (out, to_hf_module, "write_index", lambda show: to_hf(pair.checkpoint, out, workers=1, show=show)),
    ]
    for folder, module, last, convert_again in steps:
        with pytest.raises(RankError, match="exit code -9"):
            run_ranks(1, lambda rank, again=convert_again: again(die_halfway))
        assert not folder.exists()
        with monkeypatch.context() as patch, pytest.raises(RankError, match="exit code -9"):
            patch.setattr(module, last, die)
            run_ranks(1, lambda rank, again=convert_again: again(silent))
        assert os.listdir(folder.parent) == [f"{folder.name}.partial"]
        convert_again(told.show)
        assert os.listdir(folder.parent) == [folder.name]
        folder.rename(tmp_path.parent / f"{tmp_path.name}-{folder.name}")
    assert all("going on" in title for title in told.titles) and min(told.first) > 0
    for name, untouched in (("ckpt", pair.checkpoint), ("out", None)):
        found = contents(tmp_path.parent / f"{tmp_path.name}-{name}")
        if untouched is None:
            to_hf(pair.checkpoint, out)
            untouched = out
        assert found == contents(untouched)


def overwritten(folder: Path) -> Display:
    """A display during which another content of the same size and times is put over every large file."""

    @contextmanager
    def show(title: str, total: int) -> Iterator[Advance]:
        yield lambda count: None
        for file in [*folder.glob("*.safetensors"), *folder.glob("model/*.distcp")]:
            times = file.stat()
            file.write_bytes(file.read_bytes()[:-1] + b"!")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    return show


def test_a_source_that_changes_meanwhile_is_noticed(made: dict[Any, Pair], tmp_path: Path) -> None:
    pair = made["qwen2_tied", torch.float32]
    source, ckpt = copied(pair.hf, tmp_path / "hf"), copied(pair.checkpoint, tmp_path / "ckpt")
    for folder, convert_it in ((source, to_megatron), (ckpt, to_hf)):
        with pytest.raises(UserError, match=r"was changed while it was converted, so nothing was kept"):
            convert_it(folder, tmp_path / "out", show=overwritten(folder))
    assert sorted(os.listdir(tmp_path)) == ["ckpt", "hf"]


# --- multi-token prediction, reward models, FP8 -------------------------------------------


def save_mtp(folder: Path) -> dict[str, torch.Tensor]:
    """A folder with one multi-token-prediction layer, as DeepSeek names its tensors."""
    model = tiny_mtp.make("v3", 1)
    tensors = {name: t.detach().bfloat16().contiguous() for name, t in model.checkpoint().items()}
    tensors = {name: t.float() if name.endswith(BIAS) else t.clone() for name, t in tensors.items()}
    folder.mkdir()
    model.main.config.architectures = ["DeepseekV3ForCausalLM"]
    config = model.main.config.to_dict() | {"num_nextn_predict_layers": 1, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


def as_loaded(checkpoint_folder: Path, sizes: dict[str, Any], spec: Any) -> list[dict[str, torch.Tensor]]:
    """What Megatron-Core loads from a checkpoint in a layout of two ranks, under checkpoint names."""

    def load(rank: int) -> dict[str, torch.Tensor]:
        with Mesh(Layout.of(2, **sizes)) as mesh:
            policy = Policy(spec, mesh, dtype="bfloat16", seed=7)
            checkpoint.load(policy, checkpoint_folder, optimizer=False)
            return {n: t.clone() for n, t in weights.whole(policy.spec, mesh, weights.tensors(policy.model))}

    return run_ranks(2, load)


def test_multi_token_prediction_travels_both_ways(tmp_path: Path) -> None:
    source, target, out = (tmp_path / name for name in ("hf", "ckpt", "out"))
    tensors = save_mtp(source)
    to_megatron(source, target)
    to_hf(target, out)
    assert_same(read(out), tensors)
    for loaded in as_loaded(target, {"tp": 2, "ep": 2}, load_spec(target)):
        assert_same(loaded, tensors)
    change(source, lambda t: t["model.layers.4.embed_tokens.weight"][0].add_(1))
    said = refusal(source, tmp_path / "no")
    assert "model.layers.4.embed_tokens.weight differs from model.embed_tokens.weight" in said


@pytest.mark.parametrize("kind", ["qwen2_tied", "llama3", "v3"])
def test_reward_models_travel_both_ways(tmp_path: Path, kind: str) -> None:
    source, target, out = (tmp_path / name for name in ("hf", "ckpt", "out"))
    save(kind, source)
    spec = reward_spec(load_spec(source))

    def with_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop("lm_head.weight", None)
        tensors["score.weight"] = torch.randn(1, 32, generator=torch.Generator().manual_seed(3)).bfloat16()

    change(source, with_head)
    (source / "config.json").write_text(json.dumps(dict(spec.hf)))
    to_megatron(source, target)
    to_hf(target, out)
    assert_same(read(out), read(source))
    assert compare(open_weights(source), open_weights(target)).differences == ()

    def load(rank: int) -> dict[str, torch.Tensor]:
        with Mesh(Layout.of(1)) as mesh:
            policy = Policy(spec, mesh, dtype="bfloat16", seed=7)
            checkpoint.load(policy, target, optimizer=False)
            return {n: t.clone() for n, t in weights.whole(spec, mesh, weights.tensors(policy.model))}

    expected = {name: t.float() if name.endswith(BIAS) else t for name, t in read(source).items()}
    assert_same(run_ranks(1, load)[0], expected)
    change(source, lambda tensors: tensors.pop("score.weight"))
    assert "1 missing: score.weight" in refusal(source, tmp_path / "no")


def test_fp8_becomes_what_the_loop_over_blocks_says(tmp_path: Path) -> None:
    """A folder wider than a block, not a multiple of one, through a checkpoint and back to FP8."""
    plain, source, target = (tmp_path / name for name in ("plain", "fp8", "ckpt"))
    with HFWriter(plain, WIDE) as writer:
        for name, info in random_tensors(load_spec(WIDE), 0, torch.bfloat16).inventory.items():
            writer.add(
                name, random_tensors(load_spec(WIDE), 0, torch.bfloat16).read(name, Box.whole(info.shape))
            )
    meant = fp8.make_fp8(plain, source)
    to_megatron(source, target)
    to_hf(target, tmp_path / "out")
    assert_same(read(tmp_path / "out"), meant)
    for other in (target, tmp_path / "out"):
        assert compare(open_weights(source), open_weights(other)).differences == ()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    for loaded in as_loaded(target, {"tp": 2, "ep": 2}, load_spec(target)):
        assert_same(loaded, meant)
    loss = to_hf(target, tmp_path / "again", dtype=CODE)
    stored, expected = read(tmp_path / "again"), {}
    for name, tensor in meant.items():
        if fp8.is_quantised(name):
            expected[name], expected[f"{name}_scale_inv"] = fp8.quantise(tensor)
        else:
            expected[name] = tensor
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert loss is not None and 0 < loss.rms < 0.03 and loss.largest <= 16 / 448 + 1e-6
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["quantization_config"] == fp8.SCHEME
    assert HFFolder.open(tmp_path / "again").quantised == {name for name in meant if fp8.is_quantised(name)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_to_megatron_writes_another_dtype(made: dict[Any, Pair], tmp_path: Path, dtype: torch.dtype) -> None:
    to_megatron(made["finer bias"].hf, tmp_path / "ckpt", dtype=dtype)
    to_hf(tmp_path / "ckpt", tmp_path / "out")
    tensors = read(made["finer bias"].hf)
    assert_same(
        read(tmp_path / "out"), {n: t if n.endswith(BIAS) else t.to(dtype) for n, t in tensors.items()}
    )
    with pytest.raises(
        UserError, match=r"model\.norm\.weight has values up to 100000, float16 ends at 65504"
    ):
        to_megatron(made["large"].hf, tmp_path / "no", dtype=torch.float16)
    assert sorted(os.listdir(tmp_path)) == ["ckpt", "out"]


# --- the format ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen2_tied", "llama3", "v3", "v3_no_q_lora", "mtp", "reward"])
def test_the_files_say_what_megatron_core_s_own_say(made: dict[Any, Pair], tmp_path: Path, kind: str) -> None:
    """Keys, shapes and dtypes of all tensors and objects, against a checkpoint that a policy saves."""
    if kind == "mtp":
        save_mtp(tmp_path / "hf")
        source = tmp_path / "hf"
    else:
        source = made["qwen2_tied" if kind == "reward" else kind, torch.bfloat16].hf
    spec = reward_spec(load_spec(source)) if kind == "reward" else load_spec(source)

    def saved(rank: int) -> None:
        with Mesh(Layout()) as mesh:
            policy = Policy(spec, mesh, dtype="bfloat16")
            checkpoint.save(policy, tmp_path / "theirs", {}, optimizer=False)

    run_ranks(1, saved)
    dtypes = {
        name: torch.float32 if name.endswith(BIAS) else torch.bfloat16 for name in checkpoint_shapes(spec)
    }
    inventory = {n: TensorInfo(dtypes[n], shape, "") for n, shape in checkpoint_shapes(spec).items()}
    ours = metadata(spec, plan_chunks(spec, inventory, torch.bfloat16), ("x", 1)).state_dict_metadata
    theirs = FileSystemReader(tmp_path / "theirs" / "model").read_metadata().state_dict_metadata

    def described(entries: Any) -> dict[str, Any]:
        return {
            key: (tuple(entry.size), entry.properties.dtype)
            if isinstance(entry, TensorStorageMetadata)
            else None
            for key, entry in entries.items()
        }

    assert described(ours) == described(theirs)
    if kind != "reward" and kind != "mtp":
        mine = made[kind, torch.bfloat16].checkpoint
        for name in ("about.json", "model/metadata.json"):
            about, wanted = (json.loads((f / name).read_text()) for f in (mine, tmp_path / "theirs"))
            assert {**about, "layout": ""} == {**wanted, "layout": ""}
        common = [
            torch.load(f / "model" / "common.pt", weights_only=False) for f in (mine, tmp_path / "theirs")
        ]
        assert common[0] == common[1]
        assert fault(mine, content=True) is None  # the sums that were put together from those of the parts
