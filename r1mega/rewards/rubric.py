"""The reward: parts by weight, each kept; accuracy by the rule of the prompt's task.

A completion cut at the limit gets no special treatment for accuracy: an answer that stands in its tags is
graded. Its format is 0, since the model did not end by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from r1mega.rewards.answers import Grader, ending, last_answer
from r1mega.rewards.countdown import COUNTDOWN
from r1mega.rewards.format import well_formed
from r1mega.rewards.logic import LOGIC
from r1mega.rewards.number import INTEGER, NUMBER
from r1mega.types import Completion, Prompt, Score, UserError

GRADERS: Mapping[str, Grader] = {
    "integer": INTEGER,
    "number": NUMBER,
    "countdown": COUNTDOWN,
    "logic": LOGIC,
}
DEFAULT_WEIGHTS: Mapping[str, float] = {"accuracy": 1.0, "format": 1.0, "accuracy_without_tags": 0.0}
"""The paper's: accuracy and format, equal. A weight of 0: reported only."""


class Rubric:
    """A `Reward`. Every part is 0 or 1; the total is their weighted sum; the outcome is accuracy's.

    accuracy:              the last complete <answer> block, graded by the task's rule.
    accuracy_without_tags: the same where there is such a block; else what the text's end seems to answer, as
                           the last number.
    format:                `well_formed`.

    graders: which rule grades a task's answers, by the task's name.
    weights: of the parts; a part that is not named is reported with weight 0.
    Raises UserError for an unknown rule or part, and for weights that give no reward.
    """

    def __init__(self, graders: Mapping[str, str], weights: Mapping[str, float] = DEFAULT_WEIGHTS) -> None:
        for task, rule in graders.items():
            if rule not in GRADERS:
                raise UserError(f"task {task}: no rule {rule!r}; there are {', '.join(GRADERS)}")
        if unknown := [name for name in weights if name not in DEFAULT_WEIGHTS]:
            raise UserError(f"the reward has no part {unknown[0]!r}; there are {', '.join(DEFAULT_WEIGHTS)}")
        if not all(map(isfinite, weights.values())) or not any(weights.values()):
            raise UserError(f"the weights {dict(weights)} must be finite, and one of them not 0")
        self._graders = {task: GRADERS[rule] for task, rule in graders.items()}
        self._weights = {name: weights.get(name, 0.0) for name in DEFAULT_WEIGHTS}

    def __call__(self, prompt: Prompt, completion: Completion) -> Score:
        grader = self._graders[prompt.task]
        tagged = last_answer(completion.text)
        verdict = grader.grade(tagged, prompt)
        lenient = verdict
        if tagged is None:
            lenient = grader.grade(grader.find(ending(completion.text)), prompt)
        parts = {
            "accuracy": float(verdict.right),
            "format": float(well_formed(completion)),
            "accuracy_without_tags": float(lenient.right),
        }
        total = sum(self._weights[name] * part for name, part in parts.items())
        return Score(total, verdict.outcome, parts, verdict.detail)
