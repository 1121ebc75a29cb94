"""Block-wise FP8 against loops over blocks: the arithmetic, folders read box by box, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from r1mega.models import fp8
from r1mega.models.blocks import Box
from r1mega.models.hf import HFFolder, check_inventory
from r1mega.models.hf_write import HFWriter
from r1mega.models.init import random_tensors
from r1mega.models.spec import load_spec
from r1mega.types import UserError
from tests import fp8 as loops
from tests.tiny import V3

# Wider than a block, and no multiple of one.
WIDE: dict[str, Any] = V3 | dict(
    model_type="deepseek_v3",
    architectures=["DeepseekV3ForCausalLM"],
    hidden_act="silu",
    rms_norm_eps=1e-6,
    num_hidden_layers=2,
    first_k_dense_replace=1,
    hidden_size=160,
    intermediate_size=288,
    moe_intermediate_size=136,
    q_lora_rank=144,
    kv_lora_rank=128,
)
UP = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A bfloat16 folder, the same in FP8, and what the latter stands for."""
    room = tmp_path_factory.mktemp("fp8")
    spec = load_spec(WIDE)
    reader = random_tensors(spec, 0, torch.bfloat16)
    with HFWriter(room / "bf16", WIDE) as writer:
        for name, info in reader.inventory.items():
            writer.add(name, reader.read(name, Box.whole(info.shape)))
    return room / "bf16", room / "fp8", loops.make_fp8(room / "bf16", room / "fp8")


@pytest.mark.parametrize("shape", [(128, 128), (1, 1), (130, 257), (300, 100), (256, 384)])
def test_quantising_is_what_the_loop_over_blocks_does(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    weight[0, 0] = 3e4  # one block has another scale than its neighbours
    made, (codes, scales) = fp8.quantise(weight), loops.quantise(weight)
    assert torch.equal(made.codes.view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(made.scales, scales)
    back = loops.dequantise(codes, scales, torch.float32)
    gap, values = (back - weight.float()).double(), weight.double()
    assert made.loss.rms == pytest.approx(
        float((gap.square().sum() / values.square().sum()) ** 0.5), rel=1e-4
    )
    assert 0 <= made.loss.largest <= 16 / 448 + 1e-6  # half a step of the widest one


def test_a_block_of_zeros_has_scale_one() -> None:
    made = fp8.quantise(torch.zeros(130, 5))
    assert made.scales.tolist() == [[1.0], [1.0]] and not made.codes.float().any()
    assert (made.loss.rms, made.loss.largest) == (0.0, 0.0)


def test_losses_add_up() -> None:
    weight = torch.randn(512, 200, generator=torch.Generator().manual_seed(2))
    whole = fp8.quantise(weight).loss
    parts = [fp8.quantise(part).loss for part in weight.split(128)]
    total = sum(parts[1:], parts[0])
    assert (total.rms, total.largest) == (pytest.approx(whole.rms), whole.largest)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_box_is_that_part_of_the_whole(
    folders: tuple[Path, Path, dict[str, torch.Tensor]], data: st.DataObject
) -> None:
    """Boxes that begin and end anywhere in a block."""
    _, quantised, meant = folders
    name = data.draw(st.sampled_from([name for name in meant if loops.is_quantised(name)]))
    spans = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in meant[name].shape]
    box = Box(tuple(low for low, _ in spans), tuple(high for _, high in spans))
    read = HFFolder.open(quantised).read(name, box)
    assert read.dtype == torch.bfloat16 and torch.equal(read, meant[name][box.slices])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_folder_is_read_as_any_dtype(
    folders: tuple[Path, Path, dict[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    _, quantised, meant = folders
    folder = HFFolder.open(quantised, dtype)
    check_inventory(load_spec(quantised), folder.inventory)
    assert set(folder.inventory) == set(meant)
    stored = load_file(quantised / "model.safetensors")
    for name, info in folder.inventory.items():
        read = torch.cat(list(folder.stream(name, Box.whole(info.shape), 128)))
        expected = stored[name]
        if loops.is_quantised(name):
            expected = loops.dequantise(expected, stored[f"{name}_scale_inv"], dtype)
        assert read.dtype == info.dtype and torch.equal(read, expected), name


def test_the_scheme_is_taken_off_the_config(folders: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    """What is written from it later holds plain weights."""
    plain, quantised, _ = folders
    assert load_spec(quantised) == load_spec(plain) and load_spec(quantised).hf == load_spec(plain).hf


@pytest.mark.parametrize(
    "scheme",
    [
        {"quant_method": "fp8"},
        {"quant_method": "gptq", "bits": 4},
        loops.SCHEME | {"fmt": "e5m2"},
        loops.SCHEME | {"weight_block_size": [64, 64]},
        "int8",
    ],
    ids=str,
)
def test_other_schemes_are_refused(scheme: Any) -> None:
    with pytest.raises(UserError, match=r"quantization_config has .*what is read is .*\[128, 128\]"):
        load_spec(WIDE | {"quantization_config": scheme})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda t: t.pop(f"{UP}_scale_inv"),
            f"1 FP8 weights without their scales: {UP} needs {UP}_scale_inv",
        ),
        (lambda t: t.update({UP: t[UP].bfloat16()}), f"1 scales without FP8 weights: {UP}_scale_inv"),
        (
            lambda t: t.update({f"{UP}_scale_inv": torch.ones(2, 1)}),
            f"1 scales wrongly shaped: {UP}_scale_inv has [2, 1], should have [2, 2]",
        ),
        (
            lambda t: t.update({f"{UP}_scale_inv": t[f"{UP}_scale_inv"].bfloat16()}),
            f"1 scales not float32: {UP}_scale_inv",
        ),
    ],
    ids=["missing scale", "scale without weight", "shape", "dtype"],
)
def test_scales_that_do_not_fit_are_named(
    folders: tuple[Path, Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    edit: Callable[[dict[str, torch.Tensor]], object],
    said: str,
) -> None:
    tensors = load_file(folders[1] / "model.safetensors")
    edit(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folders[1] / "config.json").read_text())
    with pytest.raises(UserError) as caught:
        HFFolder.open(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_deepseek_quantises() -> None:
    assert fp8.is_linear(UP) and fp8.is_linear("model.layers.0.self_attn.kv_a_proj_with_mqa.weight")
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias",
        "model.layers.0.self_attn.q_a_layernorm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.61.eh_proj.weight",
        "model.layers.61.shared_head.head.weight",
    ):
        assert not fp8.is_linear(name), name
