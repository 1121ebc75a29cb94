"""Which chunks of which files a converted checkpoint has, before anything is written. Pure.

A parameter is one chunk, or one for each stretch of a checkpoint tensor in it (gate and up) where these are
large; a large one is cut into rows. So most chunks are stretches of one tensor on the other side, which
stream from disk to disk both ways.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from r1mega.models.blocks import Block, Box, extents
from r1mega.models.families import params, table
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spans import steps
from r1mega.models.spec import ModelSpec
from r1mega.train.convert.archive import Archive
from r1mega.train.convert.places import as_written, empty_states

FILE_BYTES = 5_000_000_000
_CHUNK_BYTES = 1 << 25
_OWN_CHUNK_BYTES = 1 << 20  # a stretch of at least this is a chunk of its own
_ROWS = 128  # chunks are cut at multiples, so that FP8 blocks are not
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a stored tensor in a file.

    blocks: checkpoint -> parameter, in the order in which their data follow one another.
    offset: of the archive in its file, in bytes; padding: zero bytes behind it.
    """

    key: str
    box: Box
    archive: Archive
    blocks: tuple[Block, ...]
    file: str
    offset: int

    @property
    def padding(self) -> int:
        return -self.archive.size % _ALIGNMENT

    @property
    def nbytes(self) -> int:
        return self.archive.size + self.padding


def plan_chunks(spec: ModelSpec, source: Mapping[str, TensorInfo], dtype: torch.dtype) -> list[Chunk]:
    """Every chunk, in the order of the source's data. Expert biases are float32, all else is `dtype`."""
    chunks: list[Chunk] = []
    number, offset = 0, 0
    whole, homes = params(spec), {block.src: block for block in as_written(spec)}
    cuts = [
        (name, box, blocks) for name, found in _by_param(spec).items() for box, blocks in _cut(found, dtype)
    ]
    cuts.sort(key=lambda cut: _place(source, cut[2][0]))
    for name, box, blocks in cuts:
        home = homes[name].dst_box.start
        lead = home[: len(home) - len(box.start)]
        stored = Box((*lead, *box.start), (*(i + 1 for i in lead), *box.stop))
        archive = Archive(torch.float32 if whole[name].buffer else dtype, stored.shape)
        if offset and offset + archive.size > FILE_BYTES:
            number, offset = number + 1, 0
        chunk = Chunk(homes[name].dst, stored, archive, blocks, f"__{number}_0.distcp", offset)
        chunks.append(chunk)
        offset += chunk.nbytes
    return chunks


def metadata(spec: ModelSpec, chunks: Iterable[Chunk], state: tuple[str, int]) -> Metadata:
    """What `.metadata` says. state: file and length of the empty object that all modules' states are."""
    blocks = as_written(spec)
    shapes = extents((block.dst, block.dst_box) for block in blocks)
    found: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    for chunk in chunks:
        start, shape = torch.Size(chunk.box.start), torch.Size(chunk.box.shape)
        if chunk.key not in found:
            properties = TensorProperties(dtype=chunk.archive.dtype)
            found[chunk.key] = TensorStorageMetadata(properties, torch.Size(shapes[chunk.key]), [])
        entry = found[chunk.key]
        assert isinstance(entry, TensorStorageMetadata)
        entry.chunks.append(ChunkStorageMetadata(start, shape))
        info = _StorageInfo(chunk.file, chunk.offset, chunk.archive.size)
        places[MetadataIndex(chunk.key, start)] = info
    for key in empty_states(spec):
        found[key] = BytesStorageMetadata()
        places[MetadataIndex(key)] = _StorageInfo(state[0], 0, state[1])
    return Metadata(state_dict_metadata=found, storage_data=places)


def _by_param(spec: ModelSpec) -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in table(spec):
        found.setdefault(block.dst, []).append(block)
    return found


def _cut(blocks: list[Block], dtype: torch.dtype) -> Iterator[tuple[Box, tuple[Block, ...]]]:
    """A parameter's boxes, each with the blocks in it, in order."""
    blocks.sort(key=lambda block: block.dst_box.start)
    if len(blocks) > 1 and any(block.volume * dtype.itemsize < _OWN_CHUNK_BYTES for block in blocks):
        [shape] = extents((block.dst, block.dst_box) for block in blocks).values()
        yield Box.whole(shape), tuple(blocks)
        return
    for block in blocks:
        for box in steps(block.dst_box, dtype.itemsize, _CHUNK_BYTES, _ROWS):
            yield box, (_part(block, box),)


def _part(block: Block, box: Box) -> Block:
    """The rows of a block that are `box` on its right."""
    if not box.start:
        return block
    shift = block.src_box.start[0] - block.dst_box.start[0]
    rows = box.start[0] + shift, box.stop[0] + shift
    source = Box((rows[0], *block.src_box.start[1:]), (rows[1], *block.src_box.stop[1:]))
    return Block(block.src, source, block.dst, box)


def _place(source: Mapping[str, TensorInfo], block: Block) -> tuple[str, int, tuple[int, ...]]:
    info = source[block.src]
    return info.file, info.offset, block.src_box.start


def write_metadata(folder: Path, content: Metadata) -> None:
    """`.metadata` as torch writes it."""
    with (folder / ".metadata").open("wb") as file:
        pickle.dump(content, file)
