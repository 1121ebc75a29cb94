"""Preference pairs from judgments, as DeepSeek-R1's were made (arXiv 2501.12948, supplement). Pure.

A judge sees two answers as A and B, several times and in either order, and says which is better. The mean of
that is the pair's score; clear ones are kept, as many with a longer chosen answer as with a shorter one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from random import Random
from statistics import fmean

VERDICTS = {"A>>B": 3.0, "A>B": 1.0, "A=B": 0.0, "B>A": -1.0, "B>>A": -3.0}
"""Arena-Hard's five verdicts; as there, a clear win counts three times a slight one."""

_VERDICT = re.compile(r"\[\[\s*(A\s*>>\s*B|A\s*>\s*B|A\s*=\s*B|B\s*=\s*A|B\s*>\s*A|B\s*>>\s*A)\s*\]\]")


def orders(name: str, votes: int) -> list[bool]:
    """For each vote whether the two answers change places.

    Random by the pair's name, half of them each way: a judge that prefers a place prefers nobody in the mean.
    """
    seed = int.from_bytes(hashlib.sha256(f"orders:{name}".encode()).digest()[:8], "big")
    found = [i < votes // 2 for i in range(votes)]
    rng = Random(seed)
    if votes % 2:
        found[-1] = rng.random() < 0.5
    rng.shuffle(found)
    return found


def verdict(text: str) -> float | None:
    """The last verdict of a judgment, above 0 where A is better; None where there is none."""
    said = _VERDICT.findall(text)
    if not said:
        return None
    plain = re.sub(r"\s", "", said[-1])
    return VERDICTS["A=B" if plain == "B=A" else plain]


def mean_verdict(judgments: Sequence[str], swapped: Sequence[bool]) -> float | None:
    """How much better the first answer is, on average. None unless most judgments can be read."""
    read = [
        -value if swap else value
        for text, swap in zip(judgments, swapped, strict=True)
        if (value := verdict(text)) is not None
    ]
    return fmean(read) if 2 * len(read) > len(judgments) else None


def chosen_first(score: float, margin: float) -> bool | None:
    """Whether the first answer is the chosen one; None where the difference is not above the margin."""
    return None if abs(score) <= margin else score > 0


def matched(lengths: Sequence[tuple[int, int]]) -> list[int]:
    """Which pairs to keep, in their order, given each pair's lengths (chosen, rejected) in tokens.

    In each octave of the difference as many pairs are kept whose chosen answer is the longer one as others,
    the first ones: so neither who is longer nor by how much tells who is better. Equal lengths are all kept.
    """
    longer: dict[int, list[int]] = {}
    shorter: dict[int, list[int]] = {}
    kept = []
    for i, (chosen, rejected) in enumerate(lengths):
        if chosen == rejected:
            kept.append(i)
        else:
            side = longer if chosen > rejected else shorter
            side.setdefault(abs(chosen - rejected).bit_length(), []).append(i)
    for octave in longer.keys() & shorter.keys():
        both = longer[octave], shorter[octave]
        kept += [i for side in both for i in side[: min(map(len, both))]]
    return sorted(kept)
