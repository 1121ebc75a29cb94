"""Questions from JSON Lines files, each in its publisher's own format."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from r1mega.data import text
from r1mega.data.source import split
from r1mega.data.tasks.base import Question
from r1mega.types import UserError

_SPLIT_SEED = 0  # the held-out rows are the same in every run
_ROLE = re.compile(r"\((\d+)\) (\S.*?) is an? (\w+)")
_Row = dict[str, Any]


class _Gold(NamedTuple):
    answer: str
    facts: Mapping[str, Any]


class Format(NamedTuple):
    """questions: the keys of which one holds the question. gold: (row, "file, line n") -> the gold answer."""

    questions: tuple[str, ...]
    gold: Callable[[_Row, str], _Gold]
    grader: str


class FileTask:
    """A file's rows, all read at once. Training shuffles them anew each epoch, by the run's seed.

    held_out: another file, which is then held out as a whole, or the fraction of this one's rows that is.
    Raises UserError for a file that cannot be read or is not in this format, naming the line.
    """

    def __init__(
        self,
        name: str,
        path: str | os.PathLike[str],
        format: str,
        *,
        held_out: str | os.PathLike[str] | float = 0.02,
    ) -> None:
        if format not in FORMATS:
            raise UserError(f"{name}: format {format!r}: allowed are {', '.join(FORMATS)}")
        self.name, self.grader, self._format = name, FORMATS[format].grader, format
        rows = _read(Path(path), FORMATS[format])
        if isinstance(held_out, int | float):
            kept, apart = split(len(rows), held_out, _SPLIT_SEED)
            self._train, self._held_out = [rows[i] for i in kept], [rows[i] for i in apart]
        else:
            self._train, self._held_out = rows, _read(Path(held_out), FORMATS[format])
        self._digest = _digest(self._train)
        self._held_out_order = np.random.default_rng(_SPLIT_SEED).permutation(len(self._held_out))
        self._shuffled: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        """Questions to train on, an epoch."""
        return len(self._train)

    def train(self, seed: int, position: int) -> Question:
        """A key is the row's number, from 0; from the second epoch on "#2" and so on follow."""
        epoch, within = divmod(position, len(self._train))
        question = self._train[self._order(seed, epoch)[within]]
        return question if not epoch else _keyed(question, f"{question.key}#{epoch + 1}")

    def held_out(self, position: int) -> Question | None:
        if position >= len(self._held_out):
            return None
        question = self._held_out[self._held_out_order[position]]
        return _keyed(question, f"held-out-{question.key}")

    def identity(self) -> dict[str, Any]:
        return {"kind": self._format, "rows": len(self._train), "digest": self._digest}

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        if self._shuffled is None or self._shuffled[0] != (seed, epoch):
            rng = np.random.default_rng((seed, epoch, crc32(self.name.encode())))
            self._shuffled = (seed, epoch), rng.permutation(len(self._train))
        return self._shuffled[1]


def _digest(questions: list[Question]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for question in questions:
        digest.update(repr((question.key, question.text, question.answer)).encode())
    return digest.hexdigest()


def _keyed(question: Question, key: str) -> Question:
    return Question(key, question.text, question.answer, question.facts)


def _read(path: Path, format: Format) -> list[Question]:
    questions = []
    for number, (where, row) in enumerate(text.read_objects(text.existing(path))):
        key = next((key for key in format.questions if key in row), format.questions[0])
        asked = text.string(row, key, where)
        if not asked.strip():
            raise UserError(f"{where}: {key!r} is empty: give a question or remove the line")
        answer, facts = format.gold(row, where)
        questions.append(Question(str(number), asked, answer, facts))
    return questions


def _after_hashes(row: _Row, where: str) -> _Gold:
    """GSM8K: the worked solution ends with `#### 42`."""
    _, mark, answer = text.string(row, "answer", where).rpartition("####")
    if not mark or not answer.strip():
        raise UserError(f"{where}: 'answer' does not end with '#### ' and a number, as GSM8K's do")
    return _Gold(answer.strip(), {})


def _final_answer(row: _Row, where: str) -> _Gold:
    """MATH: `answer` where there is one, as text or a number; else the last \\boxed of `solution`."""
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return _Gold(str(int(answer) if float(answer).is_integer() else answer), {})
    if answer is not None:
        return _Gold(text.string(row, "answer", where).strip(), {})
    boxed = _last_boxed(text.string(row, "solution", where))
    if boxed is None:
        raise UserError(f"{where}: no key 'answer', and no \\boxed{{...}} in 'solution'")
    return _Gold(boxed, {})


def _roles(row: _Row, where: str) -> _Gold:
    """Knights and knaves: `(1) Zoey is a knight`, a line each."""
    solution = text.string(row, "solution_text_format", where)
    roles = {name: role for _, name, role in _ROLE.findall(solution)}
    if not roles:
        raise UserError(f"{where}: 'solution_text_format' has no line such as '(1) Zoey is a knight'")
    answer = ", ".join(f"{name} is a {role}" for name, role in roles.items())
    return _Gold(answer, {"roles": roles, "terms": ["knight", "knave"]})


def _last_boxed(solution: str) -> str | None:
    """What is in the last \\boxed{...}, braces matched; \\boxed 5 and \\fbox count.

    As a publisher writes it; what a model boxes is read by `rewards.number`, which this room cannot ask.
    """
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        return None
    rest = solution[start:].partition("box")[2].removeprefix("ed").lstrip()
    if not rest.startswith("{"):
        return rest[:1] or None
    depth = 0
    for at, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if not depth:
            return rest[1:at].strip()
    return None


FORMATS: Mapping[str, Format] = {
    "gsm8k": Format(("question",), _after_hashes, "number"),
    "math": Format(("problem", "question"), _final_answer, "number"),
    "kk": Format(("quiz",), _roles, "logic"),
}
