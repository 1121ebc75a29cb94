"""JSON Lines as streams of texts or of prompt and answer. Every complaint names the file and the line.

One JSON object a line; blank lines are skipped; further keys are ignored. A missing file is reported at once,
everything else when the stream reaches the line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from r1mega.progress import beat
from r1mega.types import UserError

_KINDS = {
    dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean",
    type(None): "null",
}  # fmt: skip
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can write these, but no UTF-8 text can hold one
_BOM = b"\xef\xbb\xbf"  # what Windows editors put before the first line


class Pair(NamedTuple):
    prompt: str
    answer: str


def read_texts(path: str | os.PathLike[str], key: str = "text") -> Iterator[str]:
    """The texts under `key`. Raises UserError for a file that does not hold such texts."""
    path = existing(path)
    return (string(row, key, where) for where, row in read_objects(path))


def read_pairs(
    path: str | os.PathLike[str], prompt_key: str = "question", answer_key: str = "answer"
) -> Iterator[Pair]:
    """Prompts and answers; the default keys are GSM8K's. Raises UserError like `read_texts`."""
    path = existing(path)
    return (
        Pair(string(row, prompt_key, where), string(row, answer_key, where))
        for where, row in read_objects(path)
    )


def existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {reason}: give a JSON Lines file, one object a line")
    return path


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", object) for every line that is not blank."""
    empty = True
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.isspace() or not line:
                continue
            empty = False
            beat()
            where = f"{path}, line {number}"
            yield where, _object(line, where)
    if empty:
        raise UserError(f"{path} is empty: one JSON object a line is wanted")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: no valid UTF-8 at byte {error.start + 1}: save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no valid JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{where}: no valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f'{where}: {_KINDS[type(row)]} where an object such as {{"text": "..."}} is wanted')
    return row


def string(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise UserError(f"{where}: no key {key!r}; the keys there are {', '.join(map(repr, row)) or 'none'}")
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is {_KINDS[type(value)]}, a string is wanted")
    if _SURROGATE.search(value):
        raise UserError(f"{where}: {key!r} has half a character (a lone surrogate escape such as \\ud83d)")
    return value
