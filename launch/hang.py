"""A job that stands still: what is known of its ranks then, and which one keeps the others waiting. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sign:
    """What is known of a rank when its job stands still.

    places: how many places it has come by. age: seconds since its last sign of life. state: of the process,
    as /proc has it: T is stopped, D is in the kernel. answered: it wrote its stacks down when asked. waits:
    its main thread is in a collective.
    """

    rank: int
    host: str
    places: int
    where: str
    age: float
    state: str = "S"
    answered: bool = True
    waits: bool = False


@dataclass(frozen=True)
class Hang:
    """A job that stands still. sign: of the rank that keeps the others waiting. seconds: since the last sign.

    stacks: of that rank, "" where it did not answer. folder: where the stacks of all ranks are kept.
    """

    sign: Sign
    signs: tuple[Sign, ...]
    seconds: float
    stacks: str
    folder: Path

    def message(self) -> str:
        one = self.sign
        others = sorted({sign.where for sign in self.signs if sign.rank != one.rank} - {one.where})
        elsewhere = f" (others at '{others[0]}')" if others else ""
        return (
            f"error: rank {one.rank} of {len(self.signs)} on {one.host} hangs at '{one.where}'{elsewhere}"
            f"{_reason(one)}: no rank has gone on for {_minutes(self.seconds)}; stacks in {self.folder}"
        )


def _reason(sign: Sign) -> str:
    if sign.state == "T":
        return ", stopped by a signal"
    if sign.state == "D":
        return ", waiting in the kernel (a file system?)"
    return "" if sign.answered else ", does not answer signals"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def culprit(signs: Sequence[Sign]) -> Sign:
    """Which rank keeps the others waiting.

    One that cannot run at all; then one that came by fewer places; then one that does not itself wait in a
    collective; then the one that is silent for longest. With all alike, the first.
    """
    return min(
        signs,
        key=lambda one: (one.state != "T" and one.answered, one.places, one.waits, -one.age, one.rank),
    )
