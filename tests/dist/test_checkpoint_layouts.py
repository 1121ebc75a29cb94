"""A checkpoint of any layout goes on in any other: the same tensors, bit by bit, and the same training.

Each run trains three steps, saves and trains three more, undisturbed. Another one, which has learnt something
else before, loads that, saves it again at once and trains on. Both checkpoints must be equal bit by bit,
optimizer and all, and the weights at the end as close as the two layouts are without a checkpoint between.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch

from r1mega.train import checkpoint
from tests.ranks import run_ranks
from tests.training import OVERLAPPED, SHARDED, Run, content, learn, model, whole_weights

BEFORE, AFTER = 3, 3

Weights = dict[str, torch.Tensor]


def _save(run: Run, folder: Path) -> Weights:
    with run.policy() as policy:
        for step in range(1, BEFORE + 1):
            learn(policy, step)
        checkpoint.save(policy, folder, {"version": BEFORE})
        for step in range(BEFORE + 1, BEFORE + AFTER + 1):
            learn(policy, step)
        return whole_weights(policy)


def _go_on(run: Run, folder: Path, again: Path) -> Weights:
    with run.policy() as policy:
        learn(policy, 77)
        assert checkpoint.load(policy, folder) == {"version": BEFORE}
        checkpoint.save(policy, again, {"version": BEFORE})
        for step in range(BEFORE + 1, BEFORE + AFTER + 1):
            learn(policy, step)
        return whole_weights(policy)


def _all(rank: int, tasks: Sequence[tuple[Run, Path, Path | None]]) -> list[Weights]:
    """Several runs, one after another, in the same processes: starting those takes longest."""
    return [_save(run, to) if source is None else _go_on(run, source, to) for run, to, source in tasks]


def _contents(rank: int, kind: str, folders: Sequence[Path]) -> list[Weights]:
    with Run(kind).policy():
        return [content(folder) for folder in folders]


def check(pairs: Sequence[tuple[Run, Run]], tmp_path: Path, *, atol: float) -> None:
    """pairs: (saved by, gone on with by), all of one kind and dtype."""
    runs = list(dict.fromkeys(run for pair in pairs for run in pair))
    model(runs[0].kind)
    first = {run: tmp_path / f"{run}" for run in runs}
    again = {pair: tmp_path / f"{pair[0]}--{pair[1]}" for pair in pairs}
    ends: dict[Path, Weights] = {}
    worlds = sorted({run.world for run in runs})
    for resuming, world in product((False, True), worlds):
        tasks: list[tuple[Run, Path, Path | None]]
        if resuming:
            tasks = [(p[1], again[p], first[p[0]]) for p in pairs if p[1].world == world]
        else:
            tasks = [(run, first[run], None) for run in runs if run.world == world]
        found = run_ranks(world, _all, tasks, timeout=600)[0]
        ends |= {to: end for (_, to, _), end in zip(tasks, found, strict=True)}
    folders = [*first.values(), *again.values()]
    held = dict(zip(folders, run_ranks(1, _contents, runs[0].kind, folders)[0], strict=True))
    for pair, folder in again.items():
        origin, name = held[first[pair[0]]], " -> ".join(map(str, pair))
        assert any(one.startswith("optimizer.state.exp_avg_sq.") for one in origin)
        assert origin.keys() == held[folder].keys()
        for tensor, value in origin.items():
            assert torch.equal(value, held[folder][tensor]), f"{name}: {tensor}"
        for tensor, value in ends[first[pair[0]]].items():
            difference = float((value.float() - ends[folder][tensor].float()).abs().max())
            assert difference <= (0.0 if pair[0] == pair[1] else atol), f"{name}: {tensor}: {difference}"


def run_of(kind: str, dtype: str = "float32") -> list[Run]:
    sizes = ["tp2", "pp2"] if kind != "v3" else ["ep2", "tp2 ep2", "pp2"]
    runs = [Run(kind, optimizer=SHARDED, dtype=dtype), Run(kind, 2, "", SHARDED, dtype)]
    runs += [Run(kind, 2, one, SHARDED, dtype) for one in sizes]
    return [*runs, Run(kind, 2, sizes[0], dtype=dtype), Run(kind, 2, "", OVERLAPPED, dtype)]


def test_experts(tmp_path: Path) -> None:
    single, _, expert, *_ = run_of("v3")
    check([(expert, single)], tmp_path, atol=1e-5)


@pytest.mark.slow
def test_experts_to_more_ranks(tmp_path: Path) -> None:
    single, _, expert, tensor, *_ = run_of("v3")
    check([(single, expert), (expert, expert), (expert, tensor)], tmp_path, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_tied", "v3"])
def test_each_to_each(kind: str, tmp_path: Path) -> None:
    check([(a, b) for a in run_of(kind) for b in run_of(kind)], tmp_path, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_tied", "v3"])
def test_masters_of_bfloat16(kind: str, tmp_path: Path) -> None:
    """One bfloat16 weight of 1 to 2 is 0.0078 from the next one."""
    single, data, *cut, plain, _ = run_of(kind, "bfloat16")
    pairs = [(single, one) for one in (data, *cut, plain)] + [(one, data) for one in cut] + [(plain, data)]
    check(pairs, tmp_path, atol=1.6e-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_tied", "v3"])
def test_virtual_stages_and_cut_contexts(kind: str, tmp_path: Path) -> None:
    single, data, first, *_ = run_of(kind)
    others = [Run(kind, 2, sizes, SHARDED) for sizes in ("pp2 vp2", "cp2")]
    pairs = [pair for one in others for pair in ((single, one), (one, single), (one, one), (first, one))]
    check([*pairs, (others[0], data)], tmp_path, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sizes"), [("qwen2_tied", "tp2"), ("v3", "ep2"), ("v3", "tp2 ep2"), ("qwen2_tied", "cp2 tp2")]
)
def test_four_ranks(kind: str, sizes: str, tmp_path: Path) -> None:
    """AdamW's state is shared out among two ranks of several groups at once."""
    single, four = Run(kind, optimizer=SHARDED), Run(kind, 4, sizes, SHARDED)
    half = run_of(kind)[2]
    check([(single, four), (four, single), (four, four), (four, half), (half, four)], tmp_path, atol=1e-5)
