"""What stands around a question: templates by name, or given as text with one {prompt}."""

from __future__ import annotations

from r1mega.data.samples import PLACE
from r1mega.types import UserError

TEMPLATES = {
    # DeepSeek-R1 (arXiv 2501.12948v1), table 1, to the letter: that is why a full stop follows the question.
    "r1_zero": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with "
        "the answer. The reasoning process and answer are enclosed within <think> </think> and "
        "<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
        "<answer> answer here </answer>. User: {prompt}. Assistant:"
    ),
    "toy": "User: {prompt}=? Assistant:",  # of the toy corpus
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
