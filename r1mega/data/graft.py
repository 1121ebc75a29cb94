"""R1's tokens and chat template on the tokenizer of another model, without touching what it knows already.

Each token gets an id of its own from the first of these that has one:

1. the token itself, where the tokenizer has it;
2. for the tokens that begin and end a text: the model's own ones, renamed, so that what the model has learned
   of beginning and ending stays (the released R1-Distill models do the same);
3. reserved tokens that were never trained on, renamed (Llama-3, DeepSeek-V3);
4. rows of the embedding behind the vocabulary that no token uses (Qwen2.5 has 271 or 399 of them).

No row is added to the embedding and none is changed: a new token begins with what the model has in its row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from r1mega.data.graft_files import carry, check, token_ids, with_names, with_tokens
from r1mega.data.graft_plan import R1_TOKENS, Tag, ids_of, plan, read_settings, read_tokenizer
from r1mega.files import write_json, write_text

TEMPLATE = Path(__file__).with_name("chat_templates") / "r1.jinja"
_OPENS = "{%- set open_thoughts = true -%}"


def needs(folder: Path, tokens: Sequence[Tag] = R1_TOKENS) -> list[str]:
    """Which of the tokens a folder's tokenizer has not. UserError where it has no tokenizer.json."""
    known = ids_of(read_tokenizer(folder))
    return [token.text for token in tokens if token.text not in known]


def graft(
    source: Path,
    target: Path,
    rows: int,
    tokens: Sequence[Tag] = R1_TOKENS,
    *,
    open_thoughts: bool = True,
) -> dict[str, int]:
    """Write `source`'s tokenizer with these tokens and R1's chat template to `target`; token -> its id.

    source:        a Hugging Face folder with tokenizer.json; its small files and its config.json, with the
                   new stop token, come along, so that `target` can stand in for it wherever a tokenizer is
                   read or carried. Weights do not.
    rows:          of the model's embedding: no id is beyond them.
    open_thoughts: whether what the model goes on from ends with "<think>\\n", as in DeepSeek's newer
                   templates.

    Raises UserError where the tokenizer is of another make than BPE, where no row is left for a token, and
    where the result would read ordinary text otherwise than before.
    """
    before, settings = read_tokenizer(source), read_settings(source)
    places = plan(before, settings, tokens, rows, str(source))
    ids = {text: place.id for text, place in places.items()}
    shutil.rmtree(target, ignore_errors=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    after = with_tokens(before, tokens, places)
    write_text(partial / "tokenizer.json", json.dumps(after, ensure_ascii=False))
    write_json(partial / "tokenizer_config.json", with_names(settings, after, tokens, places))
    template = TEMPLATE.read_text(encoding="utf-8")
    assert template.count(_OPENS) == 1
    if not open_thoughts:
        template = template.replace(_OPENS, _OPENS.replace("true", "false"))
    write_text(partial / "chat_template.jinja", template)
    carry(source, partial, token_ids(partial, ids))
    check(source, partial, ids)
    partial.rename(target)
    return ids
