"""The stage `collect`: a data set made with a model, as R1's cold-start data and its 800K samples were.

    draw              answers to the questions of `data`, graded by rule and filtered
    judge             a model grades where no rule can
    refine, summarise a model makes them more readable
    chain_of_thought  a model writes thoughts for general rows
    the mix           no row twice, no benchmark, as many of each category as wanted, shuffled

Each is a pass over shards; one engine runs at a time. The data set is <room>/dataset: rows.jsonl (a row a
line: id, category, prompt, response, tokens, source), report.json (counts) and samples.jsonl (a few answers
for each reason for which some were dropped).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r1mega.config.collect import Collect, Speaker
from r1mega.data.curate.mix import Rules, mix
from r1mega.data.curate.response import parts
from r1mega.data.curate.shards import Row, read
from r1mega.data.decontaminate import Overlap, read_benchmarks
from r1mega.data.prompts_text import prompt_text
from r1mega.logs import open_log
from r1mega.parallel import Mesh, on_leader
from r1mega.stages.base import Context, Metrics
from r1mega.stages.collecting import chain
from r1mega.stages.collecting.cast import Cast
from r1mega.stages.collecting.chain import Chain
from r1mega.stages.collecting.filters import checks
from r1mega.stages.collecting.passes import Passes
from r1mega.stages.collecting.reporting import Outcome, conclude
from r1mega.stages.interrupt import StopRequest


def run(ctx: Context) -> Metrics:
    """Make the data set, going on from the shards that are there; returns the stage's metrics.

    Raises UserError for whatever does not fit, where it can be known before anything is drawn; when a model
    gives hardly anything usable; and when no row is left.
    """
    config = ctx.config
    assert isinstance(config, Collect)
    refuse(config)
    with Mesh(ctx.layout) as mesh, StopRequest() as stop:
        cast = Cast.of(ctx, config)
        overlap = on_leader(lambda: _benchmarks(config))
        with open_log(
            ctx.room,
            config.log,
            title=ctx.name,
            total_steps=chain.shards(cast),
            resume_step=on_leader(lambda: _done(ctx, cast)),
            config=config.model_dump(mode="json"),
        ) as log:
            passes = Passes(ctx.name, ctx.room, mesh, log, stop, config.examples)
            making = Chain(config, cast, passes, ctx.run.seed)
            files = making.run()
        return on_leader(lambda: _mixed(ctx, config, making, files, overlap))


def refuse(config: Collect) -> None:
    """Raise UserError for what can be seen without a model: languages and prompts."""
    checks(config.filter)
    for name in (chain.JUDGE, chain.REFINE, chain.SUMMARISE, chain.THOUGHTS):
        section: Speaker | None = getattr(config, name)
        if section is not None:
            prompt_text(name, section.prompt)


def _done(ctx: Context, cast: Cast) -> int:
    """Shards that an earlier attempt has done."""
    folder = ctx.room / "shards"
    return sum(1 for name in chain.names(cast) for _ in (folder / name).glob("[0-9]*.json"))


def _benchmarks(config: Collect) -> Overlap | None:
    section = config.decontaminate
    if section is None:
        return None
    benchmarks = read_benchmarks([section.against])
    return Overlap(((one.name, text) for one in benchmarks for text in one.texts), section.ngram)


def _mixed(
    ctx: Context, config: Collect, making: Chain, files: list[Path], overlap: Overlap | None
) -> Metrics:
    """Mix, and tell. Raises UserError where nothing is left."""
    filters, cast = config.filter, making.cast
    rules = Rules(filters.duplicates, filters.per_prompt, filters.total, overlap, config.target)
    read_of = {source.name: source.facts for source in cast.sources}
    outcome = Outcome(making.wholes, read_of, cast.questions.skipped, config.examples)
    rows = _in_form(files, config, cast)
    lines, tally = mix(rows, ctx.dataset / "rows.jsonl", rules, ctx.run.seed, outcome.seen)
    return conclude(ctx.name, ctx.dataset, outcome, lines, tally)


def _in_form(files: list[Path], config: Collect, cast: Cast) -> Iterator[Row]:
    """The rows, drawn ones in the form that the config wants."""
    for row in (row for path in files for row in read(path)):
        form = parts(row.response) if row.asked and config.response == "think_summary" else None
        if form is None:
            yield row
        else:
            text = form.without_answer_tags().text()
            yield row.changed(text, cast.model.tokens(text), row.source)
