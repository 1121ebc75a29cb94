"""Who runs what: every host once, every rank once, and what cannot be is refused before a job starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.config.roles import Roles
from r1mega.planner.roles import Part, compact, plan_roles, refuse_unbuilt
from r1mega.types import UserError

HOSTS = tuple(f"n{i:03d}" for i in range(1, 9))


@given(data=st.data(), count=st.integers(1, 40), per_node=st.integers(1, 8), heterogeneous=st.booleans())
def test_every_host_has_one_role_and_every_rank_one_host(
    data: st.DataObject, count: int, per_node: int, heterogeneous: bool
) -> None:
    hosts = [f"n{i}" for i in range(count)]
    generators = data.draw(st.integers(0, count - 1))
    rewards = data.draw(st.integers(0, count - 1 - generators))
    room = (count - generators - rewards) * per_node
    ranks = data.draw(st.none() | st.integers(1, room))
    roles = Roles(generator_nodes=generators, reward_nodes=rewards, heterogeneous=heterogeneous)
    plan = plan_roles(hosts, per_node, ranks=ranks, roles=roles)
    assert [host for part in plan.parts for host in part.hosts] == hosts
    held = {part.role: part.ranks for part in plan.parts}
    wanted = {"trainer": ranks or room, "generator": generators * per_node, "reward": rewards * per_node}
    assert {role: held.get(role, 0) for role in wanted} == wanted  # type: ignore[call-overload]
    assert held.get("idle", 0) == 0
    for part in plan.parts:
        on = [part.on(i) for i in range(len(part.hosts))]
        assert [rank for ranks in on for rank in ranks] == list(range(part.ranks))  # contiguous, in order
        assert all(len(ranks) <= per_node for ranks in on)
        assert part.role == "idle" or all(on)  # no host without a rank
    at_work = [part for part in plan.parts if part.role != "idle"]
    numbers = range(len(at_work)) if heterogeneous else [0] * len(at_work)
    assert [part.component for part in at_work] == list(numbers)
    assert plan.is_built == (generators == rewards == 0)


def test_the_plan_is_printed_as_a_small_table() -> None:
    assert str(plan_roles(HOSTS, 8)).splitlines()[1].split()[-1] == "n[001-008]"
    roles = Roles(generator_nodes=2, reward_nodes=1, heterogeneous=True)
    assert str(plan_roles(HOSTS, 8, ranks=36, roles=roles)).splitlines() == [
        "role       component  nodes  ranks  hosts",
        "trainer    0          5      36     n[001-005]",
        "generator  1          2      16     n[006-007]",
        "reward     2          1      8      n008",
    ]


def test_todays_runs_are_one_part_and_hosts_that_are_left_over_are_named_idle() -> None:
    [part] = plan_roles(HOSTS, 8).parts
    assert part == Part("trainer", HOSTS, 64, 8)
    trainers, idle = plan_roles(HOSTS, 8, ranks=20).parts
    assert (trainers.hosts, idle.role, idle.hosts) == (HOSTS[:3], "idle", HOSTS[3:])
    assert [len(trainers.on(i)) for i in range(3)] == [8, 8, 4]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (dict(ranks=65), "65 ranks need 9 nodes of 8; there are 8 to train on, which hold 64: ask for more"),
        (dict(ranks=64, roles=Roles(generator_nodes=1)), "there are 7 to train on, which hold 56.*nproc=56"),
        (
            dict(roles=Roles(generator_nodes=6, reward_nodes=2)),
            "8 nodes, 6 generator nodes and 2 reward nodes",
        ),
        (dict(roles=Roles(reward_nodes=9)), "8 nodes, 9 reward nodes: none is left to train"),
        (dict(layouts={"rl": {"tp": 3}}), "stage 'rl' with 64 ranks: 64 ranks cannot hold tp 3"),
    ],
)
def test_what_cannot_be_is_refused(wanted: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_roles(HOSTS, 8, **wanted)  # type: ignore[arg-type]


def test_what_is_not_built_is_refused_at_the_start_and_can_be_planned() -> None:
    refuse_unbuilt(Roles())
    for roles, what in ((Roles(generator_nodes=1), "generators"), (Roles(reward_nodes=1), "reward models")):
        with pytest.raises(
            UserError, match=f"{what} on nodes of their own are not built yet: leave out roles"
        ):
            refuse_unbuilt(roles)
        assert not plan_roles(HOSTS, 8, roles=roles).is_built


@given(st.lists(st.from_regex(r"[a-c]{1,2}[0-9]{0,3}", fullmatch=True), min_size=1, max_size=12, unique=True))
def test_host_lists_read_back(hosts: list[str]) -> None:
    assert _expand(compact(hosts)) == hosts


def _expand(text: str) -> list[str]:
    """A plain reader of Slurm's notation, as far as `compact` writes it."""
    found = []
    for part in text.split(","):
        stem, bracket, inside = part.partition("[")
        if not bracket:
            found.append(part)
            continue
        first, last = inside.rstrip("]").split("-")
        found += [f"{stem}{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return found


def test_slurm_reads_the_host_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=x\nSlurmctldHost=localhost\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    hosts = ["n001", "n002", "n003", "m7", "m8", "login", "x09", "x10"]
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", compact(hosts)], capture_output=True, text=True, timeout=20
        )
    except FileNotFoundError:
        pytest.skip("there is no scontrol here")
    assert done.stdout.split() == hosts, done.stderr
