"""Which boxes of the whole model one rank holds, and which rank writes what at export. Pure.

Relations here go from the whole Megatron-Core model to a rank's own parameters, whose names count layers and
experts from the rank's first, or, chained with a family's table, from the checkpoint to them and back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from r1mega.models.blocks import Block, Box, compose, invert
from r1mega.models.families import Param, params, table
from r1mega.models.families.parts import EMBEDDING, OUTPUT
from r1mega.models.spec import ModelSpec
from r1mega.models.stages import chunk_layers, either, part_layers
from r1mega.parallel import Coord, Layout
from r1mega.types import UserError

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\.local_experts\.(\d+)\.")


def local_blocks(
    whole: Mapping[str, Param],
    layout: Layout,
    coord: Coord,
    layers: int,
    tied: bool,
    mtp: bool = False,
) -> list[Block]:
    """whole model of so many layers -> the rank at `coord`.

    The pipeline's first part has the embedding, the last one the final norm, the output layer and what
    multi-token prediction there is. When embedding and output layer are tied but in two parts, the last one
    holds a copy of the embedding as its output layer. Where a rank has several chunks, the chunk's number
    stands before its names: "1.decoder...".

    mtp: the last part predicts several tokens, and for that holds a copy of the embedding.
    """
    each = _count_experts(whole) // layout.ep
    experts = range(coord.ep * each, (coord.ep + 1) * each)
    blocks: list[Block] = []
    for chunk, its_layers in enumerate(chunk_layers(layers, layout, coord.pp)):
        prefix = f"{chunk}." if layout.vp > 1 else ""
        part = chunk * layout.pp + coord.pp
        first, last = part == 0, part == layout.parts - 1
        for name, param in whole.items():
            local = _local_name(name, its_layers, experts, first=first, last=last)
            if local is not None:
                blocks += _pieces(name, prefix + local, param, layout, coord)
        copies = [OUTPUT] * tied + [EMBEDDING] * mtp
        for copy in copies if last and not first else ():
            blocks += _pieces(EMBEDDING, prefix + copy, whole[EMBEDDING], layout, coord)
    return blocks


def exports(param: Param, coord: Coord) -> bool:
    """Whether, of all ranks that hold the same piece of the parameter, this is the one that writes it."""
    if param.shard is not None and param.shard.group == "etp":
        return coord.edp == 0
    replica = coord.cp or coord.dp or (coord.tp if param.shard is None else 0)
    return replica == 0


def import_blocks(spec: ModelSpec, layout: Layout, coord: Coord) -> list[Block]:
    """checkpoint -> the rank at `coord`: what it reads at loading."""
    mine = local_blocks(params(spec), layout, coord, spec.layers, spec.tied, spec.mtp_layers > 0)
    return compose(table(spec), mine)


def export_blocks(spec: ModelSpec, layout: Layout, coord: Coord) -> list[Block]:
    """the rank at `coord` -> checkpoint: what it contributes to an export.

    Over all ranks each element of the checkpoint is written once (test_export_covers_the_checkpoint_once).
    """
    return _export(params(spec), invert(table(spec, with_copies=True)), spec, layout, coord)


def export_plan(spec: ModelSpec, layout: Layout) -> dict[Coord, list[Block]]:
    """`export_blocks` of every rank."""
    whole, to_checkpoint = params(spec), invert(table(spec, with_copies=True))
    return {coord: _export(whole, to_checkpoint, spec, layout, coord) for coord in layout.coords()}


def check_layout(spec: ModelSpec, layout: Layout) -> None:
    """Raises UserError where the model cannot be cut so, or where Megatron-Core would train it wrongly."""
    problems = [
        f"{axis} {degree} does not divide {what} {size}: {_remedies(axis, degree, what, size)}"
        for axis, degree, what, size in _cuts(spec, layout)
        if size % degree
    ]
    problems += _pipeline_problems(spec, layout)
    expert_ranks, stage_ranks = layout.ep * layout.etp, layout.tp * layout.cp * layout.dp
    if stage_ranks % expert_ranks:
        problems.append(
            f"ep {layout.ep} x etp {layout.etp} does not divide the {stage_ranks} ranks of a stage (tp cp dp)"
        )
    if spec.moe is None and expert_ranks > 1:
        problems.append(f"a {spec.family} model has no experts: use ep 1 and etp 1")
    if spec.moe is not None and expert_ranks % layout.tp and not problems:
        # Gradients of an expert that several ranks of one tensor-parallel group hold whole come out wrong.
        problems.append(
            f"with experts, tp {layout.tp} must divide ep {layout.ep} x etp {layout.etp}, or Megatron-Core "
            f"0.16.1 computes wrong gradients: use ep {layout.tp} or etp {layout.tp}, or tp 1"
        )
    if spec.rope.kind == "yarn" and spec.rope.original_max_positions % (2 * layout.cp):
        # Megatron-Core cuts a table of that many rows at its construction, which we do not even use.
        problems.append(
            f"2 x cp {layout.cp} does not divide yarn's original_max_position_embeddings "
            f"{spec.rope.original_max_positions}: use a cp that does"
        )
    if problems:
        raise UserError(
            f"the layout ({layout}) does not fit this {spec.family} model: " + "; ".join(problems)
        )


def _pipeline_problems(spec: ModelSpec, layout: Layout) -> list[str]:
    try:
        part_layers(spec.layers, layout)
    except UserError as error:
        return [str(error)]
    return []


def _export(
    whole: Mapping[str, Param], to_checkpoint: list[Block], spec: ModelSpec, layout: Layout, coord: Coord
) -> list[Block]:
    mine = {name: param for name, param in whole.items() if exports(param, coord)}
    # Neither tied nor mtp: the last part's copy of the embedding is the first part's to write.
    return compose(invert(local_blocks(mine, layout, coord, spec.layers, tied=False)), to_checkpoint)


def _count_experts(whole: Mapping[str, Param]) -> int:
    return max((int(found[1]) + 1 for name in whole if (found := _EXPERT.search(name))), default=0)


def _local_name(name: str, layers: range, experts: range, *, first: bool, last: bool) -> str | None:
    """What the rank calls this parameter of the whole model, or None where it has no part of it."""
    expert = _EXPERT.search(name)
    if expert is not None:
        if int(expert[1]) not in experts:
            return None
        name = f"{name[: expert.start(1)]}{int(expert[1]) - experts.start}{name[expert.end(1) :]}"
    found = _LAYER.match(name)
    if found is None:
        here = first if name == EMBEDDING else last
        return name if here else None
    layer = int(found[1])
    if layer not in layers:
        return None
    return f"decoder.layers.{layer - layers.start}.{name[found.end() :]}"


def _pieces(name: str, local: str, param: Param, layout: Layout, coord: Coord) -> Iterator[Block]:
    """whole parameter -> this rank's, one block for each part that is cut on its own."""
    shape, shard = param.shape, param.shard
    ranks, rank = (1, 0) if shard is None else (getattr(layout, shard.group), getattr(coord, shard.group))
    if shard is None or ranks == 1:
        yield Block(name, Box.whole(shape), local, Box.whole(shape))
        return
    part = shape[shard.dim] // shard.parts
    each = part // ranks
    for i in range(shard.parts):
        start = i * part + rank * each
        yield Block(
            name,
            _band(shape, shard.dim, start, start + each),
            local,
            _band(shape, shard.dim, i * each, (i + 1) * each),
        )


def _band(shape: Sequence[int], dim: int, start: int, stop: int) -> Box:
    """start <= index < stop along `dim`, everything along the others."""
    low, high = [0] * len(shape), list(shape)
    low[dim], high[dim] = start, stop
    return Box(tuple(low), tuple(high))


def _cuts(spec: ModelSpec, layout: Layout) -> Iterator[tuple[str, int, str, int]]:
    """(axis, its degree, what it cuts, that number) for all that must come out even."""
    yield "tp", layout.tp, "num_attention_heads", spec.heads
    yield "tp", layout.tp, "vocab_size", spec.vocab
    if spec.mla is None:
        yield "tp", layout.tp, "num_key_value_heads", spec.kv_heads
    if len(spec.moe_layers) < spec.layers:
        yield "tp", layout.tp, "intermediate_size", spec.ffn
    if spec.moe is not None:
        shared = spec.moe.ffn * spec.moe.shared_experts
        yield "tp", layout.tp, "moe_intermediate_size x n_shared_experts", shared
        yield "etp", layout.etp, "moe_intermediate_size", spec.moe.ffn
        yield "ep", layout.ep, "n_routed_experts", spec.moe.experts


def _remedies(axis: str, degree: int, what: str, size: int) -> str:
    """The nearest degrees for this size and the nearest sizes for this degree."""
    smaller = next(d for d in range(degree - 1, 0, -1) if size % d == 0)
    larger = [d for d in range(degree + 1, min(size, 8 * degree) + 1) if size % d == 0][:1]
    below = size // degree * degree
    sizes = [n for n in (below, below + degree) if n > 0]
    return f"use {axis} {either([smaller, *larger])}, or {what} {either(sizes)}"
