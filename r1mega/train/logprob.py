"""Log-probabilities of given tokens, and entropies, without the logits of all tokens at once.

The vocabulary projection and its softmax run over chunks of tokens: forward keeps a few numbers a token, and
backward makes the logits again that forward could not keep. Under tensor parallelism each rank has its part
of the vocabulary, and one gather a micro-batch joins the parts; under context parallelism each has its part
of the tokens, and one more joins those. C tokens of a chunk, R tokens that count, T tokens of a micro-batch,
W of this context-parallel rank, V this rank's part of the vocabulary, H hidden.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from torch.autograd.function import once_differentiable

from r1mega.models.layers import output_weight
from r1mega.parallel import Mesh
from r1mega.train.batch import MicroBatch
from r1mega.train.context import join, take

CHUNK_LOGITS = 1 << 22
"""Logits of a chunk, 16 MiB in float32; three such tensors exist at a time. A smaller chunk reads the output
weights more often, a larger one falls out of a CPU's caches."""

KEPT_LOGITS = 1 << 27
"""Logits that forward keeps for backward, 512 MiB: so much memory buys that most are not computed twice."""

LEAST_ROWS = 256
"""Tokens of a chunk however large the vocabulary is: fewer would keep a matrix product from full speed."""


@dataclass(frozen=True)
class TokenScores:
    """What a forward pass says of a micro-batch's targets; 0 where the micro-batch's weight is 0.

    logp_T:    float32 [T], the log-probability of each target, in nats, of the distribution that answers are
               drawn from: softmax(logits / temperature).
    entropy_T: float32 [T], the entropy of that distribution, in nats; None where it was not asked for.
    """

    logp_T: torch.Tensor
    entropy_T: torch.Tensor | None = None


def score(
    model: GPTModel,
    hidden_1SH: torch.Tensor,
    batch: MicroBatch,
    mesh: Mesh,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> TokenScores:
    """The targets' log-probabilities from the last stage's output: S = W / tp tokens of this rank.

    Both results are differentiable, entropy too; every TP and CP rank gets all of them. Tokens of weight 0
    (prompts) are never multiplied with the vocabulary.
    """
    hidden_WH = whole(hidden_1SH, mesh)
    rows_R = take(batch.weights_T, mesh).nonzero()[:, 0]
    everything = len(rows_R) == len(hidden_WH)
    results = _Head.apply(
        hidden_WH if everything else hidden_WH.index_select(0, rows_R),
        output_weight(model),
        take(batch.targets_T, mesh).index_select(0, rows_R),
        mesh.at.tp,
        temperature,
        entropy,
        torch.is_grad_enabled(),
    )
    # No token at all still gives results that depend on the model: its backward collectives must run.
    logp_W, entropy_W = (
        part_R if everything else part_R.new_zeros(len(hidden_WH)).index_copy(0, rows_R, part_R)
        for part_R in results
    )
    logp_T = join(logp_W, mesh, batch.tokens)
    return TokenScores(logp_T, join(entropy_W, mesh, batch.tokens) if entropy else None)


def whole(hidden_1SH: torch.Tensor, mesh: Mesh) -> torch.Tensor:
    """[W, H] from each TP rank's share of the tokens; its gradient is summed over the vocabulary's parts."""
    hidden_SH = hidden_1SH[0]
    if mesh.layout.tp == 1:
        return hidden_SH
    gathered: torch.Tensor = gather_from_sequence_parallel_region(hidden_SH, tensor_parallel_output_grad=True)
    return gathered


Chunks = deque[tuple[torch.Tensor, torch.Tensor]]


class _Head(torch.autograd.Function):
    """(hidden [R, H], weight [V, H], targets [R]) -> (log-probabilities [R], entropies [R]), in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_R: torch.Tensor,
        tp_rank: int,
        temperature: float,
        entropy: bool,
        keep: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vocabulary = len(weight_VH)
        here_R = targets_R - tp_rank * vocabulary  # outside 0 .. V - 1: another rank's token
        own_R = (here_R >= 0) & (here_R < vocabulary)
        here_R = here_R.clamp(0, vocabulary - 1)
        summaries = []
        # The last chunks, which backward wants first.
        kept: Chunks = deque(maxlen=KEPT_LOGITS // (_rows(vocabulary) * vocabulary) if keep else 0)
        for rows in _chunks(len(targets_R), vocabulary):
            chunk = _logits(hidden_RH[rows], weight_VH, temperature)
            summaries.append(_summary(*chunk, here_R[rows], own_R[rows], entropy))
            kept.append(chunk)
        ctx.kept, ctx.temperature = kept, temperature
        parts_PRN = _from_all_ranks(torch.cat(summaries) if summaries else hidden_RH.new_empty(0, 4).float())
        logp_R, largest_R, log_R, entropy_R = _joined(parts_PRN)
        ctx.save_for_backward(hidden_RH, weight_VH, here_R, own_R, largest_R, log_R, entropy_R)
        ctx.set_materialize_grads(False)
        return logp_R, entropy_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logp_R: torch.Tensor | None, by_entropy_R: torch.Tensor | None) -> Any:
        hidden_RH, weight_VH, here_R, own_R, largest_R, log_R, entropy_R = ctx.saved_tensors
        by_hidden_RH = torch.zeros_like(hidden_RH)
        by_weight_VH: torch.Tensor | None = None
        if by_logp_R is None:
            by_logp_R = torch.zeros_like(log_R)
        for rows in reversed(_chunks(len(here_R), len(weight_VH))):
            below_CV, top_C = (
                ctx.kept.pop() if ctx.kept else _logits(hidden_RH[rows], weight_VH, ctx.temperature)
            )
            logp_CV = below_CV.add_((top_C - largest_R[rows] - log_R[rows])[:, None])
            by_entropy_C = None if by_entropy_R is None else by_entropy_R[rows]
            by_logits_CV = _by_logits(logp_CV, by_logp_R[rows], by_entropy_C, entropy_R[rows])
            of_own_C = by_logp_R[rows] * own_R[rows]
            by_logits_CV.scatter_add_(1, here_R[rows][:, None], of_own_C[:, None])
            by_logits_CV = by_logits_CV.div_(ctx.temperature).to(weight_VH.dtype)
            torch.mm(by_logits_CV, weight_VH, out=by_hidden_RH[rows])
            by_weight_VH = _added(by_weight_VH, by_logits_CV, hidden_RH[rows])
        if by_weight_VH is None:
            by_weight_VH = torch.zeros_like(weight_VH)
        return by_hidden_RH, by_weight_VH.to(weight_VH.dtype), None, None, None, None, None


def _rows(vocabulary: int) -> int:
    return max(LEAST_ROWS, CHUNK_LOGITS // vocabulary)


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    each = _rows(vocabulary)
    return [slice(start, min(rows, start + each)) for start in range(0, rows, each)]


def _logits(
    hidden_CH: torch.Tensor, weight_VH: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [C, V] logits / temperature, less the largest of each row, and float32 [C], those largest."""
    logits_CV = (hidden_CH @ weight_VH.t()).float()
    if temperature != 1.0:
        logits_CV /= temperature
    top_C = logits_CV.amax(1)
    return logits_CV.sub_(top_C[:, None]), top_C


def _summary(
    below_CV: torch.Tensor,
    top_C: torch.Tensor,
    here_C: torch.Tensor,
    own_C: torch.Tensor,
    entropy: bool,
) -> torch.Tensor:
    """float32 [C, 4], all that the other ranks need of this part of the vocabulary.

    The largest logit; log of the sum of exp(logit - largest); the target's logit - largest, -inf where the
    target is another rank's; the entropy within this part (0 where it is not wanted).
    """
    target_C = below_CV.gather(1, here_C[:, None])[:, 0].masked_fill(~own_C, -torch.inf)
    share_CV = below_CV.exp()
    sum_C = share_CV.sum(1)
    log_C = sum_C.log()
    entropy_C = torch.zeros_like(log_C)
    if entropy:
        entropy_C = log_C - torch.linalg.vecdot(share_CV, below_CV) / sum_C
    return torch.stack([top_C, log_C, target_C, entropy_C], 1)


def _from_all_ranks(summary_RN: torch.Tensor) -> torch.Tensor:
    """[P, R, 4], the summaries of the vocabulary's P parts, the same on every TP rank."""
    gathered: torch.Tensor = gather_from_tensor_model_parallel_region(summary_RN)
    return torch.stack(gathered.split(summary_RN.shape[1], dim=1))


def _joined(parts_PRN: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """float32 [R] each: the target's log-probability, the largest logit, log of the sum of exp(logit -
    largest), the entropy.

    The entropy of the whole is the entropies of the parts, weighted by the parts' probabilities, plus the
    entropy of those probabilities. Nothing is subtracted that is not small already, so that both stay exact
    to float32's rounding for large logits, too.
    """
    top_PR, log_PR, target_PR, entropy_PR = parts_PRN.unbind(2)
    largest_R = top_PR.amax(0)
    away_PR = top_PR - largest_R
    log_R = (away_PR + log_PR).logsumexp(0)
    logp_R = (target_PR + away_PR).amax(0) - log_R  # -inf but on the rank that has the target
    part_PR = away_PR + log_PR - log_R
    entropy_R = (part_PR.exp() * (entropy_PR - part_PR)).sum(0)
    return logp_R, largest_R, log_R, entropy_R


def _by_logits(
    logp_CV: torch.Tensor,
    by_logp_C: torch.Tensor,
    by_entropy_C: torch.Tensor | None,
    entropy_C: torch.Tensor,
) -> torch.Tensor:
    """[C, V] d loss / d logits, all but the target's own share. May use logp_CV's memory.

    d logp(target) / d logit = [target] - p, and d entropy / d logit = -p (log p + entropy).
    """
    if by_entropy_C is None:
        return logp_CV.exp_().mul_(-by_logp_C[:, None])
    share_CV = logp_CV.exp()
    slope_CV = logp_CV.add_(entropy_C[:, None]).mul_(by_entropy_C[:, None]).add_(by_logp_C[:, None])
    return share_CV.mul_(slope_CV).neg_()


def _added(
    total_VH: torch.Tensor | None, by_logits_CV: torch.Tensor, hidden_CH: torch.Tensor
) -> torch.Tensor:
    """The output weight's gradient with a chunk's share, over several chunks in float32.

    It is handed to autograd as one, so a tied embedding's other share is added and Megatron-Core's hook on
    the parameter runs once a micro-batch.
    """
    if total_VH is None:
        return by_logits_CV.t() @ hidden_CH
    if total_VH.dtype == by_logits_CV.dtype:
        return total_VH.addmm_(by_logits_CV.t(), hidden_CH)
    return total_VH.float().add_(by_logits_CV.t() @ hidden_CH)
