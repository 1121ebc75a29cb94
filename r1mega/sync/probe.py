"""The proof that the generator uses the weights it was sent: both sides score the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from r1mega.sync.push import SyncError
from r1mega.types import Completion, Generator, Prompt, Sampling

TrainerLogprobs = Callable[[Sequence[tuple[Prompt, Completion]], float], Sequence[Sequence[float]]]
"""(prompts with answers, temperature) -> logprob of each answer's tokens. Called on all ranks at once."""


def probe(
    generator: Generator,
    trainer_logprobs: TrainerLogprobs,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    n: int = 1,
    tolerance: float,
) -> float:
    """The largest difference between the generator's and the trainer's logprobs of answers to fixed prompts.

    In nats. Prompts and seed are fixed, so that only the weights change from probe to probe. The answers are
    drawn, not given: that way prefill, cache and decoding are all under test.

    Raises SyncError above `tolerance`, with the token where they differ most and what both say.
    """
    answers = generator.generate(prompts, n=n, sampling=sampling)
    pairs = [(prompt, one) for prompt, group in zip(prompts, answers, strict=True) for one in group]
    scored = trainer_logprobs(pairs, sampling.temperature)
    worst, where = -1.0, (0, 0)
    for i, ((_, answer), trained) in enumerate(zip(pairs, scored, strict=True)):
        for t, (drawn, ours) in enumerate(zip(answer.logprobs, trained, strict=True)):
            if not abs(drawn - ours) <= worst:  # NaN, too, is the worst
                worst, where = abs(drawn - ours), (i, t)
    if not worst <= tolerance:
        i, t = where
        prompt, answer = pairs[i]
        raise SyncError(
            f"trainer and generator disagree at version {answer.version}: token {answer.token_ids[t]}, "
            f"number {t} of an answer to {prompt.id}, has logprob {answer.logprobs[t]:.6f} in the generator "
            f"and {scored[i][t]:.6f} in the trainer; the difference {worst:.2e} is above {tolerance:.0e}. "
            "The generator does not use the weights it was sent, or computes in another precision"
        )
    return worst
