"""From a stage's `[data]` section to tokenised samples on disk, split into train and held-out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from r1mega.config.sections import Data, TokenizerTraining
from r1mega.data import toy
from r1mega.data.samples import Report, pair_samples, text_samples
from r1mega.data.source import split
from r1mega.data.store import TokenStore, build_store, open_store
from r1mega.data.text import Pair, read_pairs, read_texts
from r1mega.data.tokenizers import Tokenizer, load_tokenizer, train_sentencepiece
from r1mega.files import fingerprint, write_json
from r1mega.logs import say
from r1mega.types import Sample, UserError

T = TypeVar("T")
VERSION = 1
"""Raised by hand when the same section gives other samples."""


@dataclass(frozen=True)
class Prepared:
    """What a stage learns from. held_out is None where nothing is held out."""

    train: TokenStore
    held_out: TokenStore | None


def train_tokenizer(texts: Iterable[str], training: TokenizerTraining, model_file: Path) -> Tokenizer:
    """A SentencePiece model of a stage's own texts, or the one that an earlier attempt has left."""
    if model_file.is_file():
        return load_tokenizer(model_file)
    say(f"training a tokenizer of {training.vocab_size} pieces")
    some = islice(texts, training.documents)
    tokenizer = train_sentencepiece(
        some, model_file, vocab_size=training.vocab_size, symbols=training.symbols
    )
    say(f"tokenizer: {tokenizer.vocab_size} pieces")
    return tokenizer


def prepare(data: Data, tokenizer: Tokenizer, seed: int, folder: Path, *, held_out_samples: int) -> None:
    """Tokenise into `folder`/train and `folder`/held_out, unless they are there already. One process does
    this.

    held_out_samples: how many held-out documents the toy corpus makes; files hold out a fraction of their
                      rows.
    Raises UserError for data that cannot be read, naming the line, or that gives nothing to learn from.
    """
    marks = _fingerprint(data, tokenizer, seed, held_out_samples)
    if _is_there(folder, marks, data):
        return
    rows = _Rows(data, seed, held_out_samples)
    for name in ("train", "held_out") if _holds_out(data) else ("train",):
        report = Report()
        samples = _samples(data, tokenizer, rows.of(name), report)
        store = build_store(
            samples,
            folder / name,
            marks,
            vocab_size=tokenizer.vocab_size,
            progress=_progress(f"tokenising {name}"),
        )
        write_json(folder / f"{name}.json", asdict(report))
        dropped = f", {report.too_long} too long and {report.empty} empty dropped" if report.dropped else ""
        say(f"{name}: {len(store):,} sequences, {report.tokens:,} tokens{dropped}")


def open_prepared(
    data: Data, tokenizer: Tokenizer, seed: int, folder: Path, *, held_out_samples: int
) -> Prepared:
    """What `prepare` made, on any rank."""
    marks = _fingerprint(data, tokenizer, seed, held_out_samples)
    train = open_store(folder / "train", marks)
    assert train is not None, "prepare() comes first"
    return Prepared(train, open_store(folder / "held_out", marks) if _holds_out(data) else None)


def _holds_out(data: Data) -> bool:
    return data.kind == "toy" or data.held_out > 0


def _is_there(folder: Path, marks: dict[str, Any], data: Data) -> bool:
    names = ("train", "held_out") if _holds_out(data) else ("train",)
    return all(open_store(folder / name, marks) is not None for name in names)


def _fingerprint(data: Data, tokenizer: Tokenizer, seed: int, held_out_samples: int) -> dict[str, Any]:
    section = data.model_dump(mode="json", exclude={"path"})
    file = fingerprint(data.path) if data.path is not None else None
    marks = {"version": VERSION, "data": section, "file": file, "tokenizer": tokenizer.digest, "seed": seed}
    return marks | ({"held_out_samples": held_out_samples} if data.kind == "toy" else {})


class _Rows:
    """The raw rows of either side. Files are split by row, so no document is on both; the toy by problem."""

    def __init__(self, data: Data, seed: int, held_out_samples: int) -> None:
        self.data, self.seed, self.held_out_samples = data, seed, held_out_samples
        if data.kind != "toy":
            # Counting reads every line, so whatever is wrong with the file is said before anything is made
            # of it.
            count = sum(1 for _ in _file_rows(data))
            _, held_out = split(count, data.held_out, seed)
            self._held_out = np.zeros(count, dtype=bool)
            self._held_out[held_out] = True

    def of(self, name: str) -> Iterable[Any]:
        wanted = name == "held_out"
        if self.data.kind == "toy":
            count = self.held_out_samples if wanted else self.data.documents
            return toy.corpus(count, self.seed, _levels(self.data), held_out=wanted)
        return (
            row for row, held in zip(_file_rows(self.data), self._held_out, strict=True) if held == wanted
        )


def _file_rows(data: Data) -> Iterator[Any]:
    assert data.path is not None
    if data.kind == "text":
        return read_texts(data.path, data.text_key)
    return (_spaced(pair, data.template) for pair in read_pairs(data.path, data.prompt_key, data.answer_key))


def _spaced(pair: Pair, template: str) -> Pair:
    """The answer, set off from the template by a space that belongs to the answer, as in running text."""
    if not pair.answer or template[-1].isspace() or pair.answer[0].isspace():
        return pair
    return Pair(pair.prompt, f" {pair.answer}")


def raw_texts(data: Data, seed: int) -> Iterator[str]:
    """What a tokenizer of this data is trained on."""
    if data.kind == "toy":
        return toy.corpus(data.documents, seed, _levels(data))
    if data.kind == "text":
        return _file_rows(data)
    return (data.template.replace("{prompt}", prompt) + answer for prompt, answer in _file_rows(data))


def _levels(data: Data) -> list[int]:
    return [int(level.removeprefix("c")) for level in data.levels]


def _samples(data: Data, tokenizer: Tokenizer, rows: Iterable[Any], report: Report) -> Iterator[Sample]:
    if data.kind == "pairs":
        made = pair_samples(
            rows, tokenizer, template=data.template, max_length=data.max_length, report=report
        )
    else:
        made = text_samples(rows, tokenizer, max_length=data.max_length, report=report)
    yield from made
    if not report.kept:
        raise UserError(
            f"no sequence is left to learn from: {report.too_long} were longer than data.max_length "
            f"{data.max_length} tokens, {report.empty} were empty"
        )


def _progress(what: str, seconds: float = 5.0) -> Callable[[int], None]:
    """Says how far it is, every few seconds of a long work."""
    last = time.monotonic()

    def report(count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{what}: {count:,} sequences")

    return report
