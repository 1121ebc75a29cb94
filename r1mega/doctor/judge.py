"""From the rows of all ranks to a verdict: which nodes are slow, broken or silent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from r1mega.doctor.rows import Row

RATIO = 0.75


@dataclass(frozen=True)
class Finding:
    """hosts: in the order of their ranks. rows: judged. silent: ranks that left no word."""

    hosts: tuple[str, ...]
    rows: tuple[Row, ...]
    silent: tuple[int, ...]

    @property
    def problems(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.state in ("slow", "broken"))

    @property
    def ok(self) -> bool:
        return not self.problems and not self.silent and bool(self.rows)

    def bad_hosts(self) -> dict[str, str]:
        """host -> the worst that is said of it, with the check's name."""
        found: dict[str, str] = {}
        for state in ("broken", "slow"):
            for row in self.problems:
                if row.state == state:
                    found.setdefault(row.host, f"{state} ({row.check})")
        return found


def judge(rows: Mapping[int, Sequence[Row]], ratio: float = RATIO) -> Finding:
    """rows: of each rank that was started. ratio: of the median, below which a figure is slow."""
    flat = [row for rank in sorted(rows) for row in rows[rank]]
    hosts = tuple(dict.fromkeys(row.host for row in flat))
    silent = tuple(rank for rank in sorted(rows) if not rows[rank])
    figures: dict[str, list[float]] = {}
    for row in flat:
        if row.figure is not None and row.state == "ok":
            figures.setdefault(row.check, []).append(row.figure)
    middle = {check: median(values) for check, values in figures.items()}
    return Finding(hosts, tuple(_judged(row, middle, ratio) for row in flat), silent)


def _judged(row: Row, middle: Mapping[str, float], ratio: float) -> Row:
    if row.figure is None or row.state != "ok":
        return row
    usual = middle[row.check]
    slow = row.figure < ratio * usual if row.better == "higher" else row.figure > usual / ratio
    if not slow:
        return row
    times = row.figure / usual if usual else 0.0
    return replace(row, state="slow", text=f"{row.text}; {times:.0%} of the median of all")
