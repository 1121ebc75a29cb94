"""A policy: one model under training on this rank. It computes and updates; it knows no algorithm.

T positions of a micro-batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer.optimizer import MegatronOptimizer

from r1mega import device
from r1mega.algo.loss import LossParts
from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.backend import Backend
from r1mega.models.build import DTYPES, build
from r1mega.models.chunks import chunks_of
from r1mega.models.layers import output_weight
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Mesh
from r1mega.train.batch import MicroBatch
from r1mega.train.beside import Beside
from r1mega.train.context import join
from r1mega.train.forward import Finish, run
from r1mega.train.logprob import TokenScores, score, whole
from r1mega.train.loss_function import LossFunction, WithEntropy, parts
from r1mega.train.offload import Waiting, optimizer_slots, waiting, weight_slots
from r1mega.train.optimizer import data_parallel, make_optimizer, set_learning_rate
from r1mega.train.reward_values import values
from r1mega.train.routing import Routers


@dataclass(frozen=True)
class Update:
    """What one pass over a batch gave: the loss over the denominator, and the other sums as they are.

    skipped: loss or gradient were not finite, and nothing was changed.
    """

    loss: float
    sums: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    skipped: bool = False


@dataclass(frozen=True)
class Scored:
    """What `Policy.score` says of a micro-batch.

    logp_T, entropy_T: float32 [T], see `TokenScores`. On the last pipeline stage; zeros on the others.
    routing_SLK:       this rank's choices of experts (see train/routing.py), where they were asked for.
    """

    logp_T: torch.Tensor
    entropy_T: torch.Tensor | None = None
    routing_SLK: torch.Tensor | None = None


class Policy:
    """This rank's part of a model, wrapped for data parallelism, with its optimizer when it is to learn."""

    def __init__(
        self,
        spec: ModelSpec,
        mesh: Mesh,
        *,
        dtype: str = "bfloat16",
        train: Train | None = None,
        mtp: bool = False,
        seed: int = 0,
        backend: Backend | None = None,
    ) -> None:
        """mtp: its multi-token-prediction layers learn, too; otherwise they stay as they are. backend: whose
        layers it is made of; None: the local ones.
        """
        self.spec, self.mesh, self.train = spec, mesh, train
        recompute = train.recompute if train is not None else "none"
        self._model = build(spec, mesh, dtype=DTYPES[dtype], seed=seed, recompute=recompute, backend=backend)
        self.config = self._model.config
        self._chunks = chunks_of(self._model)
        self._routers = [Routers(chunk, spec) for chunk in self._chunks]
        self.temperature = 1.0
        """Log-probabilities are those of logits / temperature, the distribution answers are drawn from."""
        self.version = 0
        """How many updates the weights have seen; travels with every weight sync."""
        self._mtp = mtp
        self._beside: Beside | None = None
        self._ddp: list[DistributedDataParallel] = []
        self.optimizer: MegatronOptimizer | None = None
        self._state: Waiting | None = None
        self._weights: Waiting | None = None
        self._to_gather = False

    @property
    def model(self) -> Any:
        """This rank's part, a GPTModel or `Chunks` of them, its weights up to date."""
        if self._to_gather:  # an update has left that to the next forward pass, and there was none
            for each in self._ddp:
                each.start_param_sync(force_sync=True)
            self._to_gather = False
        return self._model

    def wait_on_host(self) -> None:
        """Keep the weights in the host's memory while nobody asks for `score`. For a reference."""
        self._weights = waiting("the reference", lambda: weight_slots(self._model))

    def prepare_to_learn(self) -> None:
        """Wrap the model and make the optimizer.

        Call once the weights are set: the masters are copies of them.
        """
        assert self.train is not None and not self._ddp
        self.config.moe_router_bias_update_rate = self.train.expert_bias_rate
        self.config.finalize_model_grads_func = _sum_gradients
        self._beside = Beside(self._chunks, self.spec, self.mesh, self.train, mtp=self._mtp)
        wrap = data_parallel(self.train.optimizer)
        self._ddp = [DistributedDataParallel(self.config, wrap, chunk) for chunk in self._chunks]
        if self.train.optimizer.overlap_grad_reduce:
            no_sync = [each.no_sync for each in self._ddp]
            self.config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
        optimizer = make_optimizer(self._ddp, self.train, self.config.params_dtype)
        self.optimizer = optimizer
        if "optimizer" in self.train.offload:
            self._state = waiting("the optimizer's state", lambda: optimizer_slots(optimizer))

    def update(
        self,
        batches: Sequence[MicroBatch],
        loss_function: LossFunction,
        *,
        denominator: float,
        lr: float,
        skip_nonfinite: bool = False,
    ) -> Update:
        """One optimizer step over this rank's micro-batches. Every rank brings the same number of them.

        denominator:    what the summed loss is divided by: a global number, the same on all ranks.
        skip_nonfinite: leave the step out when loss or gradient are not finite, on all ranks alike.

        Raises FloatingPointError in that case otherwise. Either way weights, optimizer and version are then
        as they were.
        """
        assert self._ddp and self.optimizer is not None and self.train is not None
        biases = {name: buffer.clone() for name, buffer in self._expert_biases()}
        self.gradients(batches, loss_function, denominator=denominator)
        set_learning_rate(self.optimizer, lr, self.train.weight_decay)
        with device.literal_cuda_means_here(), self._state.present() if self._state else nullcontext():
            self.optimizer.prepare_grads()
            done = Update(**self._reduced(denominator), grad_norm=float(self.optimizer.get_grad_norm()))
            if self.mesh.any_rank(not math.isfinite(done.loss) or not math.isfinite(done.grad_norm)):
                # The biases alone have moved: Megatron-Core moves them when it sums the gradients.
                for name, buffer in self._expert_biases():
                    buffer.copy_(biases[name])
                if skip_nonfinite:
                    return replace(done, skipped=True)
                raise FloatingPointError(
                    f"update {self.version + 1}: loss {done.loss}, gradient norm {done.grad_norm}. The "
                    "weights are as they were before it; a lower train.lr or more train.warmup_steps usually "
                    "helps"
                )
            self.optimizer.step()
        self._to_gather = self.train.optimizer.overlap_param_gather
        self.version += 1
        return done

    def gradients(
        self, batches: Sequence[MicroBatch], loss_function: LossFunction, *, denominator: float
    ) -> None:
        """Fill the gradients, summed over all ranks, without a step."""
        assert self._ddp and self.optimizer is not None
        for each in self._ddp:
            each.train()
            each.zero_grad_buffer()
        self.optimizer.zero_grad()
        # The denominator scales the gradient as a loss scale would: Megatron-Core then applies it to the
        # balance and multi-token-prediction losses as well, and its integer token count is not needed.
        self.config.grad_scale_func = lambda loss: loss / denominator
        self._run(self._ddp, batches, self._loss(loss_function), forward_only=False)

    def evaluate(
        self, batches: Sequence[MicroBatch], loss_function: LossFunction, *, denominator: float
    ) -> Update:
        """The loss of these micro-batches, without gradients."""
        self.model.eval()
        with torch.no_grad():
            self._run(self._chunks, batches, self._loss(loss_function), forward_only=True)
        return Update(**self._reduced(denominator))

    def logprobs(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """float32 [T] for each micro-batch: the log-probability of every target, without gradients.

        0 where the micro-batch's weight is 0. On the last pipeline stage; the others, which compute no loss,
        get zeros.
        """
        return [scored.logp_T for scored in self.score(batches)]

    def score(
        self, batches: Sequence[MicroBatch], *, entropy: bool = False, record_routing: bool = False
    ) -> list[Scored]:
        """Log-probabilities and, where asked for, entropies and the choice of experts; without gradients.

        record_routing: for `MicroBatch.routing_SLK` of later passes. A micro-batch that brings choices keeps
        its own.
        """
        kept: list[TokenScores] = []

        def keep(hidden_1SH: torch.Tensor, batch: MicroBatch) -> LossParts:
            kept.append(self._scores(hidden_1SH, batch, entropy=entropy))
            return LossParts(sum=kept[-1].logp_T.new_zeros(()))

        self.model.eval()
        with torch.no_grad(), self._weights.present() if self._weights else nullcontext():
            routings = self._run(self._chunks, batches, keep, forward_only=True, record=record_routing)
        if not kept:
            zeros = [torch.zeros_like(batch.weights_T) for batch in batches]
            kept = [TokenScores(zero_T, zero_T if entropy else None) for zero_T in zeros]
        return [Scored(k.logp_T, k.entropy_T, r) for k, r in zip(kept, routings, strict=True)]

    def values(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """Of a reward model: float32 [T] for each micro-batch, the head's value at every token, without
        gradients. On the last pipeline stage; zeros on the others.
        """
        kept: list[torch.Tensor] = []

        def keep(value_1S1: torch.Tensor, batch: MicroBatch) -> LossParts:
            kept.append(values(value_1S1, self.mesh, batch.tokens))
            return LossParts(sum=kept[-1].new_zeros(()))

        self.model.eval()
        with torch.no_grad():
            self._run(self._chunks, batches, keep, forward_only=True)
        return kept or [torch.zeros_like(batch.weights_T) for batch in batches]

    @torch.no_grad()
    def copy_weights(self, other: Policy) -> None:
        """Take over another policy's weights: how a reference follows its policy."""
        theirs = weights.tensors(other.model)
        for name, tensor in weights.tensors(self.model).items():
            tensor.copy_(theirs[name])
        self.version = other.version

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """[T, V] logits of a micro-batch on the last pipeline stage, TP shards gathered: for tests."""
        from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

        kept: list[torch.Tensor] = []

        def keep(hidden_1SH: torch.Tensor, _: MicroBatch) -> LossParts:
            logits_WV = whole(hidden_1SH, self.mesh) @ output_weight(self._chunks[-1]).t()
            logits_WV = gather_from_tensor_model_parallel_region(logits_WV)
            kept.append(join(logits_WV, self.mesh, batch.tokens))
            return LossParts(sum=logits_WV.new_zeros(()))

        self.model.eval()
        with torch.no_grad():
            self._run(self._chunks, [batch], keep, forward_only=True)
        return kept[0] if kept else torch.empty(0)

    def _run(
        self,
        chunks: Sequence[torch.nn.Module],
        batches: Sequence[MicroBatch],
        finish: Finish,
        *,
        forward_only: bool,
        record: bool = False,
    ) -> list[torch.Tensor | None]:
        """See `forward.run`. Leaves the sums in self._sums; returns each micro-batch's routing."""
        passed = run(
            chunks,
            self._routers,
            self.mesh,
            batches,
            finish,
            forward_only=forward_only,
            record=record,
            beside=None if forward_only else self._beside,
        )
        self._sums = passed.sums
        return passed.routings

    def _loss(self, loss_function: LossFunction) -> Finish:
        if self.spec.scalar:
            assert not isinstance(loss_function, WithEntropy), "a value has no entropy"
            return lambda value_1S1, batch: loss_function(values(value_1S1, self.mesh, batch.tokens), batch)
        entropy = isinstance(loss_function, WithEntropy)
        return lambda hidden_1SH, batch: parts(
            loss_function, self._scores(hidden_1SH, batch, entropy=entropy), batch
        )

    def _scores(self, hidden_1SH: torch.Tensor, batch: MicroBatch, *, entropy: bool) -> TokenScores:
        return score(
            self._chunks[-1], hidden_1SH, batch, self.mesh, temperature=self.temperature, entropy=entropy
        )

    def _expert_biases(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, b) for name, b in self._model.named_buffers() if name.endswith(".expert_bias"))

    def _reduced(self, denominator: float) -> dict[str, Any]:
        """The last run's sums over the whole job, the same on every rank.

        Only the last pipeline stage has any, and its TP and CP ranks have the same: one speaks for them.
        """
        counts = self.mesh.speaks
        names = sorted(self._sums) if self.mesh.is_last_stage else []
        names = self.mesh.from_last_stage(names)
        values = torch.stack([self._sums[n] for n in names]) if counts else None
        if values is None:
            values = torch.zeros(len(names), dtype=torch.float64, device=device.current())
        total = dict(zip(names, self.mesh.sum_over_world(values).tolist(), strict=True))
        total |= self._beside.balance() if self._beside is not None else {}
        return {"loss": total.pop("loss") / denominator, "sums": total}


def _sum_gradients(model: list[torch.nn.Module], num_tokens: Any = None, *args: Any, **kwargs: Any) -> None:
    """Sum gradients over ranks; never divide by the schedule's token count: the denominator is in already."""
    finalize_model_grads(model, None, *args, **kwargs)
