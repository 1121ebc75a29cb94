"""Further data, brought into the form of rows before anything is drawn: a bad file is told at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from r1mega.config.collect import General
from r1mega.data.curate.general import Exchange, Read, exchanges, take
from r1mega.data.curate.response import without_thoughts
from r1mega.data.curate.shards import Row, Shards
from r1mega.data.tokenizers import Tokenizer
from r1mega.files import read_json, write_json
from r1mega.parallel import on_leader

_PER_SHARD = 8192  # rows


class Source:
    """One table `general.NAME`: its rows in shards of a folder, made once."""

    def __init__(self, name: str, section: General, folder: Path) -> None:
        self.name, self.section, self.store = name, section, Shards(folder / f"general-{name}")
        self._noted = self.store.folder / "read.json"

    @property
    def gets_thoughts(self) -> bool:
        """Whether a model writes them here."""
        return self.section.thoughts == "make"

    @property
    def shards(self) -> int:
        """How many there are; the same on all ranks."""
        return on_leader(lambda: int(self.facts["shards"]))

    def files(self) -> list[Path]:
        return self.store.files(self.shards)

    @property
    def facts(self) -> dict[str, Any]:
        """shards, rows, taken, skipped; of a source that is prepared."""
        found: dict[str, Any] = read_json(self._noted)
        return found

    def prepare(self, tokenizer: Tokenizer, seed: int, per_shard: int | None = None) -> None:
        """Write the shards, unless they are there. On one rank.

        Raises UserError, naming the line, for a file that cannot be read or has a row without an answer.
        """
        if self._noted.is_file():
            return
        report = Read()
        found = self._exchanges(seed, report)
        shards = 0
        while batch := list(islice(found, per_shard or _PER_SHARD)):
            self.store.write(shards, self._rows(batch, tokenizer), {})
            shards += 1
        skipped = {name: count for name, count in report.skipped.items() if count}
        facts = {"shards": shards, "rows": report.rows, "taken": report.taken, "skipped": skipped}
        write_json(self._noted, facts)

    def _exchanges(self, seed: int, report: Read) -> Iterator[Exchange]:
        section = self.section
        if section.path is None:
            return self._toy(seed, report)
        path = section.path

        def rows(report: Read) -> Iterator[Exchange]:
            return exchanges(path, section.prompt_key, section.response_key, report)

        return take(rows, section.count, seed, self.name, report)

    def _toy(self, seed: int, report: Read) -> Iterator[Exchange]:
        from r1mega.data.toy_general import demonstrations

        assert self.section.count is not None  # the config has seen to it
        report.rows = report.taken = self.section.count
        for place, (prompt, response) in enumerate(demonstrations(self.section.count, seed)):
            yield Exchange(place, prompt, f" {response}")  # as its corpus has it: "Assistant: <think>"

    def _rows(self, batch: Sequence[Exchange], tokenizer: Tokenizer) -> list[Row]:
        said = [without_thoughts(one.response) if self._plain else one.response for one in batch]
        return [
            Row(f"{self.name}/{one.place}", self.section.category, one.prompt, text, len(ids), self.name)
            for one, text, ids in zip(batch, said, tokenizer.encode_batch(said), strict=True)
        ]

    @property
    def _plain(self) -> bool:
        return self.section.thoughts == "none"
