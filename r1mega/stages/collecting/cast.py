"""Everyone and everything a data set is made with, found and checked before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from r1mega.config.collect import Collect, Writer
from r1mega.parallel import on_leader
from r1mega.stages.base import Context
from r1mega.stages.collecting.asking import Model, Questions
from r1mega.stages.collecting.drawing import Grades
from r1mega.stages.collecting.judging import Judging
from r1mega.stages.collecting.rewriting import KINDS, Rewriter
from r1mega.stages.collecting.sources import Source
from r1mega.types import UserError


@dataclass(frozen=True)
class Cast:
    """model: who answers. rewriters: by the section that names them. sources: further data, prepared."""

    model: Model
    questions: Questions
    grades: Grades
    judging: Judging | None
    rewriters: dict[str, Rewriter]
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, ctx: Context, config: Collect) -> Cast:
        """All ranks together. Raises UserError for whatever does not fit, and data that cannot be read."""
        seed, inputs = ctx.run.seed, ctx.inputs
        model = Model.of(config.model.path, config.model.from_stage, inputs, config.tokenizer.path)
        _see_that_answers_fit(config, model)
        questions = Questions(config, model, seed)
        grades = Grades(config, questions.graders)
        judging = None
        if (judge := config.judge) is not None:
            judging = Judging(judge, Model.of(judge.path, judge.from_stage, inputs), seed)
        rewriters = {}
        for name in KINDS:
            section: Writer | None = getattr(config, name)
            if section is not None:
                writer = Model.of(section.path, section.from_stage, inputs)
                rewriters[name] = Rewriter(name, config, writer, grades, model.tokens, seed)
        sources = [Source(name, section, ctx.room / "shards") for name, section in config.general.items()]
        for source in sources:
            size = config.sampling.shard if source.gets_thoughts else None
            on_leader(partial(source.prepare, model.tokenizer, seed, size))
        return cls(model, questions, grades, judging, rewriters, tuple(sources))


def _see_that_answers_fit(config: Collect, model: Model) -> None:
    prompt, answer, context = config.data.max_prompt, config.sampling.max_tokens, model.context
    if prompt + answer > context:
        raise UserError(
            f"data.max_prompt {prompt} + sampling.max_tokens {answer}: the model holds {context} tokens; "
            "lower one of them"
        )
