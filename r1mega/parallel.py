"""Who is who: the parallel layout as plain data, and the process groups that realise it.

`Layout` and `Coord` are pure (no torch at import). `Mesh` is the one live object that answers questions about
ranks; nothing else in the project asks torch.distributed or Megatron's global state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from r1mega.types import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a rank waits for another, which may tokenise a corpus. Dead ranks are the launcher's to notice."""


@dataclass(frozen=True)
class Layout:
    """How the ranks of a job are divided. Sizes are numbers of ranks.

    The dense part of the model lives on tp x cp x dp x pp ranks. The experts reuse the tp x cp x dp ranks of
    a pipeline stage as etp x ep x edp.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    cp: int = 1
    dp: int = 1

    @classmethod
    def of(
        cls, world: int, *, tp: int = 1, pp: int = 1, ep: int = 1, etp: int | None = None, cp: int = 1
    ) -> Layout:
        """The layout on `world` ranks; data parallelism takes what the others leave. etp defaults to 1."""
        etp = 1 if etp is None else etp
        model = tp * pp * cp
        if world % model:
            raise UserError(
                f"{world} ranks cannot hold tp {tp} x pp {pp} x cp {cp} = {model}: "
                f"the number of ranks must be a multiple of {model}"
            )
        stage = world // pp
        if stage % (ep * etp):
            raise UserError(
                f"a pipeline stage has {stage} ranks, which is not a multiple of ep {ep} x etp {etp} = "
                f"{ep * etp}: use {ep * etp * pp} ranks or a multiple, or smaller ep"
            )
        return cls(tp=tp, pp=pp, ep=ep, etp=etp, cp=cp, dp=world // model)

    @property
    def world(self) -> int:
        return self.tp * self.cp * self.dp * self.pp

    @property
    def edp(self) -> int:
        """Replicas of each expert."""
        return self.tp * self.cp * self.dp // (self.ep * self.etp)

    def coord(self, rank: int) -> Coord:
        """Where a rank sits.

        Order, fastest first, as in Megatron-Core: tp, cp, dp, pp; experts: etp, ep, edp, pp.
        """
        assert 0 <= rank < self.world
        stage_size = self.tp * self.cp * self.dp
        pp, inner = divmod(rank, stage_size)
        return Coord(
            rank=rank,
            tp=inner % self.tp,
            cp=inner // self.tp % self.cp,
            dp=inner // (self.tp * self.cp),
            pp=pp,
            etp=inner % self.etp,
            ep=inner // self.etp % self.ep,
            edp=inner // (self.etp * self.ep),
        )

    def coords(self) -> Iterator[Coord]:
        return (self.coord(rank) for rank in range(self.world))

    def __str__(self) -> str:
        named = [
            ("tp", self.tp),
            ("pp", self.pp),
            ("ep", self.ep),
            ("etp", self.etp),
            ("cp", self.cp),
            ("dp", self.dp),
        ]
        return " ".join(f"{name}{size}" for name, size in named if size > 1) or "single rank"


@dataclass(frozen=True)
class Coord:
    """The place of one rank along every axis of a `Layout`."""

    rank: int = 0
    tp: int = 0
    pp: int = 0
    ep: int = 0
    etp: int = 0
    cp: int = 0
    dp: int = 0
    edp: int = 0


@dataclass(frozen=True)
class Launch:
    """What the launcher (torchrun, srun, or nobody) said about this process."""

    rank: int
    world: int
    local_rank: int
    local_world: int

    @classmethod
    def from_env(cls) -> Launch:
        def get(name: str, default: int) -> int:
            return int(os.environ.get(name, default))

        world = get("WORLD_SIZE", 1)
        return cls(get("RANK", 0), world, get("LOCAL_RANK", 0), get("LOCAL_WORLD_SIZE", world))


class Mesh:
    """The live process groups of one layout.

    There is one at a time in a process, since Megatron-Core keeps its groups in global state. Use as a
    context manager: leaving it frees the groups but keeps torch.distributed itself.
    """

    def __init__(self, layout: Layout) -> None:
        import torch.distributed as dist
        from megatron.core import parallel_state

        from r1mega import device

        device.bridge()
        connect()
        if dist.get_world_size() != layout.world:
            raise UserError(
                f"the layout {layout} needs {layout.world} ranks, this job has {dist.get_world_size()}"
            )
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            context_parallel_size=layout.cp,
            expert_model_parallel_size=layout.ep,
            expert_tensor_parallel_size=layout.etp,
        )
        self.layout = layout
        self.at = layout.coord(dist.get_rank())
        self._state: Any = parallel_state
        actual = Coord(
            rank=dist.get_rank(),
            tp=parallel_state.get_tensor_model_parallel_rank(),
            pp=parallel_state.get_pipeline_model_parallel_rank(),
            ep=parallel_state.get_expert_model_parallel_rank(),
            etp=parallel_state.get_expert_tensor_parallel_rank(),
            cp=parallel_state.get_context_parallel_rank(),
            dp=parallel_state.get_data_parallel_rank(),
            edp=parallel_state.get_expert_data_parallel_rank(),
        )
        assert actual == self.at, (
            f"Megatron-Core places ranks otherwise than Layout.coord: {actual} {self.at}"
        )

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *exc: object) -> None:
        self._state.destroy_model_parallel()

    @property
    def is_first_stage(self) -> bool:
        return self.at.pp == 0

    @property
    def is_last_stage(self) -> bool:
        return self.at.pp == self.layout.pp - 1

    @property
    def data_group(self) -> Any:
        """The ranks that see different data but hold the same dense weights: dp x cp."""
        return self._state.get_data_parallel_group(with_context_parallel=True)

    def sum_over_world(self, values: torch.Tensor) -> torch.Tensor:
        """values float64 [N], summed over all ranks, in place. A rank that does not count passes zeros."""
        import torch.distributed as dist

        if self.layout.world > 1:
            dist.all_reduce(values)
        return values

    def from_last_stage(self, value: Any) -> Any:
        """What the last pipeline stage holds, on every stage. A small picklable object."""
        import torch.distributed as dist

        if self.layout.pp == 1:
            return value
        group = self._state.get_pipeline_model_parallel_group()
        box = [value]
        dist.broadcast_object_list(box, src=dist.get_global_rank(group, self.layout.pp - 1), group=group)
        return box[0]

    def any_rank(self, flag: bool) -> bool:
        """True on all ranks when it is true on one: used to stop together."""
        import torch

        from r1mega import device

        return bool(
            self.sum_over_world(torch.tensor([float(flag)], dtype=torch.float64, device=device.current()))
        )

    def max_over_world(self, value: float) -> float:
        """The largest of all ranks' numbers."""
        import torch
        import torch.distributed as dist

        from r1mega import device

        largest = torch.tensor([value], dtype=torch.float64, device=device.current())
        if self.layout.world > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return float(largest)

    def gather(self, value: T) -> list[T]:
        """Every rank's object, by rank, on every rank.

        Picklable objects; not for anything large and frequent.
        """
        import torch.distributed as dist

        if self.layout.world == 1:
            return [value]
        found: list[Any] = [None] * self.layout.world
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        import torch.distributed as dist

        dist.barrier()


def on_leader(action: Callable[[], T]) -> T:
    """Do something on rank 0 only; every rank gets its result, or the UserError that it raised."""
    import torch.distributed as dist

    outcome: list[Any] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            outcome = [action()]
        except UserError as error:
            outcome = [error]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]  # type: ignore[no-any-return]


def everyone() -> None:
    """Wait until every rank of the job is here."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def connect() -> None:
    """Join torch.distributed as the environment says, unless it is joined; alone when there is no launcher.

    Raises UserError when the rendezvous port is taken.
    """
    import torch.distributed as dist

    from r1mega import device

    if dist.is_initialized():
        return
    here = Launch.from_env()
    try:
        if "MASTER_ADDR" in os.environ and here.world > 1:
            dist.init_process_group(device.backend(), rank=here.rank, world_size=here.world, timeout=PATIENCE)
        else:
            dist.init_process_group(device.backend(), store=dist.HashStore(), rank=0, world_size=1)
    except dist.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"cannot meet the other ranks at {where} ({str(error).splitlines()[0]}): the port may be in use; "
            "set MASTER_PORT to a free one, or let --nproc choose it"
        ) from error
