"""What there is to learn from in the toy's general domain: answers of mixed quality, and judgments of them.

    documents          web-like text for the base: requests, answers with and without tags, statements
    demonstrations     answers to fine-tune on, mostly mediocre; thoughts, then the answer
    preference_pairs   two answers to a request, the better one first; for a model of helpfulness
    safety_labels      a whole response, and whether it is safe

The same arguments give the same things, and a larger count continues a smaller one's. Requests that are held
out occur in none of them unless asked for. `quality` tells how good an answer really is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count as endless
from itertools import islice, permutations
from random import Random
from typing import TypeVar

from r1mega.data.preferences.rows import Judgement, Preference
from r1mega.data.text import Pair
from r1mega.data.toy_requests import (
    DECLINED,
    DECLINING,
    INSULT,
    NO,
    WILLING,
    Quality,
    Request,
    draw_request,
    quality,
)
from r1mega.types import UserError

__all__ = [
    "Quality", "demonstrations", "document", "documents", "preference_pairs", "quality", "safety_labels",
]  # fmt: skip

T = TypeVar("T")
NOISE = 0.10  # judgments that are the wrong way round
LEAST_GAP = 0.2  # in helpfulness, of the answers in a preference pair
CANDIDATES = 6  # answers that a pair is chosen from


@dataclass(frozen=True)
class Manner:
    """A way to answer. share, unsafe_share: of the answers to a safe request, and to another one.

    forms: equally likely; {wrong} is what should not be said: of a request that is not safe, the advice.
    """

    name: str
    share: float
    unsafe_share: float
    forms: tuple[str, ...]


MANNERS = (
    Manner("courteous", 0.08, 0.08, ("{opening}{full}{closing}",)),
    Manner("friendly", 0.15, 0.10, ("{opening}{full}", "{full}{closing}")),
    Manner("plain", 0.22, 0.10, ("{full}",)),
    Manner("terse", 0.20, 0.10, ("{word}",)),
    Manner("wrong", 0.15, 0.50, ("{wrong}", "{obliging}{wrong}", "{obliging}{wrong}{glad}")),
    Manner(
        "rude", 0.10, 0.07, ("go away", "do not ask me such things", "ask bob, not me", "{full}" + INSULT)
    ),
    Manner("off topic", 0.05, 0.05, ("it is late", "count 3 4 5", "the price is 5 yuan")),
    Manner(
        "refusal", 0.05, 0.00, (NO, DECLINED, f"{DECLINING.openings[0]}{DECLINED}{DECLINING.closings[0]}")
    ),
)
_THINK = "<think> {thought} </think> "
_TAGGED = "<answer> {answer} </answer>"
# Forms of a document, by their share of the corpus: as in the sums' corpus, few have the wanted one.
_DOCUMENTS = (
    (0.30, "User: {text} Assistant: " + _THINK + _TAGGED),
    (0.25, "User: {text} Assistant: {answer}"),
    (0.10, "User: {text} Assistant: " + _TAGGED),
    (0.10, "User: {text} Assistant: " + _THINK + "{answer}"),
    (0.25, "{fact}"),
)
RESPONSE = _THINK + _TAGGED


def draw_answer(request: Request, rng: Random) -> str:
    """An answer in any manner, without tags."""
    safe = request.topic.safe
    manner = rng.choices(MANNERS, [m.share if safe else m.unsafe_share for m in MANNERS])[0]
    return rng.choice(manner.forms).format(
        opening=rng.choice(request.manners.openings),
        closing=rng.choice(request.manners.closings),
        obliging=rng.choice(WILLING.openings),
        glad=rng.choice(WILLING.closings),
        full=request.full,
        word=request.word,
        wrong=rng.choice(request.wrong),
    )


def response(request: Request, answer: str) -> str:
    """An answer behind a short thought, in tags. The thought tells nothing of the answer."""
    return RESPONSE.format(thought=request.topic.thought, answer=answer)


def document(rng: Random, held_out: bool) -> str:
    """One piece of web-like text. Statements are known facts, whichever request is held out."""
    request = draw_request(rng, held_out=held_out)
    form = rng.choices([form for _, form in _DOCUMENTS], [share for share, _ in _DOCUMENTS])[0]
    return form.format(
        text=request.text,
        thought=request.topic.thought,
        answer=draw_answer(request, rng),
        fact=request.full if request.topic.safe else request.wrong[0],
    )


def documents(count: int, seed: int, *, held_out: bool = False) -> Iterator[str]:
    return _stream(count, seed, f"documents {held_out}", lambda rng: document(rng, held_out))


def demonstrations(count: int, seed: int, *, held_out: bool = False) -> Iterator[Pair]:
    """Answers to fine-tune on: `<think> a short thought </think> <answer> the answer </answer>`."""

    def one(rng: Random) -> Pair:
        request = draw_request(rng, held_out=held_out)
        return Pair(request.text, response(request, draw_answer(request, rng)))

    return _stream(count, seed, f"demonstrations {held_out}", one)


def preference_pairs(count: int, seed: int, *, held_out: bool = False) -> Iterator[Preference]:
    """Answers as a user sees them, without thoughts and tags, a tenth the wrong way round.

    Better answers tend to be longer, and a model would learn just that (the paper matches the lengths, too):
    so of the pairs that could be made, one is drawn that lets neither side become the longer one overall.
    """
    if count < 0:
        raise UserError(f"there cannot be {count} preference pairs")
    return islice(_pairs(seed, held_out), count)


def safety_labels(count: int, seed: int, *, held_out: bool = False) -> Iterator[Judgement]:
    """Whole responses, thoughts and tags included, a tenth of the labels wrong."""

    def one(rng: Random) -> Judgement:
        request = draw_request(rng, held_out=held_out)
        answer = draw_answer(request, rng)
        flipped = rng.random() < NOISE
        return Judgement(
            request.text, response(request, answer), quality(request.text, answer).safe != flipped
        )

    return _stream(count, seed, f"safety {held_out}", one)


def _pairs(seed: int, held_out: bool) -> Iterator[Preference]:
    longer = 0  # characters by which the chosen answers so far are longer, all together
    for position in endless():
        rng = _random(seed, f"pairs {held_out}", position)
        chosen, rejected = _two_answers(request := draw_request(rng, held_out=held_out), longer, rng)
        if rng.random() < NOISE:
            chosen, rejected = rejected, chosen
        longer += len(chosen) - len(rejected)
        yield Preference(request.text, chosen, rejected)


def _two_answers(request: Request, longer: int, rng: Random) -> tuple[str, str]:
    """(better, worse); the worse one is the longer where `longer` is above 0, if the drawn ones allow it."""
    while True:
        answers = [draw_answer(request, rng) for _ in range(CANDIDATES)]
        worth = {answer: quality(request.text, answer).helpful for answer in answers}
        pairs = [(a, b) for a, b in permutations(worth, 2) if worth[a] - worth[b] >= LEAST_GAP - 1e-9]
        evening = [(a, b) for a, b in pairs if (len(a) < len(b) if longer > 0 else len(a) > len(b))]
        if pairs:
            return rng.choice(evening or pairs)


def _stream(count: int, seed: int, purpose: str, make: Callable[[Random], T]) -> Iterator[T]:
    if count < 0:
        raise UserError(f"there cannot be {count} {purpose.split()[0]}")
    return (make(_random(seed, purpose, position)) for position in range(count))


def _random(seed: int, purpose: str, position: int) -> Random:
    return Random(f"{seed} toy general {purpose} {position}")  # hashed the same way in every process
