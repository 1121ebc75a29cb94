"""All of a config as Slurm jobs that wait for each other: what slurm/r1_all.sh submits.

The stages are cut into jobs as the scripts under slurm/ are; what only one of them needs (a base to begin
with) goes to the first that does. A job follows the jobs whose results it takes (afterok), and the job
before it (afterany): one job at a time works on a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from launch import slurm
from launch.checks import left, refuse_missing, refuse_unwritable
from launch.request import Request, ask, parse
from launch.resubmit import check, submit
from r1mega.config.graph import inputs, upstream
from r1mega.config.stage import StageConfig
from r1mega.types import UserError

SCRIPTS: tuple[tuple[str, str], ...] = (
    ("r1_zero.sh", "r1_zero"),
    ("r1_stage1.sh", "cold_start_data"),
    ("r1_stage1.sh", "cold_start"),
    ("r1_stage2.sh", "rl_reasoning"),
    ("r1_stage3.sh", "rejection_data"),
    ("r1_stage3.sh", "rejection_sft"),
    ("reward_models.sh", "reward_models"),
    ("r1_stage4.sh", "rl_general*"),
)
"""script -> pattern of the stages it makes. A stage that none of them makes has a job of its own."""


@dataclass(frozen=True)
class Link:
    """One job of the graph. stages: that it makes. after: numbers of the jobs whose results it takes."""

    script: str
    stages: tuple[str, ...]
    after: tuple[int, ...] = ()


def cut(stages: Mapping[str, StageConfig], wanted: Sequence[str]) -> list[Link]:
    """The jobs that make `wanted`, in an order in which each can run. Pure.

    Every stage is in exactly one job; a job comes after those it takes something from.
    """
    homes = {name: _home(stages, name, wanted) for name in wanted}
    groups: dict[str, list[str]] = {}
    for name in wanted:
        groups.setdefault(homes[name], []).append(name)
    order = _sorted(stages, groups, homes)
    number = {home: place for place, home in enumerate(order)}
    links = []
    for home in order:
        taken = {homes[one] for name in groups[home] for one in inputs(stages[name]) if one in homes}
        after = tuple(sorted(number[one] for one in taken - {home}))
        own = "distill.sh" if any(fnmatch(name, "distill*") for name in groups[home]) else "run.sh"
        links.append(Link(home if home.endswith(".sh") else own, tuple(groups[home]), after))
    return links


def _home(stages: Mapping[str, StageConfig], name: str, wanted: Sequence[str]) -> str:
    """The job that makes a stage: its script, that of the only job that needs it, or the stage's own name."""
    own = _script(name)
    if own is not None:
        return own
    needing = {_script(other) or other for other in wanted if name in inputs(stages[other])}
    first = next((_script(one) for one in wanted if _script(one) and name in upstream(stages, one)), None)
    alone = len(needing) == 1 and not upstream(stages, name)
    return first or (needing.pop() if alone else name)


def _script(name: str) -> str | None:
    return next((script for script, pattern in SCRIPTS if fnmatch(name, pattern)), None)


def _sorted(
    stages: Mapping[str, StageConfig], groups: Mapping[str, Sequence[str]], homes: Mapping[str, str]
) -> list[str]:
    """The jobs, each after those it takes something from, else as in the config."""
    order: list[str] = []
    waiting = list(groups)
    while waiting:
        for home in waiting:
            taken = {homes[one] for name in groups[home] for one in inputs(stages[name]) if one in homes}
            if taken - {home} <= set(order):
                order.append(home)
                waiting.remove(home)
                break
        else:
            raise UserError(f"stages cannot be cut into jobs: {', '.join(waiting)} wait for each other")
    return order


def submit_all(request: Request, links: Sequence[Link]) -> list[str]:
    """Submit the jobs; their numbers, in the order of `links`."""
    check(request, inputs=False)
    jobs: list[str] = []
    for link in links:
        dependency = [f"afterok:{':'.join(jobs[one] for one in link.after)}"] if link.after else []
        dependency += [f"afterany:{jobs[-1]}"] if jobs and len(jobs) - 1 not in link.after else []
        part = replace(request, script=link.script, asked=link.stages, stages=link.stages)
        try:
            jobs.append(submit(part, dependency))
        except UserError:
            for job in jobs:  # half a graph is of no use
                slurm.scancel(job)
            raise
    return jobs


def tree(links: Sequence[Link], jobs: Sequence[str], done: Sequence[str]) -> Iterator[str]:
    """A line a job, under the last of those that it waits for."""
    if done:
        yield f"  done: {', '.join(done)}"
    for number, link in enumerate(links):
        others = link.after[:-1]
        too = f"  (and after {', '.join(jobs[one] for one in others)})" if others else ""
        indent = "  " * (_depth(links, number) + 1)
        yield f"{indent}{jobs[number]}  {link.script}  {', '.join(link.stages)}{too}"


def _depth(links: Sequence[Link], number: int) -> int:
    after = links[number].after
    return 1 + _depth(links, after[-1]) if after else 0


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(argv: Sequence[str] | None) -> int:
    request = ask(parse(argv))
    config = request.config
    wanted = left(config, request.stages)
    done = [name for name in request.stages if name not in wanted]
    refuse_missing(config, request.stages, request.command)
    refuse_unwritable(request.run)
    if request.cluster.scheduler == "none":
        command = [sys.executable, *request.rank_arguments]
        os.execv(command[0], command)
    slurm.require()
    links = cut(config.stages, wanted)
    jobs = submit_all(request, links)
    print(f"{config.name}  {request.run}  {request.nodes} nodes of {request.cluster.name} a job")
    print("\n".join(tree(links, jobs, done)))
    print(f"  r1mega status {request.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
