"""Keeping the experts evenly used: what the routers add to Megatron-Core's (arXiv 2412.19437, section 2.1.2).

Two means against uneven use. The expert bias moves by a fixed step after each batch, down where an expert
had more than its share of the batch's tokens and up where less; Megatron-Core does that, and here the tokens
that only fill a micro-batch up are left out of the count. The sequence-wise balance loss (equations 17-20) is
ours: Megatron-Core's would take a packed micro-batch for one sequence.

S tokens of this rank, B sequences of a micro-batch, E experts, K a token.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler, compute_routing_scores_for_aux_loss
from megatron.core.transformer.moe.router import TopKRouter

from r1mega import device


@dataclass(frozen=True)
class Tokens:
    """What a router is told of its tokens.

    sequence_S: int64 [S], which of the micro-batch's sequences each token is of.
    weight_B:   float32 [B], how much each sequence counts: the sum of its predictions' weights. The same on
                all ranks that share the micro-batch. 0: it only fills the micro-batch up.
    """

    sequence_S: torch.Tensor
    weight_B: torch.Tensor


class BalancedRouter(TopKRouter):
    """Megatron-Core's router with the sequence-wise balance loss, and an expert load without filling.

    balance_weight: alpha of the loss; 0 leaves it out.
    balance:        float64 [], the sum over micro-batches and sequences of weight x loss, without alpha, this
                    rank's tokens' part of it; to be read and set to 0 by the trainer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.balance_weight = 0.0
        self.balance = torch.zeros((), dtype=torch.float64, device=device.current())
        self._tokens: Tokens | None = None
        self._again: deque[Tokens] = deque()

    def tell(self, tokens: Tokens | None) -> None:
        """Before the forward pass of a micro-batch: about its tokens; None forgets all."""
        self._tokens = tokens
        if tokens is None:
            self._again.clear()

    def routing(self, logits: torch.Tensor, padding_mask: None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """logits [S, 1, E] -> the weights and the choice of experts, both [S, E]."""
        tokens = self._present()
        filling_S = None if tokens is None else tokens.weight_B.index_select(0, tokens.sequence_S) == 0
        probs, chosen = super().routing(logits)
        if tokens is not None and torch.is_grad_enabled():
            with torch.no_grad():  # upstream has counted all of them
                assert filling_S is not None
                self.local_tokens_per_expert -= (chosen & filling_S[:, None]).sum(dim=0)
            if self.balance_weight:
                loss = self._loss(logits.flatten(0, 1), tokens)
                self.balance += loss.detach()
                probs = MoEAuxLossAutoScaler.apply(probs, self.balance_weight * loss)
        return probs, chosen

    def _present(self) -> Tokens | None:
        """Of the micro-batch that is computed. A recomputation in the backward pass comes when others have
        gone forward since; micro-batches go backward in the order in which they went forward."""
        if not self.training:
            return None
        if not torch.is_grad_enabled():
            if self._tokens is not None:
                self._again.append(self._tokens)
            return self._tokens
        return self._again.popleft() if self._again else self._tokens

    def _loss(self, logits_SE: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """The sum over sequences of weight x sum over experts of f x P, this rank's tokens' part of it.

        f, the share of the sequence's choices that an expert got, times E; P, the mean of its normalised
        scores. In f counts what a token would choose by its scores alone, so the bias has no part in it.
        """
        chosen_SE, share_SE = compute_routing_scores_for_aux_loss(logits_SE, self.topk, self.score_function)
        count_BE = logits_SE.new_zeros(len(tokens.weight_B), logits_SE.shape[1], dtype=torch.float32)
        count_BE.index_add_(0, tokens.sequence_S, chosen_SE.float())
        if self.tp_cp_group.size() > 1:
            dist.all_reduce(count_BE, group=self.tp_cp_group)
        length_B = count_BE.sum(1) / self.topk
        f_BE = count_BE * (logits_SE.shape[1] / self.topk / length_B)[:, None]
        weight_BE = f_BE * (tokens.weight_B / length_B)[:, None]  # over the length: P is a mean
        return (weight_BE.index_select(0, tokens.sequence_S) * share_SE).sum()
