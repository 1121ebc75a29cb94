"""The toy corpus: the recipe's shares, a clean hold-out, and chains whose arithmetic is what it says."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from r1mega.data import toy
from r1mega.types import UserError

LEVELS = (2, 3, 4, 5, 6)
COUNT = 20000
HELD_OUT_OF_LEVEL_2 = ["2+4", "3+3", "3+9", "3-1", "4-2", "4-4", "6+7", "7+5", "8-5", "9+5", "9-1"]
PROBLEM = re.compile(r"^(?:User: )?(\d(?:[+-]\d)+)=")
STEP = re.compile(r"(wait |等等)?(-?\d+)([+-]\d)=(-?\d+)[;；]")
# A document's kind by its shape, written from the recipe's examples. The last group is the stated answer.
SHAPES = {
    "tagged guess": r"User: \S+ Assistant: <think> [^\d]+ </think> <answer> \d+ </answer>",
    "tagged chain": r"User: \S+ Assistant: <think> [^<]+ </think> <answer> -?\d+ </answer>",
    "answer tag only": r"User: \S+ Assistant: <answer> \d+ </answer>",
    "direct answer": r"User: \S+ Assistant: (?:it is |答案 )?\d+|\d[+-]\S+=\d+",
    "untagged chain": r"User: \S+ Assistant: (?:first |先)[^<]+(?: <answer> -?\d+ </answer>)?",
    "broken tags": r"User: \S+ Assistant: .*</?think>.*",
    "unrelated": r"page \d+ of \d+|count \d+ \d+ \d+ \d+|price \d+ yuan|第 \d+ 页",
}


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(toy.corpus(COUNT, 0, LEVELS))


def kind_of(document: str) -> str:
    return next(kind for kind, shape in SHAPES.items() if re.fullmatch(shape, document))


def problem_of(document: str) -> toy.Problem | None:
    match = PROBLEM.match(document)
    return toy.Problem(tuple(int(term) for term in re.findall(r"[+-]?\d", match[1]))) if match else None


def test_a_problem() -> None:
    problem = toy.Problem((2, 9, -6, 6))
    assert problem.prompt == "User: 2+9-6+6=? Assistant:"
    assert problem.answer == 11
    assert problem.level == 4


def test_shares_of_the_kinds(documents: list[str]) -> None:
    recipe = {
        "tagged chain": 0.27, "untagged chain": 0.25, "direct answer": 0.18, "broken tags": 0.13,
        "answer tag only": 0.07, "tagged guess": 0.06, "unrelated": 0.04,
    }  # fmt: skip
    counts = Counter(map(kind_of, documents))
    assert counts.keys() == recipe.keys()
    for kind, share in recipe.items():
        assert counts[kind] / COUNT == pytest.approx(share, abs=0.012), kind


def test_shares_of_the_languages(documents: list[str]) -> None:
    """Mixed ones draw a language each step, so the few with equal draws look pure: long chains only."""
    chains = [d for d in documents if kind_of(d) == "tagged chain" and len(STEP.findall(d)) >= 5]
    english, chinese = re.compile("first|then|so "), re.compile("先|再|所以")
    languages = Counter((bool(english.search(d)), bool(chinese.search(d))) for d in chains)
    pure_by_chance = 0.30 * 2 * 0.5**6
    assert languages[True, False] / len(chains) == pytest.approx(0.45 + pure_by_chance / 2, abs=0.05)
    assert languages[False, True] / len(chains) == pytest.approx(0.25 + pure_by_chance / 2, abs=0.05)
    assert languages[True, True] / len(chains) == pytest.approx(0.30 - pure_by_chance, abs=0.05)


def test_wrong_answers_without_a_chain(documents: list[str]) -> None:
    guessed = [d for d in documents if kind_of(d) in ("direct answer", "answer tag only", "tagged guess")]
    wrong = 0
    for document in guessed:
        problem = problem_of(document)
        assert problem is not None
        wrong += int(re.findall(r"\d+", document)[-1]) != problem.answer
    assert wrong / len(guessed) == pytest.approx(0.20, abs=0.02)


def test_errors_and_corrections_in_chains(documents: list[str]) -> None:
    """Of steps that correct nothing 5% are wrong, and a wrong total carries on unless it is corrected."""
    plain_steps = wrong_steps = corrected = chains = 0
    for document in documents:
        steps = [(bool(w), int(a), int(x), int(r)) for w, a, x, r in STEP.findall(document)]
        if not steps:
            continue
        chains += 1
        corrected += any(wait for wait, *_ in steps)
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            wait, start, term, total = step
            retracted = following is not None and following[0]
            assert not wait or total == start + term, "a correction is right"
            if retracted:
                assert total != start + term, "only what is wrong is corrected"
                assert following is not None and following[1:3] == (start, term)
            elif not wait:
                plain_steps += 1
                wrong_steps += total != start + term
            if following and not retracted:
                assert following[1] == total, "the next step goes on from this total"
    assert wrong_steps / plain_steps == pytest.approx(0.05, abs=0.005)
    steps_a_chain = (1, 2, 3, 4, 5)  # of levels 2 to 6
    seen = 0.10 * sum(1 - (1 - 0.35) ** k for k in steps_a_chain) / 5
    assert corrected / chains == pytest.approx(seen, abs=0.01)


def test_the_answer_is_the_chains_last_number(documents: list[str]) -> None:
    for document in documents:
        if kind_of(document) == "tagged chain":
            chain, answer = document.split("</think> <answer>")
            assert re.findall(r"-?\d+", chain)[-1] == re.findall(r"-?\d+", answer)[0]


@pytest.mark.parametrize("correction_rate", [0.0, 0.5])
def test_correct_chains_are_correct(correction_rate: float) -> None:
    rng = Random(0)
    for problem in islice(toy.problems(0, LEVELS, held_out=False), 500):
        languages = (toy.ENGLISH, toy.CHINESE)
        text, result = toy.chain(problem, rng, languages, error_rate=0, correction_rate=correction_rate)
        # Python's own arithmetic
        assert result == problem.answer == eval(problem.expression)
        kept = [int(total) for _, _, _, total in STEP.findall(re.sub(r"\S+[;；] (?=wait |等等)", "", text))]
        assert kept == [sum(problem.terms[:k]) for k in range(2, problem.level + 1)]
        assert re.search(rf"(so |所以){result}$", text)


def test_problems_keep_the_rules() -> None:
    levels: Counter[int] = Counter()
    signs: Counter[bool] = Counter()
    for problem in islice(toy.problems(0, LEVELS, held_out=False), 5000):
        totals = [sum(problem.terms[:k]) for k in range(1, problem.level + 1)]
        assert min(totals) >= 0
        assert all(1 <= abs(term) <= 9 for term in problem.terms)
        levels[problem.level] += 1
        # wherever 9 can be taken away, every term can be
        signs.update(term < 0 for term, before in zip(problem.terms[1:], totals, strict=False) if before >= 9)
    assert all(levels[level] / 5000 == pytest.approx(0.2, abs=0.02) for level in LEVELS)
    assert signs[True] / signs.total() == pytest.approx(0.35, abs=0.02)


def all_problems(level: int, terms: tuple[int, ...] = ()) -> list[toy.Problem]:
    if len(terms) == level:
        return [toy.Problem(terms)]
    later = [x for n in range(1, 10) for x in (n, -n) if sum(terms) + x >= 0 and (terms or x > 0)]
    return [problem for x in later for problem in all_problems(level, (*terms, x))]


def test_a_tenth_is_held_out() -> None:
    assert any(problem.held_out for problem in all_problems(2))  # else drawing one would never end
    for level in (3, 4):
        every = all_problems(level)
        assert sum(problem.held_out for problem in every) / len(every) == pytest.approx(0.1, abs=0.015)


def test_held_out_problems_never_occur_in_the_training_corpus(documents: list[str]) -> None:
    trained_on = [problem for d in documents if (problem := problem_of(d))]
    assert len(trained_on) > 0.9 * COUNT
    assert not any(problem.held_out for problem in trained_on)
    held_out = [p for d in toy.corpus(1000, 0, LEVELS, held_out=True) if (p := problem_of(d))]
    assert len(held_out) > 900
    assert all(problem.held_out for problem in held_out)
    assert not {p.expression for p in held_out} & {p.expression for p in trained_on}
    assert all(p.held_out for p in islice(toy.problems(0, LEVELS, held_out=True), 500))


def test_the_hold_out_is_the_same_in_every_process() -> None:
    """Fixed by hand: a change would leak held-out problems of earlier runs into training."""
    held_out = sorted(problem.expression for problem in all_problems(2) if problem.held_out)
    assert held_out == HELD_OUT_OF_LEVEL_2


def test_equal_arguments_give_equal_documents() -> None:
    few, many = list(toy.corpus(10, 3, (2, 3))), list(toy.corpus(20, 3, (2, 3)))
    assert many[:10] == few
    assert list(toy.corpus(10, 4, (2, 3))) != few
    assert list(toy.corpus(0, 3, (2, 3))) == []


def test_errors() -> None:
    for levels in ((), (1,), (3, 0)):
        with pytest.raises(UserError, match="levels"):
            toy.corpus(1, 0, levels)
        with pytest.raises(UserError, match="levels"):
            toy.problems(0, levels, held_out=False)
    with pytest.raises(UserError, match="-1 documents"):
        toy.corpus(-1, 0, LEVELS)
