"""Prompts out, graded groups of answers back: the ranks share the work and all see the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from r1mega.parallel import Mesh
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
    is drawn by one engine as a whole. The ranks of one engine ask it the same and grade the same.
    """
    engines = mesh.layout.world // ranks_per_engine
    mine = prompts[mesh.at.rank // ranks_per_engine :: engines]
    answers = generator.generate(mine, n=n, sampling=sampling) if mine else []
    groups = [_graded(prompt, those, reward) for prompt, those in zip(mine, answers, strict=True)]
    shares = mesh.gather(groups)[::ranks_per_engine]
    return [shares[i % engines][i // engines] for i in range(len(prompts))]


def _graded(prompt: Prompt, completions: Iterable[Completion], reward: Reward) -> Group:
    kept = tuple(completions)
    return Group(prompt, kept, tuple(reward(prompt, completion) for completion in kept))
