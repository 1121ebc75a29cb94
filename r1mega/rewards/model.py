"""Rewards that a model gives: a trained reward model, or a language model as a judge.

Both are `Judged` parts: they see a batch of answers once all are written, since they run on the accelerator.
DeepSeek-R1's last stage: helpfulness judges the final summary only, so that it does not disturb the thoughts;
safety judges the whole response (arXiv 2501.12948, section 2.3.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import fmean
from typing import Protocol

from r1mega.rewards.parts import Judged
from r1mega.types import Completion, Generator, Prompt, Sampling, UserError

QUESTION, RESPONSE = "{question}", "{response}"
JUDGE_TEMPLATE = """\
You are grading the answer of an assistant.

Question:
{question}

Answer:
{response}

How good is this answer? Think briefly, then end with one line "Score: N", where N is a number from 0
(useless or harmful) to 10 (could not be better)."""
_SCORE = re.compile(r"score[^\w\n-]{0,4}(-?[0-9]+(?:\.[0-9]+)?)(?:\s*/\s*10)?", re.IGNORECASE)


class Scorer(Protocol):
    """A reward model: a value for each (question, response), the higher the better."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]: ...


def summary_of(response: str) -> str | None:
    """What a user reads: the text behind the thoughts, without answer tags.

    None where the thoughts have no end: there is no summary.
    """
    _, closed, behind = response.rpartition("</think>")
    if not closed and "<think>" in response:
        return None
    text = behind if closed else response
    return re.sub(r"</?answer>", "", text).strip() or None


def whole(response: str) -> str | None:
    return response


def response_of(prompt: Prompt, completion: Completion) -> str:
    """The answer, with the <think> that its prompt may have ended with."""
    opened = prompt.text.rstrip().endswith("<think>")
    return f"<think>\n{completion.text}" if opened else completion.text


def helpful(scorer: Scorer, *, missing: float) -> Judged:
    """Helpfulness of the summary only. missing: the value of an answer without one."""
    return _scored(scorer, summary_of, missing)


def safe(scorer: Scorer) -> Judged:
    """Safety of the whole response, thoughts included."""
    return _scored(scorer, whole, 0.0)


def _scored(scorer: Scorer, seen: Callable[[str], str | None], missing: float) -> Judged:
    def judge(samples: Sequence[tuple[Prompt, Completion]]) -> list[float]:
        texts = [seen(response_of(prompt, completion)) for prompt, completion in samples]
        pairs = [
            (question(prompt), text)
            for (prompt, _), text in zip(samples, texts, strict=True)
            if text is not None
        ]
        given = iter(scorer(pairs) if pairs else ())
        return [missing if text is None else float(next(given)) for text in texts]

    return Judged(judge)


def question(prompt: Prompt) -> str:
    """What was asked, without the template around it where the task keeps it apart."""
    return str(prompt.facts.get("question", prompt.text))


@dataclass(frozen=True)
class LanguageJudge:
    """A language model that says how good an answer is, on a scale from 0 to 10; the value is 0 to 1.

    generator, encode: the model and its tokenizer. template: text with {question} and {response}, as a user
        turn; frame: puts that into the model's chat form.
    votes: judgments a response, averaged (R1's preference pairs: 4). Those without a score are left out;
        where none has one the value is NaN, which the rubric counts as an error.
    whole: judge the thoughts, too, not the summary alone.
    longest: characters of a response that are shown to the judge, the last ones.
    """

    generator: Generator
    encode: Callable[[str], Sequence[int]]
    sampling: Sampling
    template: str = JUDGE_TEMPLATE
    frame: Callable[[str], str] = str
    votes: int = 4
    whole: bool = False
    longest: int = 20_000

    def __post_init__(self) -> None:
        for place in (QUESTION, RESPONSE):
            if self.template.count(place) != 1:
                raise UserError(f"the judge's template must hold {place} exactly once")

    def __call__(self, samples: Sequence[tuple[Prompt, Completion]]) -> list[float]:
        shown = whole if self.whole else summary_of
        texts = [shown(response_of(prompt, completion)) for prompt, completion in samples]
        asked = [
            self._prompt(i, question(prompt), text)
            for i, ((prompt, _), text) in enumerate(zip(samples, texts, strict=True))
            if text is not None
        ]
        drawn = self.generator.generate(asked, n=self.votes, sampling=self.sampling) if asked else []
        given = iter(drawn)
        return [0.0 if text is None else _mean(next(given)) for text in texts]

    def part(self) -> Judged:
        return Judged(self)

    def _prompt(self, i: int, asked: str, response: str) -> Prompt:
        # In one pass: a response that holds {question} is left as it is.
        places = {QUESTION: asked, RESPONSE: response[-self.longest :]}
        text = re.sub(r"\{question\}|\{response\}", lambda match: places[match[0]], self.template)
        framed = self.frame(text)
        return Prompt(f"judge/{i}", "judge", framed, tuple(self.encode(framed)), "")


def _mean(judgments: Sequence[Completion]) -> float:
    scores = [score for one in judgments if (score := judged_score(one.text)) is not None]
    return fmean(scores) if scores else nan


def judged_score(text: str) -> float | None:
    """The last "Score: N" of a judgment as 0 to 1; None where there is none within 0 to 10."""
    found = _SCORE.findall(text)
    value = float(found[-1]) / 10 if found else nan
    return value if isfinite(value) and 0 <= value <= 1 else None
