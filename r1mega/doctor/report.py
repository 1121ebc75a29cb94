"""What the doctor found, as plain data, and its two forms: text for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "note", "warn", "fail"]
MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("-", "dim"),
    "warn": ("!", "yellow"),
    "fail": ("x", "red"),
}


@dataclass(frozen=True)
class Check:
    """One thing looked at. Only `fail` keeps a toy run from working; `fix` is what to do about it."""

    name: str
    status: Status
    found: str
    wanted: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Report:
    """Everything the doctor found. `flavour` is the pyproject extra it was compared with: cpu or gpu."""

    flavour: str
    sections: tuple[Section, ...]

    def __iter__(self) -> Iterator[Check]:
        return (check for section in self.sections for check in section.checks)

    @property
    def ok(self) -> bool:
        return all(check.status != "fail" for check in self)

    def advice(self) -> tuple[str, ...]:
        """The fixes of what is wrong, the worst first, each once."""
        return tuple(
            dict.fromkeys(c.fix for status in ("fail", "warn") for c in self if c.status == status and c.fix)
        )

    def verdict(self) -> str:
        if self.ok:
            return "A toy run can work here."
        failed = ", ".join(check.name for check in self if check.status == "fail")
        return f"A toy run cannot work here yet: {failed}."


def to_json(report: Report) -> str:
    return json.dumps({"ok": report.ok, **asdict(report), "advice": report.advice()}, indent=2)


def show(report: Report) -> None:
    """Print the report: as tables where rich is installed, as plain lines elsewhere."""
    try:
        from rich.console import Console
    except ImportError:
        print("\n".join(_plain_lines(report)))
        return
    console = Console(highlight=False)
    for section in report.sections:
        console.print(f"\n[bold]{section.title}[/bold]")
        console.print(_table(section.checks))
    if report.advice():
        console.print("\n[bold]What to do[/bold]")
        for number, fix in enumerate(report.advice(), start=1):
            console.print(f"  {number}. {fix}", markup=False)
    console.print(f"\n{report.verdict()}", style="green" if report.ok else "red")


def _table(checks: tuple[Check, ...]) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(width=2, justify="right")
    for no_wrap in (True, False, False):
        table.add_column(no_wrap=no_wrap)
    for check in checks:
        mark, colour = MARKS[check.status]
        wanted = f"wanted {check.wanted}" if check.wanted and check.status != "ok" else ""
        table.add_row(Text(mark, style=colour), check.name, Text(check.found), Text(wanted, style="dim"))
    return table


def _plain_lines(report: Report) -> Iterator[str]:
    for section in report.sections:
        yield f"\n{section.title}"
        for check in section.checks:
            wanted = f"  (wanted {check.wanted})" if check.wanted and check.status != "ok" else ""
            yield f" {MARKS[check.status][0]:>2} {check.name:<22} {check.found}{wanted}"
    for number, fix in enumerate(report.advice(), start=1):
        yield f"\n{number}. {fix}" if number == 1 else f"{number}. {fix}"
    yield f"\n{report.verdict()}"
