"""AdamW through Megatron-Core's optimizers, and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from r1mega import device
from r1mega.config.sections import Optimizer, Train


def data_parallel(section: Optimizer) -> DistributedDataParallelConfig:
    """How gradients are summed over ranks, and what each of them then holds."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=section.distributed,
        overlap_grad_reduce=section.overlap_grad_reduce,
        overlap_param_gather=section.overlap_param_gather,
    )


def make_optimizer(
    chunks: Sequence[DistributedDataParallel], train: Train, dtype: torch.dtype
) -> MegatronOptimizer:
    """One optimizer for dense and expert parameters, its state allocated.

    chunks: this rank's parts of the model, each wrapped.

    Megatron-Core takes Transformer Engine's or apex's fused Adam where installed, else torch's AdamW, of
    which we switch on the fused kernel (torch has one for CPU, too).
    """
    config = OptimizerConfig(
        optimizer="adam",
        lr=train.lr,
        min_lr=train.min_lr,
        weight_decay=train.weight_decay,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        adam_eps=train.eps,
        clip_grad=train.clip_grad,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=train.optimizer.distributed,
    )
    with device.literal_cuda_means_here():
        optimizer = get_megatron_optimizer(config, list(chunks))
        for part in optimizer.chained_optimizers:
            if isinstance(part.optimizer, torch.optim.AdamW):
                for group in part.optimizer.param_groups:
                    group["fused"] = True
                part.init_state_fn = _init_adamw_state
            if part.optimizer is not None:
                part.init_state_fn(part.optimizer, config)
    return optimizer


def _init_adamw_state(inner: torch.optim.Optimizer, _: Any = None) -> None:
    """Upstream's own function leaves out `step`, without which torch's AdamW raises KeyError (0.16.1)."""
    for group in inner.param_groups:
        for parameter in group["params"]:
            state = inner.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter.data)
                state["exp_avg_sq"] = torch.zeros_like(parameter.data)


def set_learning_rate(optimizer: MegatronOptimizer, lr: float, weight_decay: float) -> None:
    """Before a step. One-dimensional parameters (norms, biases) have a weight-decay multiplier of 0."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)


def learning_rate(train: Train, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (counted from 1) of `steps`: linear warm-up, then decay to min_lr."""
    if step <= train.warmup_steps:
        return train.lr * step / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, steps - train.warmup_steps)
    shape = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[train.schedule]
    return train.min_lr + (train.lr - train.min_lr) * shape
