"""Micro-batches under context parallelism: a rank computes its own tokens, and everyone gets all results.

All ranks of a context-parallel group are given the same whole micro-batch, so nothing above the trainer knows
of the cut. With cp 1 all of this changes nothing.

T tokens of a micro-batch, W tokens of this rank: T, filled up to a multiple of 2 x cp x tp, over cp.
"""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from r1mega.models.packing import Packing, pack, rank_by_rank, slices
from r1mega.parallel import Mesh
from r1mega.train.batch import MicroBatch


def filled(tokens: int, mesh: Mesh) -> int:
    """So many tokens filled up, so that each rank has two equal slices that tensor parallelism can cut."""
    cp, tp = mesh.layout.cp, mesh.layout.tp
    return tokens if cp == 1 else -(-tokens // (2 * cp * tp)) * 2 * cp * tp


def cut(batch: MicroBatch, mesh: Mesh) -> tuple[torch.Tensor, Packing]:
    """This rank's inputs_W and where they lie. What fills the micro-batch up is a sequence of its own."""
    if mesh.layout.cp == 1:
        return batch.inputs_T, batch.packing
    fill = filled(batch.tokens, mesh) - batch.tokens
    lengths = [*batch.packing.lengths, *([fill] if fill else [])]
    return take(batch.inputs_T, mesh), pack(lengths, mesh.layout.cp, mesh.at.cp)


def take(values_T: torch.Tensor, mesh: Mesh) -> torch.Tensor:
    """[W], this rank's values of those of all tokens; 0 for tokens that fill up."""
    if mesh.layout.cp == 1:
        return values_T
    whole_T = torch.nn.functional.pad(values_T, (0, filled(len(values_T), mesh) - len(values_T)))
    return torch.cat(
        [whole_T[part.start : part.stop] for part in slices(len(whole_T), mesh.layout.cp, mesh.at.cp)]
    )


def join(values_W: torch.Tensor, mesh: Mesh, tokens: int) -> torch.Tensor:
    """[T, ...] from every rank's [W, ...], on all of them, differentiable.

    All ranks then compute the same loss of all tokens; each takes its own tokens' share of the gradient.
    """
    if mesh.layout.cp == 1:
        return values_W
    gathered = gather_from_sequence_parallel_region(
        values_W, tensor_parallel_output_grad=False, group=mesh.context_group
    )
    places_T = torch.argsort(rank_by_rank(len(gathered), mesh.layout.cp))[:tokens]
    joined: torch.Tensor = gathered.index_select(0, places_T.to(gathered.device))
    return joined
