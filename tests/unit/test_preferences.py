"""Judged answers from files: what is read, what is dropped and counted, what is refused by file and line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from r1mega.config.reward_models import JudgmentData, RewardModel
from r1mega.data.preferences.prepare import Judgments
from r1mega.data.preferences.read import Turn, dialogue, read
from r1mega.data.preferences.rows import Judgement, Preference
from r1mega.data.preferences.tokens import Reading, within
from r1mega.data.store import TokenStore
from r1mega.data.templates import form
from r1mega.types import UserError


class Bytes:
    """A tokenizer of bytes, shifted behind bos and eos."""

    vocab_size, bos_id, eos_id, pad_id, digest = 258, 0, 1, 1, "bytes"

    def encode(self, text: str) -> list[int]:
        return [2 + byte for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Any) -> str:
        return bytes(i - 2 for i in ids if i > 1).decode()

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def data(**values: Any) -> JudgmentData:
    return JudgmentData(path=Path("x.jsonl"), **values)


def model(objective: Any, **values: Any) -> RewardModel:
    return RewardModel(objective=objective, data=data(), **values)


def lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(i: int, chosen: str = "good", rejected: str = "bad") -> dict[str, Any]:
    return {"prompt": f"question {i}", "chosen": chosen, "rejected": rejected}


def prepared(path: Path, section: RewardModel, folder: Path) -> tuple[TokenStore, TokenStore, dict[str, Any]]:
    its = Judgments(section, path, Reading(Bytes(), form(section.template)), 0, folder / "data")
    its.prepare()
    stores = its.open()
    assert stores.held_out is not None
    return stores.train, stores.held_out, json.loads((folder / "data" / "train.json").read_text())


def test_our_own_rows(tmp_path: Path) -> None:
    path = lines(tmp_path, [pair(1)])
    assert list(read(path, "pairwise", data())) == [Preference("question 1", "good", "bad")]
    rows = [{"prompt": "p", "response": "r", "label": label} for label in (True, 0, "safe", "unsafe")]
    assert list(read(lines(tmp_path, rows), "pointwise", data())) == [
        Judgement("p", "r", safe) for safe in (True, False, True, False)
    ]


@pytest.mark.parametrize(
    ("objective", "row", "message"),
    [
        ("pairwise", {"prompt": "p", "rejected": "r"}, r"rows.jsonl, line 2: no key 'chosen'"),
        ("pairwise", {"prompt": "p", "chosen": 3, "rejected": "r"}, r"line 2: 'chosen' is a number"),
        ("pointwise", {"prompt": "p", "response": "r", "label": 2}, r"line 2: 'label' is 2; true or false"),
        ("pointwise", {"prompt": "p", "response": "r"}, r"line 2: 'label' is None"),
    ],
)
def test_a_row_that_is_none_names_file_and_line(
    tmp_path: Path, objective: str, row: dict[str, Any], message: str
) -> None:
    good = pair(1) | {"response": "r", "label": 1}
    with pytest.raises(UserError, match=message):
        list(read(lines(tmp_path, [good, row]), objective, data()))


def test_a_dialogue_as_a_prompt() -> None:
    assert dialogue([Turn("Human", "hi")]) == "hi"
    assert dialogue([Turn("", "be brief"), Turn("Human", "hi")]) == "be brief\n\nhi"
    three = [Turn("Human", "hi"), Turn("Assistant", "yes?"), Turn("Human", "why")]
    assert dialogue(three) == "Human: hi\n\nAssistant: yes?\n\nHuman: why"


def transcript(*turns: str) -> str:
    names = ("Human", "Assistant")
    return "".join(f"\n\n{names[i % 2]}: {text}" for i, text in enumerate(turns))


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (("q", "a"), ("q", "b"), ("q", "a", "b")),
        (("q", "x", "r", "a"), ("q", "x", "r", "b"), ("Human: q\n\nAssistant: x\n\nHuman: r", "a", "b")),
        (("q", "a", "r", "c"), ("q", "b"), ("q", "a\n\nHuman: r\n\nAssistant: c", "b")),  # they part early
        (("q", "a", "r", "c"), ("q", "a", "s", "c"), ("q", "a\n\nHuman: r\n\nAssistant: c",
                                                      "a\n\nHuman: s\n\nAssistant: c")),
        (("q", "a"), ("q", "a"), ("q", "a", "a")),
    ],
)  # fmt: skip
def test_transcripts(
    tmp_path: Path, chosen: tuple[str, ...], rejected: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    path = lines(tmp_path, [{"chosen": transcript(*chosen), "rejected": transcript(*rejected)}])
    assert list(read(path, "pairwise", data(format="transcripts"))) == [Preference(*expected)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "hello", "rejected": transcript("q", "a")}, "line 1, 'chosen': a text that begins with"),
        (
            {"chosen": transcript("q", "a"), "rejected": transcript("p", "a")},
            "line 1: .* no question in common",
        ),
    ],
)
def test_transcripts_that_are_none(tmp_path: Path, row: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read(lines(tmp_path, [row]), "pairwise", data(format="transcripts")))


def test_the_real_files(shared: Path) -> None:
    """Every row of the real files; the counts are those of an independent look at them."""
    general = shared / "general"
    hh = list(read(general / "hh_harmless_base_test.jsonl.gz", "pairwise", data(format="transcripts")))
    assert len(hh) == 2312
    assert not [p for p in hh if p.prompt.startswith("Assistant") or not p.prompt.strip()]
    raw = json.loads((general / "dpo_en_demo.json").read_text())
    english = list(read(general / "dpo_en_demo.json", "pairwise", data(format="sharegpt")))
    assert [p.chosen for p in english if isinstance(p, Preference)] == [row["chosen"]["value"] for row in raw]
    single = [i for i, row in enumerate(raw) if len(row["conversations"]) == 1]
    assert all(english[i].prompt == raw[i]["conversations"][0]["value"] for i in single)
    assert len(list(read(general / "dpo_zh_demo.json", "pairwise", data(format="sharegpt")))) == 300
    judged = read(general / "kto_en_demo.json", "pointwise", data(format="messages"))
    labels = Counter(one.safe for one in judged if isinstance(one, Judgement))
    assert labels == {True: 150, False: 150}


def test_what_is_dropped_is_counted_and_sides_share_no_prompt(tmp_path: Path) -> None:
    rows = [pair(i // 2) for i in range(400)]
    rows += [pair(1000 + i, "same ", " same") for i in range(30)]
    rows += [pair(2000 + i, "", "bad") for i in range(20)] + [pair(3000 + i, "x" * 90) for i in range(10)]
    section = model("pairwise", max_length=60, held_out=0.3)
    train, held_out, report = prepared(lines(tmp_path, rows), section, tmp_path)
    other = json.loads((tmp_path / "data" / "held_out.json").read_text())
    counts = {key: report[key] + other[key] for key in ("kept", "same", "empty", "too_long")}
    assert counts == {"kept": 400, "same": 30, "empty": 20, "too_long": 10}
    assert len(train) == 2 * report["kept"] and len(held_out) == 2 * other["kept"]
    assert 0.2 < other["kept"] / 400 < 0.4

    def questions(store: TokenStore) -> set[str]:
        return {Bytes().decode(store[i].tokens[:-2]).split(" Assistant:")[0] for i in range(len(store))}

    assert not questions(train) & questions(held_out)
    assert questions(train) | questions(held_out) == {f"User: question {i}" for i in range(200)}


def test_what_a_reward_model_reads(tmp_path: Path) -> None:
    rows = [pair(i) for i in range(50)]
    train, _, _ = prepared(lines(tmp_path, rows), model("pairwise"), tmp_path)
    chosen, rejected = train[0], train[1]
    assert Bytes().decode(chosen.tokens[:-1]) == f"User: {rows_of(chosen)} Assistant: good"
    assert (chosen.tokens[0], chosen.tokens[-2], chosen.tokens[-1]) == (0, 1, 1)  # bos ... eos, label
    assert (rejected.tokens[-2], rejected.tokens[-1]) == (1, 0)
    assert chosen.mask.tolist() == [0] * (len(chosen) - 1) + [1]


def rows_of(sample: Any) -> str:
    return Bytes().decode(sample.tokens[:-2]).removeprefix("User: ").split(" Assistant:")[0]


def test_a_long_one_loses_its_beginning() -> None:
    assert within([1, 2, 3], [4, 5], 4) == [2, 3, 4, 5]
    assert within([1, 2, 3], [4, 5], 9) == [1, 2, 3, 4, 5]
    assert within([1], [2, 3, 4], 2) == [3, 4]


@pytest.mark.parametrize(
    ("rows", "objective", "message"),
    [
        (
            [pair(i, "a", "a") for i in range(9)],
            "pairwise",
            "no judgment is left .* of two equal answers",
        ),
        ([pair(i, "a" * 99) for i in range(9)], "pairwise", "no judgment is left .*too long"),
        (
            [{"prompt": f"p{i}", "response": "r", "label": 1} for i in range(90)],
            "pointwise",
            r"all \d+ answers are safe; both kinds are needed",
        ),
    ],
)
def test_data_without_anything_to_learn(
    tmp_path: Path, rows: list[dict[str, Any]], objective: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(lines(tmp_path, rows), model(objective, max_length=60), tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        prepared(lines(tmp_path, []), model("pairwise"), tmp_path)


def test_prepared_once(tmp_path: Path) -> None:
    path = lines(tmp_path, [pair(i) for i in range(50)])
    prepared(path, model("pairwise"), tmp_path)
    made = (tmp_path / "data" / "train" / "tokens.bin").stat().st_mtime_ns
    prepared(path, model("pairwise"), tmp_path)
    assert (tmp_path / "data" / "train" / "tokens.bin").stat().st_mtime_ns == made
    prepared(path, model("pairwise", max_length=4000), tmp_path)
    assert (tmp_path / "data" / "train" / "tokens.bin").stat().st_mtime_ns != made
