"""Texts and pairs of prompt and answer as tokenised `Sample`s.

Every sequence starts with the tokenizer's bos, where it has one: nothing predicts the first token of a
sequence, so without bos the first word of a text would never be learned. Whoever generates must start with it
too.

Prompt and answer are tokenised apart, so that the tokens of a training prompt are those of the same prompt
when the model is asked, and the loss starts exactly at the answer. What a template ends with therefore
belongs to the prompt: where running text has "Assistant: word", the piece " word" can only be learned if the
template ends without the space and the answer starts with it. A SentencePiece model with a dummy prefix puts
a space before template and answer by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from r1mega.data.templates import CHAT, PLACE, Form, form
from r1mega.data.tokenizers import Tokenizer
from r1mega.types import Sample, UserError

_T = TypeVar("_T")
_BATCH = 256  # texts tokenised at a time


@dataclass
class Report:
    """What became of the input. Filled while the samples are drawn, complete when they are."""

    kept: int = 0  # samples given
    empty: int = 0  # texts without a token, pairs without an answer: dropped
    too_long: int = 0  # pairs longer than the limit: dropped
    tokens: int = 0  # in the samples given
    counted: int = 0  # of those, the ones that count in the loss

    @property
    def dropped(self) -> int:
        return self.empty + self.too_long

    def keep(self, sample: Sample) -> Sample:
        self.kept += 1
        self.tokens += len(sample)
        self.counted += int(sample.mask.sum())
        return sample


def text_samples(
    texts: Iterable[str], tokenizer: Tokenizer, *, max_length: int, report: Report
) -> Iterator[Sample]:
    """Texts to learn as a whole: bos, the text, eos; all but the first token count.

    A sequence longer than max_length tokens is cut into samples that each begin with the last token of the
    one before, so that every token is predicted exactly once.
    """
    _check_length(max_length)
    return _text_samples(texts, tokenizer, max_length, report)


def pair_samples(
    pairs: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    *,
    template: str,
    max_length: int,
    report: Report,
    chat: Form | None = None,
) -> Iterator[Sample]:
    """Answers to learn: bos, the template with the prompt in it, the answer, eos; answer and eos count.

    template: any text with one "{prompt}", or "chat", which is the form `chat`. A pair longer than max_length
    tokens is dropped, since half an answer teaches to stop in the middle or not at all.
    """
    _check_length(max_length)
    if template != CHAT and template.count(PLACE) != 1:
        raise UserError(f"the template {template!r} must have {PLACE} in it, once, or be {CHAT}")
    return _pair_samples(pairs, tokenizer, form(template, chat), max_length, report)


def _text_samples(
    texts: Iterable[str], tokenizer: Tokenizer, max_length: int, report: Report
) -> Iterator[Sample]:
    for batch in _batches(texts):
        for ids in tokenizer.encode_batch(batch):
            if not ids:
                report.empty += 1
                continue
            sequence = [*_start(tokenizer), *ids, tokenizer.eos_id]
            for begin in range(0, len(sequence) - 1, max_length - 1):
                yield report.keep(_sample(sequence[begin : begin + max_length], prompt_length=1))


def _pair_samples(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, form: Form, max_length: int, report: Report
) -> Iterator[Sample]:
    start = _start(tokenizer) if form.begins_with_bos else []
    for batch in _batches(pairs):
        prompts = tokenizer.encode_batch([form(prompt) for prompt, _ in batch])
        answers = tokenizer.encode_batch([form.answer(answer) if answer else "" for _, answer in batch])
        for prompt_ids, answer_ids in zip(prompts, answers, strict=True):
            prefix = [*start, *prompt_ids]
            sequence = [*prefix, *answer_ids, tokenizer.eos_id]
            if not answer_ids:
                report.empty += 1
            elif len(sequence) > max_length:
                report.too_long += 1
            else:
                yield report.keep(_sample(sequence, prompt_length=max(1, len(prefix))))


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _start(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _sample(ids: list[int], prompt_length: int) -> Sample:
    mask = np.ones(len(ids), np.uint8)
    mask[:prompt_length] = 0
    return Sample(np.array(ids, np.int32), mask)


def _check_length(max_length: int) -> None:
    if max_length < 2:
        raise UserError(f"sequences of {max_length} tokens hold nothing to predict: allow 2 or more")
