"""What models are told that judge and rewrite answers. Users copy such a file and name it in the config."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from r1mega.types import UserError

PLACES = ("{question}", "{response}")
COMPARED = ("{question}", "{answer_a}", "{answer_b}")


def prompt_text(name: str, path: Path | None = None, places: Sequence[str] = PLACES) -> str:
    """The text of `path`, or the package's own of that name (refine, summarise, chain_of_thought, judge,
    compare).

    Raises UserError for a file that cannot be read, and one without each of `places` once.
    """
    if path is None:
        return (files(__name__) / f"{name}.md").read_text(encoding="utf-8").rstrip("\n")
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}, what a model is to be told: {error}") from error
    for place in places:
        if text.count(place) != 1:
            raise UserError(
                f"{path}: {place} stands there {text.count(place)} times; it must stand there once"
            )
    return text


def filled(text: str, question: str, response: str) -> str:
    """The text with both in their places, whatever they hold themselves."""
    first, second = sorted(PLACES, key=text.index)
    values = dict(zip(PLACES, (question, response), strict=True))
    before, rest = text.split(first)
    between, after = rest.split(second)
    return f"{before}{values[first]}{between}{values[second]}{after}"
