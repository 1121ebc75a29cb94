"""The values that a reward model's last stage gives, joined over tensor-parallel ranks."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from r1mega.parallel import Mesh


def values(value_1S1: torch.Tensor, mesh: Mesh) -> torch.Tensor:
    """float32 [T], differentiable, from each TP rank's S = T / tp tokens; the same on every TP rank."""
    value_S = value_1S1[0, :, 0]
    if mesh.layout.tp == 1:
        return value_S
    # Each TP rank computes the same loss of all values: its own share of their gradient is its own tokens'.
    gathered: torch.Tensor = gather_from_sequence_parallel_region(value_S, tensor_parallel_output_grad=False)
    return gathered
