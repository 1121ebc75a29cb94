"""What a stage's result depends on, as a digest: its config, the files it names, its inputs, its version.

Not: where the run's folder or those files lie, how the ranks are divided, how often is logged or saved, and
which revision of the code has run. So a run can be moved, and a comment in the code redoes nothing; a change
that changes results raises the stage's `version` by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r1mega.config.graph import inputs
from r1mega.config.schema import RunConfig
from r1mega.config.section import WITHOUT_EFFECT, Section, sections
from r1mega.config.stage import StageConfig
from r1mega.files import fingerprint


class Identities:
    """Of the stages of one config. Each file is read once, so make a new one where files may have changed.

    recorded: stage -> what a finished result says of its files, by dotted key. A file that is not here, as
              after a run was moved to another machine, counts as the one that was used.
    """

    def __init__(
        self, config: RunConfig, recorded: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    ) -> None:
        self._config, self._recorded = config, recorded
        self._known: dict[str, str] = {}
        self._fingerprint = cache(fingerprint)

    def of(self, name: str) -> str:
        """sha256 (hex). Raises UserError for a file that cannot be read."""
        if name not in self._known:
            self._known[name] = hashlib.sha256(_canonical(self.parts(name)).encode()).hexdigest()
        return self._known[name]

    def parts(self, name: str) -> dict[str, Any]:
        """What it is made of: `settings` and `files` by dotted key, `inputs` by stage, the `version`."""
        stage = self._config.stages[name]
        return {
            "settings": settings(stage) | {"seed": self._config.seed},
            "files": {key: self._file(name, key, path) for key, path in files(stage)},
            "inputs": {one: self.of(one) for one in inputs(stage)},
            "version": stage.version,
        }

    def _file(self, name: str, key: str, path: Path) -> str:
        mark = self._recorded.get(name, {}).get(key)
        return mark if mark is not None and not path.exists() else self._fingerprint(path)


def settings(stage: StageConfig) -> dict[str, Any]:
    """Dotted key -> value of what was set to something else than its default and has an effect.

    So a new key whose default changes nothing leaves old results valid.
    """
    return {key: value for key, value in _leaves(stage, "") if _counts(stage, key)}


def files(stage: StageConfig) -> list[tuple[str, Path]]:
    """Every file or folder that the stage's result depends on: (dotted key, path)."""
    return [(key, path) for key, path in paths(stage) if _counts(stage, key)]


def paths(section: Section) -> Iterator[tuple[str, Path]]:
    """Every file or folder that a section names, with its dotted key."""
    for at, inner in sections(section):
        for name in type(inner).model_fields:
            if isinstance(value := getattr(inner, name), Path):
                yield f"{at}{name}", value


def _counts(stage: StageConfig, key: str) -> bool:
    without = WITHOUT_EFFECT - ({"eval.every"} if _ends_by_itself(stage) else set())
    return not any(key == one or key.startswith(f"{one}.") for one in without)


def _ends_by_itself(stage: StageConfig) -> bool:
    evaluation = getattr(stage, "eval", None)
    return evaluation is not None and evaluation.patience > 0


def _leaves(section: Section, at: str) -> Iterator[tuple[str, Any]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        key = f"{at}{name}"
        if isinstance(value, Path):
            yield key, "a file"
        elif isinstance(value, Section):
            yield from _leaves(value, f"{key}.")
        elif isinstance(value, Mapping) and any(isinstance(inner, Section) for inner in value.values()):
            for part, inner in value.items():
                yield f"{key}.{part}", "a table"  # also one without a key of its own is one more
                yield from _leaves(inner, f"{key}.{part}.")
        elif field.is_required() or value != field.get_default(call_default_factory=False):
            yield key, value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
