"""What is learnt beside a loss: further tokens (models/mtp.py), an even use of experts (models/router.py).

Both are added to the gradient and reported as figures of their own; the loss itself stays what it was. Like
the loss they are sums that are divided by the update's denominator.

    mtp_loss      the mean over the D layers of the summed cross entropy of their predictions; in the gradient
                  it has weight `train.mtp_weight` (arXiv 2412.19437, equations 24 and 25)
    balance_loss  the sum over sequences of weight x the mean over layers of f x P (equations 17-20); each
                  layer's is in the gradient with weight `train.balance_weight`. 1: they are used evenly

T tokens of a micro-batch, W of this context-parallel rank, S = W / tp, D layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from megatron.core.models.gpt import GPTModel

from r1mega.algo.loss import cross_entropy
from r1mega.config.sections import Train
from r1mega.models.mtp import ahead
from r1mega.models.router import BalancedRouter, Tokens
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Mesh
from r1mega.train.batch import MicroBatch
from r1mega.train.context import filled, take
from r1mega.train.logprob import score
from r1mega.types import UserError


class Beside:
    """For one policy that learns. mtp: its multi-token-prediction layers learn, too; else they stay."""

    def __init__(
        self, chunks: Sequence[GPTModel], spec: ModelSpec, mesh: Mesh, train: Train, *, mtp: bool
    ) -> None:
        self._spec, self._mesh, self._train = spec, mesh, train
        self._chunks, self._head = chunks, chunks[-1]
        self._routers = [m for chunk in chunks for m in chunk.modules() if isinstance(m, BalancedRouter)]
        if train.balance_weight and spec.moe is None:
            raise UserError(
                f"train.balance_weight is for experts, which a {spec.family} model has not: use 0"
            )
        self._mtp = spec.mtp_layers if mtp else 0
        for router in self._routers:
            router.balance_weight = train.balance_weight
        if not mtp:
            for layers in (chunk.mtp for chunk in chunks if hasattr(chunk, "mtp")):
                layers.requires_grad_(False)

    def before(self, batch: MicroBatch) -> torch.Tensor | None:
        """Before its forward pass: tells the routers; returns what the MTP layers read, int64 [D, W]."""
        if self._routers:
            tokens = _tokens(batch, self._mesh)
            for router in self._routers:
                router.tell(tokens)
        if not self._mtp:
            return None
        return torch.stack(
            [take(self._ahead(batch.targets_T, batch, d), self._mesh) for d in range(self._mtp)]
        )

    def loss(self, hidden_DSH: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """From the MTP layers' states [D, S, H]: `mtp_loss` of this micro-batch."""
        losses = []
        for d, hidden_SH in enumerate(hidden_DSH, start=1):
            further = replace(
                batch,
                targets_T=self._ahead(batch.targets_T, batch, d),
                weights_T=self._ahead(batch.weights_T, batch, d),
            )
            logp_T = score(self._head, hidden_SH[None], further, self._mesh).logp_T
            losses.append(cross_entropy(logp_T, further.weights_T).sum)
        return torch.stack(losses).mean()

    @property
    def mtp_weight(self) -> float:
        return self._train.mtp_weight

    def balance(self) -> dict[str, float]:
        """`balance_loss` since the last call, over all ranks, which call together; nothing where it is 0."""
        zero = torch.zeros((), dtype=torch.float64)
        mine = sum((router.balance.cpu() for router in self._routers), zero)[None]
        for router in self._routers:
            router.balance.zero_()
            router.tell(None)
        if not self._train.balance_weight:
            return {}
        layers = len(self._spec.moe_layers) + self._mtp
        return {"balance_loss": float(self._mesh.sum_over_world(mine)) / layers}

    def _ahead(self, values_T: torch.Tensor, batch: MicroBatch, places: int) -> torch.Tensor:
        return ahead(values_T, batch.packing.lengths, places) if places else values_T


def _tokens(batch: MicroBatch, mesh: Mesh) -> Tokens:
    fill = filled(batch.tokens, mesh) - batch.tokens
    lengths = torch.tensor([*batch.packing.lengths, *([fill] if fill else [])], device=batch.inputs_T.device)
    sequence_T = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    weights_T = torch.nn.functional.pad(batch.weights_T, (0, fill))
    weight_B = weights_T.new_zeros(len(lengths)).index_add(0, sequence_T, weights_T)
    mine_W = take(sequence_T, mesh)
    return Tokens(mine_W.chunk(mesh.layout.tp)[mesh.at.tp], weight_B)
