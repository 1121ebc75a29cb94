"""What a stage is: a resumable function from artifacts to an artifact, in a room of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from r1mega.config.ledger import FOLDERS
from r1mega.config.schema import RunConfig
from r1mega.config.stage import StageConfig
from r1mega.parallel import Launch, Layout

Metrics = dict[str, float | int | str]


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    run:    the whole resolved config.
    name:   the stage's name in it.
    config: the stage's own part.
    room:   its folder; it finds there what an interrupted attempt has left.
    inputs: what it takes from earlier stages, by their names: folders of models, data sets, reward models.
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
        """What stages that train a language model make: a Hugging Face folder, there when it is whole."""
        return self.room / FOLDERS["model"]

    @property
    def dataset(self) -> Path:
        """What `collect` makes: a folder with rows.jsonl and report.json."""
        return self.room / FOLDERS["dataset"]

    @property
    def reward_models(self) -> Path:
        """What `reward_models` makes: a folder with a Hugging Face folder for each."""
        return self.room / FOLDERS["reward_models"]
