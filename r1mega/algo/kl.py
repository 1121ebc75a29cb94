"""Estimates of KL(policy || reference) from tokens that the policy drew, one value a token.

http://joschu.net/blog/kl-approx.html; k3 is GRPO's (DeepSeekMath, arXiv 2402.03300, equation 4). logp_T and
ref_T: log-probabilities of the drawn tokens under policy and reference, in nats.
"""

from __future__ import annotations

import torch


def k1(logp_T: torch.Tensor, ref_T: torch.Tensor) -> torch.Tensor:
    """Unbiased, noisy, of either sign."""
    return logp_T - ref_T


def k2(logp_T: torch.Tensor, ref_T: torch.Tensor) -> torch.Tensor:
    """Biased, little noise, never negative."""
    return (logp_T - ref_T).square() / 2


def k3(logp_T: torch.Tensor, ref_T: torch.Tensor) -> torch.Tensor:
    """Unbiased, never negative. Not clamped: it and its gradient grow as ref / policy."""
    more_T = ref_T - logp_T
    return torch.expm1(more_T) - more_T
