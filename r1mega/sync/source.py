"""Where a generator's weights come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from r1mega.models import weights
from r1mega.models.families import checkpoint_shapes
from r1mega.models.mtp_weights import without_mtp
from r1mega.models.shards import export_blocks
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Mesh
from r1mega.sync.checksum import checksum


class WeightSource(Protocol):
    """Whole tensors under checkpoint names, yielded in lockstep on every rank of the trainer."""

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def checksums(self) -> dict[str, int]:
        """Of every tensor, from what its owners hold and without the exchange that iteration makes."""
        ...


class Trained(Protocol):
    """What of a policy (r1mega.train.Policy) is needed."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def mesh(self) -> Mesh: ...
    @property
    def model(self) -> torch.nn.Module: ...


@dataclass(frozen=True)
class PolicyWeights:
    """The weights of a policy in any layout. All ranks make, sum and iterate it together.

    Multi-token-prediction layers stay behind: a generator draws one token at a time.
    """

    policy: Trained

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return weights.whole(
            without_mtp(self.policy.spec), self.policy.mesh, weights.tensors(self.policy.model)
        )

    @torch.no_grad()
    def checksums(self) -> dict[str, int]:
        spec, mesh = without_mtp(self.policy.spec), self.policy.mesh
        local: Mapping[str, torch.Tensor] = weights.tensors(self.policy.model)
        shapes = checkpoint_shapes(spec)
        number = {name: i for i, name in enumerate(shapes)}
        device = next(iter(local.values())).device
        sums = torch.zeros(len(shapes), dtype=torch.int64, device=device)
        for block in export_blocks(spec, mesh.layout, mesh.at):
            part = local[block.src][block.src_box.slices].reshape(block.dst_box.shape)
            sums[number[block.dst]] += checksum(part, block.dst_box, shapes[block.dst][-1])
        return dict(zip(shapes, mesh.sum_over_world(sums).tolist(), strict=True))
