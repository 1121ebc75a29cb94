"""What a later stage would say after hours, said at once."""

from __future__ import annotations

from r1mega.config.collect import Collect
from r1mega.config.schema import Grpo, RunConfig
from r1mega.config.sections import Data
from r1mega.config.stage import StageConfig
from r1mega.data import toy_extra
from r1mega.data.benchmarks import benchmark
from r1mega.data.templates import template
from r1mega.stages import collect
from r1mega.stages.reward import reward_parts
from r1mega.types import UserError


def refuse(config: RunConfig) -> None:
    """Raise UserError for a language, a template or a benchmark that does not exist, naming the stage."""
    for name, stage in config.stages.items():
        try:
            _refuse(stage)
        except UserError as error:
            raise UserError(f"stage '{name}': {error}") from None


def _refuse(stage: StageConfig) -> None:
    if isinstance(stage, Grpo):
        reward_parts(stage.rewards, stage.rollout.longest)
    if isinstance(stage, Collect):
        collect.refuse(stage)
    data = getattr(stage, "data", None)
    tasks = dict(data.tasks or {}) if isinstance(data, Data) else {}
    if isinstance(data, Data) and data.extra:
        toy_extra.documents(data.extra)
    for task in [*tasks.values(), *stage.benchmarks.tasks.values()]:
        if task.template != "chat":
            template(task.template)
    for name in stage.benchmarks.names:
        benchmark(name)
