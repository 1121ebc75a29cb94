"""Who is who: the parallel layout as plain data, and the process groups that realise it.

`Layout` and `Coord` are pure (no torch at import). `Mesh` is the one live object that answers questions about
ranks; nothing else in the project asks torch.distributed or Megatron's global state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
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

    The pipeline has pp x vp parts in the model's order, part i on stage i % pp. Which layers a part has:
    vp:          parts of a stage, its chunks; with more than one the schedule is interleaved.
    first, last: layers of the first and of the last part; the others share the rest equally. None: as they.
    stages:      layers of each part, instead of those.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    cp: int = 1
    dp: int = 1
    vp: int = 1
    first: int | None = None
    last: int | None = None
    stages: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        world: int,
        *,
        tp: int = 1,
        pp: int = 1,
        ep: int = 1,
        etp: int | None = None,
        cp: int = 1,
        vp: int = 1,
        first_stage_layers: int | None = None,
        last_stage_layers: int | None = None,
        stage_layers: Sequence[int] | None = None,
    ) -> Layout:
        """The layout on `world` ranks; data parallelism takes what the others leave. etp defaults to 1.

        Raises UserError where that many ranks cannot be divided so, or a pipeline cannot have such parts.
        """
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
        found = cls(
            tp=tp,
            pp=pp,
            ep=ep,
            etp=etp,
            cp=cp,
            dp=world // model,
            vp=vp,
            first=first_stage_layers,
            last=last_stage_layers,
            stages=tuple(stage_layers or ()),
        )
        found._check_pipeline()
        return found

    @classmethod
    def least(cls, *, pp: int = 1, **sizes: Any) -> Layout:
        """The layout of these sizes on the fewest ranks; see `of`."""
        dense = sizes.get("tp", 1) * sizes.get("cp", 1)
        experts = sizes.get("ep", 1) * (sizes.get("etp") or 1)
        return cls.of(pp * math.lcm(dense, experts), pp=pp, **sizes)

    def _check_pipeline(self) -> None:
        """Whatever can be said of the parts without knowing the model; the rest is in models/stages.py."""
        if self.vp > 1 and self.pp == 1:
            raise UserError(f"vp {self.vp} cuts a pipeline's stages into chunks, and pp 1 has none: use vp 1")
        if self.stages and len(self.stages) != self.parts:
            raise UserError(
                f"stage_layers has {len(self.stages)} numbers, and pp {self.pp} x vp {self.vp} needs "
                f"{self.parts}, one for each part of the model in its order"
            )
        if self.stages and (self.first, self.last) != (None, None):
            raise UserError("stage_layers says all: leave out first_stage_layers and last_stage_layers")
        if self.pp == 1 and (self.first, self.last) != (None, None):
            raise UserError("first_stage_layers and last_stage_layers are for pp above 1: leave them out")

    @property
    def parts(self) -> int:
        """Of the pipeline: stages x chunks."""
        return self.pp * self.vp

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
            ("vp", self.vp),
        ]
        words = [f"{name}{size}" for name, size in named if size > 1]
        words += [f"{name}={n}" for name, n in (("first", self.first), ("last", self.last)) if n is not None]
        if self.stages:
            words.append("stages=" + ",".join(map(str, self.stages)))
        return " ".join(words) or "single rank"


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
            virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
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

    @property
    def context_group(self) -> Any:
        """The ranks that share the tokens of a micro-batch, each with its own: cp."""
        return self._state.get_context_parallel_group()

    @property
    def speaks(self) -> bool:
        """Whether this rank speaks for all that compute the same loss: tp x cp ranks of the last stage."""
        return self.is_last_stage and self.at.tp == 0 and self.at.cp == 0

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

    def aside(self) -> Any:
        """A group of all ranks on the CPU, for threads that must not get between the training's exchanges."""
        import torch.distributed as dist

        return dist.new_group(backend="gloo", timeout=PATIENCE)

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
