"""Two models compared tensor by tensor: names, shapes, dtypes, and every bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import torch

from r1mega.models.blocks import Box
from r1mega.models.hf import HFFolder
from r1mega.models.reward_head import load_facts
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spans import memory
from r1mega.models.spec import ModelSpec
from r1mega.train.convert.bits import different
from r1mega.train.convert.cast import cast, dtype_name
from r1mega.train.convert.fit import useless
from r1mega.train.convert.progress import Display, silent
from r1mega.train.convert.source import CheckpointFolder, Weights
from r1mega.train.convert.target import default_workers


@dataclass(frozen=True)
class Difference:
    """name: of a tensor, or of a fact in config.json. largest: the largest difference of two values."""

    name: str
    what: str
    largest: float | None = None


@dataclass(frozen=True)
class Comparison:
    """tensors: how many are on both sides. left_out: those on one side that the model has no use for."""

    tensors: int
    differences: tuple[Difference, ...]
    left_out: tuple[str, ...]


def compare(
    first: Weights, second: Weights, show: Display = silent, workers: int | None = None
) -> Comparison:
    """Everything in which two models differ. Of the two, a box of a tensor a thread is in memory at a time.

    FP8 weights are compared as what they stand for, in the other side's dtype: what a conversion to that
    dtype makes of them.
    """
    specs = load_facts(first.path), load_facts(second.path)
    first, second = _dequantised(first, second), _dequantised(second, first)
    free = useless(specs[0], first) | useless(specs[1], second)
    one_sided = first.inventory.keys() ^ second.inventory.keys()
    both = [name for name in first.inventory if name in second.inventory]
    found = list(_facts(*specs))
    pool = ThreadPoolExecutor(workers or default_workers(), initializer=torch.set_num_threads, initargs=(1,))
    with show("comparing", sum(first.inventory[name].nbytes for name in both)) as advance:

        def shared(name: str) -> list[Difference]:
            differences = list(_tensor(name, first, second))
            advance(first.inventory[name].nbytes)
            return differences

        try:
            of_shared = dict(zip(both, pool.map(shared, both), strict=True))
        finally:  # Ctrl-C does not wait for what has not begun
            pool.shutdown(cancel_futures=True)
    for name in [*first.inventory, *(name for name in second.inventory if name not in first.inventory)]:
        if name in of_shared:
            found += of_shared[name]
        elif name not in free:
            here = first.path if name in first.inventory else second.path
            found.append(Difference(name, f"only in {here}"))
    return Comparison(len(both), tuple(found), tuple(sorted(one_sided & free)))


def _dequantised(side: Weights, other: Weights) -> Weights:
    """A folder with FP8 weights, read in the other side's dtypes; anything else as it is."""
    if not isinstance(side, HFFolder) or not side.quantised:
        return side
    side = side.reading(torch.float32)
    if isinstance(other, HFFolder) and other.quantised:
        return side
    return _InDtypes(side, other.inventory)


class _InDtypes:
    """Weights, cast to the dtypes of others."""

    def __init__(self, weights: Weights, others: Mapping[str, TensorInfo]) -> None:
        self._weights, self.path, self.config = weights, weights.path, weights.config
        self.inventory: Mapping[str, TensorInfo] = {
            name: replace(info, dtype=others[name].dtype if name in others else info.dtype)
            for name, info in weights.inventory.items()
        }

    def read(self, name: str, box: Box) -> torch.Tensor:
        return cast(name, self._weights.read(name, box), self.inventory[name].dtype)

    def stream(self, name: str, box: Box, multiple: int = 1) -> Iterator[torch.Tensor]:
        for piece in self._weights.stream(name, box, multiple):
            yield cast(name, piece, self.inventory[name].dtype)


def _facts(first: ModelSpec, second: ModelSpec) -> Iterator[Difference]:
    """Where the configs describe different models; what says nothing about the computation may differ."""
    for field in fields(ModelSpec):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name != "hf" and ours != theirs:
            yield Difference(f"config.json: {field.name}", f"{ours} | {theirs}")


def _tensor(name: str, first: Weights, second: Weights) -> Iterator[Difference]:
    ours, theirs = first.inventory[name], second.inventory[name]
    if ours.shape != theirs.shape:
        yield Difference(name, f"shape {list(ours.shape)} | {list(theirs.shape)}")
        return
    count, largest = _values(name, ours, first, second)
    if ours.dtype != theirs.dtype:
        yield Difference(name, f"{dtype_name(ours.dtype)} | {dtype_name(theirs.dtype)}", largest)
    elif count:
        yield Difference(name, f"{count:,} of {torch.Size(ours.shape).numel():,} values", largest)


def _values(name: str, info: TensorInfo, first: Weights, second: Weights) -> tuple[int, float]:
    """How many values differ in bits, and by how much the most different ones do (NaN where one is NaN)."""
    count, largest = 0, torch.zeros((), dtype=torch.float64)
    for ours, theirs in _pieces(name, info, first, second):
        if ours.dtype == theirs.dtype:
            if memory(ours) == memory(theirs):
                continue
            where = different(ours, theirs)
            ours, theirs = ours[where], theirs[where]
        if ours.numel():
            count += ours.numel()
            largest = torch.maximum(largest, (ours.double() - theirs.double()).abs().max())
    return count, float(largest)


def _pieces(
    name: str, info: TensorInfo, first: Weights, second: Weights
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same pieces of a tensor from both. A checkpoint is read through; a folder gives any box at once."""
    swapped = not isinstance(first, CheckpointFolder)
    through, other = (second, first) if swapped else (first, second)
    row, whole = 0, Box.whole(info.shape)
    for piece in through.stream(name, whole):
        box = whole
        if info.shape:
            rows, row = (row, row + len(piece)), row + len(piece)
            box = Box((rows[0], *whole.start[1:]), (rows[1], *whole.stop[1:]))
        yield (other.read(name, box), piece) if swapped else (piece, other.read(name, box))
