"""AdamW through Megatron-Core's optimizers, and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from r1mega import device
from r1mega.config.sections import Train


def make_optimizer(
    model: DistributedDataParallel, train: Train, dtype: torch.dtype, *, distributed: bool
) -> MegatronOptimizer:
    """One optimizer for dense and expert parameters, its state allocated.

    Megatron-Core takes Transformer Engine's or apex's fused Adam where installed, else torch's AdamW, which we replace
    by `FusedAdamW`.
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
        use_distributed_optimizer=distributed,
    )
    with device.literal_cuda_means_here():
        optimizer = get_megatron_optimizer(config, [model])
        for part in optimizer.chained_optimizers:
            if isinstance(part.optimizer, torch.optim.AdamW):
                part.optimizer = FusedAdamW(part.optimizer.param_groups)
            if part.optimizer is not None:
                part.init_state_fn(part.optimizer, config)
    return optimizer


class FusedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) by torch's fused kernel, which exists for CPU and CUDA.

    The step count is one number a group, as in Transformer Engine's and apex's Adam. torch.optim.AdamW keeps a tensor
    a parameter instead, which Megatron-Core 0.16.1 cannot carry through a checkpoint of the distributed optimizer
    (KeyError 'step').
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"step": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            group["step"] += 1
            if not learning:
                continue
            state = [self.state[p] for p in learning]
            count = torch.tensor(float(group["step"]), device=learning[0].device)
            torch._fused_adamw_(  # type: ignore[attr-defined]
                learning,
                [p.grad for p in learning],
                [s["exp_avg"] for s in state],
                [s["exp_avg_sq"] for s in state],
                [],
                [count] * len(learning),
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                grad_scale=None,
                found_inf=None,
            )


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
