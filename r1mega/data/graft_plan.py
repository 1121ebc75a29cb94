"""Which id each grafted token gets; reads tokenizer files, writes none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from r1mega.files import read_json
from r1mega.types import UserError

Role = Literal["bos", "eos"]


@dataclass(frozen=True)
class Tag:
    """A token to graft. special: left out of decoded text; role: what it is for every text, if anything."""

    text: str
    special: bool = True
    role: Role | None = None


_BAR = "\N{FULLWIDTH VERTICAL LINE}"  # DeepSeek's tokens are written with this one, not with "|"


def _deepseek(name: str) -> str:
    return f"<{_BAR}{name}{_BAR}>"


THINK_TAGS = (Tag("<think>", special=False), Tag("</think>", special=False))
ANSWER_TAGS = (Tag("<answer>", special=False), Tag("</answer>", special=False))
R1_TOKENS = (
    Tag(_deepseek("begin▁of▁sentence"), role="bos"),
    Tag(_deepseek("end▁of▁sentence"), role="eos"),
    Tag(_deepseek("User")),
    Tag(_deepseek("Assistant")),
    *THINK_TAGS,
)
"""What DeepSeek-R1 and its distilled models have. The think tags are plain: answers are read from text."""

RESERVED = re.compile(
    rf"<\|reserved_special_token_\d+\|>|{_deepseek('place▁holder▁no▁[0-9]+')}|<unused\d+>|\[unused\d+\]"
)
"""Tokens made for later use: Llama-3's, DeepSeek's, Gemma's, BERT's."""


class Place(NamedTuple):
    """Where a token goes. was: the token that is renamed, None where nothing is."""

    id: int
    was: str | None


def plan(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any], tokens: Sequence[Tag], rows: int, where: str
) -> dict[str, Place]:
    """Where each token goes. tokenizer, settings: tokenizer.json and tokenizer_config.json, parsed.

    Raises UserError where there is no place, naming the tokens that have none.
    """
    known = ids_of(tokenizer)
    wanted = {token.text for token in tokens}
    reserved = sorted(filter(RESERVED.fullmatch, known), key=known.__getitem__)
    used = max(known.values()) + 1
    free = list(range(used, rows))
    places: dict[str, Place] = {}
    homeless = []
    # The stop token first: where one token begins and ends a text, it is the ending that was learned.
    for token in sorted(tokens, key=lambda token: token.role != "eos"):
        own = name_of(settings, token.role) if token.role else None
        if token.text in known:
            places[token.text] = Place(known[token.text], None)
        elif own in known and own not in wanted and own not in renamed_in(places):
            places[token.text] = Place(known[own], own)
        elif reserved:
            name = reserved.pop(0)
            places[token.text] = Place(known[name], name)
        elif free:
            places[token.text] = Place(free.pop(0), None)
        else:
            homeless.append(token.text)
    if homeless:
        raise UserError(
            f"{where}: no room for {', '.join(homeless)}: the tokenizer uses {used} of the {rows} rows of "
            f"the embedding, and no reserved token is left. Give embedding and output layer at least "
            f"{len(homeless)} more rows (vocab_size), or choose a target that has some to spare"
        )
    return {token.text: places[token.text] for token in tokens}


def renamed_in(places: Mapping[str, Place]) -> dict[str, str]:
    """Old name -> new name."""
    return {place.was: text for text, place in places.items() if place.was is not None}


def ids_of(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Every token's id, those of the vocabulary and the added ones."""
    return dict(tokenizer["model"]["vocab"]) | {
        one["content"]: one["id"] for one in tokenizer["added_tokens"]
    }


def read_tokenizer(folder: Path) -> dict[str, Any]:
    found = read_json(folder / "tokenizer.json")
    if found is None:
        raise UserError(
            f"{folder} has no tokenizer.json, which R1's tokens are to be grafted on: give a Hugging Face "
            "folder with one (transformers' save_pretrained writes it)"
        )
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{folder / 'tokenizer.json'} is no BPE tokenizer, the only kind that is grafted on")
    return {"added_tokens": [], **found}


def read_settings(folder: Path) -> dict[str, Any]:
    found = read_json(folder / "tokenizer_config.json")
    return found if isinstance(found, dict) else {}


def name_of(settings: Mapping[str, Any], kind: str) -> str | None:
    """The token of a kind; older files have a table in its place."""
    value = settings.get(f"{kind}_token")
    return value.get("content") if isinstance(value, dict) else value
