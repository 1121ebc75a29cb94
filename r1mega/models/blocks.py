"""The algebra of rectangles: which box of one tensor equals which box of another.

A `Block` is one such equation, a list of blocks a relation between two sets of tensors: a checkpoint and the
model, the whole model and one rank's part of it, a trainer and a generator. Relations are turned round
(`invert`), chained (`compose`) and proved complete (`check_cover`). Nothing here touches a tensor; to carry a
block out:
`dst[block.dst_box.slices] = src[block.src_box.slices].reshape(block.dst_box.shape)`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

T = TypeVar("T")


class CoverError(ValueError):
    """A relation misses an element of a tensor, writes one twice, or writes where no tensor is."""


@dataclass(frozen=True, slots=True)
class Box:
    """The elements of a tensor with start <= index < stop along every dim. Never empty."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.start) == len(self.stop), self
        assert all(0 <= low < high for low, high in zip(self.start, self.stop, strict=True)), self

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(high - low for low, high in zip(self.start, self.stop, strict=True))

    @property
    def volume(self) -> int:
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Indexes a tensor or an array."""
        return tuple(slice(low, high) for low, high in zip(self.start, self.stop, strict=True))

    def intersect(self, other: Box) -> Box | None:
        """The elements in both, or None."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(map(int.__lt__, start, stop)) else None

    def __str__(self) -> str:
        return "[" + ", ".join(f"{low}:{high}" for low, high in zip(self.start, self.stop, strict=True)) + "]"


@dataclass(frozen=True, slots=True)
class Block:
    """Box `src_box` of tensor `src` equals box `dst_box` of tensor `dst`, element by element.

    The shapes are equal once dims of size 1 are dropped: a matrix can equal one slice [e, :, :] of a stack.
    """

    src: str
    src_box: Box
    dst: str
    dst_box: Box

    def __post_init__(self) -> None:
        same = self.src_box == self.dst_box  # most blocks are whole tensors, and there are 100,000 of them
        assert same or _without_ones(self.src_box) == _without_ones(self.dst_box), self

    @property
    def volume(self) -> int:
        return self.src_box.volume


def invert(blocks: Iterable[Block]) -> list[Block]:
    """The same equations read from right to left."""
    return [Block(block.dst, block.dst_box, block.src, block.src_box) for block in blocks]


def compose(first: Iterable[Block], second: Iterable[Block]) -> list[Block]:
    """X <-> Y and Y <-> Z give X <-> Z: what meets in Y is equal in X and Z.

    What only one of the two relations mentions is left out. For n blocks and m results it takes about
    n log n + m steps.
    """
    by_source = _grouped((block.src, block) for block in second)
    result = []
    for name, lefts in _grouped((block.dst, block) for block in first).items():
        rights = by_source.get(name, [])
        for i, j in _candidates([left.dst_box for left in lefts], [right.src_box for right in rights]):
            left, right = lefts[i], rights[j]
            common = left.dst_box.intersect(right.src_box)
            if common is not None:
                source = _transport(common, left.dst_box, left.src_box)
                target = _transport(common, right.src_box, right.dst_box)
                result.append(Block(left.src, source, right.dst, target))
    return result


def check_cover(blocks: Iterable[Block], shapes: Mapping[str, Sequence[int]]) -> None:
    """Prove that the blocks write every element of every dst tensor in `shapes` exactly once.

    Exact and without bitmaps: boxes inside a tensor that do not overlap cover it if and only if their volumes
    add up. Raises CoverError naming the tensor and a box that is uncovered, covered twice or outside.
    """
    written = _grouped((block.dst, block.dst_box) for block in blocks)
    for name in written.keys() - shapes.keys():
        raise CoverError(f"{name}{written[name][0]} is written, but there is no such tensor")
    for name, shape in shapes.items():
        whole, boxes = Box.whole(shape), written.get(name, [])
        for box in boxes:
            if len(box.start) != len(shape) or box.intersect(whole) != box:
                raise CoverError(f"{name}{box} is written, but the tensor has shape {tuple(shape)}")
        for i, j in _candidates(boxes, boxes):
            twice = boxes[i].intersect(boxes[j]) if i < j else None
            if twice is not None:
                raise CoverError(f"{name}{twice} is written more than once")
        if sum(box.volume for box in boxes) != whole.volume:
            raise CoverError(f"{name}{_gap(whole, boxes)} is not written")


def extents(named_boxes: Iterable[tuple[str, Box]]) -> dict[str, tuple[int, ...]]:
    """For every tensor the smallest shape that holds all its boxes: its shape, if they cover it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, box in named_boxes:
        shapes[name] = tuple(map(max, shapes[name], box.stop)) if name in shapes else box.stop
    return shapes


def nbytes(blocks: Iterable[Block], itemsize: int) -> int:
    """The bytes that carrying out the blocks moves, with `itemsize` bytes an element."""
    return itemsize * sum(block.volume for block in blocks)


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for name, item in pairs:
        groups[name].append(item)
    return dict(groups)


def _without_ones(box: Box) -> list[int]:
    return [size for size in box.shape if size != 1]


def _transport(part: Box, home: Box, away: Box) -> Box:
    """The part of `away` that stands for `part` of `home`, in a block that equates home and away."""
    if part == home:
        return away
    moves = (
        (part.start[d] - home.start[d], part.stop[d] - home.start[d])
        for d in range(len(home.start))
        if home.stop[d] - home.start[d] > 1
    )
    spans = [
        (low + (move := next(moves))[0], low + move[1]) if high - low > 1 else (low, high)
        for low, high in zip(away.start, away.stop, strict=True)
    ]
    return Box(tuple(low for low, _ in spans), tuple(high for _, high in spans))


def _candidates(lefts: Sequence[Box], rights: Sequence[Box]) -> Iterator[tuple[int, int]]:
    """Index pairs of a left and a right box that meet along one dim: all that share an element, few others.

    A sweep along the dim with the most different starts, since that one tells most boxes apart.
    """
    if len(lefts) <= 1 or len(rights) <= 1 or not lefts[0].start:
        yield from ((i, j) for i in range(len(lefts)) for j in range(len(rights)))
        return
    together = [*lefts, *rights]
    dim = max(range(len(lefts[0].start)), key=lambda d: len({box.start[d] for box in together}))
    sides = ((0, lefts), (1, rights))
    events = [
        (box.start[dim], box.stop[dim], side, i) for side, boxes in sides for i, box in enumerate(boxes)
    ]
    open_ends: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for start, stop, side, i in sorted(events):
        # What ended before here never comes back, so each box is dropped once and each survivor is a result.
        across = open_ends[1 - side]
        across[:] = [(end, j) for end, j in across if end > start]
        yield from (((i, j) if side == 0 else (j, i)) for _, j in across)
        open_ends[side].append((stop, i))


def _gap(whole: Box, boxes: Iterable[Box]) -> Box:
    """A box of `whole` that no box touches; there must be one."""
    uncovered = [whole]
    for box in boxes:
        uncovered = [piece for rest in uncovered for piece in _minus(rest, box)]
    return uncovered[0]


def _minus(box: Box, hole: Box) -> Iterator[Box]:
    """Boxes that together are `box` without `hole`."""
    common = box.intersect(hole)
    if common is None:
        yield box
        return
    start, stop = list(box.start), list(box.stop)
    for d in range(len(start)):
        if start[d] < common.start[d]:
            yield Box(tuple(start), (*stop[:d], common.start[d], *stop[d + 1 :]))
        if common.stop[d] < stop[d]:
            yield Box((*start[:d], common.stop[d], *start[d + 1 :]), tuple(stop))
        start[d], stop[d] = common.start[d], common.stop[d]
