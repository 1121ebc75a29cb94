"""How much better an answer is than its siblings. P prompts, G answers each."""

from __future__ import annotations

import torch


def group_relative(rewards_PG: torch.Tensor, *, eps: float, std: bool) -> torch.Tensor:
    """[P, G] advantages: reward less the group's mean; if `std`, over the group's standard deviation + eps.

    DeepSeekMath (arXiv 2402.03300, section 4.1.2) and R1. Neither paper says which standard deviation it
    takes; this is the sample's (G - 1), as in TRL and verl: the rewards are a sample of what the policy would
    get. The population's (G) would make every advantage sqrt(G / (G - 1)) larger.

    A group of equal rewards, as is a group of one, gets exactly 0: rounding must not become a direction.
    """
    assert rewards_PG.dim() == 2 and rewards_PG.isfinite().all(), rewards_PG
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    equal_P1 = (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)
    if std and rewards_PG.shape[1] > 1:
        centred_PG = centred_PG / (rewards_PG.std(dim=1, keepdim=True, correction=1) + eps)
    return centred_PG.masked_fill(equal_P1, 0.0)
