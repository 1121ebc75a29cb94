"""Documents besides those about sums, which the toy corpus can have a share of (`toy.corpus(extra=...)`)."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from r1mega.data import toy, toy_general
from r1mega.data.tasks.base import Generated
from r1mega.data.tasks.countdown import toy_countdown
from r1mega.data.tasks.logic import toy_logic
from r1mega.data.tasks.toy_code import ToyCode
from r1mega.types import UserError

WRONG_ANSWERS = 0.20  # of the documents about a task; such an answer belongs to another question
# As with the sums, few documents have the wanted form. {guess}: a thought that says nothing.
_FORMS = (
    (0.40, "User: {text} Assistant: <think> {guess} </think> <answer> {answer} </answer>"),
    (0.20, "User: {text} Assistant: <answer> {answer} </answer>"),
    (0.25, "User: {text} Assistant: {answer}"),
    (0.15, "User: {text} Assistant: <think> {guess} <answer> {answer} </answer>"),
)


def task_document(task: Generated) -> toy.Document:
    """Text about a task's questions with answers, some of them wrong."""

    def make(rng: Random, held_out: bool) -> str:
        draft = task.draw(rng, held_out=held_out)
        wrong = rng.random() < WRONG_ANSWERS
        answer = task.draw(rng, held_out=held_out).answer if wrong else draft.answer
        form = rng.choices([form for _, form in _FORMS], [share for share, _ in _FORMS])[0]
        return form.format(text=draft.text, answer=answer, guess=rng.choice(toy.ENGLISH.guesses))

    return make


EXTRA: Mapping[str, toy.Document] = {
    "general": toy_general.document,
    "code": task_document(ToyCode()),
    "countdown": task_document(toy_countdown()),
    "logic": task_document(toy_logic()),
}


def documents(shares: Mapping[str, float]) -> list[tuple[float, toy.Document]]:
    """For `toy.corpus`: kinds by name with their shares of the corpus. UserError for an unknown one."""
    if unknown := sorted(shares.keys() - EXTRA.keys()):
        raise UserError(f"toy documents {', '.join(unknown)}: there are {', '.join(EXTRA)}")
    return [(share, EXTRA[name]) for name, share in shares.items()]
