"""Prompts out, graded groups of answers back: the ranks share the work and all see the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from r1mega.parallel import Mesh
from r1mega.rollout.grading import Grading
from r1mega.types import Completion, Generator, Prompt, Reward, Sampling, Score


@dataclass(frozen=True)
class Group:
    """A prompt, its answers and their scores, in the same order."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]

    @property
    def correct(self) -> int:
        return sum(score.outcome == "correct" for score in self.scores)


def collect(
    prompts: Sequence[Prompt],
    generator: Generator,
    reward: Reward,
    mesh: Mesh,
    *,
    n: int,
    sampling: Sampling,
    ranks_per_engine: int = 1,
) -> list[Group]:
    """`n` graded answers to each prompt, in the order of the prompts, the same on every rank.

    Each engine answers every e-th prompt (of e engines), so that a mixture's long tasks are spread. A group
    is drawn by one engine as a whole. The ranks of one engine ask it the same, and the first of them grades,
    while the engine goes on: what a time-out decides must not differ between ranks. Once all answers are
    there, all ranks settle all of them together: a reward model lies on the same ranks as the policy.
    """
    engines = mesh.layout.world // ranks_per_engine
    engine, place = divmod(mesh.at.rank, ranks_per_engine)
    mine = prompts[engine::engines]
    groups: list[Group] = []
    if place:
        if mine:
            generator.generate(mine, n=n, sampling=sampling)
    elif mine:
        with Grading(reward, mine) as grading:
            answers = generator.generate(mine, n=n, sampling=sampling, seen=grading.seen)
            groups = [
                Group(prompt, tuple(theirs), tuple(scores))
                for prompt, theirs, scores in zip(mine, answers, grading.scores(), strict=True)
            ]
    shares = mesh.gather(groups)[::ranks_per_engine]
    return settled([shares[i % engines][i // engines] for i in range(len(prompts))], reward)


def settled(groups: Sequence[Group], reward: Reward) -> list[Group]:
    """The groups with what the reward judges in batches; all ranks together, with the same groups."""
    samples = [
        (group.prompt, completion, score)
        for group in groups
        for completion, score in zip(group.completions, group.scores, strict=True)
    ]
    scores = reward.settle(samples)
    assert len(scores) == len(samples)
    following = iter(scores)
    return [replace(group, scores=tuple(islice(following, len(group.scores)))) for group in groups]
