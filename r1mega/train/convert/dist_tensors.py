"""Megatron-Core's dist_checkpointing folder (torch_dist) as rectangles: what is stored, and where.

The format is PyTorch's distributed checkpoint: a pickled `.metadata` says of each tensor its shape and the
chunks it is cut into, and of each chunk in which file and at which offset it lies, as written by torch.save.
Reading it takes no process group and no model.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from r1mega.models.blocks import Block, Box
from r1mega.models.spans import READ_BYTES, memory, read_at, steps
from r1mega.train.convert.archive import Found, find
from r1mega.types import UserError

_OTHERS = ("optimizer.", "reference.")  # what a training run keeps beside the model (train/checkpoint.py)
# What zipfile, pickle and torch.load raise where bytes have changed.
_UNREADABLE = (
    BadZipFile, UnpicklingError, EOFError, NotImplementedError, RuntimeError, ValueError,
    AttributeError, IndexError, KeyError, TypeError,
)  # fmt: skip
KEPT_CHUNKS = 4  # in memory: tensors that lie in one chunk (q, k and v) are read one after another
_OPEN_FILES = 16


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
        self._chunk = lru_cache(KEPT_CHUNKS)(self._load)
        self._file = lru_cache(_OPEN_FILES)(lambda file: (folder / file).open("rb", buffering=0))

    def shape(self, chunk: str) -> tuple[int, ...]:
        return self._sizes[chunk]

    def read(self, chunk: str, box: Box) -> torch.Tensor:
        """A view of this box of a chunk. Raises UserError where the file is damaged."""
        return self._chunk(chunk)[box.slices]

    def stream(
        self, chunk: str, box: Box, multiple: int = 1, size: int = READ_BYTES
    ) -> Iterator[torch.Tensor]:
        """All of a chunk in small pieces, as `steps` cuts `box`, which has its elements in the same order.

        Raises UserError where the file is damaged: at the end, when its checksum is known.
        """
        file, offset, _ = self._place[chunk]
        found = self._find(chunk)
        if found is None:
            whole = self._load(chunk).reshape(box.shape)
            for part in steps(box, whole.itemsize, size, multiple):
                yield whole[_moved(part, box).slices]
            return
        opened, at, crc = self._file(file), offset + found.start, 0
        for part in steps(box, found.dtype.itemsize, size, multiple):
            piece = torch.empty(part.shape, dtype=found.dtype)
            read_at(opened.fileno(), at, piece, str(opened.name))
            content = memory(piece)
            crc, at = zlib.crc32(content, crc), at + len(content)
            yield piece
        if crc != found.crc:
            raise self._damaged(chunk, "is not what was written")

    def _find(self, chunk: str) -> Found | None:
        file, offset, length = self._place[chunk]
        opened = self._file(file)
        try:
            found = find(io.BufferedReader(_Slice(opened.fileno(), offset, length)))
        except _UNREADABLE as error:
            raise self._damaged(chunk, "is unreadable") from error
        if found is not None and found.shape != self._sizes[chunk]:
            raise self._damaged(chunk, "is not what was written")
        return found

    def _load(self, chunk: str) -> torch.Tensor:
        """A chunk of any kind, whole."""
        found = self._find(chunk)
        file, offset, length = self._place[chunk]
        if found is not None:
            whole, at = torch.empty(found.shape, dtype=found.dtype), 0
            for piece in self.stream(chunk, Box.whole(found.shape)):
                whole.view(-1)[at : (at := at + piece.numel())] = piece.view(-1)
            return whole
        content = torch.empty(length, dtype=torch.uint8)
        read_at(self._file(file).fileno(), offset, content, str(self.folder / file))
        stream = io.BytesIO(memory(content))
        try:
            wrong = ZipFile(stream).testzip()  # torch.load does not look at the checksums of torch.save
            stream.seek(0)
            tensor = torch.load(stream, weights_only=True, map_location="cpu")
        except _UNREADABLE as error:
            raise self._damaged(chunk, "is unreadable") from error
        if wrong is not None or tuple(tensor.shape) != self._sizes[chunk]:
            raise self._damaged(chunk, "is not what was written")
        return cast(torch.Tensor, tensor)

    def _damaged(self, chunk: str, what: str) -> UserError:
        file, offset, _ = self._place[chunk]
        return UserError(f"{self.folder / file} is damaged at byte {offset}: {chunk} {what}")


class _Slice(io.RawIOBase):
    """A stretch of a file as a file of its own; many threads may read from one descriptor."""

    def __init__(self, file: int, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = base + offset
        if self._at < 0:
            raise ValueError(f"before the beginning: {self._at}")
        return self._at

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)[: max(0, self._length - self._at)]
        count = os.preadv(self._file, [room], self._offset + self._at) if room else 0
        self._at += count
        return count


def _moved(part: Box, home: Box) -> Box:
    """A part of a box, counted from the box's own corner."""
    start = tuple(low - base for low, base in zip(part.start, home.start, strict=True))
    return Box(start, tuple(high - base for high, base in zip(part.stop, home.start, strict=True)))
