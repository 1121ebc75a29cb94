"""What every table of a config has in common: strict, frozen, printable, comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

FilePath = Annotated[Path, Field(strict=False)]  # TOML has only text for a path


class Section(BaseModel):
    """A table of the config: unknown keys are errors, nothing is converted, nothing changes once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    takes: ClassVar[str] = "model"
    """What a key `from_stage` of this section takes from the stage that it names; see `stage.Artifact`."""

    rivals: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys that exclude each other: one that is set later displaces the others."""

    @classmethod
    def outdated(cls, table: Mapping[str, Any], later: Mapping[str, Any]) -> set[str]:
        """Keys of `table` that lose their meaning once `later` is laid over it."""
        groups = [set(group) for group in cls.rivals if not set(group).isdisjoint(later)]
        return {key for group in groups for key in group if key in table and key not in later}

    def to_json(self) -> str:
        """The resolved values, as it is written beside the run."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sections(section: Section, at: str = "") -> Iterator[tuple[str, Section]]:
    """A section and all that lie in it, each with its dotted prefix: "" or one that ends with a dot."""
    yield at, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        named = value if isinstance(value, Mapping) else {}
        inner = {f"{at}{name}.": value} | {f"{at}{name}.{part}.": one for part, one in named.items()}
        for key, one in inner.items():
            if isinstance(one, Section):
                yield from sections(one, key)


WITHOUT_EFFECT = frozenset(
    {
        "label",
        "minutes",
        "layout",
        "log",
        "checkpoint",
        "guards",
        "benchmarks",
        "examples",
        "eval.every",
        "model.backend",
        "train.micro_batch_tokens",
        "train.optimizer",
        "train.recompute",
        "train.offload",
        "rollout.engines",
        "rollout.kv_cache_gb",
        "rollout.max_sequences",
        "compare.kv_cache_gb",
        "compare.max_sequences",
        "compare.tensor_parallel",
        "sampling.kv_cache_gb",
        "sampling.max_sequences",
        "sampling.tensor_parallel",
    }
)
"""Keys of a stage that change at most the last bits of a number or how one looks on, not what is computed."""


def digest(section: Section, exclude: Collection[str] = WITHOUT_EFFECT) -> str:
    """sha256 (hex) of the resolved values, the same on every machine. `exclude`: dotted keys to leave out."""
    values = section.model_dump(mode="json")
    for key in exclude:
        *tables, last = key.split(".")
        table: Any = values
        for name in tables:
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(last, None)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
