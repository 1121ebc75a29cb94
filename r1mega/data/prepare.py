"""From a stage's `[data]` section to tokenised samples on disk, split into train and held-out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from r1mega.config.sections import Data, TokenizerTraining
from r1mega.data import toy, toy_extra
from r1mega.data.chat import ChatTemplate
from r1mega.data.samples import Report, pair_samples, text_samples
from r1mega.data.source import split
from r1mega.data.store import TokenStore, build_store, open_store
from r1mega.data.templates import CHAT
from r1mega.data.text import Pair, read_pairs, read_texts
from r1mega.data.tokenizers import Tokenizer, load_tokenizer, train_sentencepiece
from r1mega.files import fingerprint, write_json
from r1mega.logs import say
from r1mega.progress import beat
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


ROWS = "rows.jsonl"
"""Of a data set that a stage has made: prompts and responses, one JSON object a line."""


def resolved(data: Data, inputs: Mapping[str, Path]) -> Data:
    """The section with the file of the stage that it names. inputs: folders of data sets, by stage."""
    if data.from_stage is None:
        return data
    found = {"path": inputs[data.from_stage] / ROWS, "from_stage": None}
    return data.model_copy(update=found | {"prompt_key": "prompt", "answer_key": "response"})


@dataclass(frozen=True)
class Recipe:
    """What samples are made of.

    held_out: how many held-out documents the toy corpus makes; files hold out a fraction of their rows.
    chat:     what the template "chat" stands for; None where it is not used.
    """

    data: Data
    tokenizer: Tokenizer
    seed: int
    held_out: int
    chat: ChatTemplate | None = None

    def fingerprint(self) -> dict[str, Any]:
        section = self.data.model_dump(mode="json", exclude={"path"})
        file = fingerprint(self.data.path) if self.data.path is not None else None
        marks = {"version": VERSION, "data": section, "file": file, "seed": self.seed}
        marks |= {"tokenizer": self.tokenizer.digest, "chat": self.chat and self.chat.digest}
        return marks | ({"held_out_samples": self.held_out} if self.data.kind == "toy" else {})


def prepare(recipe: Recipe, folder: Path) -> None:
    """Tokenise into `folder`/train and `folder`/held_out, unless they are there already. One process does
    this.

    Raises UserError for data that cannot be read, naming the line, or that gives nothing to learn from.
    """
    data, marks = recipe.data, recipe.fingerprint()
    if _is_there(folder, marks, data):
        return
    rows = _Rows(data, recipe.seed, recipe.held_out)
    for name in ("train", "held_out") if _holds_out(data) else ("train",):
        report = Report()
        samples = _samples(recipe, rows.of(name), report)
        store = build_store(
            samples,
            folder / name,
            marks,
            vocab_size=recipe.tokenizer.vocab_size,
            progress=_progress(f"tokenising {name}"),
        )
        write_json(folder / f"{name}.json", asdict(report))
        dropped = f", {report.too_long} too long and {report.empty} empty dropped" if report.dropped else ""
        say(f"{name}: {len(store):,} sequences, {report.tokens:,} tokens{dropped}")


def open_prepared(recipe: Recipe, folder: Path) -> Prepared:
    """What `prepare` made, on any rank."""
    marks = recipe.fingerprint()
    train = open_store(folder / "train", marks)
    assert train is not None, "prepare() comes first"
    return Prepared(train, open_store(folder / "held_out", marks) if _holds_out(recipe.data) else None)


def _holds_out(data: Data) -> bool:
    return data.kind == "toy" or data.held_out > 0


def _is_there(folder: Path, marks: dict[str, Any], data: Data) -> bool:
    names = ("train", "held_out") if _holds_out(data) else ("train",)
    return all(open_store(folder / name, marks) is not None for name in names)


class _Rows:
    """The raw rows of either side. Files are split by row, so no document is on both; the toy by problem."""

    def __init__(self, data: Data, seed: int, held_out_samples: int) -> None:
        self.data, self.seed, self.held_out_samples = data, seed, held_out_samples
        if data.kind != "toy":
            # Counting reads every line, so whatever is wrong with the file is said before anything is made
            # of it.
            count = sum(1 for _ in file_rows(data))
            _, held_out = split(count, data.held_out, seed)
            self._held_out = np.zeros(count, dtype=bool)
            self._held_out[held_out] = True

    def of(self, name: str) -> Iterable[Any]:
        wanted = name == "held_out"
        if self.data.kind == "toy":
            count = self.held_out_samples if wanted else self.data.documents
            return _toy(self.data, count, self.seed, held_out=wanted)
        return (row for row, held in zip(file_rows(self.data), self._held_out, strict=True) if held == wanted)


def file_rows(data: Data) -> Iterator[Any]:
    """Of kinds text and pairs: what the file holds. UserError at a row that is something else."""
    assert data.path is not None
    if data.kind == "text":
        return read_texts(data.path, data.text_key)
    return (_spaced(pair, data.template) for pair in read_pairs(data.path, data.prompt_key, data.answer_key))


def _spaced(pair: Pair, template: str) -> Pair:
    """The answer, set off from the template by a space that belongs to the answer, as in running text."""
    if not pair.answer or template == CHAT or template[-1].isspace() or pair.answer[0].isspace():
        return pair
    return Pair(pair.prompt, f" {pair.answer}")


def raw_texts(data: Data, seed: int) -> Iterator[str]:
    """What a tokenizer of this data is trained on."""
    if data.kind == "toy":
        return _toy(data, data.documents, seed)
    if data.kind == "text":
        return file_rows(data)
    return (data.template.replace("{prompt}", prompt) + answer for prompt, answer in file_rows(data))


def _toy(data: Data, count: int, seed: int, *, held_out: bool = False) -> Iterator[str]:
    extra = toy_extra.documents(data.extra or {})
    return toy.corpus(count, seed, _levels(data), held_out=held_out, extra=extra)


def _levels(data: Data) -> list[int]:
    return [int(level.removeprefix("c")) for level in data.levels]


def _samples(recipe: Recipe, rows: Iterable[Any], report: Report) -> Iterator[Sample]:
    data, tokenizer = recipe.data, recipe.tokenizer
    longest = data.max_length
    if data.kind == "pairs":
        yield from pair_samples(
            rows,
            tokenizer,
            template=data.template,
            chat=recipe.chat,
            max_length=longest,
            report=report,
        )
    else:
        yield from text_samples(rows, tokenizer, max_length=longest, report=report)
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
        beat()
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{what}: {count:,} sequences")

    return report
