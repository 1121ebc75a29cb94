"""One tensor as torch.save writes it: a zip archive that stores, uncompressed, a pickle and the data.

Written here around data that stream past, since torch.save wants the whole tensor in memory and the size of
what it writes is known only afterwards. torch.load and torch.distributed.checkpoint read it; the tests
compare the pickle with torch.save's own, byte by byte.

    data.pkl  byteorder  version  data/0 (from byte HEAD on)  directory
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch._utils import _rebuild_tensor_v2

HEAD = 768
"""Bytes before the data, a multiple of 64, to which torch.save aligns data as well."""

_STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float16: torch.HalfStorage,
}
_DTYPES = {storage: dtype for dtype, storage in _STORAGES.items()}
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_ROOT = "archive/"
_DATA, _PICKLE = f"{_ROOT}data/0", f"{_ROOT}data.pkl"
_EPOCH = 0x21  # 1 January 1980, as a zip file says it


@dataclass(frozen=True)
class Archive:
    """An archive around `nbytes` bytes of data, below 4 GiB."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape)

    @cached_property
    def size(self) -> int:
        names = [*(name for name, _ in self._records()), _DATA]
        return HEAD + self.nbytes + sum(_CENTRAL.size + len(name) for name in names) + _END.size

    def head(self, crc: int) -> bytes:
        """What comes before the data, whose crc32 is given."""
        written = b""
        for name, content in self._records():
            written += _local(name, zlib.crc32(content), len(content)) + content
        fixed = len(written) + _LOCAL.size + len(_DATA)
        room = HEAD - fixed - 4
        assert room >= 0, (self, fixed)
        # A field that means nothing, with torch's own mark, moves the data to where they shall begin.
        padding = struct.pack("<2sH", b"FB", room) + b"Z" * room
        return written + _local(_DATA, crc, self.nbytes, padding)

    def tail(self, crc: int) -> bytes:
        """What comes behind the data: the archive's directory."""
        directory, at = b"", 0
        for name, content in self._records():
            directory += _central(name, zlib.crc32(content), len(content), at)
            at += _LOCAL.size + len(name) + len(content)
        directory += _central(_DATA, crc, self.nbytes, at)
        count = len(self._records()) + 1
        end = _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), HEAD + self.nbytes, 0)
        return directory + end

    def _records(self) -> Sequence[tuple[str, bytes]]:
        pickled = _pickled(self.dtype, self.shape)
        return [(_PICKLE, pickled), (f"{_ROOT}byteorder", b"little"), (f"{_ROOT}version", b"3\n")]


@dataclass(frozen=True)
class Found:
    """Where in an archive the data of a contiguous tensor lie, in bytes, and their crc32."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    crc: int


def find(stream: io.BufferedIOBase) -> Found | None:
    """What an archive holds, its data not read. None where it is no plain contiguous tensor.

    Raises BadZipFile or what pickle raises where the archive is damaged.
    """
    with ZipFile(stream) as archive:  # type: ignore[arg-type]
        by_name = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if not {"data.pkl", "data/0"} <= by_name.keys():
            raise BadZipFile("it holds no tensor")
        described = _Unpickler(io.BytesIO(archive.read(by_name["data.pkl"]))).load()
        if not isinstance(described, _Described) or not described.is_plain:
            return None
        data = by_name["data/0"]
        if data.file_size != described.dtype.itemsize * prod(described.shape):
            return None
        stream.seek(data.header_offset)
        *_, name, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
        start = data.header_offset + _LOCAL.size + name + extra
        return Found(described.dtype, described.shape, start, data.CRC)


@dataclass(frozen=True)
class _Described:
    """What a pickled tensor says of itself."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    stride: tuple[int, ...]
    numel: int

    @property
    def is_plain(self) -> bool:
        plain = tuple(prod(self.shape[d + 1 :]) for d in range(len(self.shape)))
        one = [d for d, size in enumerate(self.shape) if size == 1]  # whose stride means nothing
        same = all(d in one or self.stride[d] == plain[d] for d in range(len(self.shape)))
        return self.offset == 0 and same and prod(self.shape) == self.numel


class _Unpickler(pickle.Unpickler):
    """Reads what a tensor says of itself, and runs nothing else: any other name makes it a stranger."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _describe
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        known: Mapping[str, torch.dtype] = {storage.__name__: dtype for dtype, storage in _STORAGES.items()}
        return known.get(name) if module == "torch" else _stranger

    def persistent_load(self, saved: Any) -> Any:
        _, dtype, key, _, numel = saved
        return (dtype, key, numel)


def _describe(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> _Described | None:
    dtype, key, numel = storage
    if dtype is None or key != "0":
        return None
    return _Described(dtype, tuple(shape), offset, tuple(stride), numel)


def _stranger(*_: Any, **__: Any) -> None:
    return None


class _Tensor:
    """Pickled as a contiguous tensor would be."""

    def __init__(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(prod(self.shape[d + 1 :]) for d in range(len(self.shape)))
        return _rebuild_tensor_v2, (_Storage(self), 0, self.shape, strides, False, OrderedDict())


@dataclass(frozen=True)
class _Storage:
    tensor: _Tensor


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        tensor = value.tensor
        return ("storage", _STORAGES[tensor.dtype], "0", "cpu", prod(tensor.shape))


@cache
def _pickled(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(_Tensor(dtype, shape))
    return stream.getvalue()


def _local(name: str, crc: int, size: int, extra: bytes = b"") -> bytes:
    encoded = name.encode()
    fields = (b"PK\3\4", 20, 0, 0, 0, _EPOCH, crc, size, size, len(encoded), len(extra))
    return _LOCAL.pack(*fields) + encoded + extra


def _central(name: str, crc: int, size: int, at: int) -> bytes:
    encoded = name.encode()
    fields = (b"PK\1\2", 20, 20, 0, 0, 0, _EPOCH, crc, size, size, len(encoded), 0, 0, 0, 0, 0, at)
    return _CENTRAL.pack(*fields) + encoded
