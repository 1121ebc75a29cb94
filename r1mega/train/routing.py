"""Routing replay: a later forward pass uses the experts that an earlier one, or the generator, has chosen.

A mixture-of-experts router picks the best k experts a token. Rounding, or one optimizer step, can change the
pick, and then the same token has another log-probability for a reason that no gradient sees. Replayed are the
choices alone: the router's scores are computed as ever, and its gradient flows through them.

    R2  what the trainer chose when it computed the old log-probabilities: `Policy.score(record_routing=True)`
    R3  what the generator chose: `from_outside`

Choices travel with their micro-batch (`MicroBatch.routing_SLK`), so that packing, pipelining and
recomputation cannot mix them up. One that carries none is routed as ever; a reference's should not carry any.
S = T / (tp x cp) tokens of this rank (under context parallelism as train/context.py cuts them), L its stage's
MoE layers, chunk by chunk, K experts a token.

It builds on Megatron-Core's RouterReplay, one object a router. Its functions for all routers at once are not
used: they would reach into the reference model, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.router_replay import RouterReplay, RouterReplayAction

from r1mega import device
from r1mega.models.spec import ModelSpec, MoE
from r1mega.models.stages import chunk_layers
from r1mega.parallel import Mesh
from r1mega.train.context import take


class Routers:
    """The routers of one chunk of a model, in the order of its layers."""

    def __init__(self, model: GPTModel, spec: ModelSpec) -> None:
        self._config, self._moe = model.config, spec.moe
        # Not those of multi-token-prediction layers, which only run where they learn.
        routers = [module for module in model.decoder.modules() if isinstance(module, TopKRouter)]
        self._replays: list[RouterReplay] = [router.router_replay for router in routers]
        # Upstream lists each of them for ever, and with it what it holds.
        RouterReplay.clear_global_router_replay_instances()

    @property
    def layers(self) -> int:
        """With experts."""
        return len(self._replays)

    @contextmanager
    def forward(self, routing_SLK: torch.Tensor | None, *, record: bool = False) -> Iterator[None]:
        """Around the forward pass of one micro-batch: replay its choices if it has any, else choose anew.

        record: keep the new choices for `chosen`.
        """
        action = RouterReplayAction.RECORD if record else None
        if routing_SLK is not None:
            action = RouterReplayAction.REPLAY_FORWARD
            for replay, choice_SK in zip(self._replays, routing_SLK.unbind(1), strict=True):
                replay.set_target_indices(choice_SK.long())
        self._act(action)
        yield
        if action is RouterReplayAction.REPLAY_FORWARD and self._comes_again():
            # A router that backward computes once more takes the oldest choices that it has not taken yet:
            # micro-batches go backward in the order in which they went forward.
            self._act(RouterReplayAction.REPLAY_BACKWARD)
        else:
            self._act(None)
            if not record:
                self._forget()

    def chosen(self) -> torch.Tensor | None:
        """[S, L, K], what the last recorded forward pass chose; None for a model without experts."""
        if self._moe is None:
            return None
        layers = [replay.get_recorded_indices() for replay in self._replays]
        self._forget()
        if not layers:  # a stage of dense layers only
            return torch.empty(0, 0, self._moe.topk, dtype=choice_dtype(self._moe), device=device.current())
        return torch.stack(layers, 1).to(choice_dtype(self._moe))

    def clear(self) -> None:
        """Forget everything, after the last backward pass."""
        self._act(None)
        self._forget()

    def _comes_again(self) -> bool:
        return self._config.recompute_granularity is not None and torch.is_grad_enabled()

    def _act(self, action: RouterReplayAction | None) -> None:
        for replay in self._replays:
            replay.set_router_replay_action(action)

    def _forget(self) -> None:
        for replay in self._replays:
            replay.clear_indices()


def of_chunk(routing_SLK: torch.Tensor | None, routers: Sequence[Routers], chunk: int) -> torch.Tensor | None:
    """A stage's choices -> those of one of its chunks."""
    if routing_SLK is None or len(routers) == 1:
        return routing_SLK
    before = sum(each.layers for each in routers[:chunk])
    return routing_SLK[:, before : before + routers[chunk].layers]


def of_stage(chosen: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The other way: what the chunks have chosen, put together."""
    found = [each for each in chosen if each is not None and each.shape[1]]
    return torch.cat(found, 1) if found else chosen[0]


def choice_dtype(moe: MoE) -> torch.dtype:
    """Of stored choices: the smallest that can number the experts. DeepSeek-V3: 464 bytes a token."""
    return torch.uint8 if moe.experts <= 256 else torch.int16


def from_outside(
    choices: Sequence[np.ndarray], tokens: int, spec: ModelSpec, mesh: Mesh
) -> torch.Tensor | None:
    """`MicroBatch.routing_SLK` from whole choices, such as vLLM's `routed_experts`; None without experts.

    choices: for each packed sample, integers [len(sample) - 1, all layers of the model, K]: the experts of
             each token that is read. What stands for a layer without experts is ignored.
    tokens:  of the micro-batch. Tokens that fill it up behind the samples get any experts.
    """
    if spec.moe is None:
        return None
    whole_TNK = np.concatenate([*choices, np.empty((0, spec.layers, spec.moe.topk), dtype=np.int64)])
    fill = np.broadcast_to(np.arange(spec.moe.topk), (tokens - len(whole_TNK), *whole_TNK.shape[1:]))
    stage = [layer for chunk in chunk_layers(spec.layers, mesh.layout, mesh.at.pp) for layer in chunk]
    layers = [layer for layer in stage if layer in spec.moe_layers]
    rows_W = take(torch.arange(tokens), mesh).numpy()
    each = len(rows_W) // mesh.layout.tp
    mine = rows_W[mesh.at.tp * each : (mesh.at.tp + 1) * each]
    routing_SLK = np.concatenate([whole_TNK, fill])[mine][:, layers].astype(np.int64)
    in_order = np.sort(routing_SLK, axis=2)
    assert ((in_order >= 0) & (in_order < spec.moe.experts)).all(), "experts that the model does not have"
    assert (np.diff(in_order, axis=2) > 0).all(), "a token's experts must differ"
    return torch.from_numpy(routing_SLK).to(device.current(), choice_dtype(spec.moe))
