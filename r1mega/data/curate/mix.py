"""The last step of a data set: no row twice, no benchmark, as many of each category as wanted, shuffled.

Memory does not depend on the rows' length. They stream into a pool file; what is known of each is a hash, a
place and two numbers. rows.jsonl is the pool in another order.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np

from r1mega.data.curate import response
from r1mega.data.curate.shards import Row, write_rows
from r1mega.data.curate.tally import Example, Tally
from r1mega.data.decontaminate import Overlap

_BATCH = 1024  # rows looked up in the benchmarks at a time


@dataclass(frozen=True)
class Rules:
    """What may be in a data set.

    duplicates: keep rows with the same prompt and response. per_prompt: rows of one drawn question.
    drawn:      rows that are answers to a `Prompt`, in all. overlap: the benchmarks. target: by category.
    """

    duplicates: bool = False
    per_prompt: int | None = None
    drawn: int | None = None
    overlap: Overlap | None = None
    target: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A category of the finished data set. tokens: of its responses. target: rows that were wanted."""

    rows: int
    tokens: int
    target: int | None

    @property
    def mean_tokens(self) -> float:
        return self.tokens / self.rows if self.rows else 0.0


Seen = Callable[[Example], object]
"""Told of rows that are dropped."""


def mix(rows: Iterable[Row], out: Path, rules: Rules, seed: int, seen: Seen) -> tuple[dict[str, Line], Tally]:
    """Write the data set to `out`, shuffled by the seed; its categories, and what was dropped.

    The order of equal rows decides which one stays, so the same rows give the same file.
    """
    pool = out.with_name(f".{out.name}.pool")
    index = _Index(rules, seen)
    write_rows(pool, index.lines(rows))
    order = index.chosen(seed)
    with open(pool, "rb") as lines:
        write_rows(out, (_line(lines, index.starts[place]) for place in order))
    pool.unlink()
    return index.table(order), index.tally


class _Index:
    """What is known of each row of the pool, by its place there."""

    def __init__(self, rules: Rules, seen: Seen) -> None:
        self.rules, self.seen = rules, seen
        self.tally = Tally()
        self.starts, self.tokens, self.category = array("q"), array("q"), array("H")
        self.names: list[str] = []
        self._hashes: set[int] = set()
        self._answers: Counter[int] = Counter()
        self._drawn = 0

    def lines(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """The lines of the pool, in the order of the rows."""
        at = 0
        numbers: dict[str, int] = {}
        for row in self._clean(rows):
            if row.category not in numbers:
                numbers[row.category] = len(numbers)
                self.names.append(row.category)
            line = row.final()
            self.starts.append(at)
            self.tokens.append(row.tokens)
            self.category.append(numbers[row.category])
            at += len(line)
            yield line

    def chosen(self, seed: int) -> np.ndarray:
        """Places of the rows that are in the data set, in its order. int64 [R]"""
        category = np.frombuffer(self.category, dtype=np.uint16) if self.category else np.zeros(0, np.uint16)
        keep = np.ones(len(category), dtype=bool)
        for number, name in enumerate(self.names):
            places = np.flatnonzero(category == number)
            most = self.rules.target.get(name, len(places))
            if len(places) > most:
                order = np.random.default_rng((seed, crc32(name.encode()))).permutation(len(places))
                keep[places[order[most:]]] = False
                self.tally.drop(name, "over_target", len(places) - most)
            self.tally.keep(name, times=min(most, len(places)))
        return np.random.default_rng(seed).permutation(np.flatnonzero(keep))

    def table(self, order: np.ndarray) -> dict[str, Line]:
        category = np.frombuffer(self.category, dtype=np.uint16)[order] if len(order) else np.zeros(0)
        tokens = np.frombuffer(self.tokens, dtype=np.int64)[order] if len(order) else np.zeros(0)
        lines = {}
        for name in sorted({*self.names, *self.rules.target}):
            mine = (
                category == self.names.index(name) if name in self.names else np.zeros(len(order), dtype=bool)
            )
            lines[name] = Line(int(mine.sum()), int(tokens[mine].sum()), self.rules.target.get(name))
        return lines

    def _clean(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Those that may stay, by what came before them and by the benchmarks."""
        first = self._first(rows)
        while batch := list(islice(first, _BATCH)):
            if self.rules.overlap is None:
                yield from batch
                continue
            found = self.rules.overlap.matches([text for row in batch for text in (row.prompt, row.response)])
            for row, *matches in zip(batch, found[::2], found[1::2], strict=True):
                if match := next(filter(None, matches), None):
                    detail = f"{', '.join(match.benchmarks)}: {match.ngram}"
                    self._drop(row, "in_benchmark", detail)
                else:
                    yield row

    def _first(self, rows: Iterable[Row]) -> Iterator[Row]:
        rules = self.rules
        for row in rows:
            if not rules.duplicates:
                key = response.key(row.prompt, row.response)
                if key in self._hashes:
                    self._drop(row, "duplicate")
                    continue
                self._hashes.add(key)
            if row.asked and rules.per_prompt is not None:
                question = response.key(row.prompt)
                if self._answers[question] >= rules.per_prompt:
                    self._drop(row, "enough_of_prompt")
                    continue
                self._answers[question] += 1
            if row.asked and rules.drawn is not None:
                if self._drawn >= rules.drawn:
                    self._drop(row, "over_total")
                    continue
                self._drawn += 1
            yield row

    def _drop(self, row: Row, reason: str, detail: str = "") -> None:
        self.tally.drop(row.category, reason)
        self.seen(Example(reason, row.id, row.prompt, row.response, detail))


def _line(lines: IO[bytes], start: int) -> bytes:
    lines.seek(start)
    return lines.readline()
