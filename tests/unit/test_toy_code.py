"""The toy's programs run in the real sandbox; and the corpus with other documents in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from random import Random

import pytest

from r1mega.data import toy, toy_extra
from r1mega.data.tasks import ToyCode, ToyGeneral
from r1mega.data.tasks.base import Question, is_held_out
from r1mega.rewards import GRADERS, Rubric
from r1mega.rewards.code.level import works
from r1mega.types import Completion, Prompt, Score, UserError

# Of the corpus as it was before it could have other documents: models and figures of earlier runs hang on it.
DIGESTS = {
    (20_000, 0, (2, 3, 4, 5, 6), False): "3ed4443ce821881a75af939426e9a2a99fb06de339fe12de4045d9686964e633",
    (2_000, 7, (2, 3, 4), True): "778256ca4d5e8d76da9e6616eb141636e0a29c92067bed19756f5bdbf79b174d",
}
SHARES = {"general": 0.1, "code": 0.05, "countdown": 0.03, "logic": 0.02}
MARKS = {"code": "python: ", "countdown": "User: count ", "logic": "User: 1:"}


def scored(question: Question, program: str) -> Score:
    if why := works("bubblewrap"):
        pytest.skip(f"no bubblewrap here: {why}")
    prompt = Prompt("toy_code/0", "toy_code", "", (), question.answer, question.facts)
    text = f" <think> easy </think> <answer> {program} </answer>"
    return Rubric({"toy_code": "code"})(prompt, Completion((), (), text, "stop", 0))


def question(kind: str) -> Question:
    questions = (ToyCode().train(0, position) for position in range(100))
    return next(q for q in questions if q.text.startswith(f"python: {kind}"))


@pytest.mark.parametrize("kind", ["print", "read"])
def test_the_gold_program_runs_and_is_right(kind: str) -> None:
    asked = question(kind)
    assert scored(asked, asked.answer).outcome == "correct"
    assert scored(asked, asked.answer.replace(")", "+1)", 1)).outcome == "wrong"
    assert scored(asked, "print(").outcome == "wrong"
    assert scored(asked, "").outcome == "unparseable"


def test_a_result_written_into_the_program_passes_only_where_nothing_is_read() -> None:
    [outputs] = [question("print").facts["tests"]["outputs"]]
    assert scored(question("print"), f"print({outputs[0].strip()})").outcome == "correct"
    outputs = question("read").facts["tests"]["outputs"]
    assert scored(question("read"), f"print({outputs[0].strip()})").outcome == "wrong"


def test_tests_say_what_the_question_says() -> None:
    for position in range(200):
        asked = ToyCode(levels=(2, 3, 4)).train(1, position)
        tests = asked.facts["tests"]
        for given, wanted in zip(tests["inputs"], tests["outputs"], strict=True):
            expression = asked.text.split("print ")[1].replace("n", given.strip())
            assert eval(expression) == int(wanted)  # Python's own arithmetic


def test_the_hold_out_is_that_of_the_sums() -> None:
    def expression(asked: Question) -> str:
        tests = asked.facts["tests"]
        return asked.text.split("print ")[1].replace("n", tests["inputs"][0].strip())

    task = ToyCode()
    assert not any(is_held_out(expression(task.train(0, p))) for p in range(300))
    assert all(is_held_out(expression(task.held_out(p))) for p in range(100))
    with pytest.raises(UserError, match="2 or more"):
        ToyCode(levels=(1,))


@pytest.mark.parametrize("task", [ToyCode(), ToyGeneral()], ids=["code", "general"])
def test_a_question_depends_on_seed_and_position_alone(task: ToyCode | ToyGeneral) -> None:
    forwards = [task.train(0, position) for position in range(30)]
    assert [task.train(0, position) for position in reversed(range(30))] == forwards[::-1]
    assert [task.train(1, position) for position in range(30)] != forwards
    assert json.loads(json.dumps([q.facts for q in forwards])) == [q.facts for q in forwards]
    assert json.loads(json.dumps(task.identity()))["kind"] == type(task).__name__


@pytest.mark.parametrize(("arguments", "digest"), DIGESTS.items())
def test_the_corpus_of_sums_is_as_it_always_was(
    arguments: tuple[int, int, tuple[int, ...], bool], digest: str
) -> None:
    count, seed, levels, held_out = arguments
    text = "\n".join(toy.corpus(count, seed, levels, held_out=held_out))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_other_documents_come_in_their_shares() -> None:
    count = 4000
    documents = list(toy.corpus(count, 0, (2, 3), extra=toy_extra.documents(SHARES)))
    for name, mark in MARKS.items():
        found = [d for d in documents if mark in d]
        assert len(found) / count == pytest.approx(SHARES[name], abs=0.01)
    sums = [d for d in documents if re.match(r"(User: )?\d[+-]\d", d)]
    assert len(sums) / count == pytest.approx(0.8 * 0.96, abs=0.02)  # 4% of the others are unrelated
    assert documents[:50] == list(toy.corpus(50, 0, (2, 3), extra=toy_extra.documents(SHARES)))


def test_a_fifth_of_the_answers_in_documents_is_drawn_for_another_question() -> None:
    make, rng = toy_extra.EXTRA["code"], Random(0)
    right: Counter[bool] = Counter()
    for document in (make(rng, False) for _ in range(2000)):
        match = re.match(r"User: python: (read n, )?print (\S+) Assistant: ", document)
        assert match
        inside = re.search(r"print\((\S+)\)", document)
        assert inside
        right[inside[1].replace("int(input())", "n") == match[2]] += 1
    assert right[False] / 2000 == pytest.approx(0.2, abs=0.03)


def test_held_out_documents_ask_held_out_questions() -> None:
    shares = {"code": 0.5}
    documents = list(toy.corpus(300, 0, (2, 3), held_out=True, extra=toy_extra.documents(shares)))
    printed = [m[1] for d in documents if (m := re.search(r"python: print (\S+) ", d))]
    assert len(printed) > 30 and all(map(is_held_out, printed))


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(UserError, match="there are general, code, countdown, logic"):
        toy_extra.documents({"poems": 0.1})
    for share in (0.0, -0.1, 1.0):
        with pytest.raises(UserError, match="sum below 1"):
            toy.corpus(1, 0, (2,), extra=toy_extra.documents({"code": share}))
    assert GRADERS[ToyCode().grader].grade("print(1)", Prompt("", "", "", (), "", {})).outcome == "error"
