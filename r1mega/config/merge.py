"""Laying tables over tables, and a stage's own table over the shared sections. Dicts in, dicts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from r1mega.config.schema import KINDS
from r1mega.config.section import Section
from r1mega.types import UserError

Table = dict[str, Any]
Key = tuple[str, ...]

SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for kind in KINDS.values()
    for name, field in kind.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
"""The sections that may stand at the top of a file as defaults of every stage whose kind has them."""


def section_at(key: Key) -> type[Section] | None:
    """The section a dotted key stands for: train or stages.NAME.train."""
    name = key[2:] if key[:1] == ("stages",) else key
    return SECTIONS.get(name[0]) if len(name) == 1 else None


def overlay(table: Mapping[str, Any], later: Mapping[str, Any], at: Key = ()) -> Table:
    """`later` laid over `table`, table by table; a key that excludes another one displaces it."""
    section = section_at(at)
    gone = section.outdated(table, later) if section else set()
    merged = {key: value for key, value in table.items() if key not in gone}
    for key, value in later.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = overlay(below, value, (*at, key))
        merged[key] = value
    return merged


def leaves(table: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*at, key))
        else:
            yield (*at, key), value


def has(table: Any, key: Key) -> bool:
    for name in key:
        if not isinstance(table, Mapping) or name not in table:
            return False
        table = table[name]
    return True


def shared_leaves(layer: Mapping[str, Any]) -> list[tuple[Key, Any]]:
    return list(leaves({name: table for name, table in layer.items() if name in SECTIONS}))


def refuse_hidden(document: Mapping[str, Any], layer: Mapping[str, Any], source: str) -> None:
    """A layer's shared key must not be hidden by a stage's own table: it would silently not act there."""
    stages = document.get("stages")
    for name, own in stages.items() if isinstance(stages, Mapping) else ():
        for key, _ in shared_leaves(layer):
            mine = ("stages", name, *key)
            if has(own, key) and not has(layer, mine):
                raise UserError(
                    f"{source} sets {'.'.join(key)}, but stage '{name}' has its own value; "
                    f"set {'.'.join(mine)} to change it"
                )


def refuse_lost(layer: Mapping[str, Any], resolved: Mapping[str, Any], source: str) -> None:
    """A layer's shared key must act on some stage, not be displaced everywhere by a key that excludes it."""
    stages = resolved.get("stages")
    if not isinstance(stages, Mapping):
        return
    for key, value in shared_leaves(layer):
        if not any(has(stage, key) for stage in stages.values()):
            raise UserError(
                f"{source} sets {'.'.join(key)} = {value!r}, which acts on no stage: another key excludes it"
            )


def resolve_stages(document: Table) -> Table:
    """Shared sections become every stage's defaults; what is left is what the models are to validate."""
    shared = {name: table for name, table in document.items() if name in SECTIONS}
    rest = {name: value for name, value in document.items() if name not in SECTIONS}
    if isinstance(document.get("stages"), Mapping):
        rest["stages"] = {name: with_defaults(shared, own) for name, own in document["stages"].items()}
    return rest


def with_defaults(shared: Table, own: Any) -> Any:
    kind = KINDS.get(str(own.get("kind"))) if isinstance(own, Mapping) else None
    if kind is None:
        return own  # the models say what is wrong
    stage = overlay({name: table for name, table in shared.items() if name in kind.model_fields}, own)
    model = stage.get("model")
    if isinstance(model, Mapping) and "config" not in model and not has(own, ("tokenizer", "train")):
        # Weights that exist bring the tokenizer they were trained with; only fresh models train one.
        tokenizer = stage.get("tokenizer")
        if isinstance(tokenizer, Mapping):
            stage["tokenizer"] = {key: value for key, value in tokenizer.items() if key != "train"}
    return stage
