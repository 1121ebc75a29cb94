"""The values that a reward model's last stage gives, joined over tensor- and context-parallel ranks."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from r1mega.parallel import Mesh
from r1mega.train.context import join


def values(value_1S1: torch.Tensor, mesh: Mesh, tokens: int) -> torch.Tensor:
    """float32 [tokens], differentiable, from each rank's share; the same on every TP and CP rank."""
    value_W = value_1S1[0, :, 0]
    if mesh.layout.tp > 1:
        # Each TP rank computes the same loss of all values: its share of their gradient is its own tokens'.
        value_W = gather_from_sequence_parallel_region(value_W, tensor_parallel_output_grad=False)
    return join(value_W, mesh, tokens)
