"""What reward models learn by, as pure functions of their values. P pairs, B single answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from r1mega.algo.loss import LossParts


def bradley_terry(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> LossParts:
    """-log sigmoid(chosen - rejected), summed over the pairs, in nats (Bradley and Terry, 1952).

    Also counted: `right`, pairs whose chosen answer is worth more; `margin`, the sum of the differences.
    """
    margin_P = chosen_P - rejected_P
    found = margin_P.detach()
    return LossParts(
        sum=-F.logsigmoid(margin_P).sum(), sums={"right": (found > 0).sum(), "margin": found.sum()}
    )


def logistic(value_B: torch.Tensor, good_B: torch.Tensor) -> LossParts:
    """Cross-entropy of sigmoid(value) with good_B, 1 or 0, summed over the answers, in nats.

    Also counted: `right`, answers on the right side of 0.
    """
    right = (value_B.detach() > 0) == (good_B > 0)
    return LossParts(
        sum=F.binary_cross_entropy_with_logits(value_B, good_B.to(value_B.dtype), reduction="sum"),
        sums={"right": right.sum()},
    )
