"""The passes of a data set, one after the other, each over the rows of the one before."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from r1mega.config.collect import Collect
from r1mega.data.curate.shards import Row, Shards
from r1mega.data.curate.tally import Tally, said
from r1mega.parallel import on_leader
from r1mega.stages.collecting.asking import Model
from r1mega.stages.collecting.cast import Cast
from r1mega.stages.collecting.drawing import DRAW, Drawer
from r1mega.stages.collecting.passes import Found, Opened, Passes, Whole
from r1mega.stages.collecting.sources import Source
from r1mega.types import Prompt, UserError

JUDGE, REFINE, SUMMARISE, THOUGHTS = "judge", "refine", "summarise", "chain_of_thought"


@dataclass
class Chain:
    """All passes of one data set. wholes: those that are through, by name."""

    config: Collect
    cast: Cast
    passes: Passes
    seed: int
    wholes: dict[str, Whole] = field(default_factory=dict)

    def run(self) -> list[Path]:
        """The files of the rows that go into the mix. All ranks together; every finished shard is kept."""
        cast = self.cast
        drawer = Drawer(
            self.config, cast.model, cast.questions, cast.grades, self.passes.store(DRAW), self.seed
        )
        shards, before = self._draw(drawer), DRAW
        for name in over_answers(self.cast):
            self._over_answers(name, before, shards, drawer)
            before = name
        files = self.passes.store(before).files(shards)
        for source in self.cast.sources:
            files += self._with_thoughts(source) if source.gets_thoughts else source.files()
        return files

    def _draw(self, drawer: Drawer) -> int:
        """The shards that were drawn: all, or so many that there is enough."""
        config, questions = self.config, self.cast.questions

        def enough(tally: Tally) -> bool:
            self._give_up_where_nothing_is_kept(DRAW, tally)
            return config.filter.total is not None and tally.rows_kept >= config.filter.total

        with self._opened(self.cast.model, config.data.max_prompt + config.sampling.max_tokens) as opened:
            self.wholes[DRAW] = self.passes.run(
                DRAW,
                questions.shards,
                lambda number: drawer.shard(opened, number),
                facts=lambda: {"next": questions.state()},
                enough=enough,
            )
        return self.wholes[DRAW].shards

    def _over_answers(self, name: str, before: str, shards: int, drawer: Drawer) -> None:
        """A pass over the rows of the pass `before`, each with the prompt that it answers."""
        store = self.passes.store(before)
        worker = self.cast.judging if name == JUDGE else self.cast.rewriters[name]
        assert worker is not None

        def enough(tally: Tally) -> bool:
            if name == JUDGE:
                self._give_up_where_nothing_is_kept(name, tally)
            return False

        with self._opened(worker.model, worker.context) as opened:

            def work(number: int) -> Found:
                prompts: dict[str, Prompt] = {prompt.id: prompt for prompt in drawer.prompts(number)}
                return worker.shard(opened, _rows(store, number), prompts)

            self.wholes[name] = self.passes.run(name, shards, work, enough=enough)

    def _with_thoughts(self, source: Source) -> list[Path]:
        """The pass that writes thoughts for general rows."""
        name, writer = thoughts_of(source), self.cast.rewriters[THOUGHTS]
        with self._opened(writer.model, writer.context) as opened:
            self.wholes[name] = self.passes.run(
                name,
                source.shards,
                lambda number: writer.shard(opened, _rows(source.store, number), {}),
            )
        return self.passes.store(name).files(source.shards)

    def _opened(self, model: Model, context: int) -> Opened:
        config = self.config
        return Opened(
            lambda: model.engine(context, config.sampling, config.model.dtype), self.passes.mesh.at.rank
        )

    def _give_up_where_nothing_is_kept(self, name: str, tally: Tally) -> None:
        section = self.config.give_up
        if tally.rows >= section.after and tally.rows_kept < section.share * tally.rows:
            raise UserError(
                f"{self.passes.title}: of the first {tally.rows:,} answers of '{name}' {tally.rows_kept:,} "
                f"were kept, less than give_up.share = {section.share:g}; dropped: {said(tally.reasons)}. "
                f"Examples: {self.passes.store(name).folder}. Use a better model or other filters, or lower "
                "give_up.share"
            )


def over_answers(cast: Cast) -> list[str]:
    """The passes over drawn answers, in order."""
    judging = [JUDGE] if cast.judging is not None else []
    return [*judging, *(name for name in (REFINE, SUMMARISE) if name in cast.rewriters)]


def names(cast: Cast) -> list[str]:
    """All passes, in order."""
    return [DRAW, *over_answers(cast), *(thoughts_of(one) for one in cast.sources if one.gets_thoughts)]


def shards(cast: Cast) -> int:
    """Of all passes."""
    general = sum(source.shards for source in cast.sources if source.gets_thoughts)
    return cast.questions.shards * (1 + len(over_answers(cast))) + general


def thoughts_of(source: Source) -> str:
    return f"thoughts-{source.name}"


def _rows(store: Shards, number: int) -> list[Row]:
    """The same on every rank, also where one of them does not see the file yet."""
    return on_leader(partial(store.rows, number))
