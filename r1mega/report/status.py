"""How far a run is, in lines for a person. What is known: `state`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1mega.config.ledger import FOLDERS
from r1mega.config.schema import stage_rooms
from r1mega.logs.view import clock_time, is_number, summary
from r1mega.report.jobs import Job
from r1mega.report.life import Life
from r1mega.report.state import RunState, StageState, find_run, gather, seconds_left
from r1mega.report.table import table

__all__ = ["changes", "describe_end", "describe_run", "describe_state", "find_run", "seconds_left"]

SHOWN_JOBS = 8
SHOWN_CHANGES = {
    "held_out_loss": "held-out loss",
    "accuracy": "accuracy",
    "accuracy_without_tags": "without tags",
    "greedy": "greedy",
    "format": "format",
    "length": "tokens",
}


def describe_run(run: Path) -> str:
    """The state of a run now. run: its folder, or its name under runs/. UserError where there is none."""
    return describe_state(gather(find_run(run), time.time()), time.time())


def describe_state(state: RunState, now: float) -> str:
    """A line for each stage, who works on it, its jobs, its results."""
    lines = [f"{state.name}  {state.folder}  {clock_time(state.seconds)}"]
    lines += [f"  {_stage(stage)}" for stage in state.stages]
    if state.life is not None:
        lines.append(_life(state.life, state))
    lines += _jobs(state, now)
    if any(row.get("benchmarks") for row in state.rows):
        lines += ["", "pass@1, in per cent", table(state.rows)]
    return "\n".join(lines)


def describe_end(run: Path) -> str:
    """What a finished run says: its stages, and where to look next."""
    done = [room for room in stage_rooms(run) if (room / "DONE.json").is_file()]
    pictures = [picture for room in done for picture in sorted((room / "plots").glob("*.png"))]
    state = gather(run, time.time())
    lines = [
        f"{state.name}  {run}  {clock_time(state.seconds)}",
        *(f"  {_stage(one)}" for one in state.stages),
    ]
    if any(row.get("benchmarks") for row in state.rows):
        lines += ["", "pass@1, in per cent", table(state.rows)]
    lines += [f"curves: {path}" for path in pictures]
    made = [room / folder for room in done[-1:] for folder in FOLDERS.values()]
    return "\n".join([*lines, *(f"result: {path}" for path in made if path.is_dir())])


def _stage(stage: StageState) -> str:
    parts = [stage.room, stage.kind, stage.status]
    if stage.status == "done":
        return "  ".join([*parts, _spent(stage), *changes(stage.metrics)])
    if stage.step is not None:
        total = f"/{stage.steps}" if stage.steps else ""
        parts += [f"step {stage.step}{total}", summary(stage.newest)]
    if stage.status == "running" and stage.step is not None:
        # Long ago: it was killed, or it hangs.
        parts += [f"ETA {clock_time(stage.eta)}", f"(last step {clock_time(stage.last_step)} ago)"]
    if stage.checkpoint is not None:
        parts.append(f"checkpoint of step {stage.checkpoint}, {clock_time(stage.checkpoint_age)} ago")
    if stage.budget is not None and stage.seconds:
        parts.append(_spent(stage))
    return "  ".join(parts)


def _spent(stage: StageState) -> str:
    """Its time, and its budget where it has one."""
    spent = clock_time(stage.seconds)
    if stage.budget is None:
        return spent
    return f"{spent} of {clock_time(stage.budget)}{', over its budget' if stage.over_budget else ''}"


def changes(metrics: Mapping[str, Any]) -> list[str]:
    """What the stage changed: `accuracy 0.324 -> 0.820`, for each figure that has a before and an after."""
    pairs = {name.removesuffix("_before"): name for name in metrics if name.endswith("_before")}
    found = []
    for name, before in pairs.items():
        after = metrics.get(f"{name}_after", metrics.get(name))
        if name in SHOWN_CHANGES and is_number(after) and is_number(metrics[before]):
            found.append(f"{SHOWN_CHANGES[name]} {metrics[before]:.3f} -> {after:.3f}")
    return found


def _life(life: Life, state: RunState) -> str:
    where = f", at '{life.where}'" if life.where else ""
    match life.state:
        case "working":
            age = "" if life.age is None else f"; a rank went on {clock_time(life.age)} ago{where}"
            return f"works: {life.why}{age}"
        case "silent":
            last = "" if life.age is None else f" for {clock_time(life.age)}{where}"
            return f"silent{last}: {life.why}; what ranks said last: r1mega logs {state.folder} --errors"
        case _:
            begun = any(stage.status == "running" for stage in state.stages)
            hint = "; it was killed, or works elsewhere: the same command goes on with it" if begun else ""
            return f"nobody works on it: {life.why}{hint}"


def _jobs(state: RunState, now: float) -> Iterator[str]:
    left = len(state.jobs) - SHOWN_JOBS
    if left > 0:
        yield f"  ({left} earlier jobs: {state.folder / 'jobs.jsonl'})"
    for job in state.jobs[-SHOWN_JOBS:]:
        yield f"  {_job(job, state.slurm.get(job.id), now)}"


def _job(job: Job, slurm: str | None, now: float) -> str:
    parts = [f"job {job.id}", job.state if slurm is None else f"{job.state} (Slurm: {slurm})"]
    parts += [",".join(job.stages) or job.script]
    parts += [f"{job.nodes} nodes, {job.ranks} ranks"] if job.nodes else []
    parts += [f"{job.restarts} requeues"] if job.restarts else []
    at = next((time for time in (job.ended, job.started, job.submitted) if time is not None), None)
    parts += [f"{clock_time(max(0.0, now - at))} ago"] if at is not None else []
    return "  ".join(filter(None, [*parts, job.message]))
