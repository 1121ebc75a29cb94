"""How far a run is, from its folder alone: while it runs, after it, from any machine that sees the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1mega.config.ledger import FOLDERS
from r1mega.config.schema import stage_room, stage_rooms
from r1mega.files import read_json
from r1mega.logs.metrics import read_metrics
from r1mega.logs.view import clock_time, is_number, summary
from r1mega.report.table import table
from r1mega.types import UserError

LAST = 50  # records from which the pace is taken
SHOWN_CHANGES = {
    "held_out_loss": "held-out loss",
    "accuracy": "accuracy",
    "accuracy_without_tags": "without tags",
    "greedy": "greedy",
    "format": "format",
    "length": "tokens",
}


def describe_run(run: Path) -> str:
    """The state of a run's stages, a line each. run: its folder, or its name under runs/."""
    folder = next((path for path in (run, Path("runs") / run) if (path / "summary.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"no run in {run} (no summary.json there): give a run's folder, or its name under runs/"
        )
    found = read_json(folder / "summary.json")
    lines = [f"{found['name']}  {folder}  {clock_time(found['seconds'])}"]
    for number, stage in enumerate(found["stages"], start=1):
        lines.append("  " + describe_stage(stage_room(folder, number, stage["name"]), stage))
    if any(stage.get("benchmarks") for stage in found["stages"]):
        lines += ["", "pass@1, in per cent", table(found["stages"])]
    return "\n".join(lines)


def describe_end(run: Path) -> str:
    """What a finished run says: its stages, and where to look next."""
    done = [room for room in stage_rooms(run) if (room / "DONE.json").is_file()]
    pictures = [picture for room in done for picture in sorted((room / "plots").glob("*.png"))]
    lines = [describe_run(run), *(f"curves: {path}" for path in pictures)]
    made = [room / folder for room in done[-1:] for folder in FOLDERS.values()]
    return "\n".join([*lines, *(f"result: {path}" for path in made if path.is_dir())])


def describe_stage(room: Path, stage: Mapping[str, Any]) -> str:
    parts = [room.name, stage["kind"], stage["status"]]
    if stage["status"] == "done":
        return "  ".join([*parts, _spent(stage), *changes(stage["metrics"])])
    records = read_metrics(room / "metrics.jsonl")
    if not records:
        return "  ".join(parts)
    total = (read_json(room / "config.json") or {}).get("train", {}).get("steps")
    held_out = [record for record in records if "held_out_loss" in record][-1:]
    newest = {name: value for record in [*held_out, *records[-1:]] for name, value in record.items()}
    parts += [f"step {newest['step']}{f'/{total}' if total else ''}", summary(newest)]
    if stage["status"] == "running":
        parts.append(f"ETA {clock_time(seconds_left(records, total))}")
        age = time.time() - (room / "metrics.jsonl").stat().st_mtime
        parts.append(f"(last step {clock_time(max(0.0, age))} ago)")  # long ago: it was killed, or it hangs
    return "  ".join(parts)


def _spent(stage: Mapping[str, Any]) -> str:
    """Its time, and its budget where it has one."""
    minutes = stage.get("minutes")
    spent = clock_time(stage["seconds"])
    if minutes is None:
        return spent
    over = ", over its budget" if stage["seconds"] > 60 * minutes else ""
    return f"{spent} of {clock_time(60 * minutes)}{over}"


def changes(metrics: Mapping[str, Any]) -> list[str]:
    """What the stage changed: `accuracy 0.324 -> 0.820`, for each figure that has a before and an after."""
    pairs = {name.removesuffix("_before"): name for name in metrics if name.endswith("_before")}
    found = []
    for name, before in pairs.items():
        after = metrics.get(f"{name}_after", metrics.get(name))
        if name in SHOWN_CHANGES and is_number(after) and is_number(metrics[before]):
            found.append(f"{SHOWN_CHANGES[name]} {metrics[before]:.3f} -> {after:.3f}")
    return found


def seconds_left(records: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    """From the newest records' own seconds; None where a record has none or the end is not known in steps."""
    seconds = [record.get("seconds") for record in records[-LAST:]]
    known = [value for value in seconds if is_number(value)]
    if total is None or not known:
        return None
    return sum(known) / len(known) * (total - records[-1]["step"])
