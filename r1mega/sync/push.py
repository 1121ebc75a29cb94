"""One weight sync: the trainer's weights replace those of a running vLLM engine, in place."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from r1mega.models.blocks import Box
from r1mega.sync import vllm_fixes
from r1mega.sync.checksum import checksum, digest
from r1mega.sync.source import WeightSource

_NAMED = 3  # offenders a message names, besides their number


class SyncError(RuntimeError):
    """The generator does not have the trainer's weights, or does not compute the same with them."""


class Receiver(Protocol):
    """What of a generator (r1mega.rollout.VLLMGenerator) is needed."""

    engine: Any

    def updated(self, version: int) -> None:
        """The weights are new: forget what came of the old ones, and sign answers with `version`."""
        ...


@dataclass(frozen=True)
class SyncReport:
    """version: updates the weights have seen; digest: of all that arrived; bytes: that this engine got."""

    version: int
    digest: str
    tensors: int
    bytes: int
    seconds: float


def push(weights: WeightSource, generator: Receiver, version: int) -> SyncReport:
    """Replace the generator's weights, in place. All ranks of the trainer together, each with its engine.

    What arrives at this rank's engine is compared with what the owners of the weights hold. That proves the
    transport; what the engine computes with it is proved by `probe`.

    Raises SyncError where something did not arrive as it was sent, or the engine has weights that nobody set.
    """
    start = time.perf_counter()
    sent = weights.checksums()
    arriving = _Arriving(weights)
    _load(generator.engine, arriving)
    arrived = arriving.checksums()
    if wrong := [name for name in sent.keys() | arrived.keys() if sent.get(name) != arrived.get(name)]:
        raise SyncError(
            f"{len(wrong)} tensors did not arrive as they were sent, at version {version}: {_some(wrong)}"
        )
    generator.updated(version)
    return SyncReport(version, digest(arrived), len(arrived), arriving.bytes, time.perf_counter() - start)


class _Arriving:
    """Passes the weights on and takes their checksums."""

    def __init__(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._weights = weights
        self._sums: dict[str, torch.Tensor] = {}
        self.bytes = 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._weights:
            self._sums[name] = checksum(tensor, Box.whole(tensor.shape), tensor.shape[-1])
            self.bytes += tensor.nbytes
            yield name, tensor

    def checksums(self) -> dict[str, int]:
        values = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        return dict(zip(self._sums, values, strict=True))


def _load(engine: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Give an engine all its weights under checkpoint names; its own tensors stay where they are."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    config = engine.vllm_config
    tied = bool(config.model_config.hf_config.tie_word_embeddings)

    @torch.no_grad()
    def load(model: Any) -> None:
        stream = vllm_fixes.with_tied_head(weights, tied)
        with set_current_vllm_config(config):
            vllm_fixes.forget_moe_kernels(model)
            initialize_layerwise_reload(model)
            needed = {name for name, _ in model.named_parameters()}  # now as in a checkpoint, nothing derived
            loaded = model.load_weights(stream)
            finalize_layerwise_reload(model, config.model_config)
        for _ in stream:  # the other ranks count on everyone taking all
            pass
        if missing := sorted(needed - loaded):
            raise SyncError(f"{len(missing)} of the engine's weights were not set: {_some(missing)}")

    engine.apply_model(load)


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
