"""The files of a grafted tokenizer, and the proof that they read as they should."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1mega.data.graft_plan import Place, Tag, ids_of, name_of, read_settings, read_tokenizer, renamed_in
from r1mega.data.spm_to_hf import MODULE_FILE
from r1mega.files import read_json, write_json
from r1mega.types import UserError

_CARRIED = ("LICENSE*", "NOTICE*", "USE_POLICY*", "configuration_*.py", "modeling_*.py", MODULE_FILE)
_LAID_ASIDE = ("chat_template", "additional_special_tokens", "extra_special_tokens", "split_special_tokens",
               "add_bos_token", "add_eos_token")  # fmt: skip
"""Settings that name tokens which are gone, or that would keep special tokens from being read in a text."""


def with_tokens(
    tokenizer: Mapping[str, Any], tokens: Sequence[Tag], places: Mapping[str, Place]
) -> dict[str, Any]:
    """tokenizer.json with the tokens in it, and bos before every text."""
    renamed = renamed_in(places)
    vocab = {renamed.get(name, name): number for name, number in tokenizer["model"]["vocab"].items()}
    added = {one["id"]: one for one in tokenizer["added_tokens"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for token in tokens:
        number = places[token.text].id
        added[number] = {"id": number, "content": token.text, **plain, "special": token.special}
    return {
        **tokenizer,
        "added_tokens": [added[number] for number in sorted(added)],
        "post_processor": _post_processor(tokenizer.get("post_processor"), tokens, places),
        "model": {**tokenizer["model"], "vocab": vocab},
    }


def _post_processor(old: Any, tokens: Sequence[Tag], places: Mapping[str, Place]) -> Any:
    """The old one's treatment of offsets, and our bos where it may have put another one."""
    bos = next((token.text for token in tokens if token.role == "bos"), None)
    if bos is None:
        return old
    begin: list[dict[str, Any]] = [{"SpecialToken": {"id": bos, "type_id": 0}}]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [*begin, first],
        "pair": [*begin, first, *begin, second],
        "special_tokens": {bos: {"id": bos, "ids": [places[bos].id], "tokens": [bos]}},
    }
    steps = [] if old is None else old["processors"] if old["type"] == "Sequence" else [old]
    kept = [step for step in steps if step["type"] == "ByteLevel"]
    return {"type": "Sequence", "processors": [*kept, template]} if kept else template


def with_names(
    settings: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    tokens: Sequence[Tag],
    places: Mapping[str, Place],
) -> dict[str, Any]:
    """tokenizer_config.json with the new names of bos, eos and padding."""
    roles = {f"{token.role}_token": token.text for token in tokens if token.role}
    renamed = renamed_in(places)
    own = {f"{kind}_token": name_of(settings, kind) for kind in ("bos", "eos", "pad", "unk")}
    names = {kind: renamed.get(name, name) if name else None for kind, name in own.items()} | roles
    return {
        **{key: value for key, value in settings.items() if key not in _LAID_ASIDE},
        **names,
        "pad_token": names["pad_token"] or names["eos_token"],
        "added_tokens_decoder": {
            str(one["id"]): {key: value for key, value in one.items() if key != "id"}
            for one in tokenizer["added_tokens"]
        },
        "clean_up_tokenization_spaces": False,
    }


def carry(source: Path, target: Path, numbers: Mapping[str, int]) -> None:
    """The other small files; of the configs, which name the stop token, copies that name the new one."""
    for pattern in _CARRIED:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
    for name in ("config.json", "generation_config.json"):
        config = read_json(source / name)
        if isinstance(config, dict):
            write_json(target / name, config | dict(numbers))


def token_ids(folder: Path, ids: Mapping[str, int]) -> dict[str, int]:
    """What config.json and generation_config.json say of a grafted tokenizer: bos, eos and padding."""
    settings = read_settings(folder)
    known = ids_of(read_tokenizer(folder)) | dict(ids)
    names = {kind: name_of(settings, kind) for kind in ("bos", "eos", "pad")}
    return {f"{kind}_token_id": known[name] for kind, name in names.items() if name is not None}


ORDINARY = (
    "A train leaves at 9:05 and goes 120 km. How long does it take? It doesn't matter; we'll see.",
    "设 x + y = 12，求 x 的最大值。\n\n先试 x=7，",
    "def f(n):\n    return [i ** 2 for i in range(n) if i % 2 == 0]  # <b>\n\tx < y </ z >\r\n",
    r"\boxed{\frac{-3}{4}} ∑ αβγ  naïve café 😀🏽 <thin> </thought> <| |> ▁",
    "   leading, trailing and     many spaces   \n\n\n",
)
"""Texts that must read as before."""


def check(source: Path, target: Path, ids: Mapping[str, int]) -> None:
    """Each token is one id, alone and between words, and comes back; ordinary text reads as before."""
    from tokenizers import Tokenizer

    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source, target))

    def read(tokenizer: Tokenizer, text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    where = source / "tokenizer.json"
    for text, number in ids.items():
        around = [*read(old, "so"), number, *read(old, "x=1")]
        fits = read(new, text) == [number] and read(new, f"so{text}x=1") == around
        if not fits or new.id_to_token(number) != text:
            raise UserError(
                f"{where}: {text} cannot be made the one token {number}: it reads as {read(new, text)}. A "
                "tokenizer with gaps among its ids has to be repaired first"
            )
    for text in ORDINARY:
        if read(old, text) != read(new, text):
            raise UserError(f"{where}: with R1's tokens it reads {text!r} otherwise than before")
