"""A pass over the shards of a data set: each is done by all ranks together, written whole, and done once.

A killed run goes on with the first shard that is not written. What a shard holds depends on nothing that came
before it but its place, so the result is the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1mega.data.curate.shards import Row, Shards
from r1mega.data.curate.tally import Example, Tally, said, still_wanted
from r1mega.logs import Log, say
from r1mega.parallel import Mesh, on_leader
from r1mega.progress import beat
from r1mega.rollout.vllm_engine import VLLMGenerator
from r1mega.stages.interrupt import StopRequest
from r1mega.types import Interrupted

LINE_SECONDS, TICK_SECONDS = 10.0, 30.0


@dataclass
class Found:
    """What one rank has made of its part of a shard. Rows and examples with their places in the shard."""

    rows: list[tuple[int, Row]] = field(default_factory=list)
    examples: list[tuple[int, Example]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def keep(self, place: int, row: Row, reason: str = "kept") -> None:
        self.rows.append((place, row))
        self.tally.keep(row.category, reason)
        self.examples.append((place, Example(reason, row.id, row.prompt, row.response)))

    def drop(self, place: int, category: str, example: Example) -> None:
        self.tally.drop(category, example.reason)
        self.examples.append((place, example))

    def thinned(self, most: int) -> Found:
        """With at most so many examples of each reason, the first ones: all that can be needed of them."""
        return Found(self.rows, _first(self.examples, most), self.tally)


@dataclass
class Whole:
    """A pass that is through. shards: how many it has done."""

    shards: int = 0
    tally: Tally = field(default_factory=Tally)
    examples: list[Example] = field(default_factory=list)

    def add(self, facts: Mapping[str, Any], where: str) -> None:
        self.shards += 1
        self.tally.add(Tally.of_json(facts.get("tally", {}), where))
        self.examples += [Example(**one) for one in facts.get("examples", ())]


class Passes:
    """Runs passes in a stage's room, one after the other.

    examples: how many are kept to look at, a reason.
    """

    def __init__(
        self, title: str, room: Path, mesh: Mesh, log: Log, stop: StopRequest, examples: int
    ) -> None:
        self.title, self.room, self.mesh, self.log, self.stop = title, room, mesh, log, stop
        self._examples, self._step, self._told = examples, 0, time.monotonic()

    def store(self, name: str) -> Shards:
        return Shards(self.room / "shards" / name)

    def run(
        self,
        name: str,
        shards: int,
        work: Callable[[int], Found],
        *,
        facts: Callable[[], Mapping[str, Any]] = dict,
        enough: Callable[[Tally], bool] = lambda tally: False,
    ) -> Whole:
        """Do the shards that are not done. All ranks together.

        work:   a shard's number -> this rank's part of it; asked on every rank.
        facts:  what else is noted with a shard, once it is done.
        enough: looks at the counts after each shard; true ends the pass, and it may raise UserError.
        """
        store, whole = self.store(name), Whole()
        for number in range(shards):
            if whole.shards and enough(whole.tally):
                break
            self._step += 1
            there = on_leader(partial(store.facts, number))
            if there is not None:
                whole.add(there, str(store.folder))
                continue
            started = time.monotonic()
            tokens = self._do(store, number, work, facts, whole)
            beat(f"{self.title}: {name}, shard {number + 1}")
            self._tell(name, number, shards, whole, tokens, time.monotonic() - started)
            self._stop_if_asked(name, number + 1, shards)
        enough(whole.tally)
        return whole

    def _do(
        self,
        store: Shards,
        number: int,
        work: Callable[[int], Found],
        facts: Callable[[], Mapping[str, Any]],
        whole: Whole,
    ) -> int:
        """One shard, written; the tokens that were drawn for it."""
        parts = self.mesh.gather(work(number).thinned(self._examples))
        tally = Tally()
        for part in parts:
            tally.add(part.tally)
        rows = sorted((one for part in parts for one in part.rows), key=lambda one: one[0])
        there = Counter(example.reason for example in whole.examples)
        new = still_wanted((one for part in parts for one in part.examples), there, self._examples)
        noted = {"tally": tally.to_json(), "examples": [vars(one) for one in new], **facts()}
        on_leader(lambda: store.write(number, [row for _, row in rows], noted))
        whole.add(noted, str(store.folder))
        return tally.tokens

    def _tell(self, name: str, number: int, shards: int, whole: Whole, tokens: int, seconds: float) -> None:
        tally = whole.tally
        share = tally.rows_kept / max(1, tally.rows)
        self.log.log(
            self._step,
            {
                "pass": name,
                "rows": tally.rows,
                "kept": share,
                "tokens": tokens,
                "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
                "seconds": round(seconds, 3),
            },
        )
        now = time.monotonic()
        if now - self._told >= LINE_SECONDS or number + 1 == shards:
            self._told = now
            say(
                f"{self.title}: {name} {number + 1}/{shards}: {tally.rows_kept:,} of {tally.rows:,} kept "
                f"({share:.1%}); dropped: {said(tally.reasons)}"
            )

    def _stop_if_asked(self, name: str, done: int, shards: int) -> None:
        if self.mesh.any_rank(self.stop.asked):
            raise Interrupted(
                f"interrupted after {done} of {shards} shards of '{name}', which are saved; run the same "
                "command again to go on from there"
            )


class Ticker:
    """Tells of a long shard while it is under way: a line every half minute, of this rank's answers."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._done, self._told = 0, clock()

    def tick(self) -> None:
        """One more is there."""
        self._done += 1
        if (now := self._clock()) - self._told >= TICK_SECONDS:
            self._told = now
            say(f"  {self._done:,} of {self._total:,} answers of this shard")


class Opened:
    """An engine that is started when it is first asked for, and ended with the `with` block.

    make: makes it, with all ranks. rank: this one's.
    """

    def __init__(self, make: Callable[[], VLLMGenerator], rank: int) -> None:
        self._make, self._rank = make, rank
        self._engine: VLLMGenerator | None = None

    @property
    def engine(self) -> VLLMGenerator:
        """All ranks ask for it together the first time."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine

    @property
    def speaks(self) -> bool:
        """Whether this rank tells what its engine says: the first of an engine's ranks."""
        return self._rank % self.engine.options.tensor_parallel == 0

    def mine(self, count: int) -> range:
        """Places of a shard of `count` that this rank's engine has."""
        share = self.engine.share
        return range(share.index, count, share.engines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._engine is not None:
            self._engine.close()


def _first(examples: list[tuple[int, Example]], most: int) -> list[tuple[int, Example]]:
    seen: Counter[str] = Counter()
    found = []
    for place, example in sorted(examples, key=lambda one: one[0]):
        if seen[example.reason] < most:
            seen[example.reason] += 1
            found.append((place, example))
    return found
