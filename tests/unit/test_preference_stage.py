"""What a judge is shown and how its words become pairs, against a judge that says what a rule tells it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from r1mega.config.preferences import Comparing, Preferences
from r1mega.data.prompts_text import COMPARED, prompt_text
from r1mega.files import write_json
from r1mega.stages.preferences import Judge, Pair, _conclude, read_pairs
from r1mega.types import Completion, Prompt, Sampling, UserError


def rows(folder: Path, answers: list[tuple[str, str]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in answers))
    return file


def test_pairs_of_the_answers_to_one_prompt(tmp_path: Path) -> None:
    file = rows(
        tmp_path,
        [
            ("q", "<think> a </think> one"), ("p", "<think> x </think> eins"),
            ("q", "<think> b </think> one"), ("q", "<think> no end"), ("q", "two"), ("q", "three"),
            ("q", "four"), ("q", "five"), ("p", "zwei"),
        ],
    )  # fmt: skip
    pairs, dropped = read_pairs(file, "summary", 1)
    assert pairs == [Pair("0/0", "q", "one", "two"), Pair("1/0", "p", "eins", "zwei")]
    assert dropped == {"same_answer": 1, "no_summary": 1, "unpaired": 3}
    pairs, dropped = read_pairs(file, "summary", 9)
    assert [(pair.first, pair.second) for pair in pairs if pair.prompt == "q"] == [
        ("one", "two"),
        ("three", "four"),
    ]
    assert dropped["unpaired"] == 1
    whole, _ = read_pairs(file, "whole", 1)
    assert whole[0].first == "<think> a </think> one"


@dataclass
class LongerIsBetter:
    """A judge that prefers the longer answer, and says so about A and B as it sees them."""

    asked: list[Prompt] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling) -> list[list[Completion]]:
        self.asked += prompts
        return [[Completion((), (), self._says(prompt.text), "stop", 0)] for prompt in prompts]

    def _says(self, text: str) -> str:
        found = re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n\nFirst", text, re.DOTALL)
        assert found
        return f"[[{'A>>B' if len(found[1]) > len(found[2]) else 'B>>A'}]]"


def judge(**values: Any) -> Judge:
    """A judge without a model behind it; a token is a character."""
    tokenizer = SimpleNamespace(bos_id=None, eos_id=0, encode=lambda text: list(text.encode()))
    asker = SimpleNamespace(fill=lambda text: f"<user>{text}", tokenizer=tokenizer, with_bos=True)
    model: Any = SimpleNamespace(
        name="judge", context=3000, tokenizer=tokenizer, folder=Path("nowhere"), asker=lambda name: asker
    )
    return Judge(Comparing(max_tokens=100, **values), model, 0)


def test_the_verdict_is_on_the_answers_not_on_their_places() -> None:
    engine, pairs = (
        LongerIsBetter(),
        [Pair("0/0", "q", "short", "much longer"), Pair("1/0", "q", "longer", "{question}")],
    )
    pairs.append(Pair("2/0", "q", "long enough", "no"))
    assert judge().verdicts(engine, pairs) == [-3, -3, 3]
    assert len({prompt.id for prompt in engine.asked}) == 12, "each judgment draws by its own name"
    seen = [prompt.text.index("short") < prompt.text.index("much longer") for prompt in engine.asked[:4]]
    assert sorted(seen) == [False, False, True, True]
    assert all(prompt.text.startswith("<user>You are comparing") for prompt in engine.asked)
    assert all("{question}" in prompt.text for prompt in engine.asked[4:8]), "an answer is left as it is"


def test_what_does_not_fit_gets_no_verdict() -> None:
    engine = LongerIsBetter()
    pairs = [Pair("0/0", "q", "x" * 5000, "y"), Pair("1/0", "q", "xx", "y")]
    assert judge().verdicts(engine, pairs) == [None, 3]
    assert judge().verdicts(engine, pairs[:1]) == [None]


def test_a_judge_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no room to read"):
        judge(context=100)
    (tmp_path / "told.md").write_text("{question} {answer_a} {answer_a} {answer_b}")
    with pytest.raises(UserError, match=r"\{answer_a\} stands there 2 times"):
        prompt_text("compare", tmp_path / "told.md", COMPARED)
    with pytest.raises(UserError, match="cannot read"):
        prompt_text("compare", tmp_path / "missing.md", COMPARED)
    with pytest.raises(ValidationError, match="must exist"):
        Preferences.model_validate({"kind": "preferences", "model": {"config": {}}, "answers": {"path": "x"}})
    with pytest.raises(ValidationError, match="exactly one of path, from_stage"):
        Preferences.model_validate({"kind": "preferences", "model": {"path": "m"}, "answers": {}})


def concluded(
    folder: Path, scores: list[list[float | None]], pairs: list[Pair], **values: Any
) -> dict[str, Any]:
    """The stage's end, with the shards of two pairs that are on disk."""
    for number, shard in enumerate(scores):
        write_json(folder / "shards" / f"{number:05d}.json", shard)
    config = Preferences.model_validate(
        {
            "kind": "preferences",
            "model": {"path": Path("judge")},
            "answers": {"path": folder / "x.jsonl"},
            "compare": {"shard": 2} | values,
        }
    )
    context: Any = SimpleNamespace(name="pairs", room=folder, dataset=folder / "dataset", config=config)
    model: Any = SimpleNamespace(name="judge", tokens=lambda text: len(text.split()))
    return dict(_conclude(context, config, pairs, {"unpaired": 1}, model))


FIVE = [
    Pair("0/0", "p", "one two three", "one"),  # clear; the longer one is better
    Pair("1/0", "p", "a b c d", "a b"),  # clear; the shorter one is better, by as much
    Pair("2/0", "p", "a", "b"),
    Pair("3/0", "p", "a", "b"),
    Pair("4/0", "p", "a b c d e f g h i", "a"),  # nothing of this difference the other way round
]


def test_what_is_kept_and_what_is_told(tmp_path: Path) -> None:
    metrics = concluded(tmp_path, [[2.0, -1.5], [1.0, None], [3.0]], FIVE)
    rows = [json.loads(line) for line in (tmp_path / "dataset" / "rows.jsonl").read_text().splitlines()]
    assert rows == [
        {"id": "0/0", "prompt": "p", "chosen": "one two three", "rejected": "one", "score": 2.0},
        {"id": "1/0", "prompt": "p", "chosen": "a b", "rejected": "a b c d", "score": 1.5},
    ]
    counts = {"unpaired": 1, "too_close": 1, "unreadable": 1, "unmatched_length": 1}
    assert metrics == {
        "pairs": 5, "kept": 2, "chosen_tokens": 2.5, "rejected_tokens": 2.5,
        **{f"dropped_{reason}": count for reason, count in counts.items()},
    }  # fmt: skip
    assert json.loads((tmp_path / "dataset" / "report.json").read_text())["dropped"] == counts
    everything = concluded(tmp_path, [[2.0, -1.5], [1.0, None], [3.0]], FIVE, match_lengths=False)
    assert everything["kept"] == 3


def test_nothing_clear_is_an_error_and_so_is_a_damaged_shard(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of 5 pairs none is left"):
        concluded(tmp_path, [[0.0, 1.0], [-1.0, None], [None]], FIVE)
    with pytest.raises(UserError, match=r"00002.json is damaged"):
        concluded(tmp_path, [[2.0, 2.0], [2.0, 2.0], []], FIVE)
