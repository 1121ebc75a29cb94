"""What is told of a finished data set: report.json, samples.jsonl and a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1mega.data.curate.mix import Line
from r1mega.data.curate.tally import Example, Tally, said
from r1mega.files import write_json, write_text
from r1mega.logs import is_rank0, say
from r1mega.stages.base import Metrics
from r1mega.stages.collecting.drawing import DRAW
from r1mega.stages.collecting.passes import Whole
from r1mega.types import UserError


@dataclass
class Outcome:
    """What the report is made of.

    passes: by name, in order. general: what was read of each source. skipped: too long questions, by task.
    most:   examples of each reason.
    """

    passes: Mapping[str, Whole]
    general: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, int]
    most: int
    mixed: list[Example] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)

    def seen(self, example: Example) -> None:
        """Keep it where there are few of its reason."""
        if self._seen[example.reason] < self.most:
            self._seen[example.reason] += 1
            self.mixed.append(example)

    def samples(self) -> list[dict[str, str]]:
        told = [(name, one) for name, whole in self.passes.items() for one in whole.examples]
        return [
            {"pass": name, **one.to_json()} for name, one in (*told, *(("mix", one) for one in self.mixed))
        ]


def conclude(title: str, folder: Path, outcome: Outcome, lines: Mapping[str, Line], mixed: Tally) -> Metrics:
    """Write the report and print its table; the stage's metrics. Raises UserError where no row is left."""
    report = _report(outcome, lines, mixed)
    write_text(
        folder / "samples.jsonl",
        "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in outcome.samples()),
    )
    write_json(folder / "report.json", report)
    if not report["rows"]:
        raise UserError(
            f"{title}: no row is left for the data set; dropped: {said(Counter(report['dropped_by']))}. "
            f"{folder / 'samples.jsonl'} shows some of them; use a better model or other filters"
        )
    _print_table(title, lines)
    for name, line in lines.items():
        if line.target is not None and line.rows < line.target:
            say(f"warning: {title}: {name} has {line.rows:,} rows, {line.target:,} were wanted")
    say(f"{title}: dropped: {said(Counter(report['dropped_by']))}")
    drawn = report["drawn"]
    return {
        "rows": report["rows"],
        "mean_tokens": report["mean_tokens"],
        "answers": drawn["answers"],
        "kept": round(drawn["kept"] / drawn["answers"], 4) if drawn["answers"] else 0.0,
    }


def _report(outcome: Outcome, lines: Mapping[str, Line], mixed: Tally) -> dict[str, Any]:
    rows, tokens = sum(line.rows for line in lines.values()), sum(line.tokens for line in lines.values())
    passes = {name: whole.tally for name, whole in outcome.passes.items()} | {"mix": mixed}
    drawn = passes[DRAW]
    return {
        "rows": rows,
        "mean_tokens": round(tokens / rows, 1) if rows else 0.0,
        "categories": {
            name: {
                "rows": line.rows,
                "share": round(line.rows / rows, 4) if rows else 0.0,
                "mean_tokens": round(line.mean_tokens, 1),
                "target": line.target,
            }
            for name, line in lines.items()
        },
        "drawn": {"answers": drawn.rows, "kept": drawn.rows_kept, "tokens": drawn.tokens},
        "dropped_by": dict(sorted(sum((tally.reasons for tally in passes.values()), Counter()).items())),
        "questions_too_long": dict(outcome.skipped),
        "general": {name: dict(facts) for name, facts in outcome.general.items()},
        "passes": {name: tally.to_json() for name, tally in passes.items()},
    }


def _print_table(title: str, lines: Mapping[str, Line]) -> None:
    if not is_rank0():
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}: the data set")
    table.add_column("category")
    for name in ("rows", "share", "mean tokens", "target"):
        table.add_column(name, justify="right")
    rows = sum(line.rows for line in lines.values())
    for name, line in lines.items():
        target = "" if line.target is None else f"{line.target:,}"
        table.add_row(name, f"{line.rows:,}", f"{line.rows / rows:.1%}", f"{line.mean_tokens:,.1f}", target)
    tokens = sum(line.tokens for line in lines.values())
    table.add_row("all", f"{rows:,}", "100.0%", f"{tokens / rows:,.1f}", "", style="bold")
    Console().print(table)
