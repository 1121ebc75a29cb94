"""Typed reading of a Hugging Face config.json; every mistake names the key, its value and what is allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1mega.types import UserError

REQUIRED: Any = object()


class ConfigJson:
    """The values of a config and where they were found (for messages). A null counts as missing."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = dict(values)
        self.where = where

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1) -> int:
        allowed = f"an integer of at least {least}"
        return self._read(key, default, allowed, lambda value: type(value) is int and value >= least)

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A finite number above 0."""

        def fits(value: Any) -> bool:
            return type(value) in (int, float) and 0 < value < math.inf

        return float(self._read(key, default, "a number above 0", fits))

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        return self._read(key, default, "true or false", lambda value: type(value) is bool)

    def text(self, key: str, default: Any = REQUIRED) -> str:
        return self._read(key, default, "a string", lambda value: type(value) is str)

    def only(self, key: str, allowed: Sequence[Any], why: str = "") -> None:
        """Refuse any other value, where the key is present: it asks for a feature that is not built."""
        said = " or ".join(map(json.dumps, allowed)) + (f" ({why})" if why else "")
        self._read(key, None, said, lambda value: value in allowed)

    def error(self, key: str, allowed: str) -> UserError:
        return UserError(f"{self.where}: {key} is {json.dumps(self.values.get(key))}; allowed is {allowed}")

    def _read(self, key: str, default: Any, allowed: str, fits: Callable[[Any], bool]) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is REQUIRED:
                said = "null" if key in self.values else "missing"
                raise UserError(f"{self.where}: {key} is {said}; needed is {allowed}")
            return default
        if not fits(value):
            raise self.error(key, allowed)
        return value


def read_config(path: Path) -> ConfigJson:
    """The config of a model folder, or a config.json itself.

    Raises UserError where it does not exist or is no JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "a model folder holds config.json beside its *.safetensors files"
        if not path.is_dir():
            hint += "; a model name is not downloaded: give the folder's path"
        raise UserError(f"there is no {file}: {hint}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a JSON {type(values).__name__}, not an object of keys and values")
    return ConfigJson(values, str(file))
