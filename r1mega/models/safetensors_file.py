"""One safetensors file: its header read with every fault named; written so that a full disk is an OSError.

The format: 8 bytes of header length (little endian), JSON {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from r1mega.models.spans import memory
from r1mega.types import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as a header describes it, the name of its file, and where in it the data begin, in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """What a file holds, without its data. Raises UserError for a truncated or malformed file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if prefix == b"version ":
            raise UserError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= size - 8:
            raise UserError(
                f"{path} ({size} bytes) is truncated or no safetensors file: its header is not whole"
            )
        try:
            header = json.loads(file.read(length))
            entries = {
                name: _entry(said, path.name) for name, said in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} has a malformed safetensors header: {error!r}") from error
    end = 0
    for name, (info, (start, stop)) in sorted(entries.items(), key=lambda entry: entry[1][1]):
        if start != end or stop - start != info.nbytes:
            raise UserError(
                f"{path} has a malformed safetensors header: {name} of {info.nbytes} bytes lies at "
                f"{start}:{stop}, where {end}:{end + info.nbytes} is expected"
            )
        end = stop
    if size != 8 + length + end:
        said = "is truncated" if size < 8 + length + end else "has bytes behind its data"
        raise UserError(
            f"{path} {said}: its header promises {8 + length + end} bytes, it has {size}; copy it again"
        )
    return {name: replace(info, offset=8 + length + start) for name, (info, (start, _)) in entries.items()}


@dataclass(frozen=True)
class FilePlan:
    """A file to write: its first bytes, where each tensor's data begin, and its size."""

    head: bytes
    offsets: Mapping[str, int]
    size: int


def plan_file(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> FilePlan:
    """dtype and shape of each tensor -> the file. Wide elements first keeps every tensor aligned."""
    sizes = {name: dtype.itemsize * prod(shape) for name, (dtype, shape) in tensors.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name)):
        dtype, shape = tensors[name]
        starts[name], end = end, end + sizes[name]
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    return FilePlan(head, {name: len(head) + start for name, start in starts.items()}, len(head) + end)


def write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors (contiguous, on CPU) and wait until they are on the disk. Raises OSError when it is full.

    It writes in place and renames nothing, so a caller that needs all or nothing renames afterwards.
    """
    plan = plan_file({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    with path.open("wb") as file:
        file.write(plan.head)
        for name in plan.offsets:  # in the order of the file
            file.write(memory(tensors[name]))
        file.flush()
        os.fsync(file.fileno())


def _entry(said: Mapping[str, Any], file: str) -> tuple[TensorInfo, tuple[int, int]]:
    shape, (start, stop) = said["shape"], said["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        raise ValueError(f"sizes and offsets must be whole numbers, not {shape}, {start}:{stop}")
    return TensorInfo(DTYPES[said["dtype"]], tuple(shape), file), (start, stop)
