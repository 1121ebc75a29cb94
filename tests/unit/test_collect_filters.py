"""Which answers are kept, each reason by itself, on texts written for it and on real chains of thought."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from r1mega.config.collect import Filters
from r1mega.stages.collecting.filters import Candidate, checks, why_not
from r1mega.types import Score, UserError

GOOD = "<think> First we add two and three, and that is five. </think> The answer is five."
RIGHT = Score(1.0, "correct")


def reason(
    text: str,
    *,
    question: str = "What is two and three?",
    finish: Any = "stop",
    score: Score | None = RIGHT,
    **filters: Any,
) -> str | None:
    section = Filters(**filters)
    why = why_not(Candidate(question, text, len(text.split()), finish, score), section, checks(section))
    return None if why is None else why.reason


LONG = "word " * 900  # 4,500 characters
CASES: list[tuple[str | None, str, dict[str, Any]]] = [
    (None, GOOD, {}),
    (None, GOOD.replace("</think>", "</think> <answer> 5 </answer>"), {}),
    ("not_ended", GOOD, {"finish": "length"}),
    (None, GOOD, {"finish": "length", "ended": False}),
    ("format", "The answer is five.", {}),
    ("format", "<think> Two and three", {}),
    ("format", f"{GOOD} </think> again", {}),
    ("format", "<think> we add </think>", {}),
    ("format", GOOD, {"format": "think_answer"}),
    (None, "<think> we add </think> <answer> 5 </answer>", {"format": "think_answer"}),
    (None, "The answer is five.", {"format": "none"}),
    ("no_summary", "<think> we add the two </think> <answer> </answer>", {}),
    (None, "<think> we add the two </think> <answer> </answer>", {"summary": False}),
    ("too_short", GOOD, {"min_tokens": 17}),
    (None, GOOD, {"min_tokens": 16, "max_tokens": 16}),
    ("too_long", GOOD, {"max_tokens": 15}),
    ("language", "<think> 先 5+6=11； 再 11-9=2 所以 是 二 </think> The answer is two.", {}),
    (None, "<think> 先 5+6=11； 再 11-9=2 所以 是 二 </think> 是二。", {"question": "五加六减九是多少？"}),
    ("language", GOOD, {"question": "五加六减九是多少？"}),
    (None, GOOD, {"question": "五加六减九是多少？", "language": "en"}),
    (None, "<think> 先 5+6=11 </think> The answer is two.", {"language": None}),
    (None, "<think> 5+6=11 </think> <answer> 11 </answer>", {"question": "5+6=?"}),  # shows none
    ("repetition", f"<think> {'so it is the same and again ' * 20} </think> five", {}),
    (None, f"<think> {'so it is the same and again ' * 20} </think> five", {"repeated": 1.0}),
    ("long_paragraph", f"<think> {LONG} </think> five", {"repeated": 1.0, "language": None}),
    (None, f"<think> {LONG} </think> five", {"repeated": 1.0, "language": None, "paragraph": None}),
    (None, f"<think> we add </think> {LONG}", {"repeated": 1.0, "language": None}),  # of the thoughts only
    ("code_block", "<think> we try it\n```\nprint(5)\n```\n </think> five", {}),
    (None, "<think> we try it\n```\nprint(5)\n```\n </think> five", {"code_blocks": True}),
    (None, "<think> we add the two </think> five\n```\nprint(5)\n```", {}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "text", "given"), CASES)
def test_each_reason(expected: str | None, text: str, given: dict[str, Any]) -> None:
    assert reason(text, **given) == expected


def test_the_rule_comes_first_and_in_its_own_words() -> None:
    for outcome in ("wrong", "unparseable", "timeout", "error"):
        score = Score(0.0, outcome, {}, "why")  # type: ignore[arg-type]
        assert reason("no form at all", finish="length", score=score) == outcome
        assert reason(GOOD, score=score, correct=False) is None
    assert reason(GOOD, score=None) is None  # a task without a rule


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(UserError, match="'klingon': known are question, "):
        checks(Filters(language="klingon"))


def marco(shared: Path) -> list[tuple[str, str]]:
    rows = json.loads((shared / "cot" / "marco_o1_CoT_demo.json").read_text())
    tags = {
        "<Thought>": "<think>",
        "</Thought>": "</think>",
        "<Output>": "<answer>",
        "</Output>": "</answer>",
    }
    return [
        (one["instruction"], re.sub("|".join(tags), lambda match: tags[match[0]], one["response"]))
        for one in rows
    ]


def dropped(rows: list[tuple[str, str]], **filters: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, (question, text) in enumerate(rows):
        if why := reason(text, question=question, **filters):
            found.setdefault(why, []).append(place)
    return found


def test_real_chains_of_thought(shared: Path) -> None:
    """Which rows hold Chinese characters in their thoughts, or a fence, was counted with plain searches."""
    rows = marco(shared)
    thoughts = [text.partition("</think>")[0] for _, text in rows]
    chinese = {i for i, text in enumerate(thoughts) if re.search("[一-鿿]", text)}
    share = {
        i: len(re.findall("[一-鿿]", thoughts[i])) / len(re.findall("[一-鿿]|[A-Za-z]+", thoughts[i]))
        for i in chinese
    }
    fenced = {i for i, text in enumerate(thoughts) if "```" in text}
    assert len(chinese) == 7 and len(fenced) == 4

    found = dropped(rows, language="en")
    assert set(found) <= {"language", "code_block", "format"}
    assert set(found["language"]) == {i for i in chinese if share[i] > 0.1}
    assert set(found["code_block"]) == fenced
    looser = dropped(rows, language="en", language_share=0.5)
    assert set(looser["language"]) == {i for i in chinese if share[i] > 0.5}

    # Nine questions are Chinese and one is Spanish; thoughts in English are none of theirs.
    asked_in_chinese = {i for i, (question, _) in enumerate(rows) if re.search("[一-鿿]", question)}
    assert len(asked_in_chinese) == 9
    own = set(dropped(rows)["language"])
    assert own - asked_in_chinese == {108}
    assert asked_in_chinese - own == {53, 58}  # the two that think in Chinese alone
