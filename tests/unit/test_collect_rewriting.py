"""Refining, summarising, thoughts for general rows, and the judge: what comes of what a model writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1mega.config.collect import Collect
from r1mega.data import toy
from r1mega.data.curate.shards import Row
from r1mega.data.prompts_text import filled, prompt_text
from r1mega.data.tokenizers import Tokenizer, train_sentencepiece
from r1mega.rollout.options import Share
from r1mega.stages.collecting.asking import Model
from r1mega.stages.collecting.drawing import Grades
from r1mega.stages.collecting.judging import Judging
from r1mega.stages.collecting.passes import Found, Opened
from r1mega.stages.collecting.rewriting import Rewriter
from r1mega.types import Completion, Prompt, Sampling, UserError

ONLY = Share(0, 1)


class Scripted:
    """A generator that writes what a function of the prompt says. asked: what it was told, in order."""

    def __init__(self, say: Callable[[str], str], finish: Any = "stop", share: Share = ONLY) -> None:
        self.say, self.finish, self.share = say, finish, share
        self.options = SimpleNamespace(tensor_parallel=1)
        self.asked: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, seen: Any = None) -> Any:
        self.asked += prompts
        return [
            [Completion((1, 2), (0.0, 0.0), self.say(one.text), self.finish, 0) for _ in range(n)]
            for one in prompts
        ]

    def close(self) -> None: ...


def opened(engine: Scripted) -> Opened:
    return Opened(lambda: engine, 0)  # type: ignore[arg-type,return-value]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("writer")
    texts = toy.corpus(200, 0, (2, 3))
    tokenizer: Tokenizer = train_sentencepiece(
        texts, folder / "tokenizer.model", vocab_size=400, symbols=toy.THINK_TAGS
    )
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "eos_token_id": 2}))
    return Model("writer", folder, tokenizer)


def config(model: Model, **more: Any) -> Collect:
    return Collect.model_validate(
        {
            "kind": "collect",
            "model": {"path": str(model.folder)},
            "data": {"kind": "tasks", "tasks": {"sums": {"kind": "sums"}, "essay": {"kind": "sums"}}},
            "sampling": {"prompts": 4},
            **more,
        }
    )


RAW = "<think> 2+3=5 5+6=11 </think> <answer> 11 </answer>"
ASKED = {"sums/1": Prompt("sums/1", "sums", "User: 2+3+6=? Assistant:", (1,), "11")}
ROW = Row("sums/1/0", "sums", "2+3+6=?", RAW, 20, "zero", "sums/1")


def rewrite(
    model: Model,
    name: str,
    rows: list[Row],
    engine: Scripted,
    prompts: dict[str, Prompt] = ASKED,
    **section: Any,
) -> Found:
    writer = {"path": str(model.folder), "template": "plain", "max_tokens": 64, **section}
    made = config(model, **{name: writer})
    grades = Grades(made, {"sums": "integer"})
    return Rewriter(name, made, model, grades, len, 0).shard(opened(engine), rows, prompts)


NICE = "hm </think> <reasoning>\nTwo and three are five, and six more make eleven.\n</reasoning>\n<summary>\n"
NICE += "It is \\boxed{11}.\n</summary>"


def test_a_refined_answer_takes_the_place_of_the_raw_one(model: Model) -> None:
    engine = Scripted(lambda text: NICE)
    [(place, row)] = (found := rewrite(model, "refine", [ROW], engine)).rows
    assert place == 0 and found.tally.kept == {"sums": {"rewritten": 1}} and found.tally.tokens == 2
    assert row.response == (
        "<think>\nTwo and three are five, and six more make eleven.\n</think>\n\nIt is \\boxed{11}."
    )
    assert (row.id, row.source, row.tokens) == (ROW.id, "zero+writer", len(row.response))
    [told] = engine.asked
    assert ROW.prompt in told.text and RAW in told.text and told.id == "refine/sums/1/0"
    assert told.token_ids[0] == model.tokenizer.bos_id


@pytest.mark.parametrize(
    ("written", "finish", "reason"),
    [
        (NICE.replace("11", "12"), "stop", "wrong"),  # graded again by the same rule
        (NICE, "length", "not_ended"),
        ("It is 11.", "stop", "unreadable"),
        (NICE.replace("</summary>", ""), "stop", "unreadable"),
        (NICE.replace("Two and three are five, and six more make eleven.", ""), "stop", "unreadable"),
        (NICE.replace("Two and three are five", "先二加三等于五 我们就继续算下去"), "stop", "language"),
        (NICE.replace("Two", "```\n5\n```\nTwo"), "stop", "code_block"),
    ],
)
def test_what_is_of_no_use_is_counted_and_the_answer_kept_or_dropped(
    model: Model, written: str, finish: Any, reason: str
) -> None:
    found = rewrite(model, "refine", [ROW], Scripted(lambda text: written, finish))
    assert found.rows == [(0, ROW)] and found.tally.kept == {"sums": {f"as_it_was: {reason}": 1}}
    found = rewrite(model, "refine", [ROW], Scripted(lambda text: written, finish), otherwise="drop")
    assert found.rows == [] and found.tally.dropped == {"sums": {reason: 1}}
    assert [one.reason for _, one in found.examples] == [reason]


def test_what_does_not_fit_the_writer_is_not_asked(model: Model) -> None:
    engine = Scripted(lambda text: NICE)
    found = rewrite(model, "refine", [ROW], engine, context=100)
    assert engine.asked == [] and found.tally.kept == {"sums": {"as_it_was: no_room": 1}}


def test_only_bare_answers_are_summarised(model: Model) -> None:
    said = Row(
        "sums/1/1",
        "sums",
        "2+3+6=?",
        "<think> 5 11 </think> It is <answer> 11 </answer>",
        9,
        "zero",
        "sums/1",
    )
    engine = Scripted(lambda text: "<summary>The three numbers add up to \\boxed{11}.</summary>")
    found = rewrite(model, "summarise", [said, ROW], engine)
    assert [one.id for one in engine.asked] == ["summarise/sums/1/0"]
    assert [row.response for _, row in found.rows] == [
        said.response,
        "<think>\n2+3=5 5+6=11\n</think>\n\nThe three numbers add up to \\boxed{11}.",
    ]
    assert found.tally.kept == {"sums": {"as_it_was": 1, "rewritten": 1}}


def test_thoughts_are_made_for_general_rows(model: Model) -> None:
    general = Row("chats/4", "writing", "Write a line about rain.", "It rains on the roof.", 7, "chats")
    engine = Scripted(lambda text: "<reasoning>A line about rain: where does it fall?</reasoning>")
    [(_, row)] = rewrite(model, "chain_of_thought", [general], engine, {}).rows
    assert (
        row.response == "<think>\nA line about rain: where does it fall?\n</think>\n\nIt rains on the roof."
    )


def test_two_engines_share_the_rows(model: Model) -> None:
    rows = [Row(f"sums/1/{i}", "sums", "2+3+6=?", RAW, 20, "zero", "sums/1") for i in range(5)]
    parts = [
        rewrite(model, "refine", rows, Scripted(lambda text: NICE, share=Share(i, 2))).rows for i in range(2)
    ]
    assert [[place for place, _ in part] for part in parts] == [[0, 2, 4], [1, 3]]


def judge(model: Model, rows: list[Row], say: Callable[[str], str], **section: Any) -> tuple[Found, Scripted]:
    made = config(model, judge={"path": str(model.folder), "template": "plain", "max_tokens": 64, **section})
    assert made.judge is not None
    engine = Scripted(say)
    prompts = {**ASKED, "essay/2": Prompt("essay/2", "essay", "Write!", (1,), "Rain falls.")}
    return Judging(made.judge, model, 0).shard(opened(engine), rows, prompts), engine


ESSAYS = [
    Row(
        f"essay/2/{i}",
        "essay",
        "Write a line about rain.",
        f"<think> hm </think> Line {i}.",
        5,
        "zero",
        "essay/2",
    )
    for i in range(3)
]


def test_the_judge_keeps_what_it_likes(model: Model) -> None:
    def say(text: str) -> str:
        return "Fine. Score: 8" if "Line 0." in text else "Score: 3" if "Line 1." in text else "No idea"

    found, engine = judge(model, [ROW, *ESSAYS], say, tasks=["essay"])
    assert [row.id for _, row in found.rows] == ["sums/1/0", "essay/2/0"]
    assert found.tally.kept == {"sums": {"by_rule": 1}, "essay": {"judged_good": 1}}
    assert found.tally.dropped == {"essay": {"judged_low": 1, "judge_unclear": 1}}
    assert [one.id for one in engine.asked] == ["judge/essay/2/0", "judge/essay/2/1", "judge/essay/2/2"]
    assert "Reference answer:\nRain falls." in engine.asked[0].text and "hm" not in engine.asked[0].text
    details = {example.reason: example.detail for _, example in found.examples}
    assert details["judged_low"] == "0.30, at least 0.7"


def test_the_judge_can_be_asked_otherwise(model: Model) -> None:
    found, engine = judge(
        model, ESSAYS, lambda text: "Score: 3", least=0.3, reference=False, whole=True, votes=2
    )
    assert len(found.rows) == 3 and len(engine.asked) == 3
    assert "Reference" not in engine.asked[0].text.partition("Answer:")[0] and "hm" in engine.asked[0].text


def test_what_does_not_fit_the_judge_is_unclear(model: Model) -> None:
    found, engine = judge(model, ESSAYS, lambda text: "Score: 9", context=100)
    assert engine.asked == [] and found.tally.dropped == {"essay": {"judge_unclear": 3}}


def test_the_packages_own_prompts() -> None:
    for name in ("refine", "summarise", "chain_of_thought", "judge"):
        text = prompt_text(name)
        assert text.count("{question}") == text.count("{response}") == 1
        shown = filled(text, "what {response}?", "that {question}")
        assert "what {response}?" in shown and "that {question}" in shown


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text("{response} answers {question}\n")
    assert filled(prompt_text("refine", path), "q", "a") == "a answers q"
    path.write_text("{question}")
    with pytest.raises(UserError, match=r"\{response\} stands there 0 times"):
        prompt_text("refine", path)
    with pytest.raises(UserError, match="cannot read"):
        prompt_text("refine", tmp_path / "absent.md")


def test_chat_without_a_template_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        rewrite(model, "refine", [ROW], Scripted(lambda text: NICE), template="chat")
