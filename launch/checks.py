"""What can be said of a run before any machine is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from r1mega.config.graph import inputs, upstream
from r1mega.config.ledger import Ledger
from r1mega.config.schema import RunConfig
from r1mega.planner.roles import refuse_unbuilt
from r1mega.types import UserError


def refuse_layouts(config: RunConfig, ranks: int) -> None:
    """Say at once what a stage would say when it begins: layouts and engines that the ranks cannot form."""
    from r1mega.parallel import Layout
    from r1mega.rollout.options import Share

    refuse_unbuilt(config.roles)
    for name, stage in config.stages.items():
        try:
            Layout.of(ranks, **stage.layout.model_dump())
            for section in ("benchmarks", "sampling", "compare"):
                if engines := getattr(stage, section, None):
                    Share.of(0, ranks, engines.tensor_parallel)
        except UserError as error:
            raise UserError(f"stage '{name}' with nproc = {ranks}: {error}") from None


def needed(config: RunConfig, chosen: Sequence[str]) -> list[str]:
    """The stages that are made when `chosen` are asked for, in order: with_upstream adds what they need."""
    found = set(chosen)
    if config.with_upstream:
        found |= {one for name in chosen for one in upstream(config.stages, name)}
    return [name for name in config.stages if name in found]


def left(config: RunConfig, stages: Sequence[str]) -> list[str]:
    """Those of the stages that are not done, or were made from something that has changed."""
    ledger = Ledger(config)
    return [name for name in stages if ledger.entry(name).state != "done"]


def refuse_missing(config: RunConfig, stages: Sequence[str], command: Callable[[str], str]) -> None:
    """Raises UserError where a stage needs what neither exists nor is among `stages`.

    command: what a person types to have a stage made.
    """
    ledger = Ledger(config)
    for name in stages:
        entry = ledger.entry(name)
        if entry.state == "cannot start":
            raise UserError(f"stage '{name}': {entry.why[0]}")
        for one in inputs(config.stages[name]):
            if one not in stages and ledger.entry(one).state != "done":
                raise UserError(
                    f"stage '{name}' needs what '{one}' makes, which is not done: make it with\n"
                    f"  {command(one)}\nor let it be made first with with_upstream=true"
                )


def refuse_unwritable(run: Path) -> None:
    """Raises UserError where the run's folder cannot be made or written to. Makes it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        writable = os.access(run, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(
            f"cannot write to {run}: {error.strerror}; choose another folder with out=DIR"
        ) from None
    if not writable:
        raise UserError(f"cannot write to {run}: no permission; choose another folder with out=DIR")
