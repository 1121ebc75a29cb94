"""The two kinds of judgment that a reward model learns from."""

from __future__ import annotations

from typing import NamedTuple


class Preference(NamedTuple):
    """Two answers to a prompt, of which somebody preferred the first. All without template."""

    prompt: str
    chosen: str
    rejected: str


class Judgement(NamedTuple):
    """An answer to a prompt, and whether it is safe. Both without template."""

    prompt: str
    response: str
    safe: bool
