"""What a loss function is given by the trainer. The arithmetic itself is in r1mega/algo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from r1mega.algo.loss import LossParts
from r1mega.train.batch import MicroBatch
from r1mega.train.logprob import TokenScores


@dataclass(frozen=True)
class WithEntropy:
    """A loss function that wants entropies, too: (logp_T, entropy_T, the micro-batch) -> the loss's parts.

    Both are differentiable. A loss that only logs the entropy detaches it, which saves its backward pass.
    """

    function: Callable[[torch.Tensor, torch.Tensor, MicroBatch], LossParts]


LossFunction = Callable[[torch.Tensor, MicroBatch], LossParts] | WithEntropy
"""(logp_T of the targets, the micro-batch) -> the loss's parts. Of a reward model: (value_T, the micro-batch)
-> the same, with the head's value at each token that is read.

Where the micro-batch's weight is 0, log-probability and entropy are 0, and a gradient there goes nowhere.
"""


def parts(loss_function: LossFunction, scores: TokenScores, batch: MicroBatch) -> LossParts:
    if isinstance(loss_function, WithEntropy):
        assert scores.entropy_T is not None
        return loss_function.function(scores.logp_T, scores.entropy_T, batch)
    return loss_function(scores.logp_T, batch)
