"""Rows on disk while a data set is made: one file a shard of a pass, whole or not there.

<room>/shards/<pass>/00003.jsonl   the rows that the pass has kept of shard 3
<room>/shards/<pass>/00003.json    written last: their counts, and what the next shard goes on from
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from r1mega.files import disk_errors, read_json, sync, write_json
from r1mega.types import UserError


@dataclass(frozen=True)
class Row:
    """An example to learn from.

    id:       names it for good: of its question and which answer to it, or of its place in a file.
    category: its line in the table.
    prompt:   the user's turn, without a template.
    response: what the assistant says: thoughts in think tags where there are any, then the answer.
    tokens:   of the response.
    source:   who has written it: the stage or folder of the model, or the name of the further data.
    asked:    id of the `Prompt` that it answers, "" where there is none. Not written in the end.
    """

    id: str
    category: str
    prompt: str
    response: str
    tokens: int
    source: str
    asked: str = ""

    def line(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def final(self) -> bytes:
        """Its line in rows.jsonl."""
        values = asdict(self)
        del values["asked"]
        return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def changed(self, response: str, tokens: int, source: str) -> Row:
        return replace(self, response=response, tokens=tokens, source=source)

    @classmethod
    def of(cls, line: bytes, where: str) -> Self:
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{where} is damaged ({error}): delete it to do that shard again") from error


class Shards:
    """The shards of one pass, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, number: int) -> list[Row]:
        """What was kept of a shard. Raises UserError for a damaged file."""
        return list(read(self._rows(number)))

    def files(self, count: int) -> list[Path]:
        """The row files of the first `count` shards."""
        return [self._rows(number) for number in range(count)]

    def facts(self, number: int) -> dict[str, Any] | None:
        """What was noted with a shard; None where it is not done."""
        found = read_json(self._facts(number))
        if found is not None and not isinstance(found, dict):
            raise UserError(f"{self._facts(number)} is damaged: delete it to do that shard again")
        return found

    def write(self, number: int, rows: Iterable[Row], facts: Mapping[str, Any]) -> None:
        """Rows first, the facts that make them count last."""
        write_rows(self._rows(number), (row.line() for row in rows))
        write_json(self._facts(number), facts)

    def _rows(self, number: int) -> Path:
        return self.folder / f"{number:05d}.jsonl"

    def _facts(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"


def read(path: Path) -> Iterator[Row]:
    with open(path, "rb") as lines:
        for line in lines:
            yield Row.of(line, str(path))


def write_rows(path: Path, lines: Iterable[bytes]) -> int:
    """Whole or not there; returns how many. Raises UserError when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    count = 0
    with disk_errors(path):
        with open(aside, "wb") as file:
            for line in lines:
                file.write(line)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    return count
