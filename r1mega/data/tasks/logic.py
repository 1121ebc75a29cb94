"""Knights and knaves: knights always tell the truth, knaves always lie; who is what?

Small puzzles with exactly one solution, found by trying all of them. Held out is a puzzle with all its
relabellings: whoever says what under which name, it is the same puzzle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from random import Random
from typing import NamedTuple

from r1mega.data.tasks.base import Draft, Generated, sieve
from r1mega.types import UserError

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hugo", "Iris", "Jon", "Kim", "Leo")
MOST_PEOPLE = 6  # relabellings grow as the factorial


class Claim(NamedTuple):
    """This person is a knight, or a knave."""

    person: int
    knight: bool


class Statement(NamedTuple):
    """One claim, or two joined by a key of JOINTS."""

    joint: str
    claims: tuple[Claim, ...]


class _Joint(NamedTuple):
    holds: Callable[[Iterable[bool]], bool]
    sign: str  # in the toy's notation


JOINTS: Mapping[str, _Joint] = {
    "and": _Joint(all, "&"),
    "or": _Joint(any, "|"),
    "if and only if": _Joint(lambda truths: len(set(truths)) == 1, "="),
}
World = tuple[bool, ...]  # who is a knight
Puzzle = tuple[Statement, ...]  # what each person says


def solutions(puzzle: Puzzle) -> list[World]:
    """Every world in which the knights' statements hold and the knaves' do not."""
    return [
        world
        for world in product((True, False), repeat=len(puzzle))
        if all(knight == _holds(said, world) for knight, said in zip(world, puzzle, strict=True))
    ]


def _holds(statement: Statement, world: World) -> bool:
    return JOINTS[statement.joint].holds(world[claim.person] == claim.knight for claim in statement.claims)


@dataclass(frozen=True, kw_only=True)
class Logic(Generated):
    """people: how many, equally likely. words: "plain" sentences, or the "toy" notation."""

    people: tuple[int, ...] = (2, 3)
    words: str = "plain"
    name: str = "logic"
    grader: str = "logic"

    def __post_init__(self) -> None:
        if not self.people or not 2 <= min(self.people) <= max(self.people) <= MOST_PEOPLE:
            raise UserError(f"logic: people {list(self.people)}: give numbers from 2 to {MOST_PEOPLE}")
        if self.words not in _WORDINGS:
            raise UserError(f"logic: words {self.words!r}: allowed are {', '.join(_WORDINGS)}")

    def draw(self, rng: Random, *, held_out: bool) -> Draft:
        return sieve(lambda: self._draft(rng), held_out=held_out, task=self.name)

    def _draft(self, rng: Random) -> Draft | None:
        people = rng.choice(self.people)
        puzzle = tuple(_statement(speaker, people, rng) for speaker in range(people))
        found = solutions(puzzle)
        if len(found) != 1:
            return None
        wording = _WORDINGS[self.words]
        names = wording.names(people, rng)
        terms = [wording.terms[not knight] for knight in found[0]]
        return Draft(
            essence=repr(_canonical(puzzle)),
            text=wording.question(puzzle, names),
            answer=wording.between.join(wording.claim(n, t) for n, t in zip(names, terms, strict=True)),
            facts={"roles": dict(zip(names, terms, strict=True)), "terms": list(wording.terms)},
        )


def toy_logic(people: tuple[int, ...] = (2,), name: str = "logic") -> Logic:
    """In the toy's notation `1:2-&1+ 2:1+`, 1 says "2 is a knave and 1 a knight", 2 says "1 is a knight"."""
    return Logic(people=people, words="toy", name=name)


def _statement(speaker: int, people: int, rng: Random) -> Statement:
    if rng.random() < 0.3:  # of oneself alone it would say nothing ("a knight") or be a paradox ("a knave")
        other = rng.choice([person for person in range(people) if person != speaker])
        return Statement("and", (Claim(other, rng.random() < 0.5),))
    joint = rng.choice(list(JOINTS))
    return Statement(joint, tuple(Claim(p, rng.random() < 0.5) for p in rng.sample(range(people), 2)))


def _canonical(puzzle: Puzzle) -> Puzzle:
    """The same for all relabellings of the people and all orders of the claims."""

    def relabelled(order: Sequence[int]) -> Puzzle:
        renamed = {
            order[speaker]: Statement(
                said.joint, tuple(sorted(Claim(order[c.person], c.knight) for c in said.claims))
            )
            for speaker, said in enumerate(puzzle)
        }
        return tuple(renamed[person] for person in range(len(puzzle)))

    return min(map(relabelled, permutations(range(len(puzzle)))))


class _Wording(NamedTuple):
    names: Callable[[int, Random], list[str]]
    terms: tuple[str, str]  # of a knight, of a knave
    claim: Callable[[str, str], str]
    joint: Callable[[str], str]
    between: str  # the claims of an answer
    question: Callable[[Puzzle, list[str]], str]


def _say(statement: Statement, names: list[str], words: str) -> str:
    wording = _WORDINGS[words]
    claims = [wording.claim(names[c.person], wording.terms[not c.knight]) for c in statement.claims]
    return wording.joint(statement.joint).join(claims)


def _plain_question(puzzle: Puzzle, names: list[str]) -> str:
    said = " ".join(
        f'{name} says: "{_say(statement, names, "plain")}."'
        for name, statement in zip(names, puzzle, strict=True)
    )
    return (
        "On an island everyone is either a knight, who always tells the truth, or a knave, who always lies. "
        f"You meet {', '.join(names[:-1])} and {names[-1]}. {said} Who is a knight and who is a knave? "
        "Name each of them, such as: X is a knight, Y is a knave."
    )


def _toy_question(puzzle: Puzzle, names: list[str]) -> str:
    return " ".join(f"{name}:{_say(said, names, 'toy')}" for name, said in zip(names, puzzle, strict=True))


_WORDINGS: Mapping[str, _Wording] = {
    "plain": _Wording(
        names=lambda people, rng: rng.sample(NAMES, people),
        terms=("knight", "knave"),
        claim=lambda name, term: f"{name} is a {term}",
        joint=lambda joint: f" {joint} ",
        between=", ",
        question=_plain_question,
    ),
    "toy": _Wording(
        names=lambda people, rng: [str(person) for person in range(1, people + 1)],
        terms=("+", "-"),
        claim=lambda name, term: f"{name}{term}",
        joint=lambda joint: JOINTS[joint].sign,
        between="",
        question=_toy_question,
    ),
}
