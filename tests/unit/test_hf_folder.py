"""Model folders: we read what transformers wrote, it reads what we write, and broken ones are named."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from r1mega.models.blocks import Box
from r1mega.models.hf import HFFolder, check_inventory
from r1mega.models.hf_write import HFWriter
from r1mega.models.init import random_tensors
from r1mega.models.safetensors_file import TensorInfo, read_header
from r1mega.models.spec import load_spec
from r1mega.types import UserError
from tests.tiny import checkpoint, make

INDEX = "model.safetensors.index.json"


def save(kind: str, folder: Path, dtype: torch.dtype, **options: Any) -> dict[str, torch.Tensor]:
    """Let transformers save a tiny model, and put more files beside it; its tensors by checkpoint name."""
    model = make(kind).to(dtype)
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_bytes(b'{"version":"1.0"}\r\n\xc3\xa9')
    (folder / "merges.txt").write_bytes(b"a b\n")
    (folder / "training_args.bin").write_bytes(b"not to be carried")
    tensors = checkpoint(model)
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors


def whole(folder: HFFolder, name: str) -> torch.Tensor:
    return folder.read(name, Box.whole(folder.inventory[name].shape))


# --- round trips --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", ["one file", "many files"])
@pytest.mark.parametrize("kind", ["qwen2_tied", "llama3", "v3"])
def test_a_folder_of_transformers_comes_back_bitwise(
    tmp_path: Path, kind: str, shards: str, dtype: torch.dtype
) -> None:
    """transformers -> read -> write, split otherwise -> transformers: tensors and carried files the same."""
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    tensors = save(kind, source, dtype, max_shard_size="20KB" if shards == "many files" else "1GB")
    assert (source / INDEX).exists() == (shards == "many files")
    folder = HFFolder.open(source)
    spec = load_spec(folder.config)
    check_inventory(spec, folder.inventory)
    assert set(folder.inventory) == set(tensors)
    with HFWriter(target, spec.hf, carry_from=source, max_shard_bytes=30_000) as writer:
        for name in sorted(tensors):
            read = whole(folder, name)
            assert read.dtype == dtype and torch.equal(read, tensors[name])
            writer.add(name, read)
    assert not writer.partial.exists()
    for file in ("config.json", "generation_config.json", "tokenizer.json", "merges.txt"):
        assert (target / file).read_bytes() == (source / file).read_bytes()
    assert not (target / "training_args.bin").exists()
    assert (target / INDEX).exists()
    again = checkpoint(type(make(kind)).from_pretrained(target, dtype=dtype))
    for name, tensor in tensors.items():
        assert torch.equal(again[name], tensor), name


def test_shards_are_cut_at_the_limit_and_named_in_the_index(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(50), "b": torch.rand(40), "c": torch.rand(300), "d": torch.rand(1)}
    with HFWriter(tmp_path / "m", {}, max_shard_bytes=400) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    files = {
        name: f"model-0000{i}-of-00003.safetensors" for name, i in zip("abcd", (1, 1, 2, 3), strict=True)
    }
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    assert index == {"metadata": {"total_size": 4 * 391}, "weight_map": files}
    assert sorted(os.listdir(tmp_path / "m")) == sorted({*files.values(), INDEX, "config.json"})
    folder = HFFolder.open(tmp_path / "m")
    assert all(torch.equal(whole(folder, name), tensor) for name, tensor in tensors.items())


def test_one_shard_needs_no_index_and_other_readers_take_it(tmp_path: Path) -> None:
    """Scalars, empty-free odd sizes and mixed dtypes, through the safetensors library."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    tensors = {
        "odd": torch.arange(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "turned": torch.rand(3, 5).T,
        "half": torch.rand(2, 1, 3).half(),
    }
    with HFWriter(tmp_path / "m", {"model_type": "x"}) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "model.safetensors"]
    read = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    for name, tensor in tensors.items():  # aligned, for readers that map the file
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.element_size() == 0
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without it
    folder = HFFolder.open(tmp_path / "m")
    assert all(torch.equal(whole(folder, name), tensor) for name, tensor in tensors.items())


def test_a_changed_config_is_written_anew(tmp_path: Path) -> None:
    save("llama3", tmp_path / "source", torch.float32)
    config = {**load_spec(tmp_path / "source").hf, "dtype": "bfloat16"}
    with HFWriter(tmp_path / "m", config, carry_from=tmp_path / "source") as writer:
        writer.add("a", torch.zeros(1))
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == config


# --- reading ------------------------------------------------------------------------------


def test_a_box_is_that_slice_and_a_copy(tmp_path: Path) -> None:
    tensors = save("v3", tmp_path, torch.bfloat16)
    folder = HFFolder.open(tmp_path)
    name = "model.layers.2.mlp.experts.5.gate_proj.weight"
    box = Box((3, 8), (20, 30))
    first = folder.read(name, box)
    assert first.is_contiguous() and torch.equal(first, tensors[name][3:20, 8:30])
    first.zero_()
    assert torch.equal(folder.read(name, box), tensors[name][3:20, 8:30])


def test_only_the_box_is_loaded_into_memory(tmp_path: Path) -> None:
    """Two rows of a tensor of 2 GiB, in a file with a hole instead of data."""
    rows, columns = 1 << 19, 1024
    size = rows * columns * 4
    header = json.dumps({"t": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    (tmp_path / "config.json").write_text("{}")
    folder = HFFolder.open(tmp_path)
    before = psutil.Process().memory_info().rss
    part = folder.read("t", Box((rows - 2, 0), (rows, columns)))
    assert part.shape == (2, columns) and not part.any()
    assert psutil.Process().memory_info().rss - before < 64 << 20


def cut_off(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lengthen(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes() + b"x")


def replace_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "model-00002-of-00003.safetensors"
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        header = change(header) or header
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return damage


def edit_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def only_pickles(folder: Path) -> None:
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def no_weights(folder: Path) -> None:
    only_pickles(folder)
    (folder / "pytorch_model.bin").unlink()


SECOND = "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda f: (f / "config.json").unlink(), ["there is no", "config.json"]),
        (lambda f: (f / "config.json").write_text("{,"), ["config.json is not valid JSON"]),
        (no_weights, ["has no weights"]),
        (only_pickles, ["pickled weights (pytorch_model.bin)", "save_pretrained"]),
        (lambda f: (f / INDEX).unlink(), ["neither model.safetensors nor", SECOND]),
        (lambda f: (f / SECOND).unlink(), ["lacks 1 of the 3 shards", SECOND]),
        (cut_off, [f"{SECOND} is truncated", "promises 504 bytes, it has 404"]),
        (lengthen, [SECOND, "bytes behind its data"]),
        (lambda f: (f / SECOND).write_bytes(b"abc"), [SECOND, "(3 bytes) is truncated"]),
        (lambda f: (f / SECOND).write_bytes(b"\xff" * 64), [SECOND, "its header is not whole"]),
        (lambda f: (f / SECOND).write_bytes(b"version https://git-lfs"), ["Git LFS pointer", "git lfs pull"]),
        (replace_header(lambda h: b"{nonsense"), [SECOND, "malformed safetensors header"]),
        (replace_header(lambda h: b"[1, 2]"), [SECOND, "malformed safetensors header"]),
        (replace_header(lambda h: h["c"].update(dtype="F99")), [SECOND, "malformed", "F99"]),
        (
            replace_header(lambda h: h["c"].update(shape=[7])),
            [SECOND, "malformed", "c of 28 bytes lies at 0:400"],
        ),
        (replace_header(lambda h: h["c"].update(shape=[-100])), [SECOND, "whole numbers"]),
        (replace_header(lambda h: h["c"].update(data_offsets=[4, 404])), [SECOND, "lies at 4:404"]),
        (replace_header(lambda h: h["c"].pop("shape") and None), [SECOND, "malformed", "shape"]),
        (edit_index(lambda m: m.update(e=SECOND)), ["names 1 tensors that are not there: e in model-00002"]),
        (edit_index(lambda m: m.update(a=SECOND)), ["not there: a in model-00002"]),
        (edit_index(lambda m: m.pop("a")), ["does not name 1 tensors of its shards: a in model-00001"]),
        (lambda f: (f / INDEX).write_text('{"metadata": {}}'), ["is no index of shards", "weight_map"]),
        (lambda f: (f / INDEX).write_text("nonsense"), ["is no index of shards"]),
        (lambda f: (f / INDEX).write_text('{"weight_map": [1]}'), ["is no index of shards"]),
    ],
)
def test_a_broken_folder_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], object], parts: list[str]
) -> None:
    folder = tmp_path / "m"
    with HFWriter(folder, {}, max_shard_bytes=400) as writer:
        for name, size in (("a", 50), ("b", 40), ("c", 100), ("d", 1)):
            writer.add(name, torch.zeros(size))
    HFFolder.open(folder)
    damage(folder)
    with pytest.raises(UserError) as refusal:
        HFFolder.open(folder)
    for part in parts:
        assert part in str(refusal.value)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model folder"):
        HFFolder.open(tmp_path / "absent")


def test_tensors_that_do_not_fit_the_config_are_listed(tmp_path: Path) -> None:
    save("llama3", tmp_path, torch.float32)
    folder = HFFolder.open(tmp_path)
    spec = load_spec(folder.config)
    inventory = dict(folder.inventory)
    inventory["model.layers.0.self_attn.rotary_emb.inv_freq"] = TensorInfo(torch.float32, (4,), "")
    check_inventory(spec, inventory)  # old files have it; it says nothing new
    del inventory["model.norm.weight"]
    inventory["model.layers.9.mlp.up_proj.weight"] = TensorInfo(torch.float32, (64, 32), "")
    up = inventory["model.layers.0.mlp.up_proj.weight"]
    inventory["model.layers.0.mlp.up_proj.weight"] = replace(up, shape=(32, 64))
    inventory["lm_head.weight"] = replace(inventory["lm_head.weight"], dtype=torch.float8_e4m3fn)
    with pytest.raises(UserError) as refusal:
        check_inventory(spec, inventory)
    for part in (
        "1 missing: model.norm.weight",
        "1 not in this model: model.layers.9.mlp.up_proj.weight",
        "1 wrongly shaped: model.layers.0.mlp.up_proj.weight has [32, 64], should have [64, 32]",
        "lm_head.weight is torch.float8_e4m3fn",
    ):
        assert part in str(refusal.value)


def test_many_missing_tensors_are_counted_not_listed(tmp_path: Path) -> None:
    save("llama3", tmp_path, torch.float32)
    spec = load_spec(tmp_path)
    with pytest.raises(UserError, match=r"39 missing: model.embed_tokens.weight, .*, \.\.\.$"):
        check_inventory(spec, {})


def test_a_tied_model_may_bring_its_output_layer_along(tmp_path: Path) -> None:
    save("llama_tied", tmp_path, torch.float32)
    folder = HFFolder.open(tmp_path)
    extra = {"lm_head.weight": folder.inventory["model.embed_tokens.weight"]}
    check_inventory(load_spec(folder.config), {**folder.inventory, **extra})


# --- writing ------------------------------------------------------------------------------


def test_nothing_appears_before_all_is_written_and_a_killed_run_is_swept_up(tmp_path: Path) -> None:
    target = tmp_path / "m"
    killed = HFWriter(target, {}, max_shard_bytes=10)
    killed.add("a", torch.zeros(5))
    killed.add("b", torch.zeros(5))  # the first shard is on the disk now, and nobody closes
    assert os.listdir(killed.partial) and not target.exists()
    target.mkdir()  # an empty folder is no obstacle
    with HFWriter(target, {}) as writer:
        writer.add("c", torch.zeros(1))
    assert set(HFFolder.open(target).inventory) == {"c"}
    assert os.listdir(tmp_path) == ["m"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), HFWriter(tmp_path / "m", {}, max_shard_bytes=10) as writer:
        writer.add("a", torch.zeros(5))
        writer.add("b", torch.zeros(5))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", ["folder with a file", "file"])
def test_what_is_there_is_never_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "m"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("")
    with pytest.raises(UserError, match="is not an empty folder"):
        HFWriter(target, {})
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the kernel offers no /dev/full here")
@pytest.mark.parametrize("names", ["abc", "ab"], ids=["while adding", "while closing"])
def test_a_full_disk_is_said_and_swept_up(tmp_path: Path, names: str) -> None:
    """The second shard's file is a link to the kernel's always-full device: a real ENOSPC."""
    writer = HFWriter(tmp_path / "m", {}, max_shard_bytes=10)
    (writer.partial / "model-00002.safetensors").symlink_to("/dev/full")
    with pytest.raises(UserError) as refusal:
        for name in names:
            writer.add(name, torch.zeros(5))
        writer.close()
    assert f"no space left to write {tmp_path / 'm'}" in str(refusal.value)
    assert "GB are free" in str(refusal.value)
    assert os.listdir(tmp_path) == []
    assert Path("/dev/full").is_char_device()


# --- random weights -----------------------------------------------------------------------


def test_random_weights_have_the_scheme_s_scales() -> None:
    spec = load_spec(make("v3").config.to_dict())
    reader = random_tensors(spec, seed=0, dtype=torch.float32)
    check_inventory(spec, reader.inventory)
    expected = {
        "model.embed_tokens.weight": 0.02,
        "lm_head.weight": 0.02,
        "model.layers.2.mlp.gate.weight": 0.02,
        "model.layers.0.self_attn.q_a_proj.weight": 32**-0.5,
        "model.layers.0.self_attn.o_proj.weight": 0.5 * 48**-0.5,
        "model.layers.0.mlp.gate_proj.weight": 32**-0.5,
        "model.layers.2.mlp.experts.3.down_proj.weight": 0.5 * 24**-0.5,
    }
    for name, std in expected.items():
        tensor = reader.read(name, Box.whole(reader.inventory[name].shape))
        assert tensor.std().item() == pytest.approx(std, rel=0.15), name
    for name, info in reader.inventory.items():
        if len(info.shape) == 1:
            value = 0.0 if name.endswith("bias") else 1.0
            assert (reader.read(name, Box.whole(info.shape)) == value).all(), name


def test_random_weights_depend_on_seed_and_name_alone() -> None:
    spec = load_spec(make("v3").config.to_dict())
    up, gate = (f"model.layers.2.mlp.experts.3.{part}_proj.weight" for part in ("up", "gate"))
    box = Box((4, 0), (9, 20))
    one, again, other = (random_tensors(spec, seed, torch.float32) for seed in (7, 7, 8))
    again.read(gate, Box.whole((24, 32)))  # another order of reading
    whole_tensor = one.read(up, Box.whole((24, 32)))
    assert torch.equal(again.read(up, box), whole_tensor[4:9, :20])
    assert not torch.equal(other.read(up, box), whole_tensor[4:9, :20])
    assert not torch.equal(one.read(gate, box), whole_tensor[4:9, :20])
    one.read(up, box).zero_()
    assert torch.equal(one.read(up, box), whole_tensor[4:9, :20])
    narrow = random_tensors(spec, 7, torch.bfloat16)
    assert torch.equal(narrow.read(up, box), whole_tensor[4:9, :20].bfloat16())
    assert narrow.inventory["model.layers.2.mlp.gate.e_score_correction_bias"].dtype == torch.float32


def test_headers_are_read_as_the_safetensors_library_reads_them(tmp_path: Path) -> None:
    from safetensors import safe_open

    save("v3", tmp_path, torch.bfloat16)
    read = read_header(tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {n: (i.dtype, i.shape, i.nbytes) for n, i in read.items()} == {
        n: (t.dtype, tuple(t.shape), t.nbytes) for n, t in tensors.items()
    }
