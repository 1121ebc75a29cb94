"""The cluster's checks, in the order in which they run. Names only: each is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CheckUp:
    """One check.

    name:    of its rows, where it fails as a whole. place: module:function.
    by:      who runs it: the first rank of each node, every rank by itself, or all ranks together.
    seconds: it may take, imports included.
    """

    name: str
    place: str
    by: Literal["node", "rank", "job"]
    seconds: float = 120.0


CHECKS = (
    CheckUp("machine", "r1mega.doctor.node_checks:machine", "node"),
    CheckUp("pins", "r1mega.doctor.node_checks:versions", "node"),
    CheckUp("disk", "r1mega.doctor.node_checks:disk", "node"),
    CheckUp("fused", "r1mega.doctor.node_checks:fused", "node"),
    CheckUp("compute", "r1mega.doctor.node_checks:compute", "rank"),
    CheckUp("clock", "r1mega.doctor.link_checks:clock", "job"),
    CheckUp("all-reduce", "r1mega.doctor.link_checks:all_reduce", "job"),
    CheckUp("links", "r1mega.doctor.link_checks:pairs", "job", 300.0),
    CheckUp("train", "r1mega.doctor.work_checks:train", "job", 300.0),
    CheckUp("sync", "r1mega.doctor.work_checks:sync", "job", 300.0),
)
