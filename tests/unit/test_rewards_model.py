"""Model rewards: what the model is shown, in which order values come back, and what failed judgments are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from r1mega.rewards import DEFAULT_PARTS, Part, Rubric
from r1mega.rewards.model import LanguageJudge, helpful, judged_score, safe, summary_of
from r1mega.types import Completion, Prompt, Sampling, Score, Seen, UserError

SAMPLING = Sampling(max_tokens=64, temperature=0.6)


def wrote(text: str) -> Completion:
    return Completion((1,), (0.0,), text, "stop", 0)


def asked(i: int, task: str = "chat") -> Prompt:
    return Prompt(f"{task}/{i}", task, f"User: q{i} Assistant:", (1,), "7", {"question": f"q{i}"})


@dataclass
class ByLength:
    """A scorer whose value is the length of what it sees. calls: what it saw."""

    calls: list[list[tuple[str, str]]] = field(default_factory=list)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append(list(pairs))
        return [float(len(text)) for _, text in pairs]


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("<think> a </think> b", "b"),
        ("a </think> b", "b"),  # the template opened the thoughts
        ("<think> a </think> <answer> b </answer>", "b"),
        ("b", "b"),
        ("<think> a", None),
        ("<think> a </think>  ", None),
        ("<think> a </think> b </think> c", "c"),
    ],
)
def test_the_summary(text: str, summary: str | None) -> None:
    assert summary_of(text) == summary


def test_thoughts_that_the_prompt_has_opened_are_no_summary() -> None:
    opened = Prompt("a/1", "a", "<User>2+2?<Assistant><think>\n", (1,), "4")
    scorer = ByLength()
    part = helpful(scorer, missing=-1.0)
    assert part.judge([(opened, wrote("well, 2 and 2")), (opened, wrote("well</think> 4"))]) == [-1.0, 1.0]
    safe(scorer).judge([(opened, wrote("well</think> 4"))])
    assert scorer.calls[-1][0][1] == "<think>\nwell</think> 4"


def test_helpfulness_sees_the_summary_and_safety_all() -> None:
    texts = [
        "<think> long thoughts </think> ok",
        "<think> unfinished",
        "<think> x </think> <answer>fine</answer>",
    ]
    samples = [(asked(i), wrote(text)) for i, text in enumerate(texts)]
    scorer = ByLength()
    assert helpful(scorer, missing=-1.0).judge(samples) == [2, -1, 4]
    assert scorer.calls == [[("q0", "ok"), ("q2", "fine")]]
    assert safe(scorer).judge(samples) == list(map(len, texts))
    assert helpful(scorer, missing=0).judge([(asked(0), wrote("<think>"))]) == [0]  # nothing to ask


def test_a_judged_part_counts_within_its_steps_and_for_its_tasks() -> None:
    scorer = ByLength()
    part = Part(0.5, helpful(scorer, missing=0.0), first=3, last=4, tasks=frozenset({"chat"}))
    rubric = Rubric({"chat": "integer", "sum": "integer"}, {**DEFAULT_PARTS, "helpful": part})
    answers = [
        (asked(0), wrote("<think> a </think> <answer> 7 </answer>")),
        (asked(1, "sum"), wrote("<think> a </think> <answer> 8 </answer>")),
        (asked(2), wrote("four")),
    ]

    def totals(step: int) -> list[float]:
        reward = rubric.at(step)
        return [s.total for s in reward.settle([(*one, reward(*one)) for one in answers])]

    assert totals(2) == totals(5) == [2, 1, 0]
    assert not scorer.calls, "what does not count is not computed"
    assert totals(3) == totals(4) == [2 + 0.5 * len("7"), 1, 0.5 * len("four")]
    assert [len(call) for call in scorer.calls] == [2, 2]


def test_a_judgment_that_is_no_number_is_an_error() -> None:
    rubric = Rubric(
        {"chat": "integer"}, {**DEFAULT_PARTS, "safe": Part(1.0, safe(lambda pairs: [math.nan, 1]))}
    )
    samples = [(asked(i), wrote("<answer>7</answer>")) for i in range(2)]
    scores = rubric.settle([(*one, rubric(*one)) for one in samples])
    assert [score.outcome for score in scores] == ["error", "correct"]
    assert [score.total for score in scores] == [1, 2]


@dataclass
class Talker:
    """A generator with lines to say, one after another."""

    lines: list[str]
    prompts: list[Prompt] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, seen: Seen | None = None
    ) -> list[list[Completion]]:
        self.prompts.extend(prompts)
        return [[wrote(self.lines.pop(0)) for _ in range(n)] for _ in prompts]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Fine. Score: 7", 0.7), ("**Score:** 10", 1.0), ("score: 0/10", 0.0),
        ("Score 3, no: Score: 4.5", 0.45),
        ("Score: 11", None), ("Score: -1", None), ("ten of ten", None), ("", None),
    ],
)  # fmt: skip
def test_reading_a_judgment(text: str, score: float | None) -> None:
    assert judged_score(text) == score


def test_a_language_judge() -> None:
    talker = Talker(["Score: 8", "no idea", "no", "none", "Score: 2", "Score: 4"])
    judge = LanguageJudge(
        talker, lambda text: list(text.encode()), SAMPLING, frame=lambda text: f"<user>{text}<judge>", votes=2
    )
    values = judge([(asked(i), wrote(text)) for i, text in enumerate(["{question}", "<think>", "b", "c"])])
    assert values[0] == 0.8  # a judgment without a score is left out
    assert values[1] == 0.0  # nothing to judge
    assert math.isnan(values[2])  # all without
    assert values[3] == pytest.approx(0.3)
    assert [prompt.id for prompt in talker.prompts] == ["judge/0", "judge/2", "judge/3"]
    shown = talker.prompts[0].text
    assert (
        shown.startswith("<user>") and "q0" in shown and "{question}" in shown and "{response}" not in shown
    )


def test_a_judge_template_must_have_its_places() -> None:
    with pytest.raises(UserError, match=r"\{response\} exactly once"):
        LanguageJudge(Talker([]), lambda text: [], SAMPLING, template="{question}?")


def test_a_score_is_left_alone_without_judged_parts() -> None:
    rubric = Rubric({"chat": "integer"})
    one = (asked(0), wrote("<answer>7</answer>"), Score(1.0, "correct"))
    assert rubric.settle([one]) == [one[2]]
