"""Runs the stages of a config in order: skips what is done, resumes what is not, and keeps the summary.

runs/<name>/summary.json             every stage's state, metrics and benchmarks
runs/<name>/<nn-stage>/config.json   the stage's resolved config
runs/<name>/<nn-stage>/STARTED.json  what an unfinished attempt belongs to, and the seconds it took so far
runs/<name>/<nn-stage>/DONE.json     written last: what the result depends on and is, seconds and metrics
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fcntl import LOCK_EX, LOCK_NB, lockf
from importlib import import_module
from pathlib import Path
from typing import Any

from r1mega import device
from r1mega.config.graph import inputs, upstream
from r1mega.config.ledger import FOLDERS, Ledger, artifact
from r1mega.config.schema import RunConfig
from r1mega.files import read_json, write_json, write_text
from r1mega.logs import say
from r1mega.parallel import Launch, connect, on_leader
from r1mega.progress import beat
from r1mega.report.table import table
from r1mega.revision import revision
from r1mega.stages import benchmarks
from r1mega.stages.base import Context, Metrics
from r1mega.stages.refuse import refuse, refuse_machine
from r1mega.types import Interrupted, UserError

Run = Callable[[Context], Metrics]


def _of(module: str) -> Run:
    """Its `run`, imported when it is called: what a run does not use is not loaded."""

    def run(ctx: Context) -> Metrics:
        found: Run = import_module(f"r1mega.stages.{module}").run
        return found(ctx)

    return run


KINDS: dict[str, Run] = {
    "pretrain": _of("text"),
    "sft": _of("text"),
    "grpo": _of("grpo"),
    "collect": _of("collect"),
    "preferences": _of("preferences"),
    "reward_models": _of("reward_models"),
}


def run(config: RunConfig, chosen: Sequence[str] | None = None, *, command: str = "") -> dict[str, Any]:
    """Run the stages `chosen`, or all of them, and return the summary. Resuming is the default.

    What they need of other stages must be done, or is made first where the config says `with_upstream`.
    command: how this run is called on the command line, for advice.
    Raises UserError, types.Interrupted (everything up to the last step is kept) or whatever a stage raises.
    """
    stages = choose(config, chosen)
    refuse(config)
    here = Launch.from_env()
    device.prepare(here.local_rank, here.local_world, config.threads)
    connect()
    with ExitStack() as stack:
        on_leader(lambda: _lock(config.out, stack))
        pipeline = _Pipeline(config, command or "r1mega run CONFIG")
        names = pipeline.plan(stages)
        refuse_machine(config, [name for name in names if not pipeline.is_done(name)])
        for name in names:
            pipeline.do(name)
        return pipeline.summary()


def choose(config: RunConfig, chosen: Sequence[str] | None) -> list[str]:
    """The stages in the order in which they run. Raises UserError for one that the config does not have."""
    for name in chosen or ():
        if name not in config.stages:
            raise UserError(f"no stage '{name}' in this config; it has {', '.join(config.stages)}")
    return [name for name in config.stages if chosen is None or name in chosen]


class _Pipeline:
    def __init__(self, config: RunConfig, command: str) -> None:
        self.config, self.command = config, command
        self.ledger = Ledger(config)
        self.rows: dict[str, dict[str, Any]] = {}
        for name, stage in config.stages.items():
            entry = self.ledger.entry(name)
            row: dict[str, Any] = {
                "name": name,
                "kind": stage.kind,
                "label": stage.label or name,
                "status": "waiting",
            }
            row |= {"minutes": stage.minutes}
            row |= {"seconds": 0.0, "metrics": {}, "benchmarks": {}}
            if entry.state == "done":
                row |= {"status": "done", "seconds": entry.record["seconds"]}
                row |= {"metrics": entry.record["metrics"], "benchmarks": benchmarks.known(config, name)}
            self.rows[name] = row

    def plan(self, chosen: Sequence[str]) -> list[str]:
        """What is to be done, in order, told beforehand. Raises UserError where inputs are missing."""
        names = list(chosen)
        if self.config.with_upstream:
            needed = {one for name in chosen for one in upstream(self.config.stages, name)}
            names = [name for name in self.config.stages if name in needed.union(chosen)]
        for name in names:
            for one in inputs(self.config.stages[name]):
                if one not in names and not self.is_done(one):
                    raise UserError(
                        f"stage '{name}' needs what '{one}' makes, which is not done: make it with\n"
                        f"  {self.command} --stage {one}\nor let it be made first with with_upstream=true"
                    )
        on_leader(lambda: self._tell(names))
        return names

    def _tell(self, names: Sequence[str]) -> None:
        """What is skipped, what is made again and why, before hours are spent on it."""
        for name in names:
            entry = self.ledger.entry(name)
            if entry.state == "cannot start":
                raise UserError(f"stage '{name}': {entry.why[0]}")
            if entry.state == "started" and entry.why:
                say(f"{name}: {entry.why[0]}")
            if entry.state == "changed":
                say(f"{name} will be made again, since something has changed: {'; '.join(entry.why)}")
            made = entry.record.get("revision")
            if entry.state == "done" and made is not None and made != revision():
                say(f"{name}: done, by another revision of this code ({made[:12]}); it is kept")

    def is_done(self, name: str) -> bool:
        return on_leader(lambda: self.ledger.entry(name).state == "done")

    def do(self, name: str) -> None:
        if self.is_done(name):
            say(f"{name}: done, skipped")
        else:
            self._make(name)
        self._measure(name)

    def _make(self, name: str) -> None:
        beat(f"{name}: start")
        stage = self.config.stages[name]
        spent = on_leader(lambda: self._open_room(name))
        started = time.monotonic()
        context = self._context(name)
        mark = self._mark(name)

        def note(status: str, **more: Any) -> None:
            seconds = round(spent + time.monotonic() - started, 2)
            self.rows[name] |= {"status": status, "seconds": seconds, **more}
            if Launch.from_env().rank == 0:
                write_json(context.room / "STARTED.json", mark | {"seconds": seconds})
                self._write_summary()

        note("running", metrics={}, benchmarks={})
        try:
            metrics = KINDS[stage.kind](context)
        except (Interrupted, KeyboardInterrupt):
            note("interrupted")
            raise
        except Exception:
            note("failed")
            raise
        device.release()
        note("done", metrics=metrics)
        done = mark | {"seconds": self.rows[name]["seconds"], "metrics": metrics}
        done["artifact"] = {"type": stage.makes, "path": FOLDERS[stage.makes]}
        on_leader(lambda: write_json(context.room / "DONE.json", done))

    def _measure(self, name: str) -> None:
        """The stage's line in the table of benchmarks, where it makes a model and some are wanted."""
        beat(f"{name}: benchmarks")
        figures = benchmarks.measure(self._context(name))
        if figures:
            self.rows[name]["benchmarks"] = figures
            on_leader(self._write_summary)
            say(f"pass@1 so far, in per cent\n{table(list(self.rows.values()))}")

    def _context(self, name: str) -> Context:
        return Context(
            run=self.config,
            name=name,
            config=self.config.stages[name],
            room=self.config.stage_dir(name),
            inputs={one: artifact(self.config, one) for one in inputs(self.config.stages[name])},
        )

    def _mark(self, name: str) -> dict[str, Any]:
        """What an attempt belongs to, and what made it."""
        identities = self.ledger.identities
        parts = identities.parts(name)
        return {"identity": identities.of(name), "parts": parts, "revision": revision()}

    def summary(self) -> dict[str, Any]:
        rows = list(self.rows.values())
        return {
            "name": self.config.name,
            "seconds": round(sum(r["seconds"] for r in rows), 2),
            "stages": rows,
        }

    def _write_summary(self) -> None:
        write_json(self.config.out / "summary.json", self.summary())

    def _open_room(self, name: str) -> float:
        """Make the stage's folder ready and return the seconds that an interrupted attempt has spent already.

        What belongs to another config is never deleted or mixed in: it is moved aside.
        """
        room, mark = self.config.stage_dir(name), self._mark(name)
        started = read_json(room / "STARTED.json")
        if room.exists() and (started is None or started["identity"] != mark["identity"]):
            if any(room.iterdir()):
                aside = next(
                    p for n in range(1, 10**6) if not (p := room.with_name(f"{room.name}.old{n}")).exists()
                )
                room.rename(aside)
                say(f"{name}: its config or inputs have changed; the earlier result is kept in {aside.name}")
            started = None
        if started is None:
            write_json(room / "STARTED.json", mark | {"seconds": 0.0})
        write_text(room / "config.json", self.config.stages[name].to_json())
        write_text(self.config.out / "config.json", self.config.to_json())
        return float(started["seconds"]) if started else 0.0


def _lock(out: Path, stack: ExitStack) -> None:
    """One process at a time works on a run. The lock goes with the process, also with kill -9.

    It is a record lock, which children do not inherit: some of torch's live on for a while when a rank is
    killed, and the next attempt must not wait for them.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context((out / ".lock").open("w"))
    except OSError as error:
        raise UserError(
            f"cannot write to {out}: {error.strerror}; choose another folder with out=DIR"
        ) from error
    try:
        lockf(file, LOCK_EX | LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(
            f"another process is working on {out}: wait for it, or choose another folder with out=DIR"
        ) from None
    file.write(f"{os.getpid()}\n")
    file.flush()
