"""From judged answers to tokenised samples on disk, split into train and held out by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from r1mega.algo.judgments import judged
from r1mega.config.reward_models import RewardModel
from r1mega.data import toy_general
from r1mega.data.preferences.read import Judged, read
from r1mega.data.preferences.rows import Preference
from r1mega.data.preferences.tokens import Reading
from r1mega.data.prepare import Prepared
from r1mega.data.store import build_store, open_store
from r1mega.files import fingerprint, write_json
from r1mega.logs import say
from r1mega.types import Sample, UserError

VERSION = 1
"""Raised by hand when the same section gives other samples."""

_BATCH = 256  # judgments tokenised at a time


@dataclass
class Report:
    """What became of the judgments. kept: pairs, or single answers. labels: of single answers, by label."""

    kept: int = 0
    same: int = 0  # pairs of two equal answers: dropped
    empty: int = 0  # without an answer, or one of the two: dropped
    too_long: int = 0  # the prompt with an answer is longer than the limit: dropped
    tokens: int = 0  # in those kept
    labels: dict[str, int] = field(default_factory=lambda: {"safe": 0, "unsafe": 0})

    @property
    def dropped(self) -> str:
        counts = {
            "of two equal answers": self.same,
            "without an answer": self.empty,
            "too long": self.too_long,
        }
        return ", ".join(f"{count} {why}" for why, count in counts.items() if count)


@dataclass(frozen=True)
class Judgments:
    """Where a reward model's judgments are and how it reads them.

    section: its config. file: the data's, None for the toy.
    """

    section: RewardModel
    file: Path | None
    reading: Reading
    seed: int
    folder: Path

    def prepare(self) -> None:
        """Tokenise into `folder`/train and `folder`/held_out unless they are there. One process does this.

        A prompt is on one side only, with all its answers. Raises UserError for data that cannot be read,
        naming the line, or from which nothing can be learned.
        """
        if all(open_store(self.folder / name, self._marks) is not None for name in ("train", "held_out")):
            return
        for name in ("train", "held_out"):
            report = Report()
            rows = (row for row in self._rows() if self._is_held_out(row.prompt) == (name == "held_out"))
            build_store(
                self._checked(self._samples(rows, report), report, name),
                self.folder / name,
                self._marks,
                vocab_size=self.reading.tokenizer.vocab_size,
            )
            write_json(self.folder / f"{name}.json", asdict(report))
            dropped = f"; dropped: {report.dropped}" if report.dropped else ""
            say(f"{self.folder.parent.name}, {name}: {report.kept:,} judgments{dropped}")

    def open(self) -> Prepared:
        """What `prepare` made, on any rank."""
        train = open_store(self.folder / "train", self._marks)
        assert train is not None, "prepare() comes first"
        return Prepared(train, open_store(self.folder / "held_out", self._marks))

    @property
    def _marks(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "section": self.section.model_dump(mode="json", exclude={"data": {"path"}}),
            "file": fingerprint(self.file) if self.file is not None else None,
            "tokenizer": self.reading.tokenizer.digest,
            "seed": self.seed,
        }

    def _rows(self) -> Iterator[Judged]:
        data, objective = self.section.data, self.section.objective
        if self.file is not None:
            return read(self.file, objective, data)
        return _TOYS[objective](data.count, self.seed)

    def _is_held_out(self, prompt: str) -> bool:
        digest = hashlib.sha256(f"{self.seed}:{prompt}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.section.held_out * 2**64

    def _samples(self, rows: Iterable[Judged], report: Report) -> Iterator[Sample]:
        """Of a pair the chosen answer, then the rejected one."""
        remaining = iter(rows)
        while batch := list(islice(remaining, _BATCH)):
            whole = [row for row in batch if _is_whole(row, report)]
            answers = [(row.prompt, text) for row in whole for text, _ in _labelled(row)]
            labels = [label for row in whole for _, label in _labelled(row)]
            read_ids = iter(self.reading(answers))
            ids = [[*prompt, *answer] for prompt, answer in read_ids]
            together = 2 if self.section.objective == "pairwise" else 1
            for i in range(0, len(ids), together):
                if max(map(len, ids[i : i + together])) >= self.section.max_length:  # the label is one more
                    report.too_long += 1
                    continue
                report.kept += 1
                for one, label in zip(ids[i : i + together], labels[i : i + together], strict=True):
                    report.tokens += len(one)
                    report.labels["safe" if label else "unsafe"] += 1
                    yield judged(one, label)

    def _checked(self, samples: Iterator[Sample], report: Report, name: str) -> Iterator[Sample]:
        yield from samples
        what = "the toy's judgments" if self.file is None else str(self.file)
        if not report.kept:
            side = "to learn from" if name == "train" else "to hold out"
            raise UserError(
                f"{what}: no judgment is left {side} ({report.dropped or 'there are too few prompts'}); give "
                f"more of them, or change max_length ({self.section.max_length} tokens) or held_out "
                f"({self.section.held_out:g})"
            )
        if name == "train" and 0 in report.labels.values():
            only = next(label for label, count in report.labels.items() if count)
            raise UserError(
                f"{what}: all {report.kept} answers are {only}; both kinds are needed to learn from"
            )


_TOYS: Mapping[str, Callable[[int, int], Iterator[Judged]]] = {
    "pairwise": toy_general.preference_pairs,
    "pointwise": toy_general.safety_labels,
}


def _labelled(row: Judged) -> list[tuple[str, int]]:
    """Each answer with its label."""
    if isinstance(row, Preference):
        return [(row.chosen, 1), (row.rejected, 0)]
    return [(row.response, int(row.safe))]


def _is_whole(row: Judged, report: Report) -> bool:
    texts = [text.strip() for text, _ in _labelled(row)]
    report.empty += not all(texts)
    same = all(texts) and isinstance(row, Preference) and texts[0] == texts[1]
    report.same += same
    return all(texts) and not same
