"""The table of results that grows with the stages, as in the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """pass@1 in per cent: a line for each measured model, a column for each benchmark."""
    measured = [row for row in rows if row["benchmarks"]]
    names = list(dict.fromkeys(name for row in measured for name in row["benchmarks"]))
    width = max(len(row["label"]) for row in measured)
    head = f"{'':{width}}" + "".join(f"  {name:>9}" for name in names)
    lines = [
        f"{row['label']:{width}}" + "".join(f"  {_percent(row['benchmarks'].get(name)):>9}" for name in names)
        for row in measured
    ]
    return "\n".join([head, *lines])


def _percent(figures: Mapping[str, Any] | None) -> str:
    return "-" if figures is None else f"{100 * figures['pass@1']:.1f}"
