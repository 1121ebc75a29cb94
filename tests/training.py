"""A few optimizer steps of a tiny model in any layout, and what a checkpoint of them holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r1mega.algo.loss import LossParts, cross_entropy
from r1mega.config.sections import Optimizer, Train
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.policy import Policy, Update
from r1mega.types import Sample
from tests import tiny
from tests.ranks import run_ranks

LENGTHS = (7, 30, 2, 19, 12, 41, 25, 9)
PLAIN = Optimizer()
SHARDED = Optimizer(distributed=True)
OVERLAPPED = Optimizer(distributed=True, overlap_grad_reduce=True, overlap_param_gather=True)


@dataclass(frozen=True)
class Run:
    """A model in a layout. sizes: as "tp2 ep2". changes: of `Train`."""

    kind: str = "qwen2_tied"
    world: int = 1
    sizes: str = ""
    optimizer: Optimizer = PLAIN
    dtype: str = "float32"
    changes: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        sizes = self.sizes.replace(" ", "") or f"dp{self.world}"
        how = (
            "overlapped" if self.optimizer == OVERLAPPED else "sharded" if self.optimizer.distributed else ""
        )
        return "-".join(filter(None, (self.kind, sizes, how, self.dtype.replace("float32", ""))))

    @contextmanager
    def policy(self) -> Iterator[Policy]:
        """One that is ready to learn, from the same weights in every layout."""
        sizes: dict[str, Any] = {one[:2]: int(one[2:]) for one in self.sizes.split()}
        with Mesh(Layout.of(self.world, **sizes)) as mesh:
            config, tensors = model(self.kind)
            spec = load_spec(config)
            # A large epsilon: where gradients are rounding errors, Adam would make them steps of full size.
            train = Train(
                steps=9,
                lr=1e-3,
                eps=1e-5,
                expert_bias_rate=1e-3,
                optimizer=self.optimizer,
                **dict(self.changes),
            )
            policy = Policy(spec, mesh, dtype=self.dtype, train=train)
            weights.load(spec, mesh, policy.model, tiny.InMemory(tensors))
            policy.prepare_to_learn()
            yield policy


@cache
def model(kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and weights. Made in a process of its own; importing transformers takes seconds."""
    return run_ranks(1, lambda rank: _make(kind))[0]  # type: ignore[no-any-return]


def _make(kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    made = tiny.make(kind)
    return made.config.to_dict(), tiny.checkpoint(made)


def learn(policy: Policy, step: int) -> Update:
    """Optimizer step `step` (from 1), on samples of its own; two micro-batches on each data-parallel rank."""
    rng = np.random.default_rng(step)
    samples = [
        Sample(rng.integers(0, 96, n).astype(np.int32), (rng.random(n) < 0.8).astype(np.uint8))
        for n in LENGTHS
    ]
    layout, at = policy.mesh.layout, policy.mesh.at
    mine = samples[at.dp :: layout.dp]
    half = (len(mine) + 1) // 2
    batches = [micro_batch(part, layout.tp) for part in (mine[:half], mine[half:])]
    total = float(sum(int(one.mask[1:].sum()) for one in samples))
    return policy.update(batches, _loss, denominator=total, lr=1e-3)


def _loss(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    return cross_entropy(logp_T, batch.weights_T)


def whole_weights(policy: Policy) -> dict[str, torch.Tensor]:
    found = weights.whole(policy.spec, policy.mesh, weights.tensors(policy.model))
    return {name: tensor.clone() for name, tensor in found}


def content(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, by Megatron-Core's name for it. In a process that has a mesh."""
    from megatron.core import dist_checkpointing

    found: dict[str, torch.Tensor] = dist_checkpointing.load_plain_tensors(str(folder / "model"))
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
