"""Format, the sum of the parts, truncated answers, and texts that want to break the graders."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.benchmarks import BENCHMARKS
from r1mega.data.formats import FORMATS
from r1mega.data.toy_requests import REQUESTS
from r1mega.rewards import DEFAULT_PARTS, GRADERS, Part, Rubric
from r1mega.rewards.format import well_formed
from r1mega.rewards.parts import Answered
from r1mega.types import Completion, Prompt, Reward, Score, UserError

PROMPTS = {
    "integer": Prompt("sum/0", "sum", "", (), "6"),
    "math": Prompt("gsm8k/0", "gsm8k", "", (), "6"),
    "countdown": Prompt("count/0", "count", "", (), "3+5-2", {"numbers": [3, 5, 2], "target": 6}),
    "choice": Prompt("mmlu/0", "mmlu", "", (), "B"),
    "ifeval": Prompt(
        "if/0", "if", "", (), "", {"instructions": [{"id": "punctuation:no_comma", "kwargs": {}}]}
    ),
    "logic": Prompt(
        "kk/0", "kk", "", (), "", {"roles": {"Ada": "knight", "6": "knave"}, "terms": ["knight", "knave"]}
    ),
    "toy_general": Prompt("general/0", "general", "", (), "", REQUESTS["colour of snow"].facts),
}
RULES = {prompt.task: rule for rule, prompt in PROMPTS.items()}
GOOD = "<think> 3+5=8; 8-2=6 </think> <answer> 6 </answer>"


def wrote(text: str, finish: Any = "stop") -> Completion:
    return Completion((), (), text, finish, 0)


def weighted(**weights: float) -> dict[str, Part]:
    return {name: replace(DEFAULT_PARTS[name], weight=weight) for name, weight in weights.items()}


def score(text: str, finish: str = "stop", task: str = "sum", **weights: float) -> Score:
    reward: Reward = Rubric(RULES, weighted(**weights)) if weights else Rubric(RULES)
    prompt = next(prompt for prompt in PROMPTS.values() if prompt.task == task)
    return reward(prompt, wrote(text, finish))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (GOOD, True),
        (f"\n {GOOD}\n\n", True),
        ("<think>a\nb</think><answer>c\nd</answer>", True),
        ("<think>a < b</think><answer><b>c</b></answer>", True),
        ("", False),
        ("6", False),
        (f"well: {GOOD}", False),
        (f"{GOOD} done", False),
        (f"{GOOD} </answer>", False),
        (f"{GOOD} {GOOD}", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a<answer>b</answer>", False),
        ("<think>a</think><answer>b", False),
        ("<think>a</think><answer>b</answer", False),
        ("<think><think>a</think><answer>b</answer>", False),
        ("<think>a</answer><answer>b</think>", False),
        ("<Think>a</Think><answer>b</answer>", False),
        ("<think> </think><answer>b</answer>", False),
        ("<think>a</think><answer>\n</answer>", False),
    ],
)
def test_format(text: str, good: bool) -> None:
    assert well_formed(wrote(text)) is good
    assert well_formed(wrote(text, "length")) is False


def test_format_labels_of_other_projects(shared: Path) -> None:
    path = shared / "grader_vectors/format_reward.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    strict = [row for row in rows if row["rule"] == "think_then_answer_tags"]
    assert len(strict) == 7
    assert all(well_formed(wrote(row["response"])) == bool(row["expected"]) for row in strict)


@pytest.mark.parametrize(
    ("text", "finish", "accuracy", "format", "without_tags", "outcome"),
    [
        (GOOD, "stop", 1, 1, 1, "correct"),
        (GOOD.replace("> 6", "> 7"), "stop", 0, 1, 0, "wrong"),
        (GOOD.replace("> 6", "> six"), "stop", 0, 1, 0, "unparseable"),
        ("3+5=8; 8-2=6", "stop", 0, 0, 1, "unparseable"),
        ("<think> 3+5=8; 8-2=6 </think> 6", "stop", 0, 0, 1, "unparseable"),
        ("<answer> 6 </answer>", "stop", 1, 0, 1, "correct"),
        ("<answer> 6 </answer> or 7", "stop", 1, 0, 1, "correct"),
        ("<answer> 7 </answer> or 6", "stop", 0, 0, 0, "wrong"),
        (GOOD, "length", 1, 0, 1, "correct"),  # cut after its answer: it stands there
        ("<think> 3+5=8; 8-2=6", "length", 0, 0, 1, "unparseable"),
        ("<think> 3+5=8; 8-2=6 </think> <answer> 6", "length", 0, 0, 1, "unparseable"),
        ("", "stop", 0, 0, 0, "unparseable"),
        ("", "length", 0, 0, 0, "unparseable"),
    ],
)
def test_the_parts(
    text: str, finish: str, accuracy: int, format: int, without_tags: int, outcome: str
) -> None:
    got = score(text, finish)
    assert got.parts == {"accuracy": accuracy, "format": format, "accuracy_without_tags": without_tags}
    assert got.total == accuracy + format
    assert got.outcome == outcome


def test_weights() -> None:
    assert score(GOOD, accuracy=2.0, format=0.5).total == 2.5
    assert score(GOOD, accuracy=2.0, format=-0.5).total == 1.5
    assert score(GOOD, format=1.0).total == 1.0
    assert score(GOOD, format=1.0).parts["accuracy"] == 1.0, "reported all the same"


def length(answered: Answered) -> float:
    return float(len(answered.completion.text))


def test_a_part_counts_within_its_steps_and_is_always_reported() -> None:
    parts = {**DEFAULT_PARTS, "length": Part(0.5, length, first=3, last=4)}
    rubric = Rubric(RULES, parts)
    at = {step: rubric.at(step)(PROMPTS["integer"], wrote("four")) for step in (1, 2, 3, 4, 5)}
    assert {step: score.total for step, score in at.items()} == {1: 0, 2: 0, 3: 2, 4: 2, 5: 0}
    assert all(score.parts["length"] == 4 for score in at.values())
    assert rubric.step == 1, "a rubric does not change"


def test_a_part_may_concern_some_tasks_only() -> None:
    rubric = Rubric(RULES, {**DEFAULT_PARTS, "length": Part(1.0, length, tasks=frozenset({"kk"}))})
    assert rubric(PROMPTS["logic"], wrote("four")).parts["length"] == 4
    assert "length" not in rubric(PROMPTS["integer"], wrote("four")).parts


def test_a_rule_that_fails_is_an_outcome_of_that_answer() -> None:
    def broken(answered: Answered) -> float:
        raise ZeroDivisionError("a mistake in a reward")

    def endless(answered: Answered) -> float:
        return float("inf")

    for value, told in ((broken, "ZeroDivisionError: a mistake"), (endless, "are no numbers")):
        got = Rubric(RULES, {**DEFAULT_PARTS, "new": Part(1.0, value)})(PROMPTS["integer"], wrote(GOOD))
        assert (got.outcome, got.total) == ("error", 0.0) and told in got.detail


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (GOOD, "correct"),
        ("<think> 7 </think> so it is 6", "correct"),
        ("it is 6", "correct"),
        ("<think> it is 6", "unparseable"),  # thoughts are no answer
        ("<think> 6 </think> ", "unparseable"),
        ("<think> 6 </think> 7", "wrong"),
        ("<think> <answer>6</answer> </think> 7", "correct"),  # a block counts wherever it stands
    ],
)
def test_where_the_answer_is_looked_for(text: str, outcome: str) -> None:
    rubric = Rubric({"sum": "integer"}, where="final")
    assert rubric(PROMPTS["integer"], wrote(text)).outcome == outcome


def test_a_prompt_that_opens_the_thoughts() -> None:
    rubric = Rubric({"sum": "integer"}, where="final")
    opened = replace(PROMPTS["integer"], text="3+5-2=? <think>\n")
    assert rubric(opened, wrote("it is 6")).outcome == "unparseable"
    assert rubric(opened, wrote("it is 7 </think> 6")).outcome == "correct"


def test_the_answer_is_kept_for_votes() -> None:
    assert score(GOOD).answer == " 6 "
    assert score("nothing").answer is None
    assert Rubric(RULES, where="final")(PROMPTS["integer"], wrote("so 6")).answer == "6"


def test_each_task_is_graded_by_its_own_rule() -> None:
    expression = "<think> x </think> <answer> 3+5-2 </answer>"
    assert {task: score(expression, task=task).outcome for task in RULES} == {
        "sum": "unparseable", "gsm8k": "correct", "count": "correct", "kk": "unparseable",
        "mmlu": "unparseable", "if": "correct", "general": "wrong",
    }  # fmt: skip
    decimal = "<answer> $6.00 </answer>"
    assert score(decimal, task="gsm8k").outcome == "correct"
    assert score(decimal, task="sum").outcome == "unparseable"
    people = "<answer> Ada is a knight, 6 is a knave </answer>"
    assert score(people, task="kk").outcome == "correct"


def test_what_no_rubric_can_be_made_of() -> None:
    with pytest.raises(UserError, match="task sum: no rule 'magic'; there are integer, math"):
        Rubric({"sum": "magic"})
    for weights in ({}, {"accuracy": 0.0}, {"accuracy": float("nan")}, {"accuracy": float("inf")}):
        with pytest.raises(UserError, match="must be finite, and one of them not 0"):
            Rubric(RULES, weighted(**weights))


def test_a_rule_that_cannot_work_here_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError("install a sandbox")

    monkeypatch.setitem(GRADERS, "code", replace(GRADERS["integer"], ready=missing))  # type: ignore[index]
    with pytest.raises(UserError, match="install a sandbox"):
        Rubric({"humaneval": "code"})
    Rubric(RULES)


N = 20_000
HOSTILE = {
    "digits": "9" * N, "commas": "1," * N, "points": "1." * N, "slashes": "1/" * N, "signs": "-" * N,
    "brackets": "(" * N, "closed brackets": "(" * N + ")" * N, "braces": "\\boxed{" * N,
    "fractions": "\\frac{" * N, "spaces": " " * N, "words": "a " * N, "units": "5" + " a" * N,
    "opened": "<answer>" * N, "closed": "</answer>" * N, "blocks": "<answer>5</answer>" * N,
    "thoughts": "<think>" * N, "halves": "<" * N, "claims": "Ada is a " * N, "persons": "6 6 " * N,
    "names": "Ada" * N, "power": "9**9**9**9", "nulls": "\x00" * N, "surrogates": "\ud83d" * N,
    "combining": "e\u0301" * N, "lines": "\n" * N, "expression": "1+" * N + "1", "equals": "=" * N,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_are_outcomes(text: str) -> None:
    """Bare, and within the tags: long and cut to just what is read."""
    rubric = Rubric(RULES)
    begun = time.process_time()
    for prompt in PROMPTS.values():
        for inner in (text, text[:1990], text[:199]):
            for whole in (inner, f"<think> x </think> <answer>{inner}</answer>"):
                got = rubric(prompt, wrote(whole))
                # Nothing of it is an answer, but much of it keeps an instruction, such as no comma.
                assert got.outcome in ("wrong", "unparseable") or prompt.task == "if"
                assert len(got.detail) < 300
    assert time.process_time() - begun < 5, "24 texts"


PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "6", "3+5-2", "-", "/", "*", "(", ")", "=", ",", ".", " ",
    "$", "\\frac", "\\boxed", "{", "}", "%", "Ada", "knight", "knave", " is a ", "\n", "\x00", "\ud800", "²",
]  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_any_text_gets_a_score(text: str) -> None:
    rubric = Rubric(RULES)
    for prompt in PROMPTS.values():
        for whole in (text, f"<answer>{text}</answer>"):
            got = rubric(prompt, wrote(whole))
            assert got.parts["accuracy"] == (got.outcome == "correct")
            assert got.parts["accuracy_without_tags"] >= got.parts["accuracy"]
            assert got.total == got.parts["accuracy"] + got.parts["format"]


def test_every_rule_has_a_prompt_here() -> None:
    """But those that run what is written in a process of their own, which have tests of their own."""
    assert PROMPTS.keys() == GRADERS.keys() - {"code", "gym"}


def test_every_benchmark_and_format_has_a_rule() -> None:
    rules = {row.grader for row in BENCHMARKS.values()} | {row.grader for row in FORMATS.values()}
    assert rules <= GRADERS.keys()
