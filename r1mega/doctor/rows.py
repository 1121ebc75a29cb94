"""What the cluster's doctor finds: a row for each check on each node, written as soon as it is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "slow", "broken", "note"]


@dataclass(frozen=True)
class Row:
    """One check on one node (or rank of it).

    cell:   what stands in the node's line of the table, a few characters. text: the whole of it.
    figure: a number to compare between nodes. better: which of two such numbers is better.
    advice: what to do where it is not ok.
    host, rank: filled in by the runner.
    """

    check: str
    state: State
    cell: str
    text: str = ""
    figure: float | None = None
    better: Literal["higher", "lower"] = "higher"
    advice: str = ""
    host: str = ""
    rank: int = 0


def append(path: Path, rows: Sequence[Row]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def read(path: Path) -> list[Row]:
    """The whole lines; of a rank that left no word, none."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Row(**json.loads(line)) for line in lines]


def rows_file(folder: Path, rank: int) -> Path:
    return folder / f"rows-{rank}.jsonl"
