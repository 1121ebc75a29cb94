"""metrics.jsonl: one JSON object a step, appended, never torn for a reader.

Strict JSON has no NaN or infinity; they are written as the texts "NaN", "Infinity", "-Infinity", which say
what happened (null would not), and `read_metrics` turns them back into floats.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1mega.files import disk_errors, write_text
from r1mega.types import UserError

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own."""
    return value.item() if hasattr(value, "item") else value


class MetricsWriter:
    """Appends records. Each is one write of a whole line: a killed process loses none that `log` has taken.

    On opening, a torn last line and, with `resume_step`, the records of later steps are removed: what is then
    logged again stands there once. UserError when the disk is full or a line within the file is no record.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                keep_until(path, resume_step)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        record = {"step": step, **{name: jsonable(plain(value)) for name, value in metrics.items()}}
        line = memoryview((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
        with disk_errors(self.path):
            while line:  # a disk that has filled up takes a part first, and refuses the rest
                line = line[os.write(self._file, line) :]

    def close(self) -> None:
        os.close(self._file)


def keep_until(path: Path, step: int | None) -> None:
    """Rewrite the file, whole or not at all, without a torn last line and without steps after `step`."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    kept = "".join(
        f"{line}\n" for line, record in records(path, text) if step is None or record["step"] <= step
    )
    if kept != text:
        write_text(path, kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in order; the line that is being written is left out. A missing file has none."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [
        {
            name: NOT_FINITE.get(value, value) if isinstance(value, str) else value
            for name, value in record.items()
        }
        for _, record in records(path, text)
    ]


def records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(line, record) of each whole line; only the last one may be no record."""
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or nothing
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int):
                raise ValueError("step is no whole number")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                return
            raise UserError(f"{path}, line {number} is no record ({error}): repair or remove it") from error
        yield line, record


def jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return next(text for text, number in NOT_FINITE.items() if str(number) == str(value))
    return value
