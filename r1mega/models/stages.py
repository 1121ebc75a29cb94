"""Which layers each part of a pipeline has. Pure.

The parts, pp stages x vp chunks, follow one another as the layers do; part i is on stage i % pp, so with vp 2
a stage has one part of the model's first half and one of its second (arXiv 2104.04473, section 2.2).
"""

from __future__ import annotations

from itertools import accumulate

from r1mega.parallel import Layout
from r1mega.types import UserError


def part_layers(layers: int, layout: Layout) -> list[range]:
    """The layers of every part. Raises UserError where these layers cannot be cut so."""
    counts = layout.stages or _shared(layers, layout)
    if sum(counts) != layers or min(counts) < 1:
        raise UserError(
            f"stage_layers {list(counts)} makes {sum(counts)} layers of at least {min(counts)} a part, and "
            f"num_hidden_layers is {layers}: the sum must be that, and each at least 1"
        )
    ends = list(accumulate(counts))
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def chunk_layers(layers: int, layout: Layout, stage: int) -> list[range]:
    """The layers of each chunk of a stage."""
    return part_layers(layers, layout)[stage :: layout.pp]


def _shared(layers: int, layout: Layout) -> list[int]:
    """The first and the last part as they are said, the others equal."""
    parts, first, last = layout.parts, layout.first, layout.last
    if parts > layers:
        what = f"pp {layout.pp}" + (f" x vp {layout.vp}" if layout.vp > 1 else "")
        fewer = f"vp {layers // layout.pp}" if layout.vp > 1 and layout.pp <= layers else f"pp {layers}"
        raise UserError(
            f"{what} makes {parts} parts, and num_hidden_layers is {layers}: each part needs a layer; use "
            f"{fewer} at most{', and vp 1' if layout.vp > 1 and layers < layout.pp else ''}"
        )
    others = parts - sum(n is not None for n in (first, last))
    rest = layers - (first or 0) - (last or 0)
    if rest < others or (rest if not others else rest % others):
        raise UserError(_cannot(layers, layout, rest, others))
    each = rest // others if others else 0
    counts = [each] * parts
    if first is not None:
        counts[0] = first
    if last is not None:
        counts[-1] = last
    return counts


def _cannot(layers: int, layout: Layout, rest: int, others: int) -> str:
    parts = layout.parts
    what = f"pp {layout.pp}" + (f" x vp {layout.vp}" if layout.vp > 1 else "")
    each = -(-layers // parts)
    if layers - each * (parts - 1) < 1:
        each = layers // parts
    remedy = f"last_stage_layers {layers - each * (parts - 1)} (the others have {each} then)"
    if layout.first is None and layout.last is None:
        fitting = [n for n in range(1, layers // layout.vp + 1) if layers % (n * layout.vp) == 0]
        return (
            f"{what} does not divide num_hidden_layers {layers}: use {remedy}, stage_layers, or pp "
            f"{either(fitting) if fitting else 'and vp that divide it'}"
        )
    said = " and ".join(
        f"{name} {n}"
        for name, n in (("first_stage_layers", layout.first), ("last_stage_layers", layout.last))
        if n is not None
    )
    return (
        f"{said} of num_hidden_layers {layers} leaves {rest} for {others} equal parts ({what}): use "
        f"{remedy}, or say all of them with stage_layers"
    )


def either(numbers: list[int]) -> str:
    """[1, 2, 4] -> "1, 2 or 4"."""
    *others, final = map(str, numbers)
    return f"{', '.join(others)} or {final}" if others else final
