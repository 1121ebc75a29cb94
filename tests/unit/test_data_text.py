"""JSON Lines: what is read, and what each mistake is called."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from r1mega.data.text import read_pairs, read_texts
from r1mega.types import UserError


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "data.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_texts(tmp_path: Path) -> None:
    texts = ["plain", "", "two\nlines", "字 😀", "\u2028", '"quoted"']
    rows = [json.dumps({"text": text, "id": i}, ensure_ascii=bool(i % 2)) for i, text in enumerate(texts)]
    assert list(read_texts(write(tmp_path, "\n".join(rows) + "\n"))) == texts
    assert list(read_texts(write(tmp_path, "\r\n".join(rows)))) == texts  # Windows, no last line end
    assert list(read_texts(write(tmp_path, b"\xef\xbb\xbf" + "\n\n".join(rows).encode()))) == texts


def test_pairs(tmp_path: Path) -> None:
    file = write(tmp_path, '{"q": "1+1?", "a": "2"}')
    assert list(read_pairs(file, "q", "a")) == [("1+1?", "2")]


def test_gsm8k_is_read_as_it_is(shared: Path) -> None:
    pairs = list(read_pairs(shared / "gsm8k/test.jsonl"))
    assert len(pairs) == 1319
    assert pairs[0].prompt.startswith("Janet\u2019s ducks lay 16 eggs per day.")
    assert all(pair.answer.rpartition("#### ")[2].strip() for pair in pairs)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("not json", r"line 3: no valid JSON: Expecting value .column 1"),
        ('{"text": "half', r"line 3: no valid JSON: Unterminated string"),
        ('["text"]', r"line 3: a list where an object"),
        ("3", r"line 3: a number where an object"),
        ("true", r"line 3: a boolean where an object"),
        ('{"body": 1, "id": 2}', r"line 3: no key 'text'; the keys there are 'body', 'id'"),
        ("{}", r"line 3: no key 'text'; the keys there are none"),
        ('{"text": null}', r"line 3: 'text' is null, a string"),
        ('{"text": ["a"]}', r"line 3: 'text' is a list, a string"),
        (b'{"text": "\xff"}', r"line 3: no valid UTF-8 at byte 11"),
        (r'{"text": "\ud83d"}', r"line 3: 'text' has half a character"),
        ("[" * 200_000, r"line 3: no valid JSON"),
        ('{"text": ' + "9" * 5000 + "}", r"line 3: no valid JSON"),
    ],
)
def test_a_bad_line_is_named(bad: str | bytes, message: str, tmp_path: Path) -> None:
    """The blank second line counts as a line; the good first one is given before the complaint."""
    bad = bad.encode() if isinstance(bad, str) else bad
    texts = read_texts(write(tmp_path, b'{"text": "good"}\n\n' + bad + b'\n{"text": "never read"}\n'))
    assert next(texts) == "good"
    with pytest.raises(UserError, match=message) as error:
        next(texts)
    assert str(tmp_path / "data.jsonl") in str(error.value)


def test_a_pair_needs_both_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: no key 'answer'"):
        list(read_pairs(write(tmp_path, '{"question": "?"}')))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_texts(tmp_path / "none.jsonl")  # at once, not at the first row
    with pytest.raises(UserError, match="is a folder"):
        read_pairs(tmp_path)
    for content in ("", "\n \n", b"\xef\xbb\xbf"):
        with pytest.raises(UserError, match="is empty"):
            list(read_texts(write(tmp_path, content)))


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "a"}\n' * 1000 + "broken")
    assert list(islice(read_texts(file), 1000)) == ["a"] * 1000
