"""Every key of a config as Markdown, from the models themselves. docs/configs.md holds it, a test compares.

python -m r1mega.config.reference prints it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from r1mega.config.errors import model_in, values_of
from r1mega.config.merge import SECTIONS
from r1mega.config.schema import KINDS, RunConfig
from r1mega.config.section import Section


def reference() -> str:
    """A table for the run's own keys, one for each section, and one for what else a kind of stage has."""
    parts = [table("The run", RunConfig)]
    parts += [table(f"`[{name}]`: {first_line(section)}", section) for name, section in SECTIONS.items()]
    parts += [
        table(f"Stages of kind `{kind}`: {first_line(stage)}", stage, without=SECTIONS)
        for kind, stage in KINDS.items()
    ]
    return "\n\n".join(parts) + "\n"


def first_line(section: type[Section]) -> str:
    line = (section.__doc__ or "").splitlines()[0].rstrip(".")
    return line[:1].lower() + line[1:]


def table(title: str, section: type[Section], without: Collection[str] = ()) -> str:
    """without: keys of the section that have a table elsewhere."""
    rows = [
        f"| `{key}` | {default(field)} | {escaped(field)} |"
        for key, field in fields(section)
        if key.partition(".")[0] not in without
    ]
    return "\n".join([f"### {title}", "", "| key | default | meaning |", "|---|---|---|", *rows])


def escaped(field: FieldInfo) -> str:
    return meaning(field).replace("<", "&lt;")  # Markdown takes <think> for HTML


def meaning(field: FieldInfo) -> str:
    """Of a table without a description of its own: what its section says of itself."""
    nested = model_in(field.annotation)
    if field.description is None and nested is not None and issubclass(nested, Section):
        return first_line(nested)
    return field.description or ""


def fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field), the fields of a nested table after it."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        nested = model_in(field.annotation)
        if nested is not None and issubclass(nested, Section):
            yield from fields(nested, f"{prefix}{name}.")
        each = model_in(values_of(field.annotation))
        if each is not None and issubclass(each, Section):
            yield from fields(each, f"{prefix}{name}.NAME.")


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "see there"
    return show(field.default)


def show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(show(item).strip('`') for item in value)}]`"
    if isinstance(value, Section):
        return "a table"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value}`"


if __name__ == "__main__":
    print(reference(), end="")
