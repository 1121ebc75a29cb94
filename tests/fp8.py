"""Block-wise FP8 in plain loops: the independent reference, and folders as DeepSeek ships them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SCHEME = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
ATTENTION = (
    "q_proj",
    "k_proj",
    "v_proj",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
)
QUANTISED = {*ATTENTION, "gate_proj", "up_proj", "down_proj"}


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """codes and scales, block by block."""
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty((rows + 127) // 128, (columns + 127) // 128)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            block = weight[part].float()
            largest = block.abs().max()
            scales[i, j] = largest / 448 if largest > 0 else 1.0
            codes[part] = (block / scales[i, j]).to(torch.float8_e4m3fn)
    return codes, scales


def dequantise(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    values = torch.empty(codes.shape)
    for i in range(codes.shape[0]):
        for j in range(0, codes.shape[1], 128):
            values[i, j : j + 128] = codes[i, j : j + 128].float() * scales[i // 128, j // 128]
    return values.to(dtype)


def is_quantised(name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in QUANTISED


def make_fp8(source: Path, target: Path) -> dict[str, torch.Tensor]:
    """A folder of one file -> the same in FP8. Returns what its tensors stand for, in bfloat16."""
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if is_quantised(name):
            codes, scales = quantise(tensor)
            stored |= {name: codes, f"{name}_scale_inv": scales}
            meant[name] = dequantise(codes, scales, torch.bfloat16)
        else:
            stored[name] = meant[name] = tensor
    target.mkdir()
    save_file(stored, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": SCHEME}))
    return meant
