"""Files of judged answers, in the formats in which they are published. A complaint names file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from r1mega.config.reward_models import JudgmentData
from r1mega.data.formats.rows import read_rows
from r1mega.data.preferences.rows import Judgement, Preference
from r1mega.data.text import string
from r1mega.types import UserError

Row = dict[str, Any]
Judged = Preference | Judgement

HUMAN, ASSISTANT = "Human", "Assistant"
_TURN = re.compile(rf"(?:\A|\n\n)\s*({HUMAN}|{ASSISTANT}):")
_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": ""}
_LABELS: dict[object, bool] = {True: True, False: False, "safe": True, "unsafe": False}
"""1 and 0 are among them: they are equal to true and false."""


class Turn(NamedTuple):
    """What someone said. speaker: HUMAN, ASSISTANT, or "" for the system's words."""

    speaker: str
    text: str


def dialogue(turns: Sequence[Turn]) -> str:
    """A conversation as one prompt: the text of a single turn, else each turn with its speaker's name.

    The system's words stand before it as they are.
    """
    said = [turn for turn in turns if turn.speaker]
    words = [turn.text for turn in turns if not turn.speaker]
    told = [said[0].text] if len(said) == 1 else [f"{speaker}: {text}" for speaker, text in said]
    return "\n\n".join([*words, *told])


def read(path: Path, objective: str, data: JudgmentData) -> Iterator[Judged]:
    """Preferences (pairwise) or judgements (pointwise), in the file's order.

    Raises UserError for a file that cannot be read, and for the first row that is none of these.
    """
    reader = READERS[objective, data.format]
    return (reader(row, where, data) for where, row in read_rows(path))


def _pair(row: Row, where: str, data: JudgmentData) -> Preference:
    return Preference(
        *(string(row, key, where) for key in (data.prompt_key, data.chosen_key, data.rejected_key))
    )


def _label(row: Row, where: str, key: str) -> bool:
    value = row.get(key)
    if not isinstance(value, bool | int | str) or value not in _LABELS:
        raise UserError(f"{where}: {key!r} is {value!r}; true or false, 1 or 0, safe or unsafe is wanted")
    return _LABELS[value]


def _judgement(row: Row, where: str, data: JudgmentData) -> Judgement:
    prompt, response = string(row, data.prompt_key, where), string(row, data.response_key, where)
    return Judgement(prompt, response, _label(row, where, data.label_key))


def _sharegpt_pair(row: Row, where: str, _: JudgmentData) -> Preference:
    turns = _turns(row, "conversations", "from", "value", where)
    chosen, rejected = (
        _turn(row.get(key), "from", "value", f"{where}, {key!r}").text for key in ("chosen", "rejected")
    )
    return Preference(_asked(turns, where), chosen, rejected)


def _messages_judgement(row: Row, where: str, data: JudgmentData) -> Judgement:
    *turns, last = _turns(row, "messages", "role", "content", where)
    if last.speaker != ASSISTANT:
        raise UserError(f"{where}: 'messages' does not end with the assistant's answer")
    return Judgement(_asked(turns, where), last.text, _label(row, where, data.label_key))


def _transcript_pair(row: Row, where: str, _: JudgmentData) -> Preference:
    """The prompt is what both transcripts have in common, in whole turns; the answers are the rest."""
    chosen, rejected = (
        _spoken(string(row, key, where), f"{where}, {key!r}") for key in ("chosen", "rejected")
    )
    shared = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    both = (chosen, rejected)
    while shared and not all(len(said) > shared and said[shared].speaker == ASSISTANT for said in both):
        shared -= 1
    if not shared:
        raise UserError(f"{where}: 'chosen' and 'rejected' have no question in common")
    return Preference(_asked(chosen[:shared], where), _rest(chosen[shared:]), _rest(rejected[shared:]))


def _spoken(text: str, where: str) -> list[Turn]:
    begins = list(_TURN.finditer(text))
    if not begins or text[: begins[0].start()].strip():
        raise UserError(f"{where}: a text that begins with '{HUMAN}:' is wanted, not {text[:40]!r}")
    ends = [*(begin.start() for begin in begins[1:]), len(text)]
    return [Turn(b[1], text[b.end() : end].strip()) for b, end in zip(begins, ends, strict=True)]


def _rest(turns: Sequence[Turn]) -> str:
    """An answer, and what followed it where the transcripts part earlier."""
    first, *others = turns
    return "\n\n".join([first.text, *(f"{speaker}: {text}" for speaker, text in others)])


def _turns(row: Row, key: str, role: str, text: str, where: str) -> list[Turn]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: {key!r} is {value!r:.40}; a list of turns is wanted")
    return [_turn(one, role, text, f"{where}, {key!r}") for one in value]


def _turn(value: Any, role: str, text: str, where: str) -> Turn:
    if not isinstance(value, dict) or value.get(role) not in _ROLES:
        wanted = {role: "|".join(_ROLES), text: "..."}
        raise UserError(f"{where}: a turn such as {wanted} is wanted, not {value!r:.60}")
    return Turn(_ROLES[value[role]], string(value, text, where))


def _asked(turns: Sequence[Turn], where: str) -> str:
    if not any(turn.speaker == HUMAN for turn in turns):
        raise UserError(f"{where}: nobody asks anything before the answer")
    return dialogue(turns)


READERS: Mapping[tuple[str, str], Callable[[Row, str, JudgmentData], Judged]] = {
    ("pairwise", "rows"): _pair,
    ("pairwise", "sharegpt"): _sharegpt_pair,
    ("pairwise", "transcripts"): _transcript_pair,
    ("pointwise", "rows"): _judgement,
    ("pointwise", "messages"): _messages_judgement,
}
"""(objective, format) -> how a row is read. The config refuses other combinations."""
