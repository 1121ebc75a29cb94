"""What a later stage would say after hours, said at once: unknown names, files that hold nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from r1mega.config.collect import Collect
from r1mega.config.preferences import Preferences
from r1mega.config.reward_models import RewardModels
from r1mega.config.schema import Grpo, RunConfig, Sft
from r1mega.config.sections import Data
from r1mega.config.stage import StageConfig
from r1mega.data import toy_extra
from r1mega.data.benchmarks import benchmark, load
from r1mega.data.graft import graft
from r1mega.data.preferences.read import read
from r1mega.data.prepare import file_rows
from r1mega.data.prompts_text import COMPARED, prompt_text
from r1mega.data.target import check_tags
from r1mega.data.templates import CHAT, template
from r1mega.data.tokenizers import load_tokenizer
from r1mega.models.reward_head import load_reward_spec
from r1mega.models.shards import check_layout
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.parallel import Layout
from r1mega.rewards.code import require
from r1mega.rewards.code.sandbox import Level
from r1mega.stages import collect
from r1mega.stages.mixture import shares, shares_of, templates
from r1mega.stages.reward import model_parts, reward_parts
from r1mega.stages.scorer import Card
from r1mega.stages.start import refuse_context
from r1mega.types import UserError

CODE = "code"  # the grader that runs programs
LOOKED_AT = 100  # rows of a file whose rows are not all read here


def refuse(config: RunConfig) -> None:
    """Raise UserError for what can be known before the first stage, naming the stage that it concerns.

    What an earlier stage is still to make cannot, and a file that is missing is the ledger's to tell.
    """
    for name, stage in config.stages.items():
        try:
            _names(stage)
            _files(stage)
            _models(stage)
            _context(config, name)
            _chat(config, name)
        except UserError as error:
            raise UserError(f"stage '{name}': {error}") from None


def refuse_machine(config: RunConfig, names: Iterable[str]) -> None:
    """Raise UserError where one of these stages grades programs in a sandbox that does not work here."""
    for name in names:
        stage = config.stages[name]
        try:
            for level in sorted(set(_sandboxes(stage))):
                require(level)
        except UserError as error:
            raise UserError(f"stage '{name}': {error}") from None


def _sandboxes(stage: StageConfig) -> Iterator[Level]:
    """What the stage's programs run in: of training or collecting, and of benchmarks."""
    section = stage.benchmarks
    graders = [benchmark(name).grader for name in section.names]
    graders += [share.task.grader for share in shares_of(section.tasks, None, section.held_out)]
    if CODE in graders and stage.makes == "model":
        yield section.sandbox
    data = getattr(stage, "data", None)
    if not isinstance(data, Data) or data.kind != "tasks":
        return
    if any(share.task.grader == CODE for share in shares(data)):
        if isinstance(stage, Grpo):
            yield stage.rewards.accuracy.sandbox
        elif isinstance(stage, Collect) and stage.filter.correct:
            yield stage.filter.sandbox


def _names(stage: StageConfig) -> None:
    """Languages, templates, benchmarks, kinds of documents."""
    if isinstance(stage, Grpo):
        reward_parts(stage.rewards, stage.rollout.longest)
    data = getattr(stage, "data", None)
    tasks = dict(data.tasks or {}) if isinstance(data, Data) else {}
    if isinstance(data, Data) and data.extra:
        toy_extra.documents(data.extra)
    for task in [*tasks.values(), *stage.benchmarks.tasks.values()]:
        if task.template != CHAT:
            template(task.template)
    for name in stage.benchmarks.names:
        benchmark(name)
        if stage.benchmarks.data is not None and stage.benchmarks.data.is_dir():
            load(name, str(stage.benchmarks.data))


def _files(stage: StageConfig) -> None:
    """That files hold rows of the form that is wanted: all rows of tasks, the first ones of others."""
    if isinstance(stage, Collect):
        collect.refuse(stage)
    if isinstance(stage, Preferences):
        prompt_text("compare", stage.compare.prompt, COMPARED)
    if isinstance(stage, RewardModels):
        for model in stage.models.values():
            file = model.data.path
            if file is not None and file.is_file():
                _look(read(file, model.objective, model.data))
    data = getattr(stage, "data", None)
    if not isinstance(data, Data):
        return
    paths = [data.path, *(task.path for task in (data.tasks or {}).values())]
    if data.kind == "tasks" and all(path is None or path.is_file() for path in paths):
        shares(data)
    elif data.kind in ("text", "pairs") and data.path is not None and data.path.is_file():
        _look(file_rows(data))


def _models(stage: StageConfig) -> None:
    """That a student can be given R1's form, and that a reward model is one."""
    model, tokenizer = stage.model.path, stage.tokenizer
    if isinstance(stage, Grpo):
        for part in model_parts(stage.rewards).values():
            if part.path is not None and part.path.is_dir():
                load_reward_spec(part.path)
                Card.read(part.path)
    if not isinstance(stage, Sft) or model is None or not model.is_dir():
        return
    if tokenizer.graft is not None:
        with TemporaryDirectory() as folder:
            graft(model, Path(folder) / "grafted", load_spec(model).vocab)
    elif tokenizer.path is None and (stage.data.from_stage is not None or stage.data.template == CHAT):
        check_tags(load_tokenizer(model), model)


def _line(config: RunConfig, name: str) -> list[StageConfig]:
    """The stage, the one that it has its model from, and so on to the first."""
    line: list[StageConfig] = [config.stages[name]]
    while line[-1].model.from_stage is not None:
        line.append(config.stages[line[-1].model.from_stage])
    return line


def _context(config: RunConfig, name: str) -> None:
    """That sequences fit what the model can read, and the layout the model."""
    spec = _spec(config, name)
    if spec is not None:
        refuse_context(config.stages[name], spec)
        check_layout(spec, Layout.least(**config.stages[name].layout.model_dump()))


def _spec(config: RunConfig, name: str) -> ModelSpec | None:
    """Of the stage's model, with the changes that stages make to it on the way; None: not known yet."""
    line = _line(config, name)
    origin = line[-1].model.path or line[-1].model.config
    if origin is None or (isinstance(origin, Path) and not origin.exists()):
        return None
    spec = load_spec(origin)
    for one in reversed(line):
        if one.model.changes:
            spec = load_spec({**spec.hf, **one.model.changes})
    return spec


def _chat(config: RunConfig, name: str) -> None:
    """That a stage which writes in the model's own form comes from a model that has one."""
    stage = config.stages[name]
    data = getattr(stage, "data", None)
    tasks = {**stage.benchmarks.tasks, **((data.tasks or {}) if isinstance(data, Data) else {})}
    used = CHAT in templates(tasks) or (isinstance(data, Data) and data.template == CHAT)
    line = _line(config, name)
    made_here = line[-1].model.config is not None
    if used and made_here and not any(one.tokenizer.graft for one in line):
        raise UserError(
            "template 'chat' is the model's own, and a model that begins with random weights has none: say "
            "tokenizer.graft='r1', or choose another template"
        )


def _look(rows: Iterator[object]) -> None:
    for _ in islice(rows, LOOKED_AT):
        pass
