"""Every layout computes what transformers computes: logits, loss, each parameter's gradient, an AdamW step.

What is compared and how close it must be is in tests/parity.py, the layouts are in tests/layouts.py;
tools/bench/layout_parity.py prints the deviations.
"""

from __future__ import annotations

from typing import Any

import pytest

from r1mega.config.sections import Optimizer
from tests import tiny
from tests.layouts import FAMILIES, LAYOUTS, SHARDED
from tests.parity import (
    DENOMINATOR,
    TRAIN,
    beyond,
    compare,
    loss_function,
    make_policy,
    my_batches,
    one_layout,
    samples,
)

__all__ = [
    "DENOMINATOR",
    "TRAIN",
    "loss_function",
    "make_policy",
    "my_batches",
    "name_of",
    "one_layout",
    "samples",
]

SINGLE: list[tuple[str, int, dict[str, Any]]] = [(kind, 1, {}) for kind in tiny.CONFIGS]
SAMPLED: list[tuple[str, int, dict[str, Any]]] = [
    ("qwen2_tied", 2, {}),
    ("qwen2_tied", 2, {"tp": 2}),
    ("qwen2_tied", 2, {"pp": 2, "last_stage_layers": 1}),
    ("qwen2_tied", 2, {"pp": 2, "vp": 2}),
    ("llama3", 2, {"tp": 2}),
    ("llama3", 2, {"cp": 2}),
    ("v3", 2, {}),
    ("v3", 2, {"ep": 2}),
    ("v3", 2, {"tp": 2, "ep": 2}),
    ("v3", 2, {"tp": 2, "etp": 2}),
    ("v3", 2, {"pp": 2}),
    ("v3_yarn", 2, {"cp": 2}),
    ("v3_yarn", 2, {"pp": 2, "vp": 2}),
    ("v3_no_q_lora", 2, {"tp": 2, "ep": 2}),
]
ALL = [
    (kind, name)
    for kind in FAMILIES
    for name, case in LAYOUTS.items()
    if case.of(kind.startswith("v3")) is not None
]


def name_of(case: Any) -> str:
    if isinstance(case, dict):
        return "".join(f"{axis}{size}" for axis, size in case.items()) or "dp"
    return str(case)


@pytest.mark.parametrize(("kind", "world", "sizes"), SINGLE + SAMPLED, ids=name_of)
def test_equals_transformers(kind: str, world: int, sizes: dict[str, Any]) -> None:
    check(kind, world, sizes)


def test_equals_transformers_with_the_distributed_optimizer() -> None:
    check("v3", 2, {}, SHARDED)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), ALL, ids=str)
def test_the_whole_matrix(kind: str, name: str) -> None:
    case = LAYOUTS[name]
    sizes = case.of(kind.startswith("v3"))
    assert sizes is not None
    check(kind, case.world, sizes, case.optimizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sizes"),
    [
        (3, {"pp": 3, "vp": 3}),
        (4, {"pp": 4, "vp": 2, "first_stage_layers": 2}),
        (2, {"pp": 2, "vp": 4, "last_stage_layers": 2}),
        (2, {"pp": 2, "vp": 3, "stage_layers": [1, 2, 2, 1, 2, 1]}),
        (4, {"pp": 2, "vp": 2, "last_stage_layers": 3}),
    ],
    ids=name_of,
)
def test_many_chunks(world: int, sizes: dict[str, Any]) -> None:
    check("llama_deep", world, sizes)


def check(kind: str, world: int, sizes: Any, optimizer: Optimizer | None = None) -> None:
    found = compare(kind, world, sizes, optimizer=optimizer)
    assert not beyond(found), found
