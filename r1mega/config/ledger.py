"""What of a run is on disk: which stages are done, begun, or made from something that has changed since.

A stage's room holds STARTED.json from its first moment and DONE.json as its last; both say what the result
depends on (`identity.Identities.parts`), so that a change can be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1mega.config.identity import Identities, files
from r1mega.config.schema import RunConfig
from r1mega.files import read_json
from r1mega.types import UserError

State = Literal["done", "started", "changed", "to do", "cannot start"]


@dataclass(frozen=True)
class Entry:
    """A stage as it lies on disk.

    state:    done; started: an attempt to go on from; changed: what lies there belongs to another config;
              to do; cannot start: a file that the config names cannot be read here.
    why:      what has changed, or what cannot be read.
    identity: of the stage as it is wanted now, "" where it is not known.
    record:   the content of DONE.json or STARTED.json.
    """

    state: State
    why: tuple[str, ...]
    identity: str
    record: Mapping[str, Any]


class Ledger:
    """All stages of a config. It reads once, when made."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        done = {name: read_json(config.stage_dir(name) / "DONE.json") or {} for name in config.stages}
        recorded = {name: mark.get("parts", {}).get("files", {}) for name, mark in done.items()}
        self.identities = Identities(config, recorded)

    def entry(self, name: str) -> Entry:
        room = self.config.stage_dir(name)
        done, started = (read_json(room / file) for file in ("DONE.json", "STARTED.json"))
        there = done or started
        try:
            wanted = self.identities.of(name)
        except UserError as error:
            return Entry("cannot start", (str(error),), "", there or {})
        if done is None or done["identity"] != wanted:
            for _, path in files(self.config.stages[name]):
                if not path.exists():  # a finished result may have been made from it elsewhere
                    return Entry("cannot start", (f"cannot read {path}: it is not there",), "", there or {})
        if there is None:
            return Entry("to do", (), wanted, {})
        if there["identity"] != wanted:
            return Entry("changed", self._changes(name, there), wanted, there)
        if done and not artifact(self.config, name).is_dir():
            return Entry("started", ("what it had made is gone, and is made again",), wanted, there)
        return Entry("done" if done else "started", (), wanted, there)

    def _changes(self, name: str, there: Mapping[str, Any]) -> tuple[str, ...]:
        before, now = there.get("parts", {}), self.identities.parts(name)
        found = [
            f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
            for old, new in [(before.get("settings", {}), now["settings"])]
            for key in sorted(old.keys() | new.keys())
            if _plain(old.get(key)) != _plain(new.get(key))
        ]
        files = before.get("files", {})
        found += [f"the content of {key}" for key, mark in now["files"].items() if files.get(key) != mark]
        given = before.get("inputs", {})
        found += [f"its input {one}" for one, mark in now["inputs"].items() if given.get(one) != mark]
        if before.get("version") != now["version"]:
            found.append("this kind of stage gives other results now")
        return tuple(found)


def artifact(config: RunConfig, name: str) -> Path:
    """The folder of what a stage makes."""
    return config.stage_dir(name) / FOLDERS[config.stages[name].makes]


FOLDERS = {"model": "model", "dataset": "dataset", "pairs": "dataset", "reward_models": "models"}
"""Artifact -> its folder in the stage's room."""


def _plain(value: Any) -> Any:
    """As it reads back from JSON."""
    return list(map(_plain, value)) if isinstance(value, tuple | list) else value


def _shown(value: Any) -> str:
    return "default" if value is None else str(_plain(value))
