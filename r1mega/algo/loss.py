"""Losses as pure functions. Each returns a plain sum over tokens; the trainer divides by a global
denominator.

The denominator (tokens, sequences or a constant of the whole batch) is known before any backward pass, so the
gradient does not depend on how the batch is cut into ranks and micro-batches. T positions of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class LossParts:
    """What a loss function returns.

    sum:  scalar, the weighted sum over this micro-batch's tokens; the only thing that is differentiated.
    sums: further scalars to be summed over the batch and logged, without gradient.
    """

    sum: torch.Tensor
    sums: dict[str, torch.Tensor] = field(default_factory=dict)


def cross_entropy(logp_T: torch.Tensor, weights_T: torch.Tensor) -> LossParts:
    """Next-token cross-entropy in nats: logp_T are the log-probabilities of the tokens that came."""
    return LossParts(sum=-(logp_T * weights_T).sum())
