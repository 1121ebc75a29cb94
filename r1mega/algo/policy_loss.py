"""Losses that make good answers likelier. T positions of a micro-batch; all tensors are float [T].

What stands at positions of weight 0 (prompts, padding) does not matter.
"""

from __future__ import annotations

import torch

from r1mega.algo.kl import k3
from r1mega.algo.loss import LossParts


def grpo(
    logp_T: torch.Tensor,
    old_T: torch.Tensor,
    ref_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_weight: float,
) -> LossParts:
    """GRPO with a ratio a token (DeepSeekMath, arXiv 2402.03300, equations 3 and 4), to be minimised.

    logp_T, old_T, ref_T: log-probabilities of the drawn tokens under the policy, the policy that drew them
        and the reference, all at the sampling temperature. Only logp_T is differentiated.
    advantages_T: each token has its answer's.
    weights_T: 1 / |o_i| on the tokens of answer i, with the number of answers as the denominator, is the
        paper's mean over each answer and then over the answers.
    clip_low, clip_high: the ratio counts within [1 - clip_low, 1 + clip_high]. A clip_low of 1 or more never
        binds, since a ratio is positive (R1's first stage: 10).

    The sums are weighted like the loss, so over the same denominator they are the same kind of mean:
        clipped: 1 where the clip stops the gradient; kl: k3 to the reference; ratio: policy / old policy.
    """
    assert clip_low >= 0 and clip_high >= 0, (clip_low, clip_high)
    # Where nothing counts the values may be anything: an infinite k3 on a prompt, times 0, would be NaN.
    counts_T = weights_T != 0
    logp_T, old_T, ref_T = (torch.where(counts_T, each_T, 0.0) for each_T in (logp_T, old_T, ref_T))
    ratio_T = (logp_T - old_T).exp()
    free_T = ratio_T * advantages_T
    bound_T = ratio_T.clamp(1 - clip_low, 1 + clip_high) * advantages_T
    kl_T = k3(logp_T, ref_T)
    loss_T = kl_weight * kl_T - torch.minimum(free_T, bound_T)
    clipped_T = (bound_T < free_T).to(weights_T.dtype)
    sums = {"clipped": clipped_T, "kl": kl_T, "ratio": ratio_T}
    return LossParts(
        sum=(weights_T * loss_T).sum(),
        sums={name: (weights_T * each_T).sum().detach() for name, each_T in sums.items()},
    )
