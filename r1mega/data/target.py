"""What a model must bring before it is trained on thoughts; told before hours are spent."""

from __future__ import annotations

from r1mega.data.graft_plan import THINK_TAGS
from r1mega.data.tokenizers import Tokenizer
from r1mega.types import UserError

_OPENED = frozenset({"chat"})
"""Format rules for answers that begin inside the thoughts; all others want the tag in the answer."""


def check_tags(tokenizer: Tokenizer, where: object) -> None:
    """Raises UserError where a think tag is more than one token. where: the model's folder, for a person."""
    split = {tag.text: ids for tag in THINK_TAGS if len(ids := tokenizer.encode(tag.text)) != 1}
    if split:
        found = ", ".join(f"{text} as {len(ids)}" for text, ids in split.items())
        raise UserError(
            f"{where}: its tokenizer reads {found} tokens, where one each is wanted: say "
            "tokenizer.graft='r1', which gives it R1's tags and chat template"
        )


def check_format_rule(rule: str, opening: str) -> None:
    """Raises UserError where no answer could ever have the format that is rewarded.

    rule: rewards.format.rule; opening: of the `ChatTemplate` that prompts are written in, else empty.
    """
    if opening and rule not in _OPENED:
        raise UserError(
            f"rewards.format.rule = '{rule}' wants <think> in the answer, but the prompt ends with "
            f"{opening!r} already, so no answer would have that format: say rewards.format.rule='chat'"
        )
    if not opening and rule in _OPENED:
        raise UserError(
            f"rewards.format.rule = '{rule}' is for prompts that end with <think>, and these do not: say "
            "rewards.format.rule='think_first' or 'think_answer'"
        )
