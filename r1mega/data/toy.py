"""The toy task and its noisy corpus, on which R1 can be watched on two CPU cores.

A problem is a chained sum of one-digit terms, `User: 2+9-6+6=? Assistant:`, whose running total never goes
below 0. Its level is its number of terms. A hash of the problem holds out 10% of all problems: corpus,
fine-tuning and RL draw from the rest, evaluation from those. (The steps of a chain of thought are sums of two
terms, but no problems.)

The corpus is like web text about such sums: few documents show the wanted form, many are wrong, untagged or
broken (KINDS has the shares).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from r1mega.types import UserError

THINK_TAGS = ("<think>", "</think>", "<answer>", "</answer>")

SUBTRACT_RATE = 0.35  # of the later terms, where the total allows
STEP_ERROR_RATE = 0.05  # a step of a chain is wrong, and the error carries on
CORRECTED_DOCUMENTS = 0.10  # documents that correct themselves ...
CORRECTION_RATE = 0.35  # ... at this share of their steps: a wrong total, "wait", the right one
WRONG_ANSWER_RATE = 0.20  # of answers without a chain
_STEP_ERRORS = (-10, -2, -1, 1, 2, 10)
_ANSWER_ERRORS = (-10, -3, -2, -1, 1, 2, 3, 10)

Document = Callable[[Random, bool], str]
"""Writes a document of another kind: (source of chance, whether it is held out) -> text."""


@dataclass(frozen=True)
class Problem:
    """A chained sum. terms: the signed one-digit terms, first one positive."""

    terms: tuple[int, ...]

    @property
    def level(self) -> int:
        return len(self.terms)

    @property
    def expression(self) -> str:
        return str(self.terms[0]) + "".join(f"{term:+d}" for term in self.terms[1:])

    @property
    def prompt(self) -> str:
        """Ends without a space: the answer begins with one."""
        return f"User: {self.expression}=? Assistant:"

    @property
    def answer(self) -> int:
        return sum(self.terms)

    @property
    def held_out(self) -> bool:
        digest = hashlib.blake2b(self.expression.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % 10 == 0


@dataclass(frozen=True)
class Language:
    first: str
    then: str
    end: str
    so: str
    wait: str
    guesses: tuple[str, ...]


ENGLISH = Language("first ", "then ", ";", "so ", "wait ", ("easy", "i guess", "let me see", "hmm"))
CHINESE = Language("先", "再", "；", "所以", "等等", ("简单", "我猜", "看看", "嗯"))
# What a document may be written in; of several languages, each step draws one.
LANGUAGES: tuple[tuple[tuple[Language, ...], float], ...] = (
    ((ENGLISH,), 0.45),
    ((CHINESE,), 0.25),
    ((ENGLISH, CHINESE), 0.30),
)


@dataclass(frozen=True)
class Kind:
    """One kind of document: its share of the corpus, and its forms, which are equally likely.

    chain: a chain of thought, which comes to `result`. stated: an answer given without a chain.
    """

    name: str
    share: float
    forms: tuple[str, ...]


_Q = "{problem.prompt} "
KINDS = (
    Kind("tagged chain", 0.27, (_Q + "<think> {chain} </think> <answer> {result} </answer>",)),
    Kind("untagged chain", 0.25, (_Q + "{chain}", _Q + "{chain} <answer> {result} </answer>")),
    Kind(
        "direct answer",
        0.18,
        (_Q + "{stated}", _Q + "it is {stated}", "{problem.expression}={stated}", _Q + "答案 {stated}"),
    ),
    Kind(
        "broken tags",
        0.13,
        (
            _Q + "<think> {chain} <answer> {result} </answer>",
            _Q + "<think> {chain} </think> {result}",
            _Q + "<answer> {result} </answer> <think> {chain} </think>",
        ),
    ),
    Kind("answer tag only", 0.07, (_Q + "<answer> {stated} </answer>",)),
    Kind("tagged guess", 0.06, (_Q + "<think> {guess} </think> <answer> {stated} </answer>",)),
    Kind("unrelated", 0.04, ()),
)


def problems(seed: int, levels: Sequence[int], *, held_out: bool) -> Iterator[Problem]:
    """Endless problems, levels equally likely. Raises UserError for impossible levels."""
    return _problems(_stream(seed, "problems", held_out), _check_levels(levels), held_out)


def corpus(
    count: int,
    seed: int,
    levels: Sequence[int],
    *,
    held_out: bool = False,
    extra: Sequence[tuple[float, Document]] = (),
) -> Iterator[str]:
    """`count` documents on problems of these levels: on all but the held-out ones, or on those alone.

    extra: documents of other kinds, each with its share of the corpus (`toy_extra.documents`).
    The same arguments give the same documents, and a larger count continues a smaller one's.
    Raises UserError for impossible levels, a negative count, and shares that leave nothing to the sums.
    """
    if count < 0:
        raise UserError(f"a corpus cannot have {count} documents")
    rng = _stream(seed, "corpus", held_out)
    source = _problems(rng, _check_levels(levels), held_out)
    if not extra:
        return (_document(next(source), rng) for _ in range(count))
    shares = _check_shares([share for share, _ in extra])
    others = [make for _, make in extra]

    def document() -> str:
        make = rng.choices([None, *others], [1 - sum(shares), *shares])[0]
        return make(rng, held_out) if make else _document(next(source), rng)

    return (document() for _ in range(count))


def chain(
    problem: Problem, rng: Random, languages: Sequence[Language], *, error_rate: float, correction_rate: float
) -> tuple[str, int]:
    """A chain of thought, one step a term, and the result it comes to.

    At `error_rate` a step's total is wrong and the chain goes on from there; at `correction_rate` a step is
    first wrong, then corrected. With an error_rate of 0 the result is the problem's answer.
    """
    total, steps = problem.terms[0], []
    for i, term in enumerate(problem.terms[1:]):
        language = rng.choice(languages)
        word, right = language.then if i else language.first, total + term
        reached = right
        if rng.random() < correction_rate:
            steps.append(f"{word}{total}{term:+d}={_wrong(right, _STEP_ERRORS, rng)}{language.end}")
            word = language.wait
        elif rng.random() < error_rate:
            reached = _wrong(right, _STEP_ERRORS, rng)
        steps.append(f"{word}{total}{term:+d}={reached}{language.end}")
        total = reached
    return " ".join([*steps, f"{rng.choice(languages).so}{total}"]), total


def _check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    if not levels or min(levels) < 2:
        raise UserError(f"toy levels {list(levels)}: give at least one, each the number of terms, 2 or more")
    return tuple(levels)


def _check_shares(shares: Sequence[float]) -> Sequence[float]:
    if min(shares) <= 0 or not sum(shares) < 1:
        raise UserError(
            f"shares {list(shares)} of other documents: each must be above 0, their sum below 1 to leave sums"
        )
    return shares


def _stream(seed: int, purpose: str, held_out: bool) -> Random:
    return Random(f"{seed} {purpose} {held_out}")  # a string is hashed the same way in every process


def _problems(rng: Random, levels: Sequence[int], held_out: bool) -> Iterator[Problem]:
    while True:
        terms = [total := rng.randint(1, 9)]
        for _ in range(rng.choice(levels) - 1):
            term = rng.randint(1, 9)
            if rng.random() < SUBTRACT_RATE and total >= term:
                term = -term
            terms.append(term)
            total += term
        if (problem := Problem(tuple(terms))).held_out == held_out:
            yield problem


def _document(problem: Problem, rng: Random) -> str:
    kind = rng.choices(KINDS, [kind.share for kind in KINDS])[0]
    if not kind.forms:
        return _unrelated(rng)
    languages = rng.choices([names for names, _ in LANGUAGES], [share for _, share in LANGUAGES])[0]
    correction_rate = CORRECTION_RATE if rng.random() < CORRECTED_DOCUMENTS else 0.0
    text, result = chain(problem, rng, languages, error_rate=STEP_ERROR_RATE, correction_rate=correction_rate)
    wrong = rng.random() < WRONG_ANSWER_RATE
    stated = _wrong(problem.answer, _ANSWER_ERRORS, rng) if wrong else problem.answer
    guess = rng.choice([guess for language in languages for guess in language.guesses])
    return rng.choice(kind.forms).format(
        problem=problem, chain=text, result=result, stated=stated, guess=guess
    )


def _wrong(right: int, errors: Sequence[int], rng: Random) -> int:
    """Another number than `right`, not below 0."""
    return rng.choice([wrong for error in errors if (wrong := max(0, right + error)) != right])


def _unrelated(rng: Random) -> str:
    n = rng.randint(0, 99)
    pages = n + rng.randint(0, 50)
    return rng.choice(
        (f"page {n} of {pages}", f"count {n} {n + 1} {n + 2} {n + 3}", f"price {n} yuan", f"第 {n} 页")
    )
