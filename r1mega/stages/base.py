"""What a stage is: a resumable function from artifacts to an artifact, in a room of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from r1mega.config.schema import RunConfig, StageConfig
from r1mega.parallel import Launch, Layout

Metrics = dict[str, float | int | str]


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    run:    the whole resolved config.
    name:   the stage's name in it.
    config: the stage's own part.
    room:   its folder; it finds there what an interrupted attempt has left.
    inputs: the exported models of the earlier stages, by stage name.
    """

    run: RunConfig
    name: str
    config: StageConfig
    room: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        return self.room / "checkpoints"

    @property
    def layout(self) -> Layout:
        """How this job's ranks are divided for this stage. Raises UserError where they cannot be."""
        return Layout.of(Launch.from_env().world, **self.config.layout.model_dump())

    @property
    def data(self) -> Path:
        return self.room / "data"

    @property
    def model(self) -> Path:
        """The stage's artifact: a Hugging Face folder, there only when the stage is done."""
        return self.room / "model"


@dataclass(frozen=True)
class Stage:
    """A kind of stage: what runs it, and a version that is raised by hand when its results change."""

    run: Callable[[Context], Metrics]
    version: int
