"""Training and asking a reward model: what a micro-batch of judged answers is, its losses, its values.

Answers come as `algo.judgments.judged` samples; the two of a pair follow one another, the chosen one first.
T tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from r1mega.algo.loss import LossParts
from r1mega.algo.packing import plan
from r1mega.algo.reward_loss import bradley_terry, logistic
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.loss_function import LossFunction
from r1mega.train.policy import Policy
from r1mega.types import Sample


def pairwise(value_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    """The Bradley-Terry loss of a micro-batch of whole pairs."""
    ends = batch.weights_T.nonzero()[:, 0]
    value_R = value_T.index_select(0, ends)
    assert len(ends) % 2 == 0
    return bradley_terry(value_R[0::2], value_R[1::2])


def pointwise(value_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    """The logistic loss of a micro-batch of labelled answers."""
    ends = batch.weights_T.nonzero()[:, 0]
    return logistic(value_T.index_select(0, ends), batch.targets_T.index_select(0, ends))


LOSSES: Mapping[str, tuple[LossFunction, int]] = {"pairwise": (pairwise, 2), "pointwise": (pointwise, 1)}
"""Objective -> its loss, and how many answers are judged together."""


def ask(policy: Policy, samples: Sequence[Sample], micro_batch_tokens: int) -> list[float]:
    """The value of each answer, in this order, the same on every rank. All ranks bring the same samples.

    micro_batch_tokens: of a forward pass on one data-parallel rank; at least the longest sample's.
    """
    if not samples:
        return []
    layout, at = policy.mesh.layout, policy.mesh.at
    shares = plan([len(sample) for sample in samples], layout.dp, micro_batch_tokens)[at.dp]
    batches = [micro_batch([samples[i] for i in members], layout.tp) for members in shares]
    found: dict[int, float] = {}
    for members, value_T in zip(shares, policy.values(batches), strict=True):
        ends = np.cumsum([len(samples[i]) - 1 for i in members], dtype=np.int64) - 1
        found |= zip(members, value_T[torch.from_numpy(ends).to(value_T.device)].tolist(), strict=True)
    found = policy.mesh.from_last_stage(found)
    everyones = {i: value for theirs in policy.mesh.gather(found) for i, value in theirs.items()}
    return [everyones[i] for i in range(len(samples))]
