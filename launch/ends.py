"""How the ranks of each node ended: RUN/jobs/ID/node-K.json, by its supervisor; put together by the job."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.local import GRACE, INTERRUPTED, Outcome, verdict
from launch.worker import Report
from r1mega.files import read_json, write_json

if TYPE_CHECKING:
    from launch.agent import Ended

FORCED = -9


@dataclass(frozen=True)
class NodeEnd:
    """One node's end. Ranks are numbered through the whole job.

    codes, order, stopped: see `agent.Ended`. reports: what its ranks said. bad: why the node is unfit, or "".
    outcome: code, message and details where the node knows the whole story, as when ranks hung.
    """

    node: int
    host: str
    codes: Mapping[int, int | None] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    stopped: bool = False
    reports: tuple[Report, ...] = ()
    bad: str = ""
    outcome: Outcome | None = None

    @classmethod
    def of(cls, node: int, host: str, ended: Ended, reports: Mapping[int, Report]) -> NodeEnd:
        hung = verdict(ended, reports) if ended.hang is not None else None
        said = tuple(reports.values())
        return cls(node, host, ended.codes, ended.order, ended.stopped, said, outcome=hung)

    @property
    def failed(self) -> bool:
        """Whether anything went wrong here, also what another node is the cause of."""
        return bool(self.bad) or any(self.codes.values()) or not self.codes

    def write(self, folder: Path) -> None:
        write_json(node_file(folder, self.node), asdict(self))

    @classmethod
    def read(cls, folder: Path, node: int) -> NodeEnd | None:
        """None where the supervisor left no word."""
        found: dict[str, Any] | None = read_json(node_file(folder, node))
        if found is None:
            return None
        found["codes"] = {int(rank): code for rank, code in found["codes"].items()}
        found["order"] = tuple(found["order"])
        found["reports"] = tuple(Report(**one) for one in found["reports"])
        found["outcome"] = Outcome(**found["outcome"]) if found["outcome"] else None
        return cls(**found)


def node_file(folder: Path, node: int) -> Path:
    return folder / f"node-{node}.json"


def conclude(
    ends: Collection[NodeEnd],
    silent: Mapping[str, Sequence[int]],
    *,
    first: Sequence[int] = (),
    stopping: bool = False,
    grace: float = GRACE,
) -> Outcome:
    """How the job ended, from how its nodes did: one line that names rank and node. Pure.

    silent:   host -> ranks of the nodes whose supervisor left no word: Slurm or the kernel killed it.
    first:    nodes in the order in which they were heard to fail.
    stopping: the job was asked to stop; then who was killed late is not to blame.
    grace:    seconds that ranks had to stop.
    """
    from launch.agent import Ended

    nodes = sorted(ends, key=lambda end: first.index(end.node) if end.node in first else len(first))
    whole = [end.outcome for end in nodes if end.outcome is not None]
    if whole:
        return whole[0]
    codes: dict[int, int | None] = {rank: code for end in nodes for rank, code in end.codes.items()}
    order = [rank for end in nodes for rank in end.order]
    hosts = {rank: end.host for end in nodes for rank in end.codes}
    for host, ranks in silent.items():
        if not stopping:
            order = [*ranks[:1], *order]
        codes |= dict.fromkeys(ranks, FORCED)
        hosts |= dict.fromkeys(ranks, host)
    reports = {report.rank: report for end in nodes for report in end.reports}
    if not codes:
        return Outcome(INTERRUPTED if stopping else 1, "the ranks never started; see above")
    # The job stops the other nodes when one fails; only where none has was it somebody else who did.
    stopped = stopping or (not order and any(end.stopped for end in nodes))
    ended = Ended(codes, tuple(order), stopped=stopped)
    return verdict(ended, reports, grace, hosts if len({*hosts.values()}) > 1 else {})
