"""The smallest programming task: print a sum, or one with a number that the program reads.

    python: print 3+4-2           print(3+4-2)
    python: read n, print n+4-2   print(int(input())+4-2)

Graded by running the program (`rewards/code`). The sums are those of `data/toy.py`, with their hold-out.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from r1mega.data import toy
from r1mega.data.tasks.base import Draft, Generated

READ = 20  # a second input, that no toy problem starts with: a program with the result written in fails


@dataclass(frozen=True, kw_only=True)
class ToyCode(Generated):
    """levels: numbers of terms, equally likely. The gold answer is a program."""

    levels: tuple[int, ...] = (2, 3)
    name: str = "toy_code"
    grader: str = "code"

    def __post_init__(self) -> None:
        toy.problems(0, self.levels, held_out=False)  # refuses impossible levels, before a run begins

    def draw(self, rng: Random, *, held_out: bool) -> Draft:
        problem = next(toy.problems(rng.getrandbits(62), self.levels, held_out=held_out))
        expression = problem.expression
        if rng.random() < 0.5:
            tests = {"inputs": [""], "outputs": [f"{problem.answer}\n"]}
            return Draft(expression, f"python: print {expression}", f"print({expression})", {"tests": tests})
        first, rest = problem.terms[0], expression[1:]
        added = problem.answer - first
        tests = {
            "inputs": [f"{n}\n" for n in (first, READ)],
            "outputs": [f"{n + added}\n" for n in (first, READ)],
        }
        return Draft(
            expression, f"python: read n, print n{rest}", f"print(int(input()){rest})", {"tests": tests}
        )
