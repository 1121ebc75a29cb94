"""The optimizer's state in a form that knows no layout: for each parameter of the model whole tensors.

    optimizer.state.exp_avg.NAME, optimizer.state.exp_avg_sq.NAME     AdamW's moments, float32
    optimizer.state.fp32_param.NAME                                  the master, where weights are bfloat16

NAME is the parameter's in the model's part of the checkpoint, and a tensor is cut over ranks as its parameter
is. Whether the state was sharded over data-parallel ranks does not show: a rank that owns a parameter (each
of them owns some) gathers what the others hold of it before saving, and gives them theirs after loading.

Megatron-Core's own forms (0.16.1) do not do here. Of the distributed optimizer, `fully_reshardable` raises
KeyError 'step' with torch's AdamW and holds the unsharded state on every rank; `dp_reshardable` cannot change
tp, pp and ep; the others are deprecated, and `fully_sharded_model_space` is refused when it saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, MegatronOptimizer

from r1mega import device

MASTER = "fp32_param"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """What this rank's AdamW keeps of a parameter: elements start ... end of it, flat.

    main:  what AdamW updates: the parameter itself (or a view of it), or its float32 master.
    state: AdamW's state of it.
    """

    main: torch.Tensor
    start: int
    end: int
    state: dict[str, Any]

    def tensors(self, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {kind: self.main.detach() if kind == MASTER else self.state[kind] for kind in kinds}


@dataclass(frozen=True)
class Part:
    """Either the dense or the expert parameters of this rank.

    parameters: all, in an order that the ranks of `group` have in common.
    pieces:     by id of the parameter; what other ranks hold is not there.
    group:      the ranks among which each parameter's state is divided; None where each has all of it.
    """

    inner: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]
    pieces: dict[int, Piece]
    group: Any

    @property
    def kinds(self) -> tuple[str, ...]:
        low = bool(self.parameters) and self.parameters[0].dtype != torch.float32
        return (*MOMENTS, MASTER) if low else MOMENTS

    def owners(self) -> Iterator[tuple[torch.nn.Parameter, int]]:
        """Each parameter and the rank within `group` that saves and loads it, the same on all of them.

        The next one goes to who has the least so far, so that all have about as much to write.
        """
        load = [0] * (dist.get_world_size(self.group) if self.group is not None else 1)
        for parameter in self.parameters:
            owner = load.index(min(load))
            load[owner] += parameter.numel()
            yield parameter, owner


def parts(optimizer: MegatronOptimizer) -> list[Part]:
    """What a Megatron-Core optimizer holds, be it plain or distributed, in float32 or with masters."""
    return [
        _distributed(one) if isinstance(one, DistributedOptimizer) else _plain(one)
        for one in optimizer.chained_optimizers
        if one.optimizer is not None
    ]


def _plain(one: MegatronOptimizer) -> Part:
    if isinstance(one, Float16OptimizerWithFloat16Params):
        models, mains = one.float16_groups, one.fp32_from_float16_groups
    else:
        models = mains = [group["params"] for group in one.optimizer.param_groups]
    pairs = [
        pair for model, main in zip(models, mains, strict=True) for pair in zip(model, main, strict=True)
    ]
    state = one.optimizer.state
    pieces = {id(model): Piece(main, 0, model.numel(), state[main]) for model, main in pairs}
    return Part(one.optimizer, [model for model, _ in pairs], pieces, None)


def _distributed(one: DistributedOptimizer) -> Part:
    models = [*one.model_float16_groups, *one.model_fp32_groups]
    mains = [*one.shard_fp32_from_float16_groups, *one.shard_fp32_groups]
    pieces = {}
    for model_group, main_group in zip(models, mains, strict=True):
        for model, main in zip(model_group, main_group, strict=True):
            place = one._get_model_param_range_map(model)["param"]
            pieces[id(model)] = Piece(main, place.start, place.end, one.optimizer.state[main])
    parameters = [parameter for buffer in one.buffers for parameter in buffer.param_index_map]
    return Part(one.optimizer, parameters, pieces, one.data_parallel_group)


def step_of(optimizer: MegatronOptimizer) -> int:
    """Updates that AdamW has made. torch's counts for each parameter, fused ones for each group."""
    found = set()
    for part in parts(optimizer):
        found |= {int(piece.state["step"]) for piece in part.pieces.values() if "step" in piece.state}
        found |= {int(group["step"]) for group in part.inner.param_groups if "step" in group}
    assert len(found) <= 1, f"parameters with different numbers of updates: {sorted(found)}"
    return found.pop() if found else 0


def set_step(optimizer: MegatronOptimizer, step: int) -> None:
    for part in parts(optimizer):
        for piece in part.pieces.values():
            if "step" in piece.state:
                piece.state["step"].fill_(step)
        if not isinstance(part.inner, torch.optim.AdamW):
            for group in part.inner.param_groups:
                group["step"] = step


@torch.no_grad()
def to_save(optimizer: MegatronOptimizer, model_state: Any) -> dict[str, Any]:
    """The tensors that this rank saves. All ranks together.

    model_state: the model's `sharded_state_dict`, its tensors still the parameters themselves.
    """
    names = _by_parameter(model_state)
    found: dict[str, Any] = {}
    for number, part in enumerate(parts(optimizer)):
        for i, (parameter, owner) in enumerate(part.owners()):
            piece = part.pieces.get(id(parameter))
            for kind in part.kinds:
                mine = piece.tensors(part.kinds)[kind] if piece is not None else None
                value = mine if part.group is None else _gather(mine, piece, parameter, owner, part.group)
                if value is not None:
                    value = value.view(parameter.shape)
                    found[f"{number}.{i}.{kind}"] = _like(names[id(parameter)], kind, value, part.group)
    return found


@torch.no_grad()
def to_load(optimizer: MegatronOptimizer, model_state: Any) -> dict[str, Any]:
    """The tensors that this rank reads, to be filled; then `take` them."""
    names = _by_parameter(model_state)
    found: dict[str, Any] = {}
    for number, part in enumerate(parts(optimizer)):
        me = 0 if part.group is None else dist.get_rank(part.group)
        for i, (parameter, owner) in enumerate(part.owners()):
            if part.group is None or owner == me:
                for kind in part.kinds:
                    value = torch.empty(parameter.shape, dtype=torch.float32)
                    found[f"{number}.{i}.{kind}"] = _like(names[id(parameter)], kind, value, part.group)
    return found


@torch.no_grad()
def take(optimizer: MegatronOptimizer, loaded: dict[str, torch.Tensor]) -> None:
    """Put what was read for `to_load` into the optimizer. All ranks together."""
    for number, part in enumerate(parts(optimizer)):
        for i, (parameter, owner) in enumerate(part.owners()):
            piece = part.pieces.get(id(parameter))
            for kind in part.kinds:
                whole = loaded.get(f"{number}.{i}.{kind}")
                if part.group is not None:
                    whole = _scatter(whole, parameter, owner, part.group)
                if piece is not None:
                    assert whole is not None
                    target = piece.tensors(part.kinds)[kind].view(-1)
                    target.copy_(whole.view(-1)[piece.start : piece.end])


def _by_parameter(model_state: Any) -> dict[int, ShardedTensor | ShardedTensorFactory]:
    tensors, _ = extract_sharded_tensors_and_factories(model_state)
    return {id(one.data): one for one in nested_values(tensors)}


def _like(
    model: ShardedTensor | ShardedTensorFactory, kind: str, value: torch.Tensor, group: Any
) -> ShardedTensor | ShardedTensorFactory:
    """The state's tensor, cut as its parameter. Where ranks divide the state, the owner's is the only one."""
    changes: dict[str, Any] = {"key": f"optimizer.state.{kind}.{model.key}", "data": value}
    if group is not None:
        changes["replica_id"] = (*model.replica_id[:2], 0)
    if isinstance(model, ShardedTensor):
        changes["dtype"] = value.dtype
    return replace(model, **changes)


def _gather(
    mine: torch.Tensor | None, piece: Piece | None, parameter: torch.Tensor, owner: int, group: Any
) -> torch.Tensor | None:
    """All of a parameter's state, flat, in the host's memory of its owner; None on the others."""
    whole = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
    if piece is not None and mine is not None:
        whole[piece.start : piece.end] = mine.view(-1)
    if dist.get_world_size(group) > 1:
        # A sum of bits: each element is zero everywhere but on one rank, and -0.0 must stay what it is.
        bits = whole.view(torch.int32)
        dist.reduce(bits, dst=dist.get_global_rank(group, owner), group=group)
    return whole.cpu() if owner == dist.get_rank(group) else None


def _scatter(whole: torch.Tensor | None, parameter: torch.Tensor, owner: int, group: Any) -> torch.Tensor:
    """The owner's tensor on every rank of the group."""
    if whole is None:
        whole = torch.empty(parameter.shape, dtype=torch.float32)
    whole = whole.to(device.current())
    if dist.get_world_size(group) > 1:
        dist.broadcast(whole, src=dist.get_global_rank(group, owner), group=group)
    return whole
