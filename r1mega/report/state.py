"""How far a run is, as data, from its folder: while it runs, after it, wherever the disk is seen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from r1mega.config.schema import stage_room
from r1mega.logs.metrics import jsonable, read_metrics
from r1mega.logs.view import is_number
from r1mega.report.jobs import Job, read_jobs
from r1mega.report.life import Life, look
from r1mega.report.slurm_jobs import slurm_states
from r1mega.types import UserError

LAST = 50  # records from which the pace is taken


@dataclass(frozen=True)
class StageState:
    """One stage. Times are in seconds, None where not known.

    room:    its folder's name. seconds: spent. budget: that it may take.
    step:    done; steps: in all. eta: left at the pace of the newest steps. last_step: since the newest one.
    newest:  figures of the newest step. metrics: what the stage came to, when it is done.
    checkpoint, checkpoint_age: step of the newest complete one, and how long ago it was written.
    """

    name: str
    room: str
    kind: str
    status: str
    seconds: float
    budget: float | None = None
    over_budget: bool = False
    step: int | None = None
    steps: int | None = None
    eta: float | None = None
    last_step: float | None = None
    newest: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    benchmarks: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: int | None = None
    checkpoint_age: float | None = None


@dataclass(frozen=True)
class RunState:
    """slurm: job -> what Slurm says of it now. life: None when all stages are done."""

    name: str
    folder: Path
    seconds: float
    stages: tuple[StageState, ...]
    rows: tuple[Mapping[str, Any], ...]
    jobs: tuple[Job, ...]
    slurm: Mapping[str, str]
    life: Life | None

    def to_json(self) -> str:
        values = asdict(self)
        del values["rows"]
        return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False)


def find_run(run: Path) -> Path:
    """A run's folder, from that or its name under runs/. Raises UserError where there is none."""
    for path in (run, Path("runs") / run):
        if (path / "summary.json").is_file() or (path / "jobs.jsonl").is_file():
            return path
    raise UserError(f"no run in {run} (no summary.json there): give a run's folder, or its name under runs/")


def gather(folder: Path, now: float) -> RunState:
    """Everything that is known of a run. now: Unix seconds. A missing or half-written file is left out."""
    summary = _json(folder / "summary.json") or {"name": folder.name, "seconds": 0.0, "stages": []}
    rows = tuple(summary["stages"])
    stages = tuple(
        _stage(stage_room(folder, number, row["name"]), row, now) for number, row in enumerate(rows, start=1)
    )
    jobs = tuple(read_jobs(folder))
    slurm = slurm_states([job.id for job in jobs if job.live])
    finished = bool(stages) and all(stage.status == "done" for stage in stages)
    life = None if finished else look(folder, now, jobs, slurm)
    return RunState(summary["name"], folder, summary["seconds"], stages, rows, jobs, slurm, life)


def _stage(room: Path, row: Mapping[str, Any], now: float) -> StageState:
    minutes = row.get("minutes")
    budget = None if minutes is None else 60.0 * minutes
    found: dict[str, Any] = {
        "seconds": row["seconds"],
        "budget": budget,
        "over_budget": budget is not None and row["seconds"] > budget,
        "metrics": row.get("metrics") or {},
        "benchmarks": row.get("benchmarks") or {},
    }
    if row["status"] != "done":
        found |= _progress(room, now)
    return StageState(row["name"], room.name, row["kind"], row["status"], **found)


def _progress(room: Path, now: float) -> dict[str, Any]:
    found: dict[str, Any] = _checkpoint(room / "checkpoints", now)
    path = room / "metrics.jsonl"
    records = read_metrics(path)
    if not records:
        return found
    train = (_json(room / "config.json") or {}).get("train") or {}
    steps = records[-1].get("steps") or train.get("steps")
    held_out = [record for record in records if "held_out_loss" in record][-1:]
    newest = {name: value for record in [*held_out, *records[-1:]] for name, value in record.items()}
    age = max(0.0, now - path.stat().st_mtime)
    eta = seconds_left(records, steps)
    return found | {"step": newest["step"], "steps": steps, "eta": eta, "last_step": age, "newest": newest}


def _checkpoint(folder: Path, now: float) -> dict[str, Any]:
    complete = [
        (int(match[1]), path)
        for path in folder.glob("step_*/COMPLETE")
        if (match := re.fullmatch(r"step_(\d+)", path.parent.name))
    ]
    if not complete:
        return {}
    step, marker = max(complete)
    try:
        written = marker.stat().st_mtime
    except FileNotFoundError:  # pruned just now
        return {}
    return {"checkpoint": step, "checkpoint_age": max(0.0, now - written)}


def seconds_left(records: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    """From the newest records' own seconds; None where a record has none or the end is not known in steps."""
    seconds = [record.get("seconds") for record in records[-LAST:]]
    known = [value for value in seconds if is_number(value)]
    if total is None or not known:
        return None
    return sum(known) / len(known) * (total - records[-1]["step"])


def _json(path: Path) -> Any:
    """None where the file is not there, or not whole: copies of a run that goes on may be so."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else jsonable(value)
