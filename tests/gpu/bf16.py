"""A tiny model in bfloat16 on the device that is there, beside transformers in float32 on the CPU.

Both start from the same weights, rounded to bfloat16, so what differs is the arithmetic alone. It runs on a
CPU as well, with other kernels. No GPU has run it so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from r1mega import device
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.policy import Policy
from tests import tiny
from tests.parity import DENOMINATOR, TRAIN, loss_function, my_batches, my_gradients, samples


@dataclass(frozen=True)
class Gap:
    """loss: relative. gradients: of each parameter, the norm of the difference over the norm."""

    loss: float
    gradients: dict[str, float]


def gap(kind: str) -> Gap:
    """Of the policy from the reference. Call it in a process of its own: Megatron-Core keeps global state."""
    config, tensors, loss, gradients = _reference(kind)
    device.prepare(0, 1, 1)
    with Mesh(Layout.of(1)) as mesh:
        spec = load_spec(config)
        policy = Policy(spec, mesh, dtype="bfloat16", train=TRAIN)
        weights.load(spec, mesh, policy.model, tiny.InMemory(tensors))
        policy.prepare_to_learn()
        batches = my_batches(mesh)
        ours = policy.evaluate(batches, loss_function, denominator=DENOMINATOR).loss
        policy.gradients(batches, loss_function, denominator=DENOMINATOR)
        found = {n: t.float().cpu() for n, t in weights.whole(spec, mesh, my_gradients(policy))}
    return Gap(
        abs(ours - loss) / loss,
        {
            name: float((found[name] - g).norm() / g.norm())
            for name, g in gradients.items()
            if g.norm() > 1e-6
        },
    )


def _reference(kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], float, dict[str, torch.Tensor]]:
    """config, weights, loss in nats a token and gradients, one sequence at a time."""
    model = tiny.make(kind).bfloat16().float()
    total = torch.zeros(())
    for sample in samples():
        tokens = torch.from_numpy(sample.tokens.astype(np.int64))
        logits = model(tokens[None]).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
        total = total + (nll * torch.from_numpy(sample.mask[1:].astype(np.float32))).sum()
    loss = total / DENOMINATOR
    loss.backward()
    tensors = tiny.checkpoint(model)
    return model.config.to_dict(), tensors, loss.item(), tiny.checkpoint(model, gradients=True)
