"""Block-wise FP8 weights, as DeepSeek-V3 ships them (arXiv 2412.19437, section 3.3; its config.json).

A weight W [R, C] is stored as float8_e4m3fn codes [R, C] and float32 scales [ceil(R/128), ceil(C/128)] under
the weight's name + "_scale_inv": W[i, j] = code[i, j] * scale[i // 128, j // 128]. A block at an edge that is
no multiple of 128 is smaller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from r1mega.models.config_json import ConfigJson
from r1mega.types import UserError

BLOCK = 128
LARGEST = 448.0  # of float8_e4m3fn
CODE = torch.float8_e4m3fn
SCALE = "_scale_inv"
KEY = "quantization_config"
CONFIG: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}
"""quantization_config of DeepSeek-V3's own config.json."""

_LINEAR = re.compile(r".*\.(self_attn|mlp)\.(.*\.)?\w+_proj(_with_mqa)?\.weight")
_VALUES = torch.arange(256, dtype=torch.uint8).view(CODE).float().numpy()  # of each code


def is_linear(name: str) -> bool:
    """Whether DeepSeek-V3 stores this tensor in FP8: the projections of attention, MLPs and experts.

    Not: embedding, output layer, norms, the router, biases, and eh_proj of multi-token prediction.
    """
    return _LINEAR.fullmatch(name) is not None


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Of a weight [R, C]."""
    rows, columns = shape
    return -(-rows // BLOCK), -(-columns // BLOCK)


def without_quantisation(config: ConfigJson) -> ConfigJson:
    """The config of the model that the weights stand for. Raises UserError for a scheme that is not read."""
    scheme = config.values.get(KEY)
    if not scheme:
        return config
    read = {key: CONFIG[key] for key in ("quant_method", "fmt", "weight_block_size")}
    said = {key: scheme.get(key) for key in read} if isinstance(scheme, dict) else {"quant_method": scheme}
    if said != read:
        raise UserError(
            f"{config.where}: {KEY} has {_told(said)}; what is read is block-wise FP8 as DeepSeek-V3 has it "
            f"({_told(read)}): otherwise dequantise the checkpoint and remove {KEY}"
        )
    return ConfigJson({key: value for key, value in config.values.items() if key != KEY}, config.where)


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())


def with_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, KEY: CONFIG}


def dequantise(
    codes_RC: torch.Tensor, scales: torch.Tensor, start: tuple[int, int], out_RC: torch.Tensor
) -> None:
    """Codes times scales, taken in float32, into `out`, whose dtype may be another one.

    codes_RC: the box of a weight that begins at `start`, contiguous; it need not begin or end with a block.
    scales:   of the blocks that the box touches.
    """
    rows, columns = codes_RC.shape
    values = np.empty((min(rows, BLOCK), columns), np.float32)
    spread = scales.float().repeat_interleave(BLOCK, 1)[:, start[1] % BLOCK :][:, :columns]
    low = 0
    for scale_C in spread:
        high = min(rows, low + BLOCK - (start[0] + low) % BLOCK)
        part = values[: high - low]
        # By table: five times as fast as torch's cast. mode="clip" only says: do not check the indices.
        np.take(_VALUES, codes_RC[low:high].view(torch.uint8).numpy(), out=part, mode="clip")
        product = torch.from_numpy(part)
        out_RC[low:high].copy_(product.mul_(scale_C))
        low = high


@dataclass(frozen=True)
class Quantised:
    """codes [R, C], scales [ceil(R/128), ceil(C/128)], and what was lost (see `Loss`)."""

    codes: torch.Tensor
    scales: torch.Tensor
    loss: Loss


@dataclass(frozen=True)
class Loss:
    """How far quantised weights are from those they were made of.

    squares:    the sum of the squared differences.
    of_squares: the sum of the squared weights.
    largest:    the largest difference of a weight, as a part of the largest weight in its block.
    """

    squares: float = 0.0
    of_squares: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.squares + other.squares,
            self.of_squares + other.of_squares,
            max(self.largest, other.largest),
        )

    @property
    def rms(self) -> float:
        """The root mean square of the differences, relative to that of the weights."""
        return float((self.squares / self.of_squares) ** 0.5) if self.of_squares else 0.0


def quantise(weight_RC: torch.Tensor) -> Quantised:
    """Finite weights that begin at a block's corner -> codes and scales: a block's largest becomes 448.

    A block of zeros has the scale 1.
    """
    rows, columns = weight_RC.shape
    block_rows, block_columns = scale_shape((rows, columns))
    padded = torch.zeros(block_rows * BLOCK, block_columns * BLOCK)
    padded[:rows, :columns] = weight_RC
    blocks = padded.view(block_rows, BLOCK, block_columns, BLOCK)
    largest = blocks.abs().amax(dim=(1, 3))
    scales = largest / LARGEST
    scales[scales == 0] = 1.0
    spread = scales[:, None, :, None]
    codes = (blocks / spread).to(CODE)
    gap = codes.float().mul_(spread).sub_(blocks)
    relative = gap.abs().amax(dim=(1, 3)) / largest.where(largest > 0, 1.0)
    loss = Loss(_squares(gap), _squares(padded), float(relative.max()))
    return Quantised(codes.view_as(padded)[:rows, :columns].contiguous(), scales, loss)


def _squares(values: torch.Tensor) -> float:
    flat = values.reshape(-1)
    return float(flat.dot(flat))
