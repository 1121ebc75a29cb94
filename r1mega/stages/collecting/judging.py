"""The pass in which a language model grades answers that no rule can, and only the good ones stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

from r1mega.config.collect import Judge
from r1mega.data.curate.shards import Row
from r1mega.data.curate.tally import Example
from r1mega.data.prompts_text import prompt_text
from r1mega.rewards.model import LanguageJudge
from r1mega.rollout.vllm_engine import VLLMGenerator
from r1mega.stages.collecting.asking import Model
from r1mega.stages.collecting.passes import Found, Opened
from r1mega.types import Completion, Prompt, Sampling, Seen

REFERENCE = "\n\nReference answer:\n"


class Judging:
    """Grades the rows of a shard."""

    def __init__(self, section: Judge, model: Model, seed: int) -> None:
        """Raises UserError for a file that is no prompt, and for `chat` where the model has no template."""
        self._section = section
        self._text = prompt_text("judge", section.prompt)
        self._asker = model.asker(section.template)
        self._sampling = model.sampling(section, seed)
        self.model, self.context = model, model.room(section)

    def shard(self, opened: Opened, rows: Sequence[Row], prompts: Mapping[str, Prompt]) -> Found:
        """This rank's part. prompts: by id."""
        found = Found()
        if not rows:
            return found
        mine = [(place, rows[place]) for place in opened.mine(len(rows))]
        asked = [(place, row) for place, row in mine if self._is_judged(prompts[row.asked])]
        values = dict(zip((place for place, _ in asked), self._values(opened, asked, prompts), strict=True))
        if not opened.speaks:
            return found
        for place, row in mine:
            value = values.get(place)
            if value is None:
                found.keep(place, row, "by_rule")
            elif isnan(value):
                found.drop(place, row.category, _example(row, "judge_unclear", "the judge gave no score"))
            elif value < self._section.least:
                detail = f"{value:.2f}, at least {self._section.least}"
                found.drop(place, row.category, _example(row, "judged_low", detail))
            else:
                found.keep(place, row, "judged_good")
        return found

    def _is_judged(self, prompt: Prompt) -> bool:
        return self._section.tasks is None or prompt.task in self._section.tasks

    def _values(
        self, opened: Opened, asked: Sequence[tuple[int, Row]], prompts: Mapping[str, Prompt]
    ) -> list[float]:
        if not asked:
            return []
        names = [row.id for _, row in asked]
        judge = LanguageJudge(
            _ByName(opened.engine, names, self.context - self._section.max_tokens),
            self._encode,
            self._sampling,
            template=self._text,
            frame=self._asker.fill,
            votes=self._section.votes,
            whole=self._section.whole,
        )
        return judge([(self._shown(row, prompts[row.asked]), _completion(row)) for _, row in asked])

    def _encode(self, text: str) -> list[int]:
        tokenizer = self._asker.tokenizer
        bos = tokenizer.bos_id if self._asker.with_bos else None
        return [*(() if bos is None else (bos,)), *tokenizer.encode(text)]

    def _shown(self, row: Row, prompt: Prompt) -> Prompt:
        """The prompt with what the judge reads as its question."""
        reference = f"{REFERENCE}{prompt.answer}" if self._section.reference and prompt.answer else ""
        return replace(prompt, facts={"question": row.prompt + reference})


@dataclass(frozen=True)
class _ByName:
    """A generator that draws by the rows' names, so that a judgment does not depend on what else is asked.

    What does not fit the judge's context gets no judgment: what a model wrote is never an error.
    """

    engine: VLLMGenerator
    names: Sequence[str]
    room: int

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, seen: Seen | None = None
    ) -> list[list[Completion]]:
        named = [replace(one, id=f"judge/{self.names[int(one.id.rpartition('/')[2])]}") for one in prompts]
        fits = [len(one.token_ids) <= self.room for one in named]
        asked = [one for one, is_fit in zip(named, fits, strict=True) if is_fit]
        drawn = iter(self.engine.generate(asked, n=n, sampling=sampling) if asked else ())
        return [next(drawn) if is_fit else [] for is_fit in fits]


def _completion(row: Row) -> Completion:
    return Completion((), (), row.response, "stop", 0)


def _example(row: Row, reason: str, detail: str) -> Example:
    return Example(reason, row.id, row.prompt, row.response, detail)
