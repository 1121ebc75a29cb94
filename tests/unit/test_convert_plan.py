"""Every tensor of the real models is written exactly once, both ways: proved from configs alone."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from r1mega.models.blocks import Block, check_cover, extents
from r1mega.models.families import checkpoint_shapes, copies
from r1mega.models.fp8 import CODE
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.train.convert.dist_plan import Chunk, metadata, plan_chunks
from r1mega.train.convert.hf_plan import plan_folder
from r1mega.train.convert.places import as_written
from tests.unit.test_families import expanded

QWEN = {"1.5B": (1536, 28, 12, 2, 8960, True), "32B": (5120, 64, 40, 8, 27648, False)}
"""hidden, layers, heads, key-value heads, ffn, tied; 7B and 14B are in the inventory."""
MODELS = ("Qwen2.5-1.5B", "Qwen2.5-7B", "Qwen2.5-14B", "Qwen2.5-32B", "Llama-8B", "Llama-70B", "DeepSeek-V3")


def real(shared: Path, name: str) -> Any:
    return json.loads((shared / "model_configs" / name).read_text())


def spec_of(shared: Path, model: str) -> ModelSpec:
    family, size = model.rsplit("-", 1)
    if family == "DeepSeek":
        return load_spec(real(shared, "deepseek_v3.config.json"))
    if family == "Llama":
        files = {"8B": "llama3.1-8b.config.json", "70B": "llama3-70b_reflection.config.json"}
        return load_spec(real(shared, files[size]))
    config = real(shared, "cogito_v1_qwen2.5-14b.config.json")
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    keys = (*shape, "intermediate_size", "tie_word_embeddings")
    if size in QWEN:
        return load_spec(config | dict(zip(keys, QWEN[size], strict=True)))
    known = real(shared, "tensor_inventory.json")["qwen2"][f"Qwen2.5-Coder-{size}-Instruct"]
    values = [known[key] for key in ("hidden", "layers", "heads", "kv", "inter", "tie")]
    return load_spec(config | dict(zip(keys, values, strict=True)) | {"vocab_size": known["vocab"]})


def inventory(spec: ModelSpec) -> dict[str, TensorInfo]:
    return {name: TensorInfo(torch.bfloat16, shape, "f") for name, shape in checkpoint_shapes(spec).items()}


def chunk_proof(spec: ModelSpec) -> None:
    """Chunks take every element of the checkpoint once, and fill the stored tensors."""
    chunks = plan_chunks(spec, inventory(spec), torch.bfloat16)
    sources = [Block("", block.src_box, block.src, block.src_box) for c in chunks for block in c.blocks]
    shapes = checkpoint_shapes(spec)
    check_cover(sources, {name: shape for name, shape in shapes.items() if name not in copies(spec)})
    stored = extents((block.dst, block.dst_box) for block in as_written(spec))
    check_cover([Block("", chunk.box, chunk.key, chunk.box) for chunk in chunks], stored)
    check_files(chunks)
    written = metadata(spec, chunks, ("states", 1)).state_dict_metadata
    assert {key: tuple(entry.size) for key, entry in written.items() if hasattr(entry, "size")} == stored


@pytest.mark.parametrize("model", MODELS[:-1])
def test_chunks_hold_a_dense_model_once(shared: Path, model: str) -> None:
    chunk_proof(spec_of(shared, model))


def test_chunks_hold_deepseek_v3_once_at_full_width(shared: Path) -> None:
    """Five layers: dense ones, ones with 256 experts, and the one for multi-token prediction."""
    chunk_proof(replace(spec_of(shared, "DeepSeek-V3"), layers=5))


@pytest.mark.slow
def test_chunks_hold_all_of_deepseek_v3_once(shared: Path) -> None:
    chunk_proof(spec_of(shared, "DeepSeek-V3"))


def check_files(chunks: list[Chunk]) -> None:
    """Archives lie behind one another, and no file is much longer than asked for."""
    ends: dict[str, int] = {}
    for chunk in chunks:
        assert chunk.offset == ends.get(chunk.file, 0) and chunk.offset % 64 == 0
        ends[chunk.file] = chunk.offset + chunk.nbytes
    assert max(ends.values()) <= 5e9 + 64
    assert max(chunk.archive.nbytes for chunk in chunks) < 1 << 26
    for chunk in chunks:
        assert sum(block.volume for block in chunk.blocks) == prod(chunk.archive.shape)
        if len(chunk.blocks) == 1 and len(chunk.blocks[0].src_box.start) == 2:
            assert chunk.blocks[0].src_box.start[0] % 128 == 0  # so that no block of FP8 is cut


@pytest.mark.parametrize("model", MODELS[:-1])
def test_a_folder_has_every_tensor_once(shared: Path, model: str) -> None:
    spec = spec_of(shared, model)
    for dtype in (None, torch.float32):
        plan = plan_folder(inventory(spec), dtype)
        assert {name: shape for name, (_, shape) in plan.entries.items()} == checkpoint_shapes(spec)
        placed = [name for file in plan.files.values() for name in file.offsets]
        assert len(placed) == len(set(placed)) == len(plan.entries)


def test_fp8_has_the_names_shapes_and_count_of_deepseek_s_own_headers(shared: Path) -> None:
    """Its published headers list 92,425 tensors, 7 of each of 62 layers' being of a later model's indexer."""
    key = "deepseek_v3_family (V3.2-Speciale headers; V3/R1 lack the indexer rows)"
    known = real(shared, "tensor_inventory.json")[key]
    spec = spec_of(shared, "DeepSeek-V3")
    plan = plan_folder(inventory(spec), CODE)
    assert len(plan.entries) == known["tensors_with_scales"] - 7 * 62 == 91_991
    for pattern, shape in known["patterns"].items():
        if "*" in pattern:
            continue
        for name in expanded(pattern.removesuffix(" (MTP)"), spec):
            assert plan.entries[name][1] == tuple(shape), name
    scales = {name: entry for name, entry in plan.entries.items() if name.endswith("_scale_inv")}
    for name, (dtype, shape) in scales.items():
        weight = plan.entries[name.removesuffix("_scale_inv")]
        assert (dtype, weight[0]) == (torch.float32, CODE)
        assert shape == (-(-weight[1][0] // 128), -(-weight[1][1] // 128))
        assert plan.file_of[name] == plan.file_of[name.removesuffix("_scale_inv")]
    assert {f"{name}_scale_inv" for name, (dtype, _) in plan.entries.items() if dtype == CODE} == set(scales)
    assert set(plan.entries) - set(scales) == set(checkpoint_shapes(spec))
    assert plan.entries["model.layers.9.mlp.gate.e_score_correction_bias"][0] == torch.float32
