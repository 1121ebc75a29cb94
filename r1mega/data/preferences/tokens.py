"""What a reward model reads: a prompt in the model's template, the answer, the stop token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r1mega.data.templates import Form
from r1mega.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Reading:
    """The same for training and for use. Prompts and answers are given without template."""

    tokenizer: Tokenizer
    form: Form

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """(prompt, answer) as text -> (prompt with bos, answer with the stop token) as ids."""
        bos = self.tokenizer.bos_id if self.form.begins_with_bos else None
        start = [] if bos is None else [bos]
        framed = [self.form(prompt) for prompt, _ in pairs]
        texts = [
            _apart(before, self.form.answer(text)) for before, (_, text) in zip(framed, pairs, strict=True)
        ]
        prompts, answers = self.tokenizer.encode_batch(framed), self.tokenizer.encode_batch(texts)
        stop = self.tokenizer.eos_id
        return [([*start, *p], [*a, stop]) for p, a in zip(prompts, answers, strict=True)]


def _apart(before: str, answer: str) -> str:
    """The answer, set off by a space that belongs to it where template and answer would touch."""
    touching = before and answer and not before[-1].isspace() and not answer[0].isspace()
    return f" {answer}" if touching else answer


def within(prompt: list[int], answer: list[int], longest: int) -> list[int]:
    """Prompt and answer as at most `longest` ids. What is cut is the beginning: the end is judged."""
    return [*prompt, *answer][-longest:]
