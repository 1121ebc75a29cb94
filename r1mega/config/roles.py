"""Which nodes do what. Today every rank trains, generates and judges; the split is planned, not yet run."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt

from r1mega.config.section import Section


class Roles(Section):
    """Nodes that do one thing only. The others train; without any, trainers also generate and judge."""

    generator_nodes: NonNegativeInt = Field(
        default=0, description="nodes that generate only (planned and shown, not built yet); 0: trainers do"
    )
    reward_nodes: NonNegativeInt = Field(
        default=0, description="nodes for reward models only (planned and shown, not built yet); 0: trainers"
    )
    heterogeneous: bool = Field(
        default=False,
        description="each role is a component of a heterogeneous Slurm job; false: one allocation is split",
    )
