"""How many answers were kept, and why the others were not; and a few of each to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1mega.types import UserError

SHOWN = 2000
"""Characters of an example's texts, at most: their beginnings."""


@dataclass(frozen=True)
class Example:
    """One answer and what became of it. detail: why, for a person."""

    reason: str
    id: str
    prompt: str
    response: str
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "reason": self.reason,
            "id": self.id,
            "detail": self.detail[:SHOWN],
            "prompt": self.prompt[:SHOWN],
            "response": self.response[:SHOWN],
        }


@dataclass
class Tally:
    """kept, dropped: category -> reason -> rows. tokens: of all answers that were looked at."""

    kept: dict[str, Counter[str]] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    tokens: int = 0

    def keep(self, category: str, reason: str = "kept", times: int = 1) -> None:
        self.kept.setdefault(category, Counter())[reason] += times

    def drop(self, category: str, reason: str, times: int = 1) -> None:
        self.dropped.setdefault(category, Counter())[reason] += times

    def add(self, other: Tally) -> None:
        for mine, theirs in ((self.kept, other.kept), (self.dropped, other.dropped)):
            for category, counts in theirs.items():
                mine.setdefault(category, Counter()).update(counts)
        self.tokens += other.tokens

    @property
    def rows_kept(self) -> int:
        return sum(counts.total() for counts in self.kept.values())

    @property
    def rows(self) -> int:
        """All that were looked at."""
        return self.rows_kept + sum(counts.total() for counts in self.dropped.values())

    @property
    def reasons(self) -> Counter[str]:
        """Why rows were dropped, over all categories."""
        return sum(self.dropped.values(), Counter())

    def to_json(self) -> dict[str, Any]:
        return {
            "kept": {name: _sorted(self.kept[name]) for name in sorted(self.kept)},
            "dropped": {name: _sorted(self.dropped[name]) for name in sorted(self.dropped)},
            "tokens": self.tokens,
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any], where: str) -> Tally:
        """Raises UserError where it is none. where: for the message."""
        try:
            kept, dropped = (
                {name: Counter(counts) for name, counts in value[side].items()}
                for side in ("kept", "dropped")
            )
            return cls(kept, dropped, int(value["tokens"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where} is damaged ({error!r}): delete it to do that part again") from error


def said(reasons: Counter[str]) -> str:
    """wrong 120, language 3; the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered) or "none"


def still_wanted(new: Iterable[tuple[int, Example]], there: Mapping[str, int], most: int) -> list[Example]:
    """In the order of their numbers, those of which there are fewer than `most` a reason so far."""
    seen, found = Counter(there), []
    for _, example in sorted(new, key=lambda item: item[0]):
        if seen[example.reason] < most:
            seen[example.reason] += 1
            found.append(example)
    return found


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {reason: counts[reason] for reason in sorted(counts)}
