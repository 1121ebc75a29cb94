"""Rows that others have written: pairs of prompt and response, and chats of one turn.

A row's form is told by its keys:

    conversations, messages   a chat: turns of {"from", "value"} or {"role", "content"}; the first two count
    ... with chosen           a preference: the chosen answer counts, where there was one question
    ... with label            false: an answer that was not liked; the row is left out
    otherwise                 a prompt and a response, under the two keys that were named
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from r1mega.data import text
from r1mega.data.formats.rows import read_rows
from r1mega.types import UserError

_CHATS = ("conversations", "messages")
_USER, _ASSISTANT = ("human", "user"), ("gpt", "assistant")


@dataclass(frozen=True)
class Exchange:
    """One prompt and its response. place: the row's number in its source, from 0."""

    place: int
    prompt: str
    response: str


@dataclass
class Read:
    """What became of a source's rows. skipped: by reason."""

    rows: int = 0
    taken: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def exchanges(path: Path, prompt_key: str, response_key: str, report: Read) -> Iterator[Exchange]:
    """All usable rows of a file, in order; the others are counted in `report`.

    Raises UserError, naming the line, for a file that cannot be read and for a row without a prompt or an
    answer: an empty answer would teach to say nothing.
    """
    for place, (where, row) in enumerate(read_rows(path)):
        report.rows += 1
        found = (
            _chat(row, where)
            if any(key in row for key in _CHATS)
            else _pair(row, prompt_key, response_key, where)
        )
        if isinstance(found, str):
            report.skipped[found] += 1
        else:
            yield Exchange(place, *found)


def take(
    rows: Callable[[Read], Iterator[Exchange]], count: int | None, seed: int, name: str, report: Read
) -> Iterator[Exchange]:
    """`count` of the rows, drawn by (seed, name), in their order; all where there are no more.

    rows: opens the source; it is read twice, so that no more than a row is in memory. Fills `report`.
    """
    usable = sum(1 for _ in rows(report))
    wanted = np.ones(usable, dtype=bool)
    if count is not None and count < usable:
        order = np.random.default_rng((seed, crc32(name.encode()))).permutation(usable)
        wanted[order[count:]] = False
        report.skipped["not_needed"] = usable - count
    report.taken = int(wanted.sum())
    return (row for row, is_wanted in zip(rows(Read()), wanted, strict=True) if is_wanted)


def _pair(row: dict[str, Any], prompt_key: str, response_key: str, where: str) -> tuple[str, str]:
    return _written(text.string(row, prompt_key, where), text.string(row, response_key, where), where)


def _chat(row: dict[str, Any], where: str) -> tuple[str, str] | str:
    """The exchange, or why there is none."""
    turns = [_turn(turn, where) for turn in _turns(row, where)]
    if row.get("label") is False:
        return "not_liked"
    if turns and turns[0][0] == "system":
        return "system_turn"  # a row has no place for it, and without it the answer may be strange
    asked = [said for role, said in turns if role in _USER]
    if not asked or turns[0][0] not in _USER:
        raise UserError(f"{where}: the chat does not begin with a user's turn")
    if "chosen" in row:
        if len(asked) > 1:
            return "several_turns"  # the chosen answer needs what was said before
        return _written(asked[0], _turn(row["chosen"], where)[1], where)
    if len(turns) < 2 or turns[1][0] not in _ASSISTANT:
        raise UserError(f"{where}: the user's first turn has no answer: give one, or remove the row")
    return _written(asked[0], turns[1][1], where)


def _turns(row: dict[str, Any], where: str) -> list[Any]:
    key = next(key for key in _CHATS if key in row)
    turns = row[key]
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: {key!r} holds no turns; a list of them is wanted")
    return turns


def _turn(turn: Any, where: str) -> tuple[str, str]:
    """(role, what is said)"""
    if not isinstance(turn, dict):
        raise UserError(f'{where}: a turn is an object such as {{"role": "user", "content": "..."}}')
    keys = ("from", "value") if "from" in turn else ("role", "content")
    role, said = (text.string(turn, key, where) for key in keys)
    return role, said


def _written(prompt: str, response: str, where: str) -> tuple[str, str]:
    for name, said in (("prompt", prompt), ("answer", response)):
        if not said.strip():
            raise UserError(f"{where}: the {name} is empty: give one, or remove the row")
    return prompt, response
