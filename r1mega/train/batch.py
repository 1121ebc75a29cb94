"""Micro-batches: packed sequences as the model eats them.

T positions of a micro-batch. A sequence of n tokens gives n - 1 positions: each predicts the token after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from r1mega import device
from r1mega.models.packing import Packing, pack
from r1mega.types import Sample


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass.

    inputs_T:  int64 [T], the tokens read.
    targets_T: int64 [T], the token that follows each.
    weights_T: float32 [T], how much each prediction counts in the loss; 0 for prompts and padding.
    packing:   where the sequences lie.
    columns:   float32 [T] each: whatever else the loss needs of each prediction, such as old
               log-probabilities.
    routing_SLK: integers [S, L, K], the experts to be used instead of the routers' own choice: for this
               rank's S tokens, its stage's L layers with experts, K experts each (train/routing.py).

    It is the same on all ranks that share its tokens (tp, cp); train/context.py cuts it.
    """

    inputs_T: torch.Tensor
    targets_T: torch.Tensor
    weights_T: torch.Tensor
    packing: Packing
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)
    routing_SLK: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        return len(self.inputs_T)


def micro_batch(
    samples: Sequence[Sample],
    multiple: int = 1,
    columns: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> MicroBatch:
    """Pack samples one behind another.

    columns: name -> for each sample, float32 [len(sample) - 1], one value for each prediction.
    multiple: T is filled up to a multiple of this with one sequence of weight 0 (sequence parallelism cuts T
              into
    equal parts). No samples at all give a micro-batch of filler only: a data-parallel rank that has run out
    of work must still take part in its neighbours' collectives.
    """
    tokens = [sample.tokens for sample in samples]
    masks = [sample.mask for sample in samples]
    extra = {name: list(values) for name, values in (columns or {}).items()}
    used = sum(len(t) - 1 for t in tokens)
    fill = -used % multiple or (multiple if not used else 0)
    if fill:
        tokens.append(np.zeros(fill + 1, dtype=np.int64))
        masks.append(np.zeros(fill + 1, dtype=np.uint8))
        for values in extra.values():
            values.append(np.zeros(fill, dtype=np.float32))
    where = device.current()
    return MicroBatch(
        inputs_T=torch.from_numpy(np.concatenate([t[:-1] for t in tokens]).astype(np.int64)).to(where),
        targets_T=torch.from_numpy(np.concatenate([t[1:] for t in tokens]).astype(np.int64)).to(where),
        weights_T=torch.from_numpy(np.concatenate([m[1:] for m in masks]).astype(np.float32)).to(where),
        packing=pack([len(t) - 1 for t in tokens]),
        columns={
            name: torch.from_numpy(np.concatenate(values).astype(np.float32)).to(where)
            for name, values in extra.items()
        },
    )
