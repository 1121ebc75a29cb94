"""All micro-batches of a rank through the pipeline, forward and, where wanted, backward.

Megatron-Core's schedules call back for each micro-batch and chunk; here they meet the micro-batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from r1mega import device
from r1mega.algo.loss import LossParts
from r1mega.models.transformer_engine import understood
from r1mega.parallel import Mesh
from r1mega.progress import beat
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.beside import Beside
from r1mega.train.context import cut
from r1mega.train.routing import Routers, of_chunk, of_stage

Finish = Callable[[torch.Tensor, MicroBatch], LossParts]
"""(the last part's output [1, S, H], of a reward model [1, S, 1]; the micro-batch) -> the loss's parts."""


def _zero() -> torch.Tensor:
    return torch.zeros((), dtype=torch.float64, device=device.current())


@dataclass
class Passed:
    """What a pass left behind.

    sums:     of the losses' parts, over this rank's micro-batches; on the last pipeline stage only.
    routings: each micro-batch's choice of experts, where it was recorded.
    """

    sums: defaultdict[str, torch.Tensor] = field(default_factory=lambda: defaultdict(_zero))
    routings: list[torch.Tensor | None] = field(default_factory=list)


def run(
    chunks: Sequence[torch.nn.Module],
    routers: Sequence[Routers],
    mesh: Mesh,
    batches: Sequence[MicroBatch],
    finish: Finish,
    *,
    forward_only: bool,
    record: bool = False,
    beside: Beside | None = None,
) -> Passed:
    """Take every micro-batch through this stage's chunks.

    chunks:  of the model, bare or wrapped for data parallelism; routers: theirs.
    finish:  from the last part's output to the loss; called once a micro-batch, in their order.
    record:  keep the choices of experts.
    beside:  what is learnt beside the loss.
    """
    assert batches, "a rank without work passes a filler micro-batch"
    passed = Passed()
    # The interleaved schedule takes whole rounds of the pipeline's stages.
    fillers = -len(batches) % mesh.layout.pp if mesh.layout.vp > 1 else 0
    everything = [*batches, *(micro_batch([], mesh.layout.tp) for _ in range(fillers))]
    pieces = [cut(batch, mesh) for batch in everything]
    chosen: list[list[torch.Tensor | None]] = [[None] * len(chunks) for _ in batches]

    def forward_step(numbers: Iterator[int], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        beat()
        number, chunk = next(numbers), next(i for i, one in enumerate(chunks) if one is model)
        batch, (inputs_W, packing) = everything[number], pieces[number]
        is_filler = number >= len(batches)
        mine = routers[chunk]
        ahead_DW = beside.before(batch) if beside is not None else None
        further = {} if ahead_DW is None else {"labels": ahead_DW}
        with mine.forward(of_chunk(batch.routing_SLK, routers, chunk), record=record and not is_filler):
            packed = understood(packing, chunks[0].config)
            out = model(inputs_W[None], None, None, packed_seq_params=packed, **further)
        if record and not is_filler and batch.routing_SLK is None:
            chosen[number][chunk] = mine.chosen()

        def loss(hidden_DSH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
            no_tokens = torch.zeros((), dtype=torch.int)
            if is_filler:
                return hidden_DSH[:, :0].float().sum(), no_tokens, {}
            found = finish(hidden_DSH[:1], batch)
            # Detached copies: the schedule works on the loss in place.
            passed.sums["loss"] += found.sum.detach()
            for name, value in found.sums.items():
                passed.sums[name] += value.detach()
            if beside is None or len(hidden_DSH) == 1:
                return found.sum, no_tokens, {}
            mtp_loss = beside.loss(hidden_DSH[1:], batch)
            passed.sums["mtp_loss"] += mtp_loss.detach()
            return found.sum + beside.mtp_weight * mtp_loss, no_tokens, {}

        return out, loss

    iterators = [iter(range(len(everything))) for _ in chunks]
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=list(chunks),
        num_microbatches=len(everything),
        seq_length=len(pieces[0][0]) * mesh.layout.cp,
        micro_batch_size=1,
        forward_only=forward_only,
    )
    for each in routers:
        each.clear()
    passed.routings = [
        None if not record else of_stage(theirs) if batch.routing_SLK is None else batch.routing_SLK
        for batch, theirs in zip(batches, chosen, strict=True)
    ]
    return passed
