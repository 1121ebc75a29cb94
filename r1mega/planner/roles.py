"""Who runs what: the hosts of a job, divided into roles. Pure, so that it can be printed before a job starts.

Trainers take the first hosts: rank 0 is on the first, where Slurm starts the batch step. Ranks are numbered
within their role, since each role is a world of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from r1mega.config.roles import Roles
from r1mega.parallel import Layout
from r1mega.types import UserError

Role = Literal["trainer", "generator", "reward", "idle"]


@dataclass(frozen=True)
class Part:
    """The hosts of one role, in their order.

    ranks:     of the role; each host has `per_node` of them, the last one what is left. 0 where it is idle.
    component: of a heterogeneous job, from 0; 0 also where one allocation is split.
    """

    role: Role
    hosts: tuple[str, ...]
    ranks: int
    per_node: int
    component: int = 0

    def on(self, number: int) -> range:
        """The ranks on the host of this number."""
        first = number * self.per_node
        return range(min(first, self.ranks), min(first + self.per_node, self.ranks))


@dataclass(frozen=True)
class RolePlan:
    """Every host once, in one part."""

    parts: tuple[Part, ...]

    @property
    def is_built(self) -> bool:
        """Whether this version can run it: trainers that hold their generators and reward models."""
        return all(part.role in ("trainer", "idle") for part in self.parts)

    def __str__(self) -> str:
        rows = [("role", "component", "nodes", "ranks", "hosts")]
        for part in self.parts:
            who = (
                "trainer (generates and judges, too)"
                if self.is_built and part.role == "trainer"
                else part.role
            )
            counts = (str(part.component), str(len(part.hosts)), str(part.ranks))
            rows.append((who, *counts, compact(part.hosts)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[4]])
            for row in rows
        )


def plan_roles(
    hosts: Sequence[str],
    ranks_per_node: int,
    *,
    ranks: int | None = None,
    roles: Roles | None = None,
    layouts: Mapping[str, Mapping[str, Any]] | None = None,
) -> RolePlan:
    """Divide the hosts.

    ranks:   of the trainers; None: as many as their hosts hold. Hosts that are left over are idle.
    layouts: the sizes of each stage's layout, by its name, which must divide the trainers' ranks.

    Raises UserError where there are too few hosts for a role, more ranks than their hosts hold, or ranks that
    a stage's layout cannot divide.
    """
    assert ranks_per_node >= 1 and len(set(hosts)) == len(hosts)
    roles = roles or Roles()
    apart: dict[Role, int] = {"generator": roles.generator_nodes, "reward": roles.reward_nodes}
    room = len(hosts) - sum(apart.values())
    if room < 1:
        wanted = (
            " and ".join(f"{count} {role} nodes" for role, count in apart.items() if count) or "no others"
        )
        raise UserError(f"{len(hosts)} nodes, {wanted}: none is left to train; ask for more nodes")
    ranks = room * ranks_per_node if ranks is None else ranks
    training = -(-ranks // ranks_per_node)
    if training > room:
        raise UserError(
            f"{ranks} ranks need {training} nodes of {ranks_per_node}; there are {room} to train on, which "
            f"hold {room * ranks_per_node}: ask for more nodes, or say nproc={room * ranks_per_node}"
        )
    for stage, sizes in (layouts or {}).items():
        try:
            Layout.of(ranks, **sizes)
        except UserError as error:
            raise UserError(f"stage '{stage}' with {ranks} ranks: {error}") from None
    counts: dict[Role, int] = {"trainer": training, **apart, "idle": room - training}
    return RolePlan(tuple(_parts(hosts, counts, ranks, ranks_per_node, roles.heterogeneous)))


def _parts(
    hosts: Sequence[str], counts: Mapping[Role, int], ranks: int, per_node: int, heterogeneous: bool
) -> Iterator[Part]:
    rest = list(hosts)
    component = 0
    for role, count in counts.items():
        mine, rest = rest[:count], rest[count:]
        if mine:
            held = {"trainer": ranks, "idle": 0}.get(role, count * per_node)
            yield Part(role, tuple(mine), held, per_node, component if role != "idle" else 0)
            component += heterogeneous


def refuse_unbuilt(roles: Roles) -> None:
    """Raises UserError for a split that this version can plan and not run."""
    for key, what in (("generator_nodes", "generators"), ("reward_nodes", "reward models")):
        if getattr(roles, key):
            raise UserError(
                f"{what} on nodes of their own are not built yet: leave out roles.{key}; each trainer rank "
                "generates and judges for itself"
            )


def compact(hosts: Sequence[str]) -> str:
    """n001, n002, n003, m7 -> n[001-003],m7, as Slurm writes it."""
    parsed = [re.fullmatch(r"(.*?)(\d*)", host) for host in hosts]
    keyed = [(m[1], len(m[2]), int(m[2] or 0) - i) for i, m in enumerate(parsed) if m]
    found = []
    for (stem, width, shift), group in groupby(range(len(hosts)), key=lambda i: keyed[i]):
        places = list(group)
        first, last = (f"{shift + i:0{width}d}" for i in (places[0], places[-1]))
        found.append(hosts[places[0]] if len(places) == 1 else f"{stem}[{first}-{last}]")
    return ",".join(found)
