"""What pydantic found wrong, in words: which key, what was given, what is allowed, the nearest known key."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from r1mega.config.merge import SECTIONS, Key, has
from r1mega.config.schema import KINDS, RunConfig, StageConfig

FOLLOW_UPS = {"default_factory_not_called"}  # pydantic's echo of an error that is reported anyway
LONGEST = 80  # characters of a value that is quoted
PLAIN = {
    "bool_type": "should be true or false",
    "dict_type": "should be a table",
    "finite_number": "should be a finite number",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "model_type": "should be a table",
    "model_attributes_type": "should be a table",
    "path_type": "should be a path",
    "string_type": "should be text",
    "tuple_type": "should be a list",
}


class Place(NamedTuple):
    """Where a mistake is: the dotted key, the model it belongs to, and what its description says."""

    key: Key
    model: type[BaseModel] | None
    about: str


def explain(error: ValidationError, document: Mapping[str, Any]) -> str:
    """One line a mistake. `document`: the tables as written, to name a key where the user wrote it."""
    mistakes: dict[Key, list[tuple[str, str, str]]] = {}  # a union complains several times about one key
    for item in error.errors(include_url=False):
        if item["type"] not in FOLLOW_UPS:
            place = locate(item["loc"])
            shown = as_written(place.key, document)
            mistakes.setdefault(place.key, []).append(describe(dict(item), place, shown))
    lines: dict[str, None] = {}
    for same in mistakes.values():
        subject, _, about = same[0]
        complaints = " or ".join(dict.fromkeys(complaint for _, complaint, _ in same))
        line = f"{subject}: {complaints}" if subject else complaints
        lines[f"{line} ({about})" if about else line] = None  # a shared key is wrong once, not once a stage
    return "\n".join(lines)


def describe(item: dict[str, Any], place: Place, shown: str) -> tuple[str, str, str]:
    """(what it is about, what is wrong with it, what the value means)."""
    match item["type"]:
        case "extra_forbidden":
            return "", unknown_key(shown, place.model), ""
        case "missing":
            return "", f"{shown} is missing", place.about
        case "union_tag_not_found":
            return "", f"{shown}.kind is missing", f"allowed: {', '.join(KINDS)}"
        case "union_tag_invalid":
            return f"{shown}.kind = {item['ctx']['tag']!r}", f"allowed: {', '.join(KINDS)}", ""
        case "value_error":
            return shown, item["msg"].removeprefix("Value error, "), ""
    text = re.sub("^(Input|Tuple|Dictionary) should", "should", item["msg"])
    given = repr(item["input"])
    given = given if len(given) <= LONGEST else given[:LONGEST] + " ..."
    return f"{shown} = {given}", PLAIN.get(item["type"], text), place.about


def locate(loc: Iterable[Any]) -> Place:
    """pydantic's location as a user says it.

    pydantic also names members of a union (a stage's kind, 'dict[str,any]') and indices; these are dropped.
    """
    key: list[str] = []
    owner: type[BaseModel] | None = RunConfig
    inside: type[BaseModel] | None = RunConfig
    named: type[BaseModel] | None = None  # the model of each table in a table of named ones
    about = ""
    for part in map(str, loc):
        if named is not None:
            key.append(part)
            inside, owner, about, named = named, None, "", None
        elif inside is StageConfig and part in KINDS:
            inside = KINDS[part]
        elif key == ["stages"]:
            key.append(part)
            inside, owner, about = StageConfig, None, ""
        elif inside is not None:
            key.append(part)
            owner, field = inside, inside.model_fields.get(part)
            about = (field.description or "").split(" (")[0] if field else ""
            inside = model_in(field.annotation) if field else None
            named = model_in(values_of(field.annotation)) if field else None
    return Place(tuple(key), owner, about)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model among the members of `Model | None`."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    models = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
    return models[0] if models else None


def values_of(annotation: Any) -> Any:
    """The values' type of the dict among the members of `dict[str, Model] | None`, or None."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((get_args(m)[1] for m in members if get_origin(m) is dict), None)


def as_written(key: Key, document: Mapping[str, Any]) -> str:
    """stages.NAME.train.lr is called train.lr where the stage has it from the shared section."""
    shared = key[2:]
    inherited = key[:1] == ("stages",) and not has(document, key) and has(document, shared)
    return ".".join(shared if inherited and shared and shared[0] in SECTIONS else key)


def unknown_key(shown: str, model: type[BaseModel] | None) -> str:
    """The complaint about a key that no model has."""
    return unknown_name(shown, model.model_fields if model else ())


def unknown_name(shown: str, known: Iterable[str]) -> str:
    """The nearest of the known names, or the section to which the name belongs."""
    table, _, name = shown.rpartition(".")
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    homes = [section for section, cls in SECTIONS.items() if name in cls.model_fields]
    if homes and not near:
        hint = f"it belongs into [{homes[0]}]"
    else:
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key '{name}'{f' in [{table}]' if table else ''}; {hint}"
