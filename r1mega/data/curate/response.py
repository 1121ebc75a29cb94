"""A response as thoughts and summary, and back; and what of it can be judged by its looks."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from hashlib import blake2b

_ANSWER_TAG = re.compile(r"</?answer>")
_BARE = re.compile(r"\s*<answer>(?:(?!</?answer>).)*</answer>\s*", re.DOTALL)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_FENCE = re.compile(r"^[^\S\n]{0,3}(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True)
class Parts:
    """thoughts: what stands in the think block, stripped. summary: what stands behind it, stripped."""

    thoughts: str
    summary: str

    def text(self) -> str:
        """The response in R1's form: |special_token|<reasoning_process>|special_token|<summary>."""
        return f"<think>\n{self.thoughts}\n</think>\n\n{self.summary}"

    def without_answer_tags(self) -> Parts:
        return Parts(self.thoughts, _ANSWER_TAG.sub("", self.summary).strip())


def parts(text: str) -> Parts | None:
    """Of one think block at the start and what follows; None for a text of another form."""
    before, opening, rest = text.partition("<think>")
    thoughts, closing, summary = rest.partition("</think>")
    tags = ("<think>", "</think>")
    strange = any(tag in piece for tag in tags for piece in (thoughts, summary))
    if not opening or not closing or before.strip() or strange:
        return None
    return Parts(thoughts.strip(), summary.strip())


def with_opening(text: str, prompt: str) -> str:
    """The text with the <think> that its prompt ended with."""
    return f"<think>\n{text}" if prompt.rstrip().endswith("<think>") else text


def without_thoughts(text: str) -> str:
    """What stands behind the last think block; the text itself where there is none."""
    _, closed, behind = text.rpartition("</think>")
    return behind.strip() if closed else text


def is_bare(summary: str) -> bool:
    """Whether there is an <answer> block and not a word around it."""
    return _BARE.fullmatch(summary) is not None


def says_something(summary: str) -> bool:
    """Whether anything is left without answer tags."""
    return bool(_ANSWER_TAG.sub("", summary).strip())


def longest_paragraph(text: str) -> int:
    """Characters of the longest run of text without a blank line."""
    return max(len(paragraph.strip()) for paragraph in _BLANK_LINE.split(text))


def has_code_block(text: str) -> bool:
    """Whether a line begins with a fence of ``` or ~~~."""
    return _FENCE.search(text) is not None


def key(prompt: str, response: str = "") -> int:
    """64 bits, the same for texts that differ only in case, space and compatibility forms.

    Punctuation counts: 2-1 is another question than 2+1.
    """
    text = f"{_plain(prompt)}\0{_plain(response)}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
