"""The algebra of rectangles against brute force: real arrays, copied element by element."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.models.blocks import Block, Box, CoverError, check_cover, compose, extents, invert, nbytes

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
seeds = st.integers(0, 2**32 - 1)
many = settings(max_examples=150, deadline=None)


def carry_out(blocks: list[Block], sources: Mapping[str, np.ndarray], shapes: Shapes) -> Arrays:
    """The dst arrays; -1 where nothing was written."""
    result = {name: np.full(shape, -1) for name, shape in shapes.items()}
    for block in blocks:
        part = sources[block.src][block.src_box.slices]
        result[block.dst][block.dst_box.slices] = part.reshape(block.dst_box.shape)
    return result


def random_shapes(rng: np.random.Generator, prefix: str) -> Shapes:
    return {
        f"{prefix}{i}": tuple(int(n) for n in rng.integers(1, 7, rng.integers(0, 4)))
        for i in range(rng.integers(1, 4))
    }


def cut(rng: np.random.Generator, box: Box) -> list[Box]:
    """A random partition of the box by repeated cuts in two."""
    dims = [d for d, size in enumerate(box.shape) if size > 1]
    if not dims or rng.random() < 0.3:
        return [box]
    d = int(rng.choice(dims))
    at = int(rng.integers(box.start[d] + 1, box.stop[d]))
    lower = Box(box.start, (*box.stop[:d], at, *box.stop[d + 1 :]))
    upper = Box((*box.start[:d], at, *box.start[d + 1 :]), box.stop)
    return cut(rng, lower) + cut(rng, upper)


def random_relation(rng: np.random.Generator, near: Shapes, far_prefix: str) -> tuple[list[Block], Shapes]:
    """near -> far: pieces of the near tensors, each somewhere in a far tensor of its own; some are left out.

    A far tensor may be larger than the piece and have dims of size 1 that the piece has not, or lack some.
    """
    blocks: list[Block] = []
    far: Shapes = {}
    for name, shape in near.items():
        for piece in cut(rng, Box.whole(shape)):
            if rng.random() < 0.15:
                continue
            sizes = [size for size in piece.shape if size > 1 or rng.random() < 0.5]
            for _ in range(rng.integers(0, 3)):
                sizes.insert(int(rng.integers(0, len(sizes) + 1)), 1)
            start = rng.integers(0, 3, len(sizes))
            stop = start + np.array(sizes, dtype=int)
            target = f"{far_prefix}{len(far)}"
            far[target] = tuple((stop + rng.integers(0, 3, len(sizes))).tolist())
            blocks.append(Block(name, piece, target, Box(tuple(start.tolist()), tuple(stop.tolist()))))
    return blocks, far


def numbered(shapes: Shapes) -> Arrays:
    return {name: np.arange(int(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}


@many
@given(seeds)
def test_a_chain_of_relations_copies_what_its_links_copy_one_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    middle = random_shapes(rng, "middle")
    to_left, left = random_relation(rng, middle, "left")
    to_right, right = random_relation(rng, middle, "right")
    from_left = invert(to_left)
    sources = numbered(left)
    by_steps = carry_out(to_right, carry_out(from_left, sources, middle), right)
    at_once = carry_out(compose(from_left, to_right), sources, right)
    for name in right:
        np.testing.assert_array_equal(at_once[name], by_steps[name])


@many
@given(seeds)
def test_there_and_back_again_leaves_what_the_relation_mentions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    near = random_shapes(rng, "near")
    blocks, far = random_relation(rng, near, "far")
    sources = numbered(near)
    back = carry_out(invert(blocks), carry_out(blocks, sources, far), near)
    mentioned = {name: np.full(shape, False) for name, shape in near.items()}
    for block in blocks:
        mentioned[block.src][block.src_box.slices] = True
    for name in near:
        np.testing.assert_array_equal(back[name], np.where(mentioned[name], sources[name], -1))
    assert invert(invert(blocks)) == blocks


@many
@given(seeds)
def test_cover_is_proved_exactly_when_a_dense_count_is_one_everywhere(seed: int) -> None:
    """The partition of a tensor, then with pieces taken out and others put in twice."""
    rng = np.random.default_rng(seed)
    shapes = random_shapes(rng, "t")
    written = [(name, box) for name, shape in shapes.items() for box in cut(rng, Box.whole(shape))]
    kept = [one for one in written if rng.random() > 0.1]
    for i in np.flatnonzero(rng.random(len(written)) < 0.1):
        name, box = written[i]
        kept.append((name, cut(rng, box)[0]))
    counts = {name: np.zeros(shape, int) for name, shape in shapes.items()}
    for name, box in kept:
        counts[name][box.slices] += 1
    blocks = [Block(f"s{i}", box, name, box) for i, (name, box) in enumerate(kept)]
    if all((count == 1).all() for count in counts.values()):
        check_cover(blocks, shapes)
        return
    with pytest.raises(CoverError) as failure:
        check_cover(blocks, shapes)
    found = re.match(r"(t\d)\[(.*)\] is (not written|written more than once)", str(failure.value))
    assert found, str(failure.value)
    spans = [slice(*map(int, span.split(":"))) for span in found[2].split(", ") if span]
    named = counts[found[1]][tuple(spans)]
    assert named.size > 0
    assert (named == 0).all() if found[3] == "not written" else (named > 1).all()


@many
@given(seeds)
def test_intersection_is_the_product_of_two_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(0, 4)))
    one, other = (cut(rng, Box.whole(shape))[0] for _ in range(2))
    masks = [np.zeros(shape, bool), np.zeros(shape, bool)]
    for mask, box in zip(masks, (one, other), strict=True):
        mask[box.slices] = True
        assert mask.sum() == box.volume
    both = np.zeros(shape, bool)
    common = one.intersect(other)
    if common is not None:
        both[common.slices] = True
    np.testing.assert_array_equal(both, masks[0] & masks[1])


def test_a_matrix_is_one_slice_of_a_stack() -> None:
    """gate_proj of expert 2 in a fused [experts, gate and up, hidden], of which a rank holds some rows."""
    fuse = [Block("gate", Box.whole((4, 3)), "stack", Box((2, 0, 0), (3, 4, 3)))]
    shard = [Block("stack", Box((2, 1, 0), (4, 3, 3)), "local", Box.whole((2, 2, 3)))]
    assert compose(fuse, shard) == [Block("gate", Box((1, 0), (3, 3)), "local", Box((0, 0, 0), (1, 2, 3)))]


def test_a_block_of_unequal_shapes_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        Block("a", Box.whole((2, 3)), "b", Box.whole((3, 2)))
    with pytest.raises(AssertionError):
        Box((0, 2), (3, 2))


@pytest.mark.parametrize(
    ("box", "shapes", "message"),
    [
        (Box.whole((3, 5)), {"t": (3, 4)}, r"t\[0:3, 0:5\] is written, but the tensor has shape \(3, 4\)"),
        (Box.whole((3,)), {"t": (3, 4)}, r"t\[0:3\] is written, but the tensor has shape"),
        (Box.whole((3, 4)), {}, r"t\[0:3, 0:4\] is written, but there is no such tensor"),
        (Box.whole((3, 3)), {"t": (3, 4)}, r"t\[0:3, 3:4\] is not written"),
        (Box.whole((3, 4)), {"t": (3, 4), "u": (7,)}, r"u\[0:7\] is not written"),
    ],
)
def test_a_hole_or_a_spill_is_named(box: Box, shapes: Shapes, message: str) -> None:
    with pytest.raises(CoverError, match=message):
        check_cover([Block("s", box, "t", box)], shapes)


@pytest.mark.parametrize("dim", [0, 1])
def test_many_blocks_of_one_tensor_take_no_quadratic_time(dim: int) -> None:
    """8,000 bands on either side: 16,000 results, where all pairs would be 64 million."""
    n = 8_000
    whole = (2 * n, 4) if dim == 0 else (4, 2 * n)

    def band(start: int, stop: int) -> Box:
        return Box((start, 0), (stop, 4)) if dim == 0 else Box((0, start), (4, stop))

    left = [Block(f"x{i}", band(0, 2), "y", band(2 * i, 2 * i + 2)) for i in range(n)]
    cuts = [0, *range(1, 2 * n, 2), 2 * n]  # shifted by one, so that every band meets two
    right = [Block("y", band(a, b), f"z{i}", band(0, b - a)) for i, (a, b) in enumerate(pairwise(cuts))]
    began = time.perf_counter()
    result = compose(left, right)
    check_cover(left, {"y": whole})
    assert len(result) == 2 * n
    assert time.perf_counter() - began < 10


def test_extents_and_bytes() -> None:
    boxes = [("a", Box((0, 0), (2, 5))), ("a", Box((2, 0), (3, 5))), ("b", Box.whole((7,)))]
    assert extents(boxes) == {"a": (3, 5), "b": (7,)}
    assert nbytes([Block(name, box, name, box) for name, box in boxes], itemsize=2) == 2 * (10 + 5 + 7)
