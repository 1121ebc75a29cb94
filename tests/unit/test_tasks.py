"""Tasks: gold answers that an independent solver finds too, clean hold-outs, and the publishers' files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from r1mega.data import toy
from r1mega.data.tasks import (
    Countdown,
    FileTask,
    Logic,
    Question,
    Task,
    ToySums,
    toy_countdown,
    toy_logic,
)
from r1mega.rewards import GRADERS
from r1mega.types import Prompt, UserError

COUNT = 150
GENERATED = {
    "toy": ToySums(),
    "countdown": Countdown(),
    "toy countdown": toy_countdown(),
    "logic": Logic(),
    "toy logic": toy_logic(people=(2, 3)),
}
generated = pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED.keys())


def training(task: Task, count: int = COUNT, seed: int = 0) -> list[Question]:
    return [task.train(seed, position) for position in range(count)]


def held_out(task: Task, count: int = COUNT) -> list[Question]:
    found = [task.held_out(position) for position in range(count)]
    return [question for question in found if question is not None]


@generated
def test_a_question_depends_on_seed_and_position_alone(task: Task) -> None:
    forwards = training(task, 40)
    backwards = [task.train(0, position) for position in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert [q.text for q in training(task, 40, seed=1)] != [q.text for q in forwards]
    assert len({q.text for q in forwards}) > 10


@generated
def test_the_gold_answer_is_right_by_the_tasks_own_grader(task: Task) -> None:
    for question in training(task) + held_out(task):
        prompt = Prompt("x", task.name, "", (), question.answer, question.facts)
        assert GRADERS[task.grader].grade(question.answer, prompt).right
        assert json.loads(json.dumps(question.facts)) == question.facts


def test_toy_sums_keep_to_the_hold_out_of_the_corpus() -> None:
    def problem(question: Question) -> toy.Problem:
        return toy.Problem(tuple(int(term) for term in re.findall(r"[+-]?\d", question.text)))

    task = ToySums(levels=(3, 4))
    assert {problem(q).level for q in training(task)} == {3, 4}
    assert not any(problem(q).held_out for q in training(task))
    assert all(problem(q).held_out for q in held_out(task))
    for question in training(task):
        assert eval(question.text.removesuffix("=?")) == int(question.answer)


@pytest.mark.parametrize("task", [GENERATED["countdown"], GENERATED["toy countdown"]], ids=["plain", "toy"])
def test_countdown_is_solvable_and_its_hold_out_ignores_the_order(task: Countdown) -> None:
    def essence(question: Question) -> tuple[int, tuple[int, ...]]:
        return question.facts["target"], tuple(sorted(question.facts["numbers"]))

    for question in training(task) + held_out(task):
        target, numbers = essence(question)
        assert eval(question.answer) == target  # Python's own arithmetic; true division
        assert sorted(map(int, re.findall(r"\d+", question.answer))) == list(numbers)
        assert 1 <= target <= task.highest and max(numbers) <= task.largest
        said = Counter(re.findall(r"\d+", question.text))
        assert said == Counter(map(str, [*numbers, target]))
    assert not set(map(essence, training(task, 1000))) & set(map(essence, held_out(task, 100)))
    operators = Counter(sign for q in training(task) for sign in re.findall(r"[+\-*/]", q.answer))
    assert set(operators) == set(task.operators)


World = dict[str, bool]
CLAIM = re.compile(r"(\w+) is a (knight|knave)")
JOINTS: dict[str, Callable[[list[bool]], bool]] = {
    " if and only if ": lambda two: two[0] == two[1], " and ": all, " or ": any,
    "=": lambda two: two[0] == two[1], "&": all, "|": any,
}  # fmt: skip


def statements(question: Question) -> dict[str, str]:
    """Who says what, read from the question's text."""
    if said := re.findall(r'(\w+) says: "(.*?)\."', question.text):
        return dict(said)
    return dict(re.findall(r"(\d):(\S+)", question.text))


def joint_of(statement: str) -> str | None:
    return next((joint for joint in JOINTS if joint in statement), None)


def holds(statement: str, world: World) -> bool:
    claims = CLAIM.findall(statement) or re.findall(r"(\d)([+-])", statement)
    truths = [world[name] == (role in ("knight", "+")) for name, role in claims]
    joint = joint_of(statement)
    assert len(truths) == (1 if joint is None else 2)
    return JOINTS[joint](truths) if joint else truths[0]


@pytest.mark.parametrize("task", [GENERATED["logic"], GENERATED["toy logic"]], ids=["plain", "toy"])
def test_logic_puzzles_have_exactly_the_gold_solution(task: Logic) -> None:
    joints = set()
    for question in training(task) + held_out(task):
        said = statements(question)
        worlds = [dict(zip(said, roles, strict=True)) for roles in product((True, False), repeat=len(said))]
        [solution] = [w for w in worlds if all(holds(said[name], w) == w[name] for name in said)]
        assert {name: role in ("knight", "+") for name, role in question.facts["roles"].items()} == solution
        joints |= {joint_of(statement) for statement in said.values()}
    assert len(joints) == 4
    assert {len(q.facts["roles"]) for q in training(task)} == set(task.people)


def test_a_held_out_puzzle_is_not_trained_on_under_other_names() -> None:
    """Every relabelling of the people and order of the claims, in the toy's notation."""

    def relabellings(question: Question) -> set[str]:
        said = {int(name): statement for name, statement in statements(question).items()}
        found = set()
        for order in ((1, 2), (2, 1)):
            renamed = {}
            for speaker, statement in said.items():
                claims = [
                    f"{order[int(name) - 1]}{role}" for name, role in re.findall(r"(\d)([+-])", statement)
                ]
                joint = re.sub(r"[\d+-]", "", statement)
                renamed[order[speaker - 1]] = joint.join(sorted(claims))
            found.add(" ".join(f"{speaker}:{renamed[speaker]}" for speaker in sorted(renamed)))
        return found

    task = toy_logic(people=(2,))
    trained_on = {text for q in training(task, 1000) for text in relabellings(q)}
    evaluated_on = {text for q in held_out(task, 200) for text in relabellings(q)}
    assert trained_on and evaluated_on and not trained_on & evaluated_on


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ToySums(levels=(1,)), "2 or more"),
        (lambda: Countdown(counts=()), "counts"),
        (lambda: Countdown(operators="+^"), "operators"),
        (lambda: Countdown(words="french"), "plain, toy"),
        (lambda: Countdown(largest=0), "must be 1 or more"),
        (lambda: Logic(people=(2, 9)), "from 2 to 6"),
        (lambda: Logic(words="french"), "plain, toy"),
        (lambda: Countdown(operators="*", counts=(4,), largest=1, highest=1).held_out(0), "too few"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(path: Path, count: int) -> Path:
    return jsonl(path, [{"question": f"{i} + 0?", "answer": f"It is {i}.\n#### {i}"} for i in range(count)])


def test_each_epoch_asks_every_row_once_in_another_order(tmp_path: Path) -> None:
    task = FileTask("g", numbered(tmp_path / "a.jsonl", 50), "gsm8k", held_out=0.1)
    epochs = [[task.train(3, 45 * epoch + i) for i in range(45)] for epoch in range(3)]
    texts = [[q.text for q in epoch] for epoch in epochs]
    assert len(task) == 45
    assert len({tuple(sorted(t)) for t in texts}) == 1 and len(set(texts[0])) == 45
    assert len({tuple(t) for t in texts}) == 3
    assert len({q.key for epoch in epochs for q in epoch}) == 135
    assert task.train(3, 0) == epochs[0][0], "going back gives the same"
    evaluated = held_out(task)
    assert len(evaluated) == 5 and task.held_out(5) is None
    assert not {q.text for q in evaluated} & set(texts[0])


def test_another_file_is_held_out_as_a_whole(tmp_path: Path) -> None:
    a, b = numbered(tmp_path / "a.jsonl", 10), numbered(tmp_path / "b.jsonl", 7)
    task = FileTask("g", a, "gsm8k", held_out=b)
    assert len(task) == 10 and len(held_out(task)) == 7
    assert not {q.key for q in held_out(task)} & {q.key for q in training(task, 10)}


def test_another_file_is_another_identity(tmp_path: Path) -> None:
    tasks = [FileTask("g", numbered(tmp_path / "x.jsonl", n), "gsm8k", held_out=0.0) for n in (10, 10, 11)]
    assert tasks[0].identity() == tasks[1].identity() != tasks[2].identity()


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"problem": "?", "answer": "x+1", "solution": "\\boxed{2}"}, "x+1"),
        ({"problem": "?", "answer": 27.0}, "27"),
        ({"problem": "?", "answer": 1234567.0}, "1234567"),
        ({"question": "?", "answer": 0.5}, "0.5"),
        ({"problem": "?", "solution": "\\boxed{1}, no: $\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}"),
        ({"problem": "?", "solution": "so \\boxed 7."}, "7"),
        ({"problem": "?", "solution": "so \\fbox{7}."}, "7"),
    ],
)
def test_gold_answers_of_math(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    task = FileTask("m", jsonl(tmp_path / "m.jsonl", [row]), "math", held_out=0.0)
    assert task.train(0, 0).answer == answer


@pytest.mark.parametrize(
    ("format", "row", "complaint"),
    [
        ("gsm8k", {"question": "?", "answer": "42"}, "line 2: 'answer' does not end with '#### '"),
        ("gsm8k", {"question": " ", "answer": "#### 1"}, "line 2: 'question' is empty"),
        ("gsm8k", {"q": "?"}, "line 2: no key 'question'"),
        ("math", {"problem": "?", "solution": "none"}, "line 2: no key 'answer', and no"),
        ("math", {"problem": "?", "solution": "\\boxed{1"}, "line 2: no key 'answer', and no"),
        ("math", {"problem": "?", "answer": ["1"]}, "line 2: 'answer' is a list"),
        ("kk", {"quiz": "?", "solution_text_format": "nobody knows"}, "line 2: 'solution_text_format'"),
        ("csv", {}, "allowed are gsm8k, math, kk"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, format: str, row: dict[str, Any], complaint: str) -> None:
    good: dict[str, dict[str, Any]] = {
        "gsm8k": {"question": "?", "answer": "#### 1"},
        "math": {"problem": "?", "answer": "1"},
        "kk": {"quiz": "?", "solution_text_format": "(1) Zoey is a knight"},
    }
    path = jsonl(tmp_path / "bad.jsonl", [good.get(format, {}), row])
    with pytest.raises(UserError, match=complaint):
        FileTask("bad", path, format)


def test_gsm8k(shared: Path) -> None:
    task = FileTask("gsm8k", shared / "gsm8k/train.jsonl", "gsm8k", held_out=shared / "gsm8k/test.jsonl")
    assert (len(task), len(held_out(task, 10_000)), task.grader) == (7473, 1319, "math")
    assert all(re.fullmatch(r"-?[\d,.]+", q.answer) for q in training(task, 7473))


def test_math(shared: Path) -> None:
    task = FileTask("math", shared / "math/MATH_test_5000.jsonl", "math", held_out=0.1)
    golds = {q.text: q.answer for q in training(task, len(task))}
    assert len(task) == 4500 and all(golds.values())
    curated = FileTask("math", shared / "math/MATH500.jsonl", "math", held_out=0.0)
    both = [(golds[q.text], q.answer) for q in training(curated, 500) if q.text in golds]
    assert len(both) > 400
    same = [a.replace("dfrac", "frac").split() == b.replace("dfrac", "frac").split() for a, b in both]
    assert sum(same) / len(both) > 0.97, "what we find in a solution is what others took from it"


def test_knights_and_knaves_of_a_file(shared: Path) -> None:
    """The roles read from the text are the file's own truth values."""
    path = shared / "logic/kk_test.jsonl"
    task = FileTask("kk", path, "kk", held_out=0.0)
    rows = {row["quiz"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}
    for question in training(task, 500):
        row = rows[question.text]
        roles = ["knight" if truth else "knave" for truth in row["solution"]]
        assert question.facts["roles"] == dict(zip(row["names"], roles, strict=True))


def test_files_of_benchmark_formats_can_be_trained_on(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "choices": ["no", "yes"], "answer": i % 2} for i in range(10)]
    path = tmp_path / "choice.json"
    path.write_text(json.dumps(rows))
    task = FileTask("c", path, "choice", held_out=0.2)
    questions = training(task, len(task)) + held_out(task)
    assert task.grader == "choice" and {(q.text, q.answer) for q in questions} == {
        (f"{i}?\n\n(A) no\n(B) yes", "AB"[i % 2]) for i in range(10)
    }
    assert task.train(0, 0).facts == {"options": ["no", "yes"]}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl does not exist"):
        FileTask("g", tmp_path / "gone.jsonl", "gsm8k")
    with pytest.raises(UserError, match=r"kind is unknown; give a file that ends in \.jsonl"):
        FileTask("g", numbered(tmp_path / "rows.txt", 3), "gsm8k")
