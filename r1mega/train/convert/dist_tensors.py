"""Megatron-Core's dist_checkpointing folder (torch_dist) as rectangles: what is stored, and where.

The format is PyTorch's distributed checkpoint: a pickled `.metadata` says of each tensor its shape and the
chunks it is cut into, and of each chunk in which file and at which offset it lies, as written by torch.save.
Reading it takes no process group and no model.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import cast
from zipfile import BadZipFile, ZipFile

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from r1mega.models.blocks import Block, Box
from r1mega.types import UserError

_OTHERS = ("optimizer.", "reference.")  # what a training run keeps beside the model (train/checkpoint.py)
# What zipfile and torch.load raise where bytes have changed.
_UNREADABLE = (BadZipFile, UnpicklingError, EOFError, NotImplementedError, RuntimeError, ValueError)
_KEPT_CHUNKS = 4  # in memory: tensors that lie in one chunk (q, k and v) are read one after another


class DistTensors:
    """The tensors of the model in one folder.

    shapes, dtypes: of the whole tensors, by key.
    chunks:         tensor -> chunk: which box of a tensor is which chunk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        metadata = FileSystemReader(folder).read_metadata()
        stored = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and not key.startswith(_OTHERS)
        }
        self.shapes = {key: tuple(entry.size) for key, entry in stored.items()}
        self.dtypes = {key: entry.properties.dtype for key, entry in stored.items()}
        self.chunks: list[Block] = []
        self._place: dict[str, tuple[str, int, int]] = {}  # chunk -> file, offset and length in bytes
        self._sizes: dict[str, tuple[int, ...]] = {}  # chunk -> shape
        places = {(at.fqn, at.offset): info for at, info in metadata.storage_data.items()}
        for key, entry in stored.items():
            for chunk in entry.chunks:
                start, size = tuple(chunk.offsets), tuple(chunk.sizes)
                stop = tuple(map(sum, zip(start, size, strict=True)))
                name = f"{key}{Box(start, stop)}"
                info = places[key, chunk.offsets]
                self.chunks.append(Block(key, Box(start, stop), name, Box.whole(size)))
                self._place[name] = (info.relative_path, info.offset, info.length)
                self._sizes[name] = size
        self._chunk = lru_cache(_KEPT_CHUNKS)(self._load)

    def read(self, chunk: str, box: Box) -> torch.Tensor:
        """A view of this box of a chunk. Raises UserError where the file is damaged."""
        return self._chunk(chunk)[box.slices]

    def _load(self, chunk: str) -> torch.Tensor:
        file, offset, length = self._place[chunk]
        with (self.folder / file).open("rb") as stream:
            stream.seek(offset)
            content = io.BytesIO(stream.read(length))
        try:
            wrong = ZipFile(
                content
            ).testzip()  # torch.load does not look at the checksums that torch.save wrote
            content.seek(0)
            tensor = torch.load(content, weights_only=True, map_location="cpu")
        except _UNREADABLE as error:
            raise UserError(
                f"{self.folder / file} is damaged at byte {offset}: {chunk} is unreadable"
            ) from error
        if wrong is not None or tuple(tensor.shape) != self._sizes[chunk]:
            raise UserError(
                f"{self.folder / file} is damaged at byte {offset}: {chunk} is not what was written"
            )
        return cast(torch.Tensor, tensor)
