"""A policy: one model under training on this rank. It computes and updates; it knows no algorithm.

T positions of a micro-batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

from r1mega import device
from r1mega.algo.loss import LossParts
from r1mega.config.sections import Train
from r1mega.models import weights
from r1mega.models.build import DTYPES, build
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Mesh
from r1mega.train.batch import MicroBatch
from r1mega.train.optimizer import make_optimizer, set_learning_rate

LossFunction = Callable[[torch.Tensor, MicroBatch], LossParts]
"""(logp_T of the targets, the micro-batch) -> the loss's parts."""


@dataclass(frozen=True)
class Update:
    """What one pass over a batch gave: the loss over the denominator, and the other sums as they are."""

    loss: float
    sums: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0


class Policy:
    """This rank's part of a model, wrapped for data parallelism, with its optimizer when it is to learn."""

    def __init__(
        self,
        spec: ModelSpec,
        mesh: Mesh,
        *,
        dtype: str = "bfloat16",
        train: Train | None = None,
        seed: int = 0,
    ) -> None:
        self.spec, self.mesh, self.train = spec, mesh, train
        self.model = build(spec, mesh, dtype=DTYPES[dtype], seed=seed)
        self.config = self.model.config
        self.temperature = 1.0
        """Log-probabilities are those of logits / temperature, the distribution answers are drawn from."""
        self.version = 0
        """How many updates the weights have seen; travels with every weight sync."""
        self._ddp: DistributedDataParallel | None = None
        self.optimizer: MegatronOptimizer | None = None

    def prepare_to_learn(self) -> None:
        """Wrap the model and make the optimizer.

        Call once the weights are set: the masters are copies of them.
        """
        assert self.train is not None and self._ddp is None
        self.config.moe_router_bias_update_rate = self.train.expert_bias_rate
        self.config.finalize_model_grads_func = _sum_gradients
        self._ddp = DistributedDataParallel(
            self.config,
            DistributedDataParallelConfig(grad_reduce_in_fp32=True),
            self.model,
        )
        self.optimizer = make_optimizer(self._ddp, self.train, self.config.params_dtype)

    def update(
        self, batches: Sequence[MicroBatch], loss_function: LossFunction, *, denominator: float, lr: float
    ) -> Update:
        """One optimizer step over this rank's micro-batches. Every rank brings the same number of them.

        denominator: what the summed loss is divided by: a global number, the same on all ranks.

        Raises FloatingPointError when loss or gradient are not finite; the weights are lost then.
        """
        assert self._ddp is not None and self.optimizer is not None and self.train is not None
        self.gradients(batches, loss_function, denominator=denominator)
        set_learning_rate(self.optimizer, lr, self.train.weight_decay)
        with device.literal_cuda_means_here():
            _, grad_norm, _ = self.optimizer.step()
        self.version += 1
        done = Update(**self._reduced(denominator), grad_norm=float(grad_norm))
        if not math.isfinite(done.loss) or not math.isfinite(done.grad_norm):
            raise FloatingPointError(
                f"update {self.version}: loss {done.loss}, gradient norm {done.grad_norm}. The checkpoint "
                "before it is untouched; a lower train.lr or more train.warmup_steps usually helps"
            )
        return done

    def gradients(
        self, batches: Sequence[MicroBatch], loss_function: LossFunction, *, denominator: float
    ) -> None:
        """Fill the gradients, summed over all ranks, without a step."""
        assert self._ddp is not None and self.optimizer is not None
        self._ddp.train()
        self._ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        # The denominator scales the gradient as a loss scale would: Megatron-Core then applies it to the
        # balance and multi-token-prediction losses as well, and its integer token count is not needed.
        self.config.grad_scale_func = lambda loss: loss / denominator
        self._run(self._ddp, batches, loss_function, forward_only=False)

    def evaluate(
        self, batches: Sequence[MicroBatch], loss_function: LossFunction, *, denominator: float
    ) -> Update:
        """The loss of these micro-batches, without gradients."""
        self.model.eval()
        with torch.no_grad():
            self._run(self.model, batches, loss_function, forward_only=True)
        return Update(**self._reduced(denominator))

    def logprobs(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """float32 [T] for each micro-batch: the log-probability of every target, without gradients.

        On the last pipeline stage; the others, which compute no loss, get zeros.
        """
        kept: list[torch.Tensor] = []

        def keep(logp_T: torch.Tensor, _: MicroBatch) -> LossParts:
            kept.append(logp_T)
            return LossParts(sum=logp_T.new_zeros(()))

        self.model.eval()
        with torch.no_grad():
            self._run(self.model, batches, keep, forward_only=True)
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

        def keep(logits_TV: torch.Tensor, _: MicroBatch) -> LossParts:
            kept.append(gather_from_tensor_model_parallel_region(logits_TV))
            return LossParts(sum=logits_TV.new_zeros(()))

        self.model.eval()
        with torch.no_grad():
            self._run(self.model, [batch], keep, forward_only=True, raw=True)
        return kept[0] if kept else torch.empty(0)

    def _run(
        self,
        model: torch.nn.Module,
        batches: Sequence[MicroBatch],
        loss_function: LossFunction,
        *,
        forward_only: bool,
        raw: bool = False,
    ) -> None:
        assert batches, "a rank without work passes a filler micro-batch"
        sums: defaultdict[str, torch.Tensor] = defaultdict(
            lambda: torch.zeros((), dtype=torch.float64, device=device.current())
        )

        def forward_step(source: Iterator[MicroBatch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
            batch = next(source)
            out = model(
                batch.inputs_T[None],
                None,
                None,
                packed_seq_params=batch.packing,
            )

            def loss(logits_1TV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
                logits_TV = logits_1TV[0]
                parts = loss_function(logits_TV if raw else self._logp(logits_TV, batch.targets_T), batch)
                # Detached copies: the schedule works on the loss in place.
                sums["loss"] += parts.sum.detach()
                for name, value in parts.sums.items():
                    sums[name] += value.detach()
                return parts.sum, torch.zeros((), dtype=torch.int), {}

            return out, loss

        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(batches),
            model=[model],
            num_microbatches=len(batches),
            seq_length=batches[0].tokens,
            micro_batch_size=1,
            forward_only=forward_only,
        )
        self._sums = sums

    def _logp(self, logits_TV: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
        """float32 [T]: log-probability of each target; the logits may be a TP rank's part."""
        scaled = logits_TV.float() / self.temperature if self.temperature != 1.0 else logits_TV.float()
        if self.mesh.layout.tp == 1:
            return -F.cross_entropy(scaled, targets_T, reduction="none")
        return -vocab_parallel_cross_entropy(scaled, targets_T)

    def _reduced(self, denominator: float) -> dict[str, Any]:
        """The last run's sums over the whole job, the same on every rank.

        Only the last pipeline stage has any, and TP ranks have the same: the first TP rank speaks for them.
        """
        counts = self.mesh.is_last_stage and self.mesh.at.tp == 0
        names = sorted(self._sums) if self.mesh.is_last_stage else []
        names = self.mesh.from_last_stage(names)
        values = torch.stack([self._sums[n] for n in names]) if counts else None
        if values is None:
            values = torch.zeros(len(names), dtype=torch.float64, device=device.current())
        total = dict(zip(names, self.mesh.sum_over_world(values).tolist(), strict=True))
        return {"loss": total.pop("loss") / denominator, "sums": total}


def _sum_gradients(model: list[torch.nn.Module], num_tokens: Any = None, *args: Any, **kwargs: Any) -> None:
    """Sum gradients over ranks; never divide by the schedule's token count: the denominator is in already."""
    finalize_model_grads(model, None, *args, **kwargs)
