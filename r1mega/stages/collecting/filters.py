"""Which answers are kept: a row a reason. DeepSeek-R1 (V1, section 2.3.3) drops answers that are not right,
thoughts of mixed languages, long paragraphs and code blocks; the rest keeps what is broken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from r1mega.config.collect import Filters
from r1mega.data.curate.response import (
    Parts,
    has_code_block,
    longest_paragraph,
    parts,
    says_something,
)
from r1mega.rewards import format
from r1mega.rewards.language import LANGUAGES, consistency, language_of
from r1mega.rewards.parts import QUESTION
from r1mega.rewards.repetition import repetition_penalty
from r1mega.types import Score, UserError


@dataclass(frozen=True)
class Candidate:
    """An answer before it is judged.

    question: what was asked, without a template. text: with the <think> that the prompt may have opened.
    tokens:   of the answer. score: by the task's rule; None where there is none.
    """

    question: str
    text: str
    tokens: int
    finish: Literal["stop", "length"]
    score: Score | None

    @property
    def parts(self) -> Parts | None:
        return parts(self.text)

    @property
    def thoughts(self) -> str:
        """The whole text where it has no think block."""
        found = self.parts
        return self.text if found is None else found.thoughts


Check = Callable[[Candidate], str | None]
"""Why a candidate is dropped, for a person; None where it may stay."""


class Dropped(NamedTuple):
    """reason: by name, as it is counted. detail: for a person."""

    reason: str
    detail: str


def checks(section: Filters) -> dict[str, Check]:
    """reason -> check, in the order in which they are asked. Raises UserError for an unknown language."""
    if section.language is not None and section.language not in LANGUAGES | {QUESTION}:
        raise UserError(
            f"filter.language {section.language!r}: known are {QUESTION}, {', '.join(sorted(LANGUAGES))}"
        )
    return dict(_checks(section))


def why_not(candidate: Candidate, section: Filters, asked: dict[str, Check]) -> Dropped | None:
    """The first reason to drop it; None where it is kept.

    What the rule says comes first, under the rule's own words: wrong, unparseable, timeout, error.
    """
    score = candidate.score
    if section.correct and score is not None and score.outcome != "correct":
        return Dropped(score.outcome, score.detail)
    for reason, check in asked.items():
        if (detail := check(candidate)) is not None:
            return Dropped(reason, detail)
    return None


def _checks(section: Filters) -> Iterator[tuple[str, Check]]:
    if section.ended:
        yield "not_ended", lambda one: f"cut after {one.tokens} tokens" if one.finish == "length" else None
    if section.format != "none":
        rule = format.RULES[section.format]
        yield "format", lambda one: None if rule(one.text) == 1.0 else f"not {section.format}"
    if section.summary:
        yield "no_summary", _no_summary
    yield "too_short", lambda one: _bound(one.tokens, section.min_tokens, None)
    if section.max_tokens is not None:
        yield "too_long", lambda one: _bound(one.tokens, None, section.max_tokens)
    if section.language is not None:
        yield "language", lambda one: _language(one, section.language or QUESTION, section.language_share)
    if section.repeated < 1:
        yield "repetition", lambda one: _repetition(one.text, section.ngram, section.repeated)
    if section.paragraph is not None:
        yield "long_paragraph", lambda one: _paragraph(one.thoughts, section.paragraph or 0)
    if not section.code_blocks:
        yield "code_block", lambda one: "in the thoughts" if has_code_block(one.thoughts) else None


def _no_summary(one: Candidate) -> str | None:
    found = one.parts
    return None if found is None or says_something(found.summary) else "not a word behind the thoughts"


def _bound(tokens: int, least: int | None, most: int | None) -> str | None:
    if least is not None and tokens < least:
        return f"{tokens} tokens, at least {least}"
    return f"{tokens} tokens, at most {most}" if most is not None and tokens > most else None


def _language(one: Candidate, target: str, least: float) -> str | None:
    wanted = (language_of(one.question) or "en") if target == QUESTION else target
    share = consistency(one.thoughts, wanted)
    return f"{share:.2f} in {wanted}, at least {least}" if share is not None and share < least else None


def _repetition(text: str, n: int, most: float) -> str | None:
    share = -repetition_penalty(text, n)
    return f"{share:.2f} of the {n}-grams came before, at most {most}" if share > most else None


def _paragraph(thoughts: str, most: int) -> str | None:
    longest = longest_paragraph(thoughts)
    return f"a paragraph of {longest} characters, at most {most}" if longest > most else None
