"""Grading beside generation: one score a place, in order, whatever the rule does and when answers come."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from r1mega.rollout.collect import Group, settled
from r1mega.rollout.grading import Grading
from r1mega.types import Completion, Prompt, Score, UserError

PROMPTS = [Prompt(f"t/{p}", "t", "", (), str(p)) for p in range(20)]
K = 8


def completion(p: int, k: int) -> Completion:
    return Completion((p, k), (0.0, 0.0), f"{p} {k}", "stop", 0)


class Slow:
    """Says back what it was given, after a random while; settling numbers the scores."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __call__(self, prompt: Prompt, completion: Completion) -> Score:
        self.threads.add(threading.get_ident())
        time.sleep(random.random() / 500)
        return Score(0.0, "wrong", detail=f"{prompt.id} {completion.text}")

    def settle(self, samples: Sequence[tuple[Prompt, Completion, Score]]) -> list[Score]:
        return [replace(score, total=float(i)) for i, (_, _, score) in enumerate(samples)]


def test_scores_come_in_the_order_of_the_places() -> None:
    places = [(p, k) for p in range(len(PROMPTS)) for k in range(K)]
    random.Random(0).shuffle(places)
    reward = Slow()
    with Grading(reward, PROMPTS, threads=4) as grading:
        for p, k in places:
            grading.seen(p, k, completion(p, k))
        scores = grading.scores()
    assert [[s.detail for s in of_prompt] for of_prompt in scores] == [
        [f"t/{p} {p} {k}" for k in range(K)] for p in range(len(PROMPTS))
    ]
    assert {s.total for of_prompt in scores for s in of_prompt} == {0.0}, "batches are settled later"
    assert len(reward.threads) == 4 and threading.get_ident() not in reward.threads


def test_batches_are_settled_in_the_order_of_the_groups() -> None:
    """Each answer gets the score at its place; what the reward is shown is prompt by prompt."""
    scores = tuple(Score(0.0, "wrong", detail=str(k)) for k in range(K))
    groups = [
        Group(prompt, tuple(completion(p, k) for k in range(K)), scores) for p, prompt in enumerate(PROMPTS)
    ]
    groups[3] = replace(groups[3], completions=(), scores=())
    found = settled(groups, Slow())
    assert [group.prompt for group in found] == PROMPTS
    assert [[s.detail for s in group.scores] for group in found] == [
        [s.detail for s in g.scores] for g in groups
    ]
    totals = [s.total for group in found for s in group.scores]
    assert totals == list(map(float, range((len(PROMPTS) - 1) * K)))


def test_an_answer_that_never_came_is_noticed() -> None:
    with Grading(Slow(), PROMPTS) as grading:
        grading.seen(0, 1, completion(0, 1))
        with pytest.raises(AssertionError, match="answer 0 to prompt 0 is missing"):
            grading.scores()
        with pytest.raises(AssertionError, match="came twice"):
            grading.seen(0, 1, completion(0, 1))


def test_what_the_user_must_mend_is_raised() -> None:
    class Refuses(Slow):
        def __call__(self, prompt: Prompt, completion: Completion) -> Score:
            raise UserError("no sandbox")

    with pytest.raises(UserError, match="no sandbox"), Grading(Refuses(), PROMPTS) as grading:
        grading.seen(0, 0, completion(0, 0))
        grading.scores()


def test_an_interrupt_does_not_wait_for_what_has_not_begun() -> None:
    class Sleeper(Slow):
        def __call__(self, prompt: Prompt, completion: Completion) -> Score:
            self.threads.add(completion.token_ids[1])
            time.sleep(0.2)
            return Score(0.0, "wrong")

    reward = Sleeper()
    with pytest.raises(KeyboardInterrupt), Grading(reward, PROMPTS, threads=1) as grading:
        for k in range(50):
            grading.seen(0, k, completion(0, k))
        raise KeyboardInterrupt
    time.sleep(0.5)
    assert len(reward.threads) <= 2
