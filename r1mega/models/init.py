"""Random initial weights behind the interface of a model folder: `inventory` and `read(name, box)`."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch

from r1mega.models.blocks import Box
from r1mega.models.families import checkpoint_shapes, copies
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import ModelSpec

_NARROW = 0.02  # std of the tables that are read by id or read out into scores
_TABLES = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")
_ONTO_RESIDUAL = (
    "o_proj.weight",
    "down_proj.weight",
)  # halved, so that each layer starts as a small correction


class RandomTensors:
    """Checkpoint tensors that depend on seed and name alone, so that every layout starts from the same model.

    Norms are 1, biases 0. Embedding, output layer and router have standard deviation 0.02, the other matrices
    1 / sqrt(inputs), and half of that where they write onto the residual stream.
    """

    def __init__(self, spec: ModelSpec, seed: int, dtype: torch.dtype) -> None:
        self.seed = seed
        self.inventory = {
            # As in DeepSeek's checkpoints: steps of this bias are too fine for 16 bits.
            name: TensorInfo(torch.float32 if name.endswith("e_score_correction_bias") else dtype, shape, "")
            for name, shape in checkpoint_shapes(spec).items()
        }
        self._copies = copies(spec)
        # One rank's boxes of a tensor follow one another, so one tensor need be kept.
        self._whole = lru_cache(1)(self._generate)

    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy of this box of a tensor."""
        whole = self._whole(self._copies.get(name, name))
        return whole[box.slices].clone(memory_format=torch.contiguous_format)

    def _generate(self, name: str) -> torch.Tensor:
        info = self.inventory[name]
        if name.endswith("norm.weight"):
            return torch.ones(info.shape, dtype=info.dtype)
        if name.endswith("bias"):
            return torch.zeros(info.shape, dtype=info.dtype)
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return (torch.randn(info.shape, generator=generator) * _std(name, info.shape)).to(info.dtype)


def random_tensors(spec: ModelSpec, seed: int, dtype: torch.dtype) -> RandomTensors:
    """A reader of fresh weights for `spec`; the same for every layout and number of ranks."""
    return RandomTensors(spec, seed, dtype)


def _std(name: str, shape: tuple[int, ...]) -> float:
    if name.endswith(_TABLES):
        return _NARROW
    return float(shape[1] ** -0.5) * (0.5 if name.endswith(_ONTO_RESIDUAL) else 1.0)
