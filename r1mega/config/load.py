"""From a TOML file, its bases, a profile and the command line to a resolved `RunConfig`.

Order, later wins: the base's base, the base, the file, [profile.NAME], the command line. Then the shared
sections go under each stage's own table, and the typed models check the result.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from r1mega.config.errors import explain, unknown_name
from r1mega.config.merge import SECTIONS, Table, overlay, refuse_hidden, refuse_lost, resolve_stages
from r1mega.config.schema import RunConfig
from r1mega.types import UserError

MAX_BASES = 2
COMMAND_LINE = "the command line"
OWN_KEYS = ("base", "profile")  # of the file format; they do not reach the models


def load(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """The resolved config of a file with `key=value` overrides. UserError for every mistake in either."""
    path = Path(path)
    document = read_with_bases(path)
    given = parse_overrides(overrides)
    profile = given.pop("profile", None)
    profiles = document.pop("profile", {})
    try:
        refuse_flat_profiles(profiles)
        if profile is not None:
            document = apply(document, pick_profile(profiles, profile), f"profile {profile}")
        refuse_unknown_stages(document, given)
        document = apply(document, given, COMMAND_LINE)
        refuse_unknown_tables(document)
        resolved = resolve_stages(document)
        config = RunConfig.model_validate(resolved)
        refuse_lost(given, resolved, COMMAND_LINE)
        return config
    except ValidationError as error:
        raise UserError(located(path, explain(error, document))) from None
    except UserError as error:
        raise UserError(located(path, str(error))) from None


def located(path: Path, lines: str) -> str:
    return f"{path}: {lines}" if "\n" not in lines else f"{path}:\n  " + lines.replace("\n", "\n  ")


def apply(document: Table, layer: Table, source: str) -> Table:
    refuse_hidden(document, layer, source)
    return overlay(document, layer)


def read_with_bases(path: Path) -> Table:
    """The file laid over its chain of bases, at most two of them."""
    files, tables = [path], [read_toml(path)]
    while "base" in tables[-1]:
        base = tables[-1].pop("base")
        if not isinstance(base, str):
            raise UserError(f"{files[-1]}: base = {base!r}: must be the name of a .toml file")
        if len(files) > MAX_BASES:
            chain = " -> ".join(str(file) for file in [*files, base])
            raise UserError(f"{path}: bases go at most {MAX_BASES} deep; given: {chain}")
        files.append(files[-1].parent / base)
        tables.append(read_toml(files[-1]))
    document = tables.pop()
    for table, file in zip(reversed(tables), reversed(files[:-1]), strict=True):
        document = apply(document, table, str(file))
    return document


def read_toml(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such config: {path}{hint_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def hint_file(path: Path) -> str:
    if "=" in str(path):
        return " (the config file comes before key=value)"
    files = sorted(path.parent.glob("*.toml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.stem, [file.stem for file in files], n=1)
    return f"; did you mean {path.parent / near[0]}.toml?" if near else ""


def parse_overrides(overrides: Sequence[str]) -> Table:
    """`a.b=value` texts -> nested tables. Values are TOML; what is no TOML value is text."""
    given: Table = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UserError(f"'{text}' is no override; say key=value, such as train.lr=1e-3")
        if parts == ["base"]:
            raise UserError("base cannot be given on the command line: it is part of a file")
        table = given
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UserError(f"'{text}': the command line gives {part} a value of its own, too")
        table[parts[-1]] = parse_value(value)
    return given


def parse_value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool | list | dict) else text  # dates are text here


def pick_profile(profiles: Table, name: Any) -> Table:
    if name not in profiles:
        raise UserError(f"no profile '{name}'; profiles: {', '.join(profiles) or 'none'}")
    return profiles[name]


def refuse_flat_profiles(profiles: Any) -> None:
    if not isinstance(profiles, dict) or not all(isinstance(table, dict) for table in profiles.values()):
        raise UserError("profile must hold tables, [profile.NAME]; the command line chooses: profile=NAME")


def refuse_unknown_stages(document: Table, given: Table) -> None:
    known = document.get("stages", {})
    wanted = given.get("stages", {})
    for name in wanted if isinstance(wanted, Mapping) and isinstance(known, Mapping) else ():
        if name not in known:
            raise UserError(f"no stage '{name}'; stages: {', '.join(known) or 'none'}")


def refuse_unknown_tables(document: Table) -> None:
    """Keys at the top of the file: the run's own and the shared sections."""
    allowed = {*RunConfig.model_fields, *SECTIONS, *OWN_KEYS}
    for name in document:
        if name not in allowed:
            raise UserError(unknown_name(name, allowed))
    for name in SECTIONS:
        if name in document and not isinstance(document[name], dict):
            raise UserError(f"{name} = {document[name]!r}: must be a table, [{name}]")
