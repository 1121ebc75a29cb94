"""Texts and pairs as samples: what is predicted, masked and dropped, and that nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data import toy
from r1mega.data.samples import Report, pair_samples, text_samples
from r1mega.data.text import read_pairs
from r1mega.data.tokenizers import Tokenizer, train_sentencepiece
from r1mega.types import Sample, UserError

TEMPLATE = "User: {prompt} Assistant:"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    return train_sentencepiece(toy.corpus(500, 0, (2, 3)), file, vocab_size=350, symbols=toy.THINK_TAGS)


class WithoutBos:
    """The same tokenizer as a family without bos, such as Qwen2's, would have it."""

    bos_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)


def texts_to_samples(texts: list[str], tokenizer: Tokenizer, max_length: int) -> tuple[list[Sample], Report]:
    report = Report()
    return list(text_samples(texts, tokenizer, max_length=max_length, report=report)), report


def pairs_to_samples(
    pairs: list[tuple[str, str]], tokenizer: Tokenizer, max_length: int = 100, template: str = TEMPLATE
) -> tuple[list[Sample], Report]:
    report = Report()
    made = pair_samples(pairs, tokenizer, template=template, max_length=max_length, report=report)
    return list(made), report


def test_a_text(tokenizer: Tokenizer) -> None:
    (sample,), report = texts_to_samples(["2+3=5"], tokenizer, 100)
    assert sample.tokens.tolist() == [tokenizer.bos_id, *tokenizer.encode("2+3=5"), tokenizer.eos_id]
    assert sample.mask.tolist() == [0, 1, 1, 1, 1, 1, 1]  # five characters and the stop token
    assert (sample.tokens.dtype, sample.mask.dtype) == ("int32", "uint8")
    assert report == Report(kept=1, tokens=7, counted=6)


def test_a_pair(tokenizer: Tokenizer) -> None:
    (sample,), report = pairs_to_samples([("2+3=?", " 5")], tokenizer)
    prompt = [tokenizer.bos_id, *tokenizer.encode("User: 2+3=? Assistant:")]
    assert sample.tokens.tolist() == [*prompt, *tokenizer.encode(" 5"), tokenizer.eos_id]
    assert sample.mask.tolist() == [0] * len(prompt) + [1, 1, 1]  # the space, the digit, the stop token
    assert report == Report(kept=1, tokens=len(prompt) + 3, counted=3)


def test_without_bos_the_first_token_never_counts(tokenizer: Tokenizer) -> None:
    plain: Tokenizer = WithoutBos(tokenizer)  # type: ignore[assignment]
    (sample,), _ = texts_to_samples(["12"], plain, 100)
    assert sample.tokens.tolist() == [*tokenizer.encode("12"), tokenizer.eos_id]
    assert sample.mask.tolist() == [0, 1, 1]
    (sample,), _ = pairs_to_samples([("", "12")], plain, template="{prompt}")
    assert sample.mask.tolist() == [0, 1, 1]


@given(st.lists(st.text("0123456789 +", max_size=40), max_size=8), st.integers(2, 12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_token_of_a_text_is_predicted_once(
    tokenizer: Tokenizer, texts: list[str], max_length: int, bos: bool
) -> None:
    used: Tokenizer = tokenizer if bos else WithoutBos(tokenizer)  # type: ignore[assignment]
    samples, report = texts_to_samples(texts, used, max_length)
    assert all(2 <= len(sample) <= max_length for sample in samples)
    predicted = [int(t) for s in samples for t, counts in zip(s.tokens, s.mask, strict=True) if counts]
    skip = 0 if bos else 1  # nothing comes before the first token then
    assert predicted == [
        i for text in texts if text for i in [*tokenizer.encode(text), tokenizer.eos_id][skip:]
    ]
    assert report.empty == report.dropped == texts.count("")
    assert report.counted == len(predicted)
    assert (report.kept, report.tokens) == (len(samples), sum(map(len, samples)))


def test_a_cut_text_continues_from_its_last_token(tokenizer: Tokenizer) -> None:
    first, second = texts_to_samples(["123456"], tokenizer, 5)[0]
    assert tokenizer.decode(first.tokens) == "1234"
    assert second.tokens.tolist() == [*tokenizer.encode("456"), tokenizer.eos_id]
    assert second.mask.tolist() == [0, 1, 1, 1]


def test_pairs_that_cannot_be_used_are_counted(tokenizer: Tokenizer) -> None:
    pairs = [("1", "2"), ("1", ""), ("1" * 90, "2"), ("1", "2" * 90), ("3", "4")]
    samples, report = pairs_to_samples(pairs, tokenizer, max_length=40)
    assert [tokenizer.decode(sample.tokens[sample.mask == 1]) for sample in samples] == ["2", "4"]
    assert (report.kept, report.too_long, report.empty, report.dropped) == (2, 2, 1, 3)
    exact = len(samples[0])
    assert pairs_to_samples(pairs[:1], tokenizer, max_length=exact)[1].kept == 1
    assert pairs_to_samples(pairs[:1], tokenizer, max_length=exact - 1)[1].too_long == 1


def test_braces_are_no_template(tokenizer: Tokenizer) -> None:
    template = 'Answer as {"x": 1}. {prompt}'
    (sample,), _ = pairs_to_samples([("{0} {prompt}", "1")], tokenizer, template=template)
    assert tokenizer.decode(sample.tokens) == 'Answer as {"x": 1}. {0} {prompt}1'


def test_gsm8k(tokenizer: Tokenizer, shared: Path) -> None:
    pairs = list(read_pairs(shared / "gsm8k/test.jsonl"))[:300]
    samples, report = pairs_to_samples(list(pairs), tokenizer, max_length=10_000)
    assert (report.kept, report.dropped) == (300, 0)
    for pair, sample in zip(pairs, samples, strict=True):
        assert tokenizer.decode(sample.tokens[sample.mask == 1]) == pair.answer
        assert tokenizer.decode(sample.tokens) == TEMPLATE.format(prompt=pair.prompt) + pair.answer
        assert sample.tokens[-1] == tokenizer.eos_id and sample.mask[-1] == 1


def test_errors(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="sequences of 1 tokens"):
        text_samples([], tokenizer, max_length=1, report=Report())
    for template in ("User:", "{prompt}{prompt}", "{Prompt}"):
        with pytest.raises(UserError, match=r"must have \{prompt\} in it, once"):
            pair_samples([], tokenizer, template=template, max_length=10, report=Report())
