"""The first pass: answers are drawn, graded by their task's rule while others are written, and filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1mega.config.collect import Collect
from r1mega.config.rewards import AccuracyPart, Rewards
from r1mega.data.curate.response import key, with_opening
from r1mega.data.curate.shards import Row, Shards
from r1mega.data.curate.tally import Example
from r1mega.parallel import on_leader
from r1mega.rewards import Rubric
from r1mega.rollout.grading import Grading
from r1mega.stages.collecting.asking import Model, Questions
from r1mega.stages.collecting.filters import Candidate, Dropped, checks, why_not
from r1mega.stages.collecting.passes import Found, Opened, Ticker
from r1mega.stages.reward import rules
from r1mega.types import Completion, Prompt, Score

DRAW = "draw"


class Grades:
    """A `Reward`: the rule of each task that is graded by one; all answers to the others pass.

    Raises UserError for a rule that cannot work on this machine.
    """

    def __init__(self, config: Collect, graders: Mapping[str, str]) -> None:
        judged = config.judge.tasks if config.judge is not None and config.judge.tasks else ()
        self._graded = {t: rule for t, rule in graders.items() if config.filter.correct and t not in judged}
        accuracy = AccuracyPart(sandbox=config.filter.sandbox)
        self._rubric = Rubric(
            self._graded, where=config.filter.where, rules=rules(Rewards(accuracy=accuracy))
        )

    def of(self, prompt: Prompt, completion: Completion) -> Score | None:
        """None where no rule decides."""
        return self._rubric(prompt, completion) if prompt.task in self._graded else None

    def __call__(self, prompt: Prompt, completion: Completion) -> Score:
        return self.of(prompt, completion) or Score(0.0, "correct")

    def settle(self, samples: Sequence[tuple[Prompt, Completion, Score]]) -> list[Score]:
        return [score for _, _, score in samples]

    def rules(self, prompt: Prompt) -> bool:
        return prompt.task in self._graded


class Drawer:
    """Draws and filters a shard."""

    def __init__(
        self,
        config: Collect,
        model: Model,
        questions: Questions,
        grades: Grades,
        store: Shards,
        seed: int,
    ) -> None:
        self.config, self.model, self.questions, self.grades = config, model, questions, grades
        self._store, self._checks = store, checks(config.filter)
        self._sampling = model.sampling(config.sampling, seed + config.sampling.seed)
        self._begin = questions.state()

    def prompts(self, number: int) -> list[Prompt]:
        """Of a shard that is due or done."""
        before: Any = on_leader(lambda: self._store.facts(number - 1)) if number else None
        return self.questions.shard(number, before["next"] if before is not None else self._begin)

    def shard(self, opened: Opened, number: int) -> Found:
        """This rank's part of a shard."""
        prompts = self.prompts(number)
        mine = [prompts[place] for place in opened.mine(len(prompts))]
        found = Found()
        if not mine:
            return found
        drawn = self._draw(opened, mine)
        for place, prompt, (completions, scores) in zip(opened.mine(len(prompts)), mine, drawn, strict=False):
            self._sift(found, place, prompt, completions, scores)
        return found

    def _draw(
        self, opened: Opened, prompts: list[Prompt]
    ) -> list[tuple[Sequence[Completion], Sequence[Score]]]:
        """Nothing on a rank that only helps another one's engine."""
        samples, sampling = self.config.sampling.samples, self._sampling
        if not opened.speaks:
            opened.engine.generate(prompts, n=samples, sampling=sampling)
            return []
        ticker = Ticker(len(prompts) * samples)
        with Grading(self.grades, prompts) as grading:

            def seen(p: int, k: int, completion: Completion) -> None:
                grading.seen(p, k, completion)
                ticker.tick()

            answers = opened.engine.generate(prompts, n=samples, sampling=sampling, seen=seen)
            return list(zip(answers, grading.scores(), strict=True))

    def _sift(
        self,
        found: Found,
        place: int,
        prompt: Prompt,
        completions: Sequence[Completion],
        scores: Sequence[Score],
    ) -> None:
        """Keep what is good of the answers to one question; count the rest."""
        category = self.config.category(prompt.task)
        seen: list[int] = []
        for number, (completion, score) in enumerate(zip(completions, scores, strict=True)):
            one = self._candidate(prompt, completion, score)
            found.tally.tokens += len(completion.token_ids)
            at, name = place * self.config.sampling.samples + number, f"{prompt.id}/{number}"
            why = why_not(one, self.config.filter, self._checks) or self._too_much(one, seen)
            if why is not None:
                found.drop(at, category, Example(why.reason, name, one.question, one.text, why.detail))
                continue
            seen.append(key(one.question, one.text))
            tokens, source = self.model.tokens(one.text), self.model.name
            found.keep(at, Row(name, category, one.question, one.text, tokens, source, prompt.id))

    def _candidate(self, prompt: Prompt, completion: Completion, score: Score) -> Candidate:
        said = len(completion.token_ids) - (completion.finish == "stop")
        return Candidate(
            self.questions.question(prompt),
            with_opening(completion.text, prompt.text),
            said,
            completion.finish,
            score if self.grades.rules(prompt) else None,
        )

    def _too_much(self, one: Candidate, seen: list[int]) -> Dropped | None:
        """Why it is not needed. seen: keys of what was kept of the answers to its question."""
        section = self.config.filter
        if not section.duplicates and key(one.question, one.text) in seen:
            return Dropped("duplicate", "of another answer to this question")
        most = section.per_prompt if self.config.judge is None else None  # a judge may drop the first ones
        if most is not None and len(seen) >= most:
            return Dropped("enough_of_prompt", f"{most} are kept")
        return None
