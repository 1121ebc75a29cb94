"""An array of jobs, a task a target of distillation: slurm/distill.sh.

Without a config, a target is a file in configs/distill, each a run of its own: the tasks run side by side.
With one, it is a stage of that config: the tasks run one after another, since one job at a time works on a
run.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import slurm
from launch.batch import Asked
from launch.checks import left
from launch.local import Outcome
from launch.request import Request, ask
from launch.resubmit import SUBMITTED, check, follow
from launch.slurm import Allocation
from r1mega.types import UserError

FOLDER = Path("configs/distill")


@dataclass(frozen=True)
class Target:
    """file: the config. stages: those of it that are the target; None: all that the script makes."""

    file: str
    stages: tuple[str, ...] | None = None


def targets(options: argparse.Namespace) -> list[Target]:
    """All targets, numbered by their place. The same for the same options, so that a task finds its own."""
    if options.config is None:
        return [Target(str(path)) for path in sorted(FOLDER.glob("*.toml"))]
    whole = ask(options)
    return [Target(options.config, (name,)) for name in whole.asked]


def mine(options: argparse.Namespace) -> Request:
    """The request of this task of the array. Raises UserError for a number that no target has."""
    number, known = int(os.environ["SLURM_ARRAY_TASK_ID"]), targets(options)
    if number >= len(known):
        raise UserError(f"task {number} of the array: there are {len(known)} targets, 0 to {len(known) - 1}")
    return ask(options, known[number].file, known[number].stages)


def run_array(options: argparse.Namespace) -> Outcome:
    """Submit the targets that are not done as one array, and wait for it within a job."""
    slurm.require()
    requests = [ask(options, target.file, target.stages) for target in targets(options)]
    todo = {number: one for number, one in enumerate(requests) if left(one.config, one.asked)}
    if not todo:
        print("all targets are done, nothing to do")
        return Outcome(0)
    refuse_shared_runs(list(todo.values()))
    for request in {one.run: one for one in todo.values()}.values():
        check(request)
    have = Allocation.from_env()
    asked = Asked() if have is not None else None
    job = submit_array(options, todo, by=have.job if have else "person")
    names = [f"  task {number}: {', '.join(one.asked)} of {one.run}" for number, one in todo.items()]
    print("\n".join([f"submitted array {job}", *names]), flush=True)
    if have is None or asked is None:
        return Outcome(0)
    return follow(job, have, asked, None, come_back=False)


def refuse_shared_runs(requests: Sequence[Request]) -> None:
    """Raises UserError where two configs would work in one folder, as with out=DIR for several of them."""
    files: dict[Path, str] = {}
    for request in requests:
        other = files.setdefault(request.run, request.file)
        if other != request.file:
            raise UserError(f"{other} and {request.file} would both work in {request.run}: leave out out=DIR")


def submit_array(options: argparse.Namespace, todo: dict[int, Request], by: str) -> str:
    first = next(iter(todo.values()))
    runs = {request.run for request in todo.values()}
    log = (first.run / "jobs" if len(runs) == 1 else first.run.parent) / "distill-%A_%a.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = slurm.directives(
        first.cluster,
        nodes=max(request.nodes for request in todo.values()),
        name=Path(first.script).stem,
        log=log.absolute(),
        array=",".join(map(str, todo)) + ("%1" if len(runs) == 1 else ""),
    )
    words = ["--cluster", first.site, *(["--nodes", str(options.nodes)] if options.nodes else [])]
    words += [options.config] if options.config else []
    command = ["bash", f"slurm/{first.script}", *words, *options.overrides]
    return slurm.sbatch(arguments, command, extra={SUBMITTED: by})
