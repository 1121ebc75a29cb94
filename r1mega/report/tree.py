"""The stages of a config as a tree: what each starts from, how far it is, and what a run would do now."""

from __future__ import annotations

from collections.abc import Iterator

from r1mega.config.graph import inputs, takes
from r1mega.config.ledger import Entry, Ledger
from r1mega.config.schema import Grpo, RunConfig
from r1mega.config.stage import StageConfig
from r1mega.logs.view import clock_time
from r1mega.report.status import changes


def describe_plan(config: RunConfig) -> str:
    """One line a stage, under the first stage that it takes something from."""
    ledger = Ledger(config)
    entries = {name: ledger.entry(name) for name in config.stages}
    children: dict[str | None, list[str]] = {}
    for name, stage in config.stages.items():
        children.setdefault(next(iter(inputs(stage)), None), []).append(name)
    lines = [f"{config.name}  {config.out}"]
    for name, depth in _walk(children, None, 0):
        stage = config.stages[name]
        lines += _lines("  " * depth, config.stage_dir(name).name, stage, entries[name])
    return "\n".join(lines)


def _walk(children: dict[str | None, list[str]], of: str | None, depth: int) -> Iterator[tuple[str, int]]:
    for name in children.get(of, ()):
        yield name, depth + 1
        yield from _walk(children, name, depth + 1)


def _lines(indent: str, room: str, stage: StageConfig, entry: Entry) -> Iterator[str]:
    state = entry.state
    if "seconds" in entry.record and state in ("done", "started"):
        state = f"{state} {clock_time(entry.record['seconds'])}"  # type: ignore[assignment]
    figures = "".join(f"  {change}" for change in changes(entry.record.get("metrics", {})))
    yield f"{indent}{room}  {stage.kind}  {state}  {entry.identity[:8] or '-'}  {_what(stage)}{figures}"
    for why in entry.why:
        yield f"{indent}    {'changed: ' if state == 'changed' else ''}{why}"


def _what(stage: StageConfig) -> str:
    """What it starts from and how long it is."""
    model = stage.model
    start = [str(model.path)] if model.path else ["random weights"] if model.from_stage is None else []
    start += [f"{take.stage} ({take.key.removesuffix('.from_stage')})" for take in takes(stage)]
    train = getattr(stage, "train", None)
    if train is None:
        return ", ".join(start)
    length = f"{train.steps} steps" if train.steps else f"{train.epochs:g} epochs"
    batch = f"{train.batch_size} sequences"
    if isinstance(stage, Grpo):
        batch = f"{stage.rollout.prompts} prompts x {stage.rollout.group} answers"
    return f"{', '.join(start)}; {length} of {batch}"
