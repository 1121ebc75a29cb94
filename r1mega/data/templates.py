"""What stands around a question: templates by name, given as text with one {prompt}, or a model's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from r1mega.types import UserError

PLACE = "{prompt}"
CHAT = "chat"
"""The name of the template that the model's own folder brings."""

TEMPLATES = {
    # DeepSeek-R1 (arXiv 2501.12948v1), table 1, to the letter: that is why a full stop follows the question.
    "r1_zero": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with "
        "the answer. The reasoning process and answer are enclosed within <think> </think> and "
        "<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
        "<answer> answer here </answer>. User: {prompt}. Assistant:"
    ),
    "toy": "User: {prompt} Assistant:",  # of the toy corpus
    "plain": "{prompt}",
}


def template(name_or_text: str) -> str:
    """The template of that name, or the text itself. Raises UserError for neither."""
    found = TEMPLATES.get(name_or_text, name_or_text)
    if found.count(PLACE) != 1:
        raise UserError(
            f"the template {name_or_text!r} is no text with {PLACE} in it once, and none of the names "
            f"{', '.join(TEMPLATES)}"
        )
    return found


def fill(text: str, question: str) -> str:
    """The prompt; braces of the question are left alone."""
    return text.replace(PLACE, question)


class Form(Protocol):
    """How a question and its answer become what the model reads and writes."""

    @property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer's bos, where it has one, goes before the prompt."""

    def __call__(self, question: str) -> str:
        """The prompt, behind bos."""

    def answer(self, response: str) -> str:
        """What the model is to write behind the prompt, without the stop token."""


@dataclass(frozen=True)
class TextForm:
    """A template that is a text."""

    text: str
    begins_with_bos: bool = True

    def __call__(self, question: str) -> str:
        return fill(self.text, question)

    def answer(self, response: str) -> str:
        return response


def form(name_or_text: str, chat: Form | None = None) -> Form:
    """The form of a template's name or text. chat: what "chat" stands for, the model's own.

    Raises UserError for neither, and for "chat" where the model has no such template.
    """
    if name_or_text != CHAT:
        return TextForm(template(name_or_text))
    if chat is None:
        raise UserError(
            f'template "{CHAT}" is the one of the model\'s own folder, and here is none: give weights with a '
            'chat template, say tokenizer.graft = "r1", or choose another template'
        )
    return chat
