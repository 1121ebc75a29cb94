"""A model on benchmarks: draw what is missing, grade while drawing, tell the figures.

Every answer has a place (benchmark, question, sample) and a seed of its own that depends on nothing else, so
an evaluation can be stopped anywhere and goes on with what is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from r1mega.evaluation.metrics import Sampled
from r1mega.evaluation.store import Place, Store, read_answers
from r1mega.rewards import Rubric
from r1mega.rollout.grading import cores
from r1mega.types import Completion, Prompt, Sampling


class Engine(Protocol):
    """What of a VLLMGenerator is needed here."""

    def answer(
        self,
        wanted: Sequence[tuple[Prompt, int]],
        sampling: Sampling,
        *,
        seen: Callable[[int, Completion], object] | None = None,
    ) -> list[Completion]: ...


@dataclass(frozen=True)
class Task:
    """A benchmark, ready to be asked. samples: answers to each prompt. grader: a key of rewards.GRADERS."""

    name: str
    prompts: Sequence[Prompt]
    samples: int
    grader: str

    def places(self) -> list[tuple[Place, Prompt]]:
        return [
            (Place(self.name, prompt.id, sample), prompt)
            for prompt in self.prompts
            for sample in range(self.samples)
        ]


Progress = Callable[[str, Completion], object]
"""Told of each new answer: (benchmark, answer)."""


def draw(
    task: Task,
    engine: Engine,
    reward: Rubric,
    sampling: Sampling,
    store: Store | None,
    mine: Sequence[Place],
    told: Progress,
) -> None:
    """Answers for the places `mine`, each written with its score as soon as both are there.

    store: None on a rank that only helps another one's engine.
    """
    prompts = {prompt.id: prompt for prompt in task.prompts}
    wanted = [(prompts[place.question], place.sample) for place in mine]
    if not wanted or store is None:
        if wanted:
            engine.answer(wanted, sampling)
        return
    with ThreadPoolExecutor(cores(), thread_name_prefix="grading") as threads:
        pending: deque[Future[None]] = deque()

        def keep(i: int, completion: Completion) -> None:
            store.add(mine[i], completion, reward(wanted[i][0], completion))
            told(task.name, completion)

        def seen(i: int, completion: Completion) -> None:
            pending.append(threads.submit(keep, i, completion))
            while pending and pending[0].done():
                pending.popleft().result()  # a full disk is told now, not after hours of drawing

        try:
            engine.answer(wanted, sampling, seen=seen)
            for future in pending:
                future.result()
        except BaseException:  # Ctrl-C, a full disk: what has not begun would be graded in vain
            threads.shutdown(cancel_futures=True)
            raise


def missing(task: Task, out: Path) -> list[Place]:
    """What has not been answered yet, in the task's order."""
    there = read_answers(out)
    return [place for place, _ in task.places() if place not in there]


def answers(task: Task, there: Mapping[Place, Sampled]) -> list[list[Sampled]]:
    """[P][samples], all of a finished task."""
    return [
        [there[Place(task.name, prompt.id, sample)] for sample in range(task.samples)]
        for prompt in task.prompts
    ]
