"""The toy task: chained sums of one-digit numbers (`data/toy.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from r1mega.data import toy
from r1mega.data.tasks.base import Draft, Generated


@dataclass(frozen=True, kw_only=True)
class ToySums(Generated):
    """levels: numbers of terms, equally likely. Held out are the problems that the corpus holds out too."""

    levels: tuple[int, ...] = (3, 4, 5)
    name: str = "toy"
    grader: str = "integer"

    def __post_init__(self) -> None:
        toy.problems(0, self.levels, held_out=False)  # refuses impossible levels, before a run begins

    def draw(self, rng: Random, *, held_out: bool) -> Draft:
        problem = next(toy.problems(rng.getrandbits(62), self.levels, held_out=held_out))
        return Draft(problem.expression, f"{problem.expression}=?", str(problem.answer), {})
