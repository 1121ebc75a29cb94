"""Answers that are one number: integers of the toy, and numbers as GSM8K and MATH write them.

Read are integers, decimals, commas between thousands, a/b and \\frac, mixed numbers, with a sign, a currency
or `x =` before them, a unit or % behind them, and LaTeX around them. Equal means exactly equal, as rational
numbers. A gold answer that is no such number (an interval, a root, a name) is compared as text.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1mega.rewards.answers import CORRECT, Grader, Verdict, quoted
from r1mega.types import Prompt

_LONGEST_NUMBER = 200  # characters; no digits beyond that are ever computed with
_NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_VALUE = re.compile(rf"([+-]?)\s*(?:([0-9]+)\s+(?=[^/]*/))?({_NUMBER})(?:\s*/\s*({_NUMBER}))?")
_PART = rf"\s*(?:\{{\s*([+-]?{_NUMBER})\s*\}}|([0-9]))"
_FRAC = re.compile(rf"\\frac{_PART}{_PART}")
_UNKNOWN = re.compile(r"[A-Za-z]\s*=")  # what is solved for
_UNIT = re.compile(
    r"(?:\s*(?:%|°|\^\s*\{?\\circ\}?|\\(?:text|textrm|mbox|mathrm)\s*\{([^{}0-9]*)\})|\s([A-Za-z][A-Za-z ]*))"
    r"(?:\s*\^\s*\{?[23]\}?)?\Z"
)
# Words behind a number that make it another number, or no single one.
_NO_UNIT = {
    "or", "and", "to", "by", "over", "sqrt", "plus", "minus", "times", "mod", "modulo", "base", "half",
    "dozen", "hundred", "thousand", "million", "billion", "trillion",
}  # fmt: skip
# One or two other letters are taken for variables.
_SHORT_UNITS = {"a", "cm", "mm", "km", "kg", "mg", "ml", "ft", "in", "oz", "lb", "hr", "am", "pm", "of"}
_LATEX = (
    ("\\$", ""), ("$", ""), ("\\(", ""), ("\\)", ""), ("\\[", ""), ("\\]", ""), ("\\left", ""),
    ("\\right", ""), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("{,}", ","), ("\\!", ""), ("\\,", " "),
    ("\\;", " "), ("\\ ", " "), ("~", " "), ("\\%", "%"), ("\u2212", "-"),
)  # fmt: skip
_TEXT = re.compile(r"\\(?:text|textrm|mbox|mathrm)\s*\{([^{}]*)\}")
_LAST = re.compile(r"(?:(?<![\w)])-)?\$?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?")


def integer_verdict(answer: str, prompt: Prompt) -> Verdict:
    if not _INTEGER.fullmatch(answer):
        return Verdict("unparseable", f"{quoted(answer)} is no integer")
    return _compared(int(answer) == int(prompt.answer), answer, prompt)


def number_verdict(answer: str, prompt: Prompt) -> Verdict:
    given, gold = value(answer), value(prompt.answer)
    if gold is None:
        return _compared(_plain(answer) == _plain(prompt.answer), answer, prompt)
    if given is None:
        return Verdict("unparseable", f"{quoted(answer)} is no number")
    return _compared(given == gold, answer, prompt)


def _compared(equal: bool, answer: str, prompt: Prompt) -> Verdict:
    return CORRECT if equal else Verdict("wrong", f"{quoted(answer)}, not {quoted(prompt.answer)}")


def value(text: str) -> Fraction | None:
    """The number that a text is, or None."""
    text = _clean(text)
    if len(text) > _LONGEST_NUMBER:
        return None
    if unknown := _UNKNOWN.match(text):
        text = text[unknown.end() :].strip()
    bare = _without_unit(text)
    if bare is None:
        return None
    bare = _FRAC.sub(r" \1\2/\3\4", bare.lstrip("€£¥ "))
    match = _VALUE.fullmatch(bare.strip())
    if not match:
        return None
    sign, whole, above, below = match.groups()
    bottom = _fraction(below or "1")
    if not bottom:
        return None
    size = Fraction(whole or 0) + _fraction(above) / bottom
    return -size if sign == "-" else size


def _fraction(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _clean(text: str) -> str:
    """Without the LaTeX that says nothing; the content of \\boxed where there is one."""
    boxed = last_boxed(text)
    text = text if boxed is None else boxed
    for mark, meaning in _LATEX:
        text = text.replace(mark, meaning)
    return text.strip().rstrip(".").rstrip()


def _without_unit(text: str) -> str | None:
    """None where the words behind the number are no unit. In \\text any short word is one."""
    unit = _UNIT.search(text)
    if not unit:
        return text
    words = (unit[1] or unit[2] or "").lower().split()
    variables = {word for word in words if len(word) <= 2} - _SHORT_UNITS if unit[2] else set()
    if variables or not _NO_UNIT.isdisjoint(words):
        return None
    return text[: unit.start()]


def _plain(text: str) -> str:
    return "".join(_TEXT.sub(r"\1", _clean(text)).split())


def last_boxed(text: str) -> str | None:
    """What is in the last \\boxed{...}, braces matched."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return text[start:at]
    return None


def last_number(text: str) -> str | None:
    """The content of the last \\boxed, else the last number."""
    if (boxed := last_boxed(text)) is not None:
        return boxed
    found = _LAST.findall(text)
    return found[-1] if found else None


INTEGER = Grader(integer_verdict, last_number)
NUMBER = Grader(number_verdict, last_number)
