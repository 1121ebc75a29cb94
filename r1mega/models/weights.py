"""Weights in and out of a rank's model, through the block tables.

In: each rank copies exactly its boxes from a reader (a Hugging Face folder, or a random initialisation).
Out: the ranks together yield every checkpoint tensor whole, in lockstep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Protocol

import torch
import torch.distributed as dist

from r1mega.models.blocks import Block, Box, check_cover
from r1mega.models.families import checkpoint_shapes
from r1mega.models.names import local_name
from r1mega.models.shards import export_plan, import_blocks
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Layout, Mesh
from r1mega.progress import beat


class Reader(Protocol):
    """Where weights come from: gives one box of one checkpoint tensor at a time."""

    def read(self, name: str, box: Box) -> torch.Tensor: ...


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """This rank's weights by local name: parameters, and the routers' expert biases."""
    found: dict[str, torch.Tensor] = {local_name(name): each for name, each in model.named_parameters()}
    found |= {name: buffer for name, buffer in model.named_buffers() if name.endswith("router.expert_bias")}
    return found


@torch.no_grad()
def load(spec: ModelSpec, mesh: Mesh, model: torch.nn.Module, reader: Reader) -> None:
    """Set every weight of this rank's model. Each rank reads its own boxes and no more."""
    mine = tensors(model)
    blocks = import_blocks(spec, mesh.layout, mesh.at)
    check_cover(blocks, {name: tuple(tensor.shape) for name, tensor in mine.items()})
    for block in blocks:
        beat()
        part = mine[block.dst][block.dst_box.slices]
        part.copy_(reader.read(block.src, block.src_box).reshape(part.shape))


def whole(
    spec: ModelSpec, mesh: Mesh, local: Mapping[str, torch.Tensor], *, bucket_bytes: int = 1 << 28
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every checkpoint tensor, whole, on every rank. All ranks iterate together.

    local:        this rank's tensors by local name: its weights, or anything of their shapes, such as
                  gradients.
    bucket_bytes: tensors are exchanged in groups of about this size, one broadcast a rank and group. It
                  bounds the memory on top of one tensor.
    """
    plan = _senders(spec, mesh.layout)
    shapes = checkpoint_shapes(spec)
    example = next(iter(local.values()))
    for dtype, names in _buckets(shapes, example.dtype, bucket_bytes):
        gathered = {name: torch.empty(shapes[name], dtype=dtype, device=example.device) for name in names}
        pieces: defaultdict[int, list[Block]] = defaultdict(list)
        for rank, block in chain.from_iterable(plan[name] for name in names):
            pieces[rank].append(block)
        for rank in sorted(pieces):
            _broadcast(pieces[rank], rank, mesh, local, gathered)
        beat()
        yield from gathered.items()


@lru_cache(maxsize=4)
def _senders(spec: ModelSpec, layout: Layout) -> dict[str, list[tuple[int, Block]]]:
    """Checkpoint tensor -> the ranks that hold its parts. Kept, since it is asked for at every weight sync.

    For DeepSeek-V3 on 1,024 ranks it takes minutes of Python.
    """
    found: defaultdict[str, list[tuple[int, Block]]] = defaultdict(list)
    for coord, blocks in export_plan(spec, layout).items():
        for block in blocks:
            found[block.dst].append((coord.rank, block))
    return found


def _buckets(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, size: int
) -> Iterator[tuple[torch.dtype, list[str]]]:
    """Checkpoint tensors in their order, in groups of one dtype: expert biases are always float32."""
    group: list[str] = []
    filled, group_dtype = 0, dtype
    for name, shape in shapes.items():
        its = torch.float32 if name.endswith("e_score_correction_bias") else dtype
        if group and (its != group_dtype or filled >= size):
            yield group_dtype, group
            group, filled = [], 0
        group, group_dtype = [*group, name], its
        filled += Box.whole(shape).volume * its.itemsize
    if group:
        yield group_dtype, group


def _broadcast(
    pieces: list[Block],
    rank: int,
    mesh: Mesh,
    local: Mapping[str, torch.Tensor],
    gathered: Mapping[str, torch.Tensor],
) -> None:
    """Rank `rank` sends its pieces in one message; everyone puts them in their places."""
    some = gathered[pieces[0].dst]
    flat = torch.empty(sum(p.volume for p in pieces), dtype=some.dtype, device=some.device)
    if mesh.at.rank == rank:
        torch.cat([local[p.src][p.src_box.slices].detach().reshape(-1) for p in pieces], out=flat)
    if mesh.layout.world > 1:
        dist.broadcast(flat, src=rank)
    for piece, values in zip(pieces, flat.split([p.volume for p in pieces]), strict=True):
        target = gathered[piece.dst][piece.dst_box.slices]
        target.copy_(values.view(target.shape))
