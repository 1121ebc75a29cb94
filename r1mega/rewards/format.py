"""The strict format: first the thoughts, then the answer, and then an end."""

from __future__ import annotations

import re

from r1mega.types import Completion

_TAG = re.compile(r"(</?(?:think|answer)>)")
_WANTED = ["<think>", "</think>", "<answer>", "</answer>"]


def well_formed(completion: Completion) -> bool:
    """Exactly one <think> block, then one <answer> block, neither blank, and only white space around them.

    The model must have ended by itself: a completion cut at the limit is not well formed.
    """
    if completion.finish != "stop":
        return False
    pieces = _TAG.split(completion.text)
    if pieces[1::2] != _WANTED:
        return False
    before, thoughts, between, answer, after = (not piece.strip() for piece in pieces[::2])  # blank?
    return before and between and after and not thoughts and not answer
