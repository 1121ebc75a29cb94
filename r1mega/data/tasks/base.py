"""What a task is, and what all generated ones share.

A task gives one question a position, training and held-out ones apart. A training question depends on the
task, the run's seed and its position alone, so one integer a task is the whole cursor of a run. Held-out
questions do not depend on the seed: runs with different seeds are evaluated on the same ones.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, NamedTuple, Protocol

from r1mega.types import UserError

_ATTEMPTS = 10_000  # tenfold what the rarest sensible settings need


@dataclass(frozen=True)
class Question:
    """A question without a template. key: its name within the task; the others as in `Prompt`."""

    key: str
    text: str
    answer: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """Questions by position, counted from 0."""

    @property
    def name(self) -> str:
        """Names the task in a mixture; begins the ids of its prompts."""

    @property
    def grader(self) -> str:
        """The rule that grades its answers, a key of `rewards.GRADERS`."""

    def train(self, seed: int, position: int) -> Question:
        """Never ends; a file starts over, in another order."""

    def held_out(self, position: int) -> Question | None:
        """Never trained on; None behind the last one."""

    def identity(self) -> dict[str, Any]:
        """What the questions depend on besides the seed, as JSON: with another, a cursor means nothing."""


class Draft(NamedTuple):
    """A generated question before it has a place.

    essence: the same for the same problem in other words or another order: what the hold-out goes by.
    """

    essence: str
    text: str
    answer: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Generated(ABC):
    """An endless task. Each position has a random stream of its own.

    Draws are independent, so a small space repeats itself. The fields are all that the questions depend on.
    """

    name: str
    grader: str

    @abstractmethod
    def draw(self, rng: Random, *, held_out: bool) -> Draft:
        """A question from either side of the hold-out."""

    def train(self, seed: int, position: int) -> Question:
        return self._question(f"{seed} {self.name} {position}", str(position), held_out=False)

    def held_out(self, position: int) -> Question:
        return self._question(f"held out {self.name} {position}", f"held-out-{position}", held_out=True)

    def identity(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, **asdict(self)}

    def _question(self, stream: str, key: str, *, held_out: bool) -> Question:
        # Random hashes a string the same way in every process.
        draft = self.draw(Random(stream), held_out=held_out)
        return Question(key, draft.text, draft.answer, draft.facts)


def sieve(make: Callable[[], Draft | None], *, held_out: bool, task: str) -> Draft:
    """The first draft of this side of the hold-out. make: a draft, or None where chance gave nothing usable.

    Raises UserError where there seems to be none, since too few questions are possible.
    """
    for _ in range(_ATTEMPTS):
        draft = make()
        if draft is not None and is_held_out(draft.essence) == held_out:
            return draft
    side = "held-out question" if held_out else "question to train on"
    raise UserError(
        f"task {task}: no {side} in {_ATTEMPTS:,} attempts; its settings allow too few, widen them"
    )


def is_held_out(essence: str) -> bool:
    """A tenth of all problems, the same ones in every process."""
    digest = hashlib.blake2b(essence.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 10 == 0
