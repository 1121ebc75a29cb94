"""What becomes a row: forms of responses, rows from elsewhere, and the last mix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.data.curate.general import Exchange, Read, exchanges, take
from r1mega.data.curate.mix import Rules, mix
from r1mega.data.curate.response import (
    Parts,
    has_code_block,
    is_bare,
    key,
    longest_paragraph,
    parts,
    says_something,
    with_opening,
    without_thoughts,
)
from r1mega.data.curate.shards import Row, Shards
from r1mega.data.curate.tally import Example, Tally, said, still_wanted
from r1mega.data.decontaminate import Overlap
from r1mega.types import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> a </think> b", Parts("a", "b")),
        (" <think>a\n\nb</think>\n\n<answer> 5 </answer>", Parts("a\n\nb", "<answer> 5 </answer>")),
        ("<think></think>", Parts("", "")),
        ("b", None),
        ("hm <think> a </think> b", None),
        ("<think> a", None),
        ("a </think> b", None),
        ("<think> a </think> b </think> c", None),
        ("<think> a <think> b </think> c", None),
    ],
)
def test_parts_of_a_response(text: str, expected: Parts | None) -> None:
    assert parts(text) == expected


def test_a_response_is_put_together_again() -> None:
    form = Parts("one\ntwo", "It is <answer> 5 </answer>")
    assert form.text() == "<think>\none\ntwo\n</think>\n\nIt is <answer> 5 </answer>"
    assert parts(form.text()) == form
    assert form.without_answer_tags().text() == "<think>\none\ntwo\n</think>\n\nIt is  5"


def test_looks_of_a_response() -> None:
    assert with_opening("a </think> b", "User: q <think>\n") == "<think>\na </think> b"
    assert with_opening("b", "User: q Assistant:") == "b"
    assert without_thoughts("<think> a </think>\n\nb") == "b" and without_thoughts(" b") == " b"
    assert is_bare(" <answer> 5 </answer>\n") and not is_bare("so <answer> 5 </answer>")
    assert not is_bare("<answer> 5 </answer> <answer> 6 </answer>") and not is_bare("")
    assert says_something("<answer>5</answer>") and not says_something(" <answer> </answer>")
    assert longest_paragraph("abc\ndef\n \nxy\n\n\nz") == 7 and longest_paragraph("") == 0
    assert has_code_block("so\n```python\nx = 1\n```") and has_code_block("  ~~~\nx")
    assert not has_code_block("the mark ``` in a line") and not has_code_block("`x`")


def test_what_is_the_same() -> None:
    assert key("What  is\n2+1?") == key("what is 2+1?") == key("What is \uff12+\uff11?")
    assert key("2+1") != key("2-1")  # words alone would be the same
    assert key("a", "b") != key("ab") and key("a b", "") != key("a", "b")


def test_counts_add_up_and_survive_a_file() -> None:
    tally, other = Tally(), Tally(tokens=5)
    tally.keep("math")
    tally.drop("math", "wrong", 2)
    other.drop("code", "wrong")
    other.drop("code", "language")
    tally.add(other)
    assert (tally.rows, tally.rows_kept, tally.tokens) == (5, 1, 5)
    assert said(tally.reasons) == "wrong 3, language 1" and said(Tally().reasons) == "none"
    again = Tally.of_json(json.loads(json.dumps(tally.to_json())), "here")
    assert again == tally
    with pytest.raises(UserError, match="here is damaged"):
        Tally.of_json({"kept": 3}, "here")


def test_the_first_examples_of_each_reason_are_shown() -> None:
    new = [(i, Example("wrong" if i % 2 else "long", str(i), "", "")) for i in reversed(range(9))]
    assert [one.id for one in still_wanted(new, {"long": 1}, 2)] == ["0", "1", "3"]
    shown = Example("long", "1", "q" * 5000, "r" * 5000).to_json()
    assert len(shown["prompt"]) == len(shown["response"]) == 2000


def row(i: int, **changes: Any) -> Row:
    values = {"category": "math", "prompt": f"question {i}", "response": f"answer {i}", "tokens": i}
    return Row(f"r/{i}", **{**values, "source": "model", "asked": f"t/{i}", **changes})  # type: ignore[arg-type]


def test_shards_survive_as_they_are(tmp_path: Path) -> None:
    store = Shards(tmp_path / "draw")
    there = [row(1), row(2, response="Zeile\u2028zwei 数 \ud800")]
    assert store.facts(3) is None
    store.write(3, there, {"next": {"a": 1}})
    assert store.facts(3) == {"next": {"a": 1}}
    assert store.rows(3) == [there[0], row(2, response="Zeile\u2028zwei 数 ?")]
    (tmp_path / "draw" / "00003.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(UserError, match="delete it to do that shard again"):
        store.rows(3)


def mixed(
    rows: list[Row], tmp_path: Path, seed: int = 0, **rules: Any
) -> tuple[list[Any], Any, Tally, list[Example]]:
    seen: list[Example] = []
    out = tmp_path / "rows.jsonl"
    lines, tally = mix(iter(rows), out, Rules(**rules), seed, seen.append)
    return [json.loads(line) for line in out.read_text().splitlines()], lines, tally, seen


def test_the_mix_shuffles_by_seed_and_loses_nothing(tmp_path: Path) -> None:
    rows = [row(i) for i in range(50)]
    one, lines, tally, _ = mixed(rows, tmp_path)
    again, *_ = mixed(rows, tmp_path)
    other, *_ = mixed(rows, tmp_path, seed=1)
    assert one == again != other
    assert [r["id"] for r in one] != [r.id for r in rows]
    assert sorted(r["tokens"] for r in one) == sorted(r["tokens"] for r in other) == list(range(50))
    assert set(one[0]) == {"id", "category", "prompt", "response", "tokens", "source"}
    assert lines["math"].rows == 50 and lines["math"].mean_tokens == 24.5
    assert tally.rows_kept == 50 and not list(tmp_path.glob(".*"))


def test_duplicates_and_caps(tmp_path: Path) -> None:
    same = row(9, prompt="Question  1", response="ANSWER 1")
    more = [row(10 + i, prompt="question 1") for i in range(3)]
    general = row(20, prompt="question 1", asked="")  # not drawn, so it has no cap
    found, _, tally, seen = mixed([row(1), same, *more, general], tmp_path, per_prompt=2)
    assert {r["id"] for r in found} == {"r/1", "r/10", "r/20"}
    assert dict(tally.reasons) == {"duplicate": 1, "enough_of_prompt": 2}
    assert [one.id for one in seen] == ["r/9", "r/11", "r/12"]
    found, *_ = mixed([row(1), same], tmp_path, duplicates=True)
    assert len(found) == 2
    found, _, tally, _ = mixed([*map(row, range(5)), general], tmp_path, drawn=3)
    assert {r["id"] for r in found} == {"r/0", "r/1", "r/2", "r/20"} and tally.reasons["over_total"] == 2


def test_targets_are_drawn_by_the_seed(tmp_path: Path) -> None:
    rows = [row(i, category="math" if i % 2 else "code") for i in range(40)]
    target = {"math": 7, "logic": 5}
    one, lines, tally, _ = mixed(rows, tmp_path, target=target)
    assert {name: line.rows for name, line in lines.items()} == {"code": 20, "logic": 0, "math": 7}
    assert tally.dropped == {"math": {"over_target": 13}} and tally.kept["code"] == {"kept": 20}
    other, *_ = mixed(rows, tmp_path, seed=3, target=target)
    assert {r["id"] for r in one} != {r["id"] for r in other}
    assert lines["math"].tokens == sum(r["tokens"] for r in one if r["category"] == "math")


def test_benchmarks_are_kept_out(tmp_path: Path) -> None:
    asked = "What is the sum of the first ten odd numbers that are prime?"
    overlap = Overlap([("aime", asked)], 10)
    rows = [row(1), row(2, prompt=f"Tell me: {asked.lower()}"), row(3, response=f"They ask: {asked}")]
    found, _, tally, [one, other] = mixed(rows, tmp_path, overlap=overlap)
    assert [r["id"] for r in found] == ["r/1"] and dict(tally.reasons) == {"in_benchmark": 2}
    assert one.detail.startswith("aime: what is the sum") and other.id == "r/3"


def test_an_empty_mix(tmp_path: Path) -> None:
    found, lines, tally, _ = mixed([], tmp_path, target={"math": 3})
    assert found == [] and lines["math"].rows == 0 and tally.rows == 0


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "general.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def read(path: Path) -> tuple[list[Exchange], Read]:
    report = Read()
    return list(exchanges(path, "prompt", "response", report)), report


def test_forms_of_general_rows(tmp_path: Path) -> None:
    gpt = {"from": "gpt", "value": "a"}
    human = {"from": "human", "value": "q"}
    system = {"from": "system", "value": "be brief"}
    user, assistant = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    found, report = read(
        written(
            tmp_path,
            {"prompt": "q", "response": "a"},
            {"conversations": [human, gpt]},
            {"messages": [user, assistant, {"role": "user", "content": "more"}], "label": True},
            {"messages": [user, assistant], "label": False},
            {"conversations": [human], "chosen": gpt, "rejected": gpt},
            {"conversations": [human, gpt, human], "chosen": gpt},
            {"conversations": [system, human, gpt]},
        )
    )
    assert [(one.prompt, one.response) for one in found] == [("q", "a")] * 4
    assert [one.place for one in found] == [0, 1, 2, 4]
    assert report.rows == 7 and dict(report.skipped) == {"not_liked": 1, "several_turns": 1, "system_turn": 1}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"prompt": "q", "response": " "}, "line 2: the answer is empty"),
        ({"prompt": "q"}, "line 2: no key 'response'"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "line 2: the user's first turn has no answer"),
        ({"messages": []}, "line 2: 'messages' holds no turns"),
        ({"messages": ["hi"]}, "line 2: a turn is an object"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "line 2: the chat does not begin"),
    ],
)
def test_rows_without_an_answer_are_refused(tmp_path: Path, bad: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read(written(tmp_path, {"prompt": "q", "response": "a"}, bad))


def test_real_preference_files_are_read(shared: Path) -> None:
    """Counted by hand from the files: roles of the turns and labels."""
    found, report = read(shared / "general" / "dpo_en_demo.json")
    assert len(found) == 114 and dict(report.skipped) == {"system_turn": 80, "several_turns": 106}
    found, report = read(shared / "general" / "kto_en_demo.json")
    assert len(found) == 150 and dict(report.skipped) == {"not_liked": 150}
    assert all(one.prompt and one.response for one in found)


@given(st.integers(0, 30), st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 3))
def test_rows_are_drawn_by_the_seed(size: int, count: int | None, seed: int) -> None:
    def rows(report: Read) -> Iterator[Exchange]:
        for place in range(size):
            report.rows += 1
            yield Exchange(place, f"q{place}", "a")

    report = Read()
    found = [one.place for one in take(rows, count, seed, "name", report)]
    assert found == sorted(set(found)) and len(found) == min(size, size if count is None else count)
    assert report.rows == size and report.taken == len(found)
    assert found == [one.place for one in take(rows, count, seed, "name", Read())]
