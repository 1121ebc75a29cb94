"""What a model family is: a config reader and a table from checkpoint tensors to Megatron-Core parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from r1mega.models.blocks import Block, Box
from r1mega.models.config_json import ConfigJson
from r1mega.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Shard:
    """A parameter is cut along `dim` into equal pieces, one a rank of the group.

    parts: the parameter stacks so many equal parts along `dim` (gate and up), and each is cut on its own.
    """

    dim: int
    group: Literal["tp", "etp"] = "tp"
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Param:
    """A Megatron-Core parameter of the whole, uncut model.

    shard:  how ranks share it; None: each rank of the pipeline stage holds all of it.
    buffer: not trained by gradients and kept in float32 whatever the model's dtype.
    """

    shape: tuple[int, ...]
    shard: Shard | None = None
    buffer: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows of a checkpoint tensor, from row `first`."""

    tensor: str
    count: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter and the rows of checkpoint tensors that, stacked, are it."""

    name: str
    param: Param
    rows: tuple[Rows, ...]

    def blocks(self) -> Iterator[Block]:
        """checkpoint -> Megatron."""
        tail = self.param.shape[1:]
        zeros, at = (0,) * len(tail), 0
        for rows in self.rows:
            source = Box((rows.first, *zeros), (rows.first + rows.count, *tail))
            yield Block(rows.tensor, source, self.name, Box((at, *zeros), (at + rows.count, *tail)))
            at += rows.count


def no_copies(spec: ModelSpec) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Family:
    """model_type and architecture as in config.json; `ignored` matches checkpoint tensors of no use.

    copies: checkpoint tensors that repeat another one, and which; they are no parameters of their own.
    """

    model_type: str
    architecture: str
    read: Callable[[ConfigJson], ModelSpec]
    entries: Callable[[ModelSpec], Iterable[Entry]]
    ignored: Callable[[ModelSpec], re.Pattern[str]]
    copies: Callable[[ModelSpec], Mapping[str, str]] = no_copies


def single(name: str, tensor: str, shape: tuple[int, ...], shard: Shard | None = None) -> Entry:
    """A parameter that is one checkpoint tensor."""
    return Entry(name, Param(shape, shard), (Rows(tensor, shape[0]),))


def stacked(name: str, rows: Iterable[Rows], tail: tuple[int, ...], shard: Shard | None) -> Entry:
    """A parameter made of rows of several checkpoint tensors, whose shapes agree behind the first dim."""
    rows = tuple(rows)
    return Entry(name, Param((sum(r.count for r in rows), *tail), shard), rows)
