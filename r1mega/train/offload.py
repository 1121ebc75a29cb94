"""Tensors that wait in the host's memory while nobody computes with them: AdamW's state, a reference model.

They are moved as they are, so no number changes. AdamW's state is on the GPU from the end of backward,
when activations are gone, to the end of the step; a reference's weights while it scores.

On a CPU both memories are the same one, and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer

from r1mega import device
from r1mega.logs import say
from r1mega.train.optimizer_state import MASTER, parts


@dataclass(frozen=True)
class Slot:
    """Where a tensor is kept: how to look at it, and how to put another one in its place."""

    get: Callable[[], torch.Tensor]
    put: Callable[[torch.Tensor], None]


class Waiting:
    """Slots whose tensors are on the device only while `present` is open."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        # Pinned, so that a copy runs at the bus's speed; kept, since pinning takes longer than copying.
        self._host = [
            torch.empty_like(slot.get(), device="cpu", pin_memory=device.on_cuda()) for slot in slots
        ]
        self._park()

    @contextmanager
    def present(self) -> Iterator[None]:
        for slot, host in zip(self._slots, self._host, strict=True):
            slot.put(host.to(device.current(), non_blocking=True, copy=True))
        try:
            yield
        finally:
            self._park()

    def _park(self) -> None:
        for slot, host in zip(self._slots, self._host, strict=True):
            host.copy_(slot.get(), non_blocking=True)
        device.wait()
        for slot, host in zip(self._slots, self._host, strict=True):
            slot.put(host)


def optimizer_slots(optimizer: MegatronOptimizer) -> list[Slot]:
    """AdamW's moments and, where weights are lower, their float32 masters."""
    found = []
    for part in parts(optimizer):
        for piece in part.pieces.values():
            for kind in part.kinds:
                if kind == MASTER:
                    found.append(_of_tensor(piece.main))
                else:
                    found.append(
                        Slot(partial(piece.state.__getitem__, kind), partial(piece.state.__setitem__, kind))
                    )
    return found


def weight_slots(model: torch.nn.Module) -> list[Slot]:
    return [_of_tensor(parameter) for parameter in model.parameters()]


def waiting(what: str, slots: Callable[[], Sequence[Slot]]) -> Waiting | None:
    """None on a CPU, which is said. what: is moved, for people."""
    if not device.on_cuda():
        say(f"train.offload: {what} stays where it is, since this runs on a CPU")
        return None
    return Waiting(slots())


def _of_tensor(tensor: torch.Tensor) -> Slot:
    def put(value: torch.Tensor) -> None:
        tensor.data = value

    def get() -> Any:
        return tensor.data

    return Slot(get, put)
