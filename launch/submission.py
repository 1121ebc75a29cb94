"""What is to be submitted, as plain data: requests, the jobs that answer them, and what follows what."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.checks import left
from launch.request import Request, ask
from r1mega.types import UserError

Config = str | Path
SCRIPT = "submitit"  # where a Request names the script that asks


@dataclass(frozen=True)
class Batch:
    """One submission: a job, or with several requests an array of jobs that need the same nodes.

    follows: begins when the batch before it has ended well; in an array each job waits for its own.
    """

    requests: tuple[Request, ...]
    name: str
    follows: bool = False

    @property
    def nodes(self) -> int:
        return self.requests[0].nodes


def plan(
    configs: Sequence[Config],
    cluster: str | None,
    *,
    stages: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    sweep: Sequence[str | Sequence[str]] = (),
    nodes: int | None = None,
    each_stage: bool = False,
) -> list[Batch]:
    """The submissions, in order. Raises UserError for whatever is wrong with cluster and configs."""
    if not configs:
        raise UserError("nothing to submit: name a config")
    elements = [(one,) if isinstance(one, str) else tuple(one) for one in sweep]
    options = Namespace(cluster=cluster, nodes=nodes, script=SCRIPT, stages="*")
    options.stage = ",".join(stages) if stages is not None else None
    requests = [
        _request(options, config, overrides, element) for config in configs for element in elements or [()]
    ]
    refuse_unlike(requests)
    name = f"r1mega-{requests[0].config.name}"
    if not each_stage:
        return [Batch(tuple(requests), name)]
    if any(request.stages != requests[0].stages for request in requests):
        raise UserError("a job a stage needs configs with the same stages: submit them one by one")
    open_ = {name for request in requests for name in left(request.config, request.stages)}
    names = [name for name in requests[0].stages if name in open_]
    if not names:
        raise UserError(
            f"{', '.join(requests[0].stages)} of {requests[0].run}: done, there is nothing to submit"
        )
    return [
        Batch(tuple(_only(request, stage) for request in requests), f"{name}-{stage}", follows=number > 0)
        for number, stage in enumerate(names)
    ]


def _request(options: Namespace, config: Config, overrides: Sequence[str], element: Sequence[str]) -> Request:
    """The request of one run; an element of a sweep has a folder of its own, named by what it changes."""
    given = [*overrides, *element]
    request = ask(Namespace(**vars(options), config=str(config), default=None, overrides=given))
    folder = request.run
    if element and not any(one.startswith("out=") for one in element):
        folder = folder.with_name(f"{folder.name}-{label(element)}")
    given = [*(one for one in given if not one.startswith("out=")), f"out={folder.absolute()}"]
    return ask(Namespace(**vars(options), config=str(config), default=None, overrides=given))


def _only(request: Request, stage: str) -> Request:
    """The same for one stage, which finds what the others make: the jobs before it see to that."""
    return replace(request, asked=(stage,), stages=(stage,))


def label(element: Sequence[str]) -> str:
    """("stages.base.train.lr=1e-4", "seed=3") -> lr=1e-4_seed=3"""
    pairs = [one.partition("=") for one in element]
    parts = [f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs]
    return re.sub(r"[^\w.=+-]+", "_", "_".join(parts)).strip("_.")


def refuse_unlike(requests: Sequence[Request]) -> None:
    """Jobs of an array get the same nodes, and each run is in a folder of its own."""
    seen: set[Path] = set()
    for request in requests:
        if request.run in seen:
            raise UserError(f"two runs would share the folder {request.run}: give each an out=DIR of its own")
        seen.add(request.run)
    if len({request.nodes for request in requests}) > 1:
        told = ", ".join(f"{request.config.name}: {request.nodes}" for request in requests)
        raise UserError(
            f"the jobs of an array have the same number of nodes; these need {told}. Submit them one by one, "
            "or give all the same with nodes (--nodes)"
        )
    first = requests[0]
    if first.cluster.scheduler == "none" and first.nodes > 1:
        most = first.cluster.nodes.ranks
        raise UserError(
            f"nproc = {first.ranks}: cluster {first.site} is one machine, of {most} ranks at most"
        )
