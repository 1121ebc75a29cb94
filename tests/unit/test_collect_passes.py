"""Passes over shards: killed or stopped between two of them, the result is that of an undisturbed run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1mega.data.curate.shards import Row
from r1mega.data.curate.tally import Example, Tally
from r1mega.logs import Log
from r1mega.stages.collecting import passes as module
from r1mega.stages.collecting.passes import Found, Passes, Ticker
from r1mega.stages.interrupt import StopRequest
from r1mega.types import Interrupted, UserError

ALONE: Any = SimpleNamespace(gather=lambda one: [one], any_rank=bool)


def shard(number: int) -> Found:
    """Three answers, of which the first is kept; the tokens tell the shard."""
    found = Found(tally=Tally(tokens=number))
    found.keep(0, Row(f"r/{number}", "math", f"q{number}", "a", 1, "m", "t"))
    for place in (1, 2):
        found.drop(place, "math", Example("wrong", f"r/{number}/{place}", "q", "a"))
    return found


def passes(room: Path, mesh: Any = ALONE, stop: StopRequest | None = None, examples: int = 3) -> Passes:
    return Passes("data", room, mesh, Log(()), stop or StopRequest(), examples)


def files(room: Path) -> dict[str, bytes]:
    return {str(path.relative_to(room)): path.read_bytes() for path in room.rglob("*.json*")}


class Killed(Exception):
    pass


def killed_at(place: int) -> Callable[[int], Found]:
    def work(number: int) -> Found:
        if number == place:
            raise Killed
        return shard(number)

    return work


def test_a_killed_pass_goes_on_to_the_same_files(tmp_path: Path) -> None:
    straight = passes(tmp_path / "straight").run("draw", 5, shard)
    for place in (0, 2, 3):
        with pytest.raises(Killed):
            passes(tmp_path / "killed").run("draw", 5, killed_at(place))
    asked: list[int] = []

    def work(number: int) -> Found:
        asked.append(number)
        return shard(number)

    again = passes(tmp_path / "killed").run("draw", 5, work)
    assert asked == [3, 4]
    assert again == straight and files(tmp_path / "killed") == files(tmp_path / "straight")
    assert straight.shards == 5 and straight.tally.rows_kept == 5 and straight.tally.tokens == 10
    assert straight.tally.reasons == {"wrong": 10}
    assert [one.id for one in straight.examples] == ["r/0", "r/0/1", "r/0/2", "r/1", "r/1/1", "r/2"]


def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    def part(number: int, rank: int) -> Found:
        whole = shard(number)
        found = Found(
            [one for one in whole.rows if one[0] % 2 == rank],
            [one for one in whole.examples if one[0] % 2 == rank],
        )
        found.tally = whole.tally if rank else Tally()  # counts add up, wherever they come from
        return found

    passes(tmp_path / "one").run("draw", 3, shard)
    at: list[int] = [0]
    two: Any = SimpleNamespace(gather=lambda one: [one, part(at[0], 1)], any_rank=bool)

    def work(number: int) -> Found:
        at[0] = number
        return part(number, 0)

    passes(tmp_path / "two", mesh=two).run("draw", 3, work)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_stop_is_after_what_is_kept(tmp_path: Path) -> None:
    stop = StopRequest()

    def work(number: int) -> Found:
        stop.asked = number == 1
        return shard(number)

    with pytest.raises(Interrupted, match="after 2 of 5 shards of 'draw', which are saved"):
        passes(tmp_path, stop=stop).run("draw", 5, work)
    assert passes(tmp_path).store("draw").facts(1) is not None
    assert passes(tmp_path).run("draw", 5, shard).shards == 5


def test_enough_ends_a_pass_and_says_so_again(tmp_path: Path) -> None:
    def enough(tally: Tally) -> bool:
        return tally.rows_kept >= 2

    first = passes(tmp_path).run("draw", 5, shard, enough=enough)
    assert first.shards == 2 and first == passes(tmp_path).run("draw", 5, shard, enough=enough)

    def refuse(tally: Tally) -> bool:
        raise UserError("nothing usable")

    with pytest.raises(UserError, match="nothing usable"):  # also when it goes on from there
        passes(tmp_path).run("draw", 2, shard, enough=refuse)


def test_what_is_noted_comes_back(tmp_path: Path) -> None:
    made = passes(tmp_path)
    made.run("draw", 2, shard, facts=lambda: {"next": 7})
    assert made.store("draw").facts(1)["next"] == 7  # type: ignore[index]


def test_a_long_shard_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(module, "say", said.append)
    times = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    ticker = Ticker(4, lambda: next(times))
    for _ in range(4):
        ticker.tick()
    assert said == ["  2 of 4 answers of this shard", "  4 of 4 answers of this shard"]
