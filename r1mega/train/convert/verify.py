"""Two models compared tensor by tensor: names, shapes, dtypes, and every bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch

from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.train.convert.bits import boxes, different
from r1mega.train.convert.fit import useless
from r1mega.train.convert.progress import Display, silent
from r1mega.train.convert.source import Weights, dtype_name


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


def compare(first: Weights, second: Weights, show: Display = silent) -> Comparison:
    """Everything in which two models differ. Of the two, a box of a tensor is in memory at a time."""
    specs = load_spec(first.path), load_spec(second.path)
    free = useless(specs[0], first) | useless(specs[1], second)
    one_sided = first.inventory.keys() ^ second.inventory.keys()
    both = [name for name in first.inventory if name in second.inventory]
    found = list(_facts(*specs))
    with show("comparing", sum(first.inventory[name].nbytes for name in both)) as advance:
        for name in [*first.inventory, *(name for name in second.inventory if name not in first.inventory)]:
            if name in one_sided:
                here = first.path if name in first.inventory else second.path
                found += [] if name in free else [Difference(name, f"only in {here}")]
                continue
            found += _tensor(name, first, second)
            advance(first.inventory[name].nbytes)
    return Comparison(len(both), tuple(found), tuple(sorted(one_sided & free)))


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
    for box in boxes(info):
        ours, theirs = first.read(name, box), second.read(name, box)
        if ours.dtype == theirs.dtype:
            where = different(ours, theirs)
            ours, theirs = ours[where], theirs[where]
        if ours.numel():
            count += ours.numel()
            largest = torch.maximum(largest, (ours.double() - theirs.double()).abs().max())
    return count, float(largest)
