"""Which prompts come next: a weighted mixture of tasks with a cursor that is one position a task.

Tasks take turns by a fixed rule: the next prompt is of the task that is furthest behind its share. So no task
is ever ahead of its share by a whole prompt, and the shares are exact in the long run. All that is random is
what the tasks draw, by their seed: every rank that builds the same source takes the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

from r1mega.data.tasks.base import Question, Task
from r1mega.data.templates import Form, form
from r1mega.data.tokenizers import Tokenizer
from r1mega.types import Prompt, UserError

_PATIENCE = 1000  # too long prompts in a row, before it is taken for a mistake


@dataclass(frozen=True)
class Share:
    """A task in a mixture. weight: above 0, against the others'; template: a name, or text with {prompt}.

    The template "chat" is the model's own: see `PromptSource`.
    """

    task: Task
    weight: float = 1.0
    template: str = "plain"


@dataclass
class Cursor:
    """Where a task is. position: its next question; skipped: questions before that which were too long."""

    position: int = 0
    skipped: int = 0

    @property
    def taken(self) -> int:
        return self.position - self.skipped


class Place(NamedTuple):
    """Where a prompt comes from: which task of the mixture, and which position of it."""

    task: int
    position: int


class PromptSource:
    """Endless training prompts, and a fixed list of held-out ones.

    max_tokens: the longest prompt, bos included. A longer one is left out and counted in `skipped`, and the
    same task's next one comes instead.
    chat: what the template "chat" stands for, such as `chat.training_chat` of the model's folder.
    Raises UserError for a mixture that cannot be one.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        tokenizer: Tokenizer,
        *,
        seed: int,
        max_tokens: int,
        chat: Form | None = None,
    ) -> None:
        _check(shares, max_tokens)
        self._shares = tuple(shares)
        self._forms = [form(share.template, chat) for share in shares]
        self._tokenizer, self._seed, self._max_tokens = tokenizer, seed, max_tokens
        total = sum(share.weight for share in shares)
        self._weights = [share.weight / total for share in shares]
        self._cursors = [Cursor() for _ in shares]
        self._again: list[Place] = []
        self._taken: dict[str, Place] = {}
        self._repeated: set[str] = set()

    @property
    def graders(self) -> dict[str, str]:
        """Which rule grades each task's answers: for the rubric."""
        return {share.task.name: share.task.grader for share in self._shares}

    @property
    def skipped(self) -> dict[str, int]:
        """Training prompts left out so far because they were too long, by task."""
        return {s.task.name: c.skipped for s, c in zip(self._shares, self._cursors, strict=True)}

    def take(self, n: int) -> list[Prompt]:
        """The next n prompts: those that were put back, then new ones. No two new ones have the same id."""
        return [self._next() for _ in range(n)]

    def is_again(self, prompt: Prompt) -> bool:
        """Whether a prompt taken since the last `put_back` had been put back before."""
        return prompt.id in self._repeated

    def put_back(self, prompts: Sequence[Prompt]) -> None:
        """Ask these again, before any other: they were taken since the last call, but not used.

        All others of those are done with. Call it once a step, also with nothing.
        """
        self._again = [self._taken[prompt.id] for prompt in prompts] + self._again
        self._taken.clear()
        self._repeated.clear()

    def held_out(self, n: int) -> list[Prompt]:
        """The first n held-out prompts, the tasks in their shares; whatever was taken, the same ones.

        Fewer where a file has fewer, or where prompts are too long: the others do not take their places.
        """
        cursors = [Cursor() for _ in self._shares]
        found = []
        for _ in range(n):
            i = self._due(cursors)
            question = self._shares[i].task.held_out(cursors[i].position)
            cursors[i].position += 1
            prompt = question and self._prompt(i, question)
            if prompt:
                found.append(prompt)
        return found

    def state(self) -> dict[str, Any]:
        """Where the next prompt comes from, for `load_state`; plain JSON."""
        tasks = {
            share.task.name: {
                "identity": json.loads(json.dumps(share.task.identity())),
                "weight": share.weight,
                "position": cursor.position,
                "skipped": cursor.skipped,
            }
            for share, cursor in zip(self._shares, self._cursors, strict=True)
        }
        again = [[self._shares[i].task.name, position] for i, position in self._again]
        return {"seed": self._seed, "tasks": tasks, "again": again}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises UserError for another mixture or seed."""
        try:
            saved, positions = _settings(state), {name: _cursor(t) for name, t in state["tasks"].items()}
            again = [_put_back(positions, *place) for place in state.get("again", ())]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"the saved prompt position is damaged ({error!r}): use another checkpoint, or start anew"
            ) from error
        here = _settings(self.state())
        if differing := [name for name in here | saved if here.get(name) != saved.get(name)]:
            raise UserError(
                f"the saved prompt position is of another mixture: {', '.join(differing)} differ. Continue "
                f"with the tasks, weights and seed it began with, or start anew"
            )
        self._cursors = [positions[share.task.name] for share in self._shares]
        names = [share.task.name for share in self._shares]
        self._again = [Place(names.index(name), position) for name, position in again]
        self._taken.clear()
        self._repeated.clear()

    def _due(self, cursors: Sequence[Cursor]) -> int:
        """The task that is furthest behind its share; of equals the first."""
        after = 1 + sum(cursor.taken for cursor in cursors)
        behind = [w * after - c.taken for w, c in zip(self._weights, cursors, strict=True)]
        return max(range(len(behind)), key=behind.__getitem__)

    def _next(self) -> Prompt:
        if self._again:
            i, position = self._again.pop(0)
            prompt = self._prompt(i, self._shares[i].task.train(self._seed, position))
            assert prompt is not None, "it was asked before, so it is not too long"
            self._repeated.add(prompt.id)
        else:
            i, position, prompt = self._new(self._due(self._cursors))
        self._taken[prompt.id] = Place(i, position)
        return prompt

    def _new(self, i: int) -> tuple[int, int, Prompt]:
        task, cursor = self._shares[i].task, self._cursors[i]
        for _ in range(_PATIENCE):
            position = cursor.position
            question = task.train(self._seed, position)
            cursor.position += 1
            if prompt := self._prompt(i, question):
                return i, position, prompt
            cursor.skipped += 1
        raise UserError(
            f"task {task.name}: {_PATIENCE:,} prompts in a row are longer than the {self._max_tokens} tokens "
            f"allowed: allow longer prompts, or give shorter ones"
        )

    def _prompt(self, i: int, question: Question) -> Prompt | None:
        """None where it is too long."""
        text = self._forms[i](question.text)
        bos = self._tokenizer.bos_id if self._forms[i].begins_with_bos else None
        token_ids = (*(() if bos is None else (bos,)), *self._tokenizer.encode(text))
        if len(token_ids) > self._max_tokens:
            return None
        name = self._shares[i].task.name
        return Prompt(f"{name}/{question.key}", name, text, token_ids, question.answer, question.facts)


def _check(shares: Sequence[Share], max_tokens: int) -> None:
    names = [share.task.name for share in shares]
    if not names:
        raise UserError("a mixture needs at least one task")
    if len(set(names)) < len(names):
        raise UserError(f"two tasks of a mixture have the same name: {', '.join(names)}; give each its own")
    for share in shares:
        if not (isfinite(share.weight) and share.weight > 0):
            raise UserError(
                f"task {share.task.name}: its weight is {share.weight}, it must be above 0; leave out a task "
                f"that is not wanted"
            )
    if max_tokens < 1:
        raise UserError(f"prompts of at most {max_tokens} tokens: allow 1 or more")


def _settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """All of a state but the cursors, by the names that a person knows."""
    tasks = {f"task {name}": (task["identity"], task["weight"]) for name, task in state["tasks"].items()}
    return {"seed": state["seed"], **tasks}


def _cursor(task: Mapping[str, Any]) -> Cursor:
    cursor = Cursor(task["position"], task["skipped"])
    if not 0 <= cursor.skipped <= cursor.position:
        raise ValueError(f"{cursor.skipped} of {cursor.position} skipped")
    return cursor


def _put_back(cursors: Mapping[str, Cursor], name: str, position: int) -> tuple[str, int]:
    if not 0 <= position < cursors[name].position:
        raise ValueError(f"position {position} of {name} was put back before it was taken")
    return name, position
