"""Tokenizers: lossless, and the same ids from SentencePiece, from tokenizer.json and from transformers."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from r1mega.data import toy
from r1mega.data.text import read_pairs
from r1mega.data.tokenizers import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from r1mega.types import UserError

LEVELS = (2, 3, 4, 5, 6)
AWKWARD = (
    "", " ", "  ", "\n", " a", "a ", "a  b   c", "a\tb\r\nc", "\n\n 1\n", "12345", "3.14 ",
    "<think>12</think>34",
    " <think> <think></think>", "<think", "<<think>>", "</answer>7<answer>", "</s><s><pad><unk>", "<0x41>",
    "é字😀", "e\u0301", "\u200b\ufeff", "\x00\x01", "\u2028", "\ufffd", "先5+6=11； 再", "所以2 </think>",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    return train_sentencepiece(toy.corpus(4000, 0, LEVELS), file, vocab_size=400, symbols=toy.THINK_TAGS)


@pytest.fixture(scope="module")
def saved(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder)
    return folder


@pytest.fixture(scope="module")
def reloaded(saved: Path) -> Tokenizer:
    return load_tokenizer(saved)


def assert_same(one: Tokenizer, other: Tokenizer, texts: list[str]) -> None:
    ids = one.encode_batch(texts)
    assert other.encode_batch(texts) == ids
    assert [other.decode(row) for row in ids] == [one.decode(row) for row in ids]


def test_the_recipes_tokenizer(trained: Tokenizer) -> None:
    assert trained.vocab_size == 400
    assert (trained.pad_id, trained.bos_id, trained.eos_id) == (0, 1, 2)
    ids = trained.encode("<think>12</think>")
    assert [trained.decode([i]) for i in ids] == ["<think>", "1", "2", "</think>"]
    assert trained.decode([0, 1, *ids, 2]) == "<think>12</think>"


@pytest.mark.parametrize("text", AWKWARD)
def test_nothing_is_lost(trained: Tokenizer, reloaded: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text
    assert_same(trained, reloaded, [text])


@given(st.text(), st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_survives_alone_and_joined(trained: Tokenizer, a: str, b: str) -> None:
    a, b = a.replace("▁", ""), b.replace("▁", "")
    assert trained.decode(trained.encode(a)) == a
    assert trained.decode(trained.encode(a) + trained.encode(b)) == a + b


@given(st.text(st.sampled_from("<>/ thinkaswer012\n▁字é先；=+")))
@settings(max_examples=300, deadline=None)
def test_both_readers_agree_on_any_text(trained: Tokenizer, reloaded: Tokenizer, text: str) -> None:
    assert_same(trained, reloaded, [text])


def test_both_readers_agree_on_the_corpus(trained: Tokenizer, reloaded: Tokenizer) -> None:
    assert isinstance(trained, SentencePieceTokenizer) and isinstance(reloaded, HuggingFaceTokenizer)
    texts = list(toy.corpus(5000, 1, LEVELS))
    assert_same(trained, reloaded, texts)
    assert [trained.decode(trained.encode(text)) for text in texts] == texts
    for name in ("vocab_size", "bos_id", "eos_id", "pad_id"):
        assert getattr(reloaded, name) == getattr(trained, name)


def test_both_readers_agree_on_gsm8k(shared: Path, tmp_path: Path) -> None:
    texts = [f"{prompt}\n{answer}" for prompt, answer in read_pairs(shared / "gsm8k/test.jsonl")]
    learned = train_sentencepiece(texts[:600], tmp_path / "a.model", vocab_size=1000)
    learned.save(tmp_path / "folder")
    assert_same(learned, load_tokenizer(tmp_path / "folder"), [*texts, "\n".join(texts)])
    assert [learned.decode(ids) for ids in learned.encode_batch(texts)] == texts


@pytest.mark.parametrize("alphabet", ["ab", "ab ", "abc \n", "0a<> "])
@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_both_readers_agree_where_merges_overlap(alphabet: str, dummy_prefix: bool, tmp_path: Path) -> None:
    """Few letters make pieces that can be built in many ways: where a rank a piece could be too little."""
    rng = random.Random(f"{alphabet}{dummy_prefix}")

    def words(count: int) -> Iterator[str]:
        return ("".join(rng.choices(alphabet, k=rng.randint(1, 50))) for _ in range(count))

    if dummy_prefix:
        (tmp_path / "a.model").write_bytes(spm_train(list(words(200)), add_dummy_prefix=True))
        tokenizer = load_tokenizer(tmp_path / "a.model")
    else:
        tokenizer = train_sentencepiece(words(200), tmp_path / "a.model", vocab_size=350, symbols=("aba",))
    tokenizer.save(tmp_path / "folder")
    assert_same(tokenizer, load_tokenizer(tmp_path / "folder"), [*words(2000), *AWKWARD])


@pytest.mark.parametrize("family", [None, "qwen2", "llama", "deepseek_v3"])
def test_transformers_reads_what_is_saved(trained: Tokenizer, tmp_path: Path, family: str | None) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    if family:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*AWKWARD, *toy.corpus(1000, 2, LEVELS)]
    for text, ids in zip(texts, trained.encode_batch(texts), strict=True):
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs(text).input_ids == [trained.bos_id, *ids]
        assert theirs.decode([*ids, trained.eos_id], skip_special_tokens=True) == text
    assert len(theirs) == trained.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)


def test_equal_texts_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_sentencepiece(toy.corpus(500, 0, LEVELS), tmp_path / f"{name}.model", vocab_size=350)
    other = train_sentencepiece(toy.corpus(500, 1, LEVELS), tmp_path / "c.model", vocab_size=350)
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    assert load_tokenizer(tmp_path / "a.model").digest != other.digest


def test_digits_stand_alone_however_often_they_meet(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(["12 12 12 a12"] * 50, tmp_path / "a.model", vocab_size=300)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("12a12")] == ["1", "2", "a", "1", "2"]


def test_a_corpus_without_a_space_still_encodes_one(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(["ab"], tmp_path / "a.model", vocab_size=300)
    assert tokenizer.vocab_size < 300  # no more pairs: the real size is smaller
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"


def test_training_errors(tmp_path: Path) -> None:
    file = tmp_path / "a.model"
    corpus = ["abc def"]
    with pytest.raises(UserError, match="empty"):
        train_sentencepiece(["", ""], file, vocab_size=300)
    with pytest.raises(
        UserError, match="needs at least 267"
    ):  # 4 control tokens, 256 bytes, 6 letters, a space
        train_sentencepiece(corpus, file, vocab_size=266)
    for symbol in ("", "a b", "<s>", "▁"):
        with pytest.raises(UserError, match="cannot be a symbol"):
            train_sentencepiece(corpus, file, vocab_size=300, symbols=(symbol,))
    with pytest.raises(UserError, match="twice"):
        train_sentencepiece(corpus, file, vocab_size=300, symbols=("<a>", "<a>"))
    with pytest.raises(UserError, match="-1"):
        train_sentencepiece(corpus, file, vocab_size=-1)
    with pytest.raises(UserError, match="does not exist"):  # an error of the texts keeps its own words
        train_sentencepiece(prompts_of(tmp_path / "none.jsonl"), file, vocab_size=300)
    assert list(tmp_path.iterdir()) == []
    assert train_sentencepiece(corpus, file, vocab_size=267).vocab_size == 267


def prompts_of(file: Path) -> Iterator[str]:
    for pair in read_pairs(file):
        yield pair.prompt


def spm_train(texts: list[str], **settings: Any) -> bytes:
    """A model trained without r1mega; by default one that could be used."""
    usable: dict[str, Any] = {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "character_coverage": 1.0,
    }  # fmt: skip
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=320, hard_vocab_limit=False,
        num_threads=1, minloglevel=2, **(usable | settings),
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "unigram"}, "not a BPE model"),
        ({"byte_fallback": False}, "no byte_fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises text"),
        ({"remove_extra_whitespaces": True}, "removes extra whitespace"),
        ({"user_defined_symbols": ["<think>"]}, "dummy prefix and has user-defined"),
        ({"eos_id": -1}, "no end-of-sequence"),
        ({"treat_whitespace_as_suffix": True}, "as a suffix"),
    ],
)
def test_models_without_an_exact_form_are_refused(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.model").write_bytes(spm_train(list(toy.corpus(300, 0, LEVELS)), **settings))
    with pytest.raises(UserError, match=reason):
        load_tokenizer(tmp_path / "a.model")


def test_loading_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "none.model")
    with pytest.raises(UserError, match=r"no tokenizer\.json and no tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="is no tokenizer"):
        load_tokenizer(tmp_path / "notes.txt")
    for content in (b"", b"not a model", bytes(range(256)) * 10):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer\.model"):
            load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ half")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)


def byte_level(texts: list[str]) -> Backend:
    """A byte-level BPE as Qwen's and Llama 3's, made by the tokenizers library."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    texts = list(toy.corpus(500, 0, LEVELS))
    backend = byte_level(texts)
    source = tmp_path / "source"
    source.mkdir()
    backend.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(UserError, match="names no eos_token"):
        load_tokenizer(source)

    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (source / "model.safetensors").write_text("no part of the tokenizer")
    tokenizer = load_tokenizer(source)
    assert tokenizer.bos_id is None
    assert tokenizer.eos_id == tokenizer.pad_id == backend.token_to_id("<|end|>")
    assert tokenizer.vocab_size == backend.get_vocab_size()
    assert tokenizer.encode_batch(texts) == [backend.encode(text).ids for text in texts]
    assert tokenizer.encode(texts[0]) == tokenizer.encode_batch(texts)[0]
    assert tokenizer.decode([*tokenizer.encode(texts[0]), tokenizer.eos_id]) == texts[0]

    tokenizer.save(tmp_path / "copy")
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    copy = load_tokenizer(tmp_path / "copy")
    assert copy.digest == tokenizer.digest
    assert_same(tokenizer, copy, texts)


def test_a_saved_folder_can_be_saved_again(saved: Path, reloaded: Tokenizer, tmp_path: Path) -> None:
    reloaded.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in saved.iterdir()
    }
