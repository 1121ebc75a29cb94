"""Passes in which a model writes rows anew: refining, summarising, and thoughts for rows that have none.

What it writes is graded and filtered like any answer. Where it is of no use, the row stays as it was, or
goes, as the config says; both are counted, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from r1mega.config.collect import Collect, Writer
from r1mega.data.curate.response import Parts, is_bare, parts, without_thoughts
from r1mega.data.curate.shards import Row
from r1mega.data.curate.tally import Example
from r1mega.data.prompts_text import filled, prompt_text
from r1mega.evaluation.model import Asker
from r1mega.stages.collecting.asking import Model
from r1mega.stages.collecting.drawing import Grades
from r1mega.stages.collecting.filters import Candidate, Dropped, checks, why_not
from r1mega.stages.collecting.passes import Found, Opened
from r1mega.types import Completion, Prompt, Score


@dataclass(frozen=True)
class Kind:
    """What a writer does. applies: to which rows; read: (row, what it wrote) -> the new response."""

    applies: Callable[[Row], bool]
    read: Callable[[Row, str], Parts | None]


def _refined(row: Row, written: str) -> Parts | None:
    thoughts, summary = _block(written, "reasoning"), _block(written, "summary")
    return None if thoughts is None or summary is None else Parts(thoughts, summary)


def _summarised(row: Row, written: str) -> Parts | None:
    before, summary = parts(row.response), _block(written, "summary")
    return None if before is None or summary is None else Parts(before.thoughts, summary)


def _thought(row: Row, written: str) -> Parts | None:
    thoughts = _block(written, "reasoning")
    return None if thoughts is None else Parts(thoughts, without_thoughts(row.response).strip())


def _has_bare_answer(row: Row) -> bool:
    found = parts(row.response)
    return found is not None and is_bare(found.summary)


KINDS: Mapping[str, Kind] = {
    "refine": Kind(lambda row: True, _refined),
    "summarise": Kind(_has_bare_answer, _summarised),
    "chain_of_thought": Kind(lambda row: True, _thought),
}


class Rewriter:
    """Rewrites the rows of a shard. name: a key of KINDS."""

    def __init__(
        self,
        name: str,
        config: Collect,
        model: Model,
        grades: Grades,
        tokens: Callable[[str], int],
        seed: int,
    ) -> None:
        """tokens: counts those of a response, by the tokenizer of the model that has answered.

        Raises UserError for a file that is no prompt, and for `chat` where the model has no template.
        """
        section: Writer = getattr(config, name)
        self.name, self._kind, self._section, self.model = name, KINDS[name], section, model
        self._text = prompt_text(name, section.prompt)
        self._asker = model.asker(section.template)
        self._sampling = model.sampling(section, seed)
        self._grades, self._tokens = grades, tokens
        form = config.filter.format if config.filter.format == "none" else "think_first"
        self._filter = config.filter.model_copy(update={"format": form})
        self._checks = checks(self._filter)
        self.context = model.room(section)

    def shard(self, opened: Opened, rows: Sequence[Row], prompts: Mapping[str, Prompt]) -> Found:
        """This rank's part. prompts: by id, of rows that answer one."""
        found = Found()
        if not rows:
            return found
        mine = [(place, rows[place]) for place in opened.mine(len(rows))]
        asked = {place: self._ask(row) for place, row in mine if self._kind.applies(row)}
        written = self._write(opened, {place: one for place, one in asked.items() if self._fits(one)})
        if not opened.speaks:
            return found
        for place, row in mine:
            if place not in asked:
                found.keep(place, row, "as_it_was")
                continue
            made = self._made(row, written.get(place), prompts.get(row.asked))
            found.tally.tokens += len(written[place].token_ids) if place in written else 0
            self._settle(found, place, row, made)
        return found

    def _ask(self, row: Row) -> Prompt:
        text = self._asker.fill(filled(self._text, row.prompt, row.response))
        return framed(self._asker, f"{self.name}/{row.id}", text)

    def _fits(self, prompt: Prompt) -> bool:
        return len(prompt.token_ids) <= self.context - self._section.max_tokens

    def _write(self, opened: Opened, asked: Mapping[int, Prompt]) -> dict[int, Completion]:
        if not asked:
            return {}
        drawn = opened.engine.generate(list(asked.values()), n=1, sampling=self._sampling)
        return {place: one for place, [one] in zip(asked, drawn, strict=True)}

    def _made(self, row: Row, written: Completion | None, prompt: Prompt | None) -> str | Dropped:
        """The new response, or why it is of no use."""
        if written is None:
            return Dropped("no_room", "question and response do not fit the writer's context")
        if written.finish == "length":
            return Dropped("not_ended", f"cut after {len(written.token_ids)} tokens")
        form = self._kind.read(row, written.text)
        if form is None or not form.thoughts or not form.summary:
            return Dropped("unreadable", f"not in the form asked for: {written.text[:200]!r}")
        text = form.text()
        candidate = Candidate(row.prompt, text, self._tokens(text), "stop", self._score(prompt, text))
        return why_not(candidate, self._filter, self._checks) or text

    def _score(self, prompt: Prompt | None, text: str) -> Score | None:
        return None if prompt is None else self._grades.of(prompt, Completion((), (), text, "stop", 0))

    def _settle(self, found: Found, place: int, row: Row, made: str | Dropped) -> None:
        if isinstance(made, str):
            source = f"{row.source}+{self.model.name}"
            found.keep(place, row.changed(made, self._tokens(made), source), "rewritten")
            return
        if self._section.otherwise == "keep":
            found.keep(place, row, f"as_it_was: {made.reason}")
        else:
            found.drop(
                place, row.category, Example(made.reason, row.id, row.prompt, row.response, made.detail)
            )


def framed(asker: Asker, name: str, text: str) -> Prompt:
    """A text as a prompt to another model, with bos where that model wants it."""
    bos = asker.tokenizer.bos_id if asker.with_bos else None
    ids = asker.tokenizer.encode(text)
    return Prompt(name, "text", text, (*(() if bos is None else (bos,)), *ids), "")


def _block(written: str, tag: str) -> str | None:
    """What is in the last block of that tag behind the writer's own thoughts."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", written.rpartition("</think>")[2], re.DOTALL)
    return found[-1].strip() if found else None
