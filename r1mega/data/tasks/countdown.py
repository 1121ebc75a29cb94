"""Countdown: make a target from given numbers, each used exactly once.

Questions are made from a random expression, so each has a solution: the gold answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from r1mega.data.tasks.base import Draft, Generated, sieve
from r1mega.types import UserError

_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}  # how firmly an operator binds
_ATOM = 3
_WORDS: Mapping[str, str] = {
    "plain": "Use each of the numbers {numbers} exactly once, with {operators} and parentheses, to make "
    "{target}. The answer is the expression.",
    # Words and signs of the toy corpus: its tokenizer spends few tokens on them.
    "toy": "count {target} of {numbers}",
}


class _Term(NamedTuple):
    value: int
    text: str
    strength: int


@dataclass(frozen=True, kw_only=True)
class Countdown(Generated):
    """counts: how many numbers, equally likely; largest: of the numbers, from 1; highest: of the targets."""

    counts: tuple[int, ...] = (3, 4)
    largest: int = 99
    highest: int = 99
    operators: str = "+-*/"
    words: str = "plain"
    name: str = "countdown"
    grader: str = "countdown"

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 2:
            raise UserError(f"countdown: counts {list(self.counts)}: give at least one, each 2 or more")
        if self.largest < 1 or self.highest < 1:
            raise UserError(f"countdown: largest {self.largest} and highest {self.highest} must be 1 or more")
        if not self.operators or set(self.operators) - set(_STRENGTH):
            raise UserError(f"countdown: operators {self.operators!r}: give some of {''.join(_STRENGTH)}")
        if self.words not in _WORDS:
            raise UserError(f"countdown: words {self.words!r}: allowed are {', '.join(_WORDS)}")

    def draw(self, rng: Random, *, held_out: bool) -> Draft:
        return sieve(lambda: self._draft(rng), held_out=held_out, task=self.name)

    def _draft(self, rng: Random) -> Draft | None:
        numbers = [rng.randint(1, self.largest) for _ in range(rng.choice(self.counts))]
        solution = self._combine([_Term(n, str(n), _ATOM) for n in numbers], rng)
        if solution is None or not 1 <= solution.value <= self.highest:
            return None
        rng.shuffle(numbers)
        text = _WORDS[self.words].format(
            numbers=_listed(numbers, self.words), operators=", ".join(self.operators), target=solution.value
        )
        return Draft(
            essence=f"{solution.value} {sorted(numbers)}",
            text=text,
            answer=solution.text,
            facts={"numbers": numbers, "target": solution.value},
        )

    def _combine(self, terms: list[_Term], rng: Random) -> _Term | None:
        """All terms in one; None where chance asked for a negative total or a fraction."""
        while len(terms) > 1:
            left, right = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
            joined = _apply(rng.choice(self.operators), left, right)
            if joined is None:
                return None
            terms.append(joined)
        return terms[0]


def toy_countdown(counts: tuple[int, ...] = (2, 3), name: str = "countdown") -> Countdown:
    """Digits, + and - only, in the toy's words: `count 6 of 3 5 2`."""
    return Countdown(counts=counts, largest=9, highest=99, operators="+-", words="toy", name=name)


def _apply(operator: str, left: _Term, right: _Term) -> _Term | None:
    if operator == "/" and (right.value == 0 or left.value % right.value):
        return None
    if operator == "-" and left.value < right.value:
        return None
    value = {
        "+": left.value + right.value,
        "-": left.value - right.value,
        "*": left.value * right.value,
        "/": left.value // (right.value or 1),
    }[operator]
    strength = _STRENGTH[operator]
    first = left.text if left.strength >= strength else f"({left.text})"
    firm = right.strength > strength or (right.strength == strength and operator in "+*")
    return _Term(value, f"{first}{operator}{right.text if firm else f'({right.text})'}", strength)


def _listed(numbers: list[int], words: str) -> str:
    return (" " if words == "toy" else ", ").join(map(str, numbers))
