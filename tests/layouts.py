"""The layouts and families of the parity matrix, for the tests and tools/bench/layout_parity.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from r1mega.config.sections import Optimizer


@dataclass(frozen=True)
class Case:
    """A layout on `world` ranks; sizes as in the config's `layout`.

    experts: what is added for a model with experts, which tensor parallelism needs; None: makes no sense.
    only_experts: for models with experts alone.
    """

    world: int
    sizes: Mapping[str, Any] = field(default_factory=dict)
    experts: Mapping[str, Any] | None = field(default_factory=dict)
    only_experts: bool = False
    optimizer: Optimizer | None = None

    def of(self, has_experts: bool) -> Mapping[str, Any] | None:
        """The sizes for such a model; None where the layout is not for it."""
        if not has_experts:
            return None if self.only_experts else self.sizes
        return None if self.experts is None else {**self.sizes, **self.experts}


FAMILIES = {
    "qwen2_tied": "Qwen2, tied",
    "llama3": "Llama 3, untied",
    "v3": "V3: MoE, MLA",
    "v3_mtp": "V3 with MTP",
}
"""Of tests/tiny.py -> what it stands for. Four layers each; of V3 two dense ones and two with experts."""

SHARDED = Optimizer(distributed=True)
EP2 = {"ep": 2}

LAYOUTS: dict[str, Case] = {
    "one rank": Case(1),
    "DP2": Case(2),
    "DP2, distributed optimizer": Case(2, optimizer=SHARDED),
    "TP2 + SP": Case(2, {"tp": 2}, experts=None),
    "TP2 + SP x DP2": Case(4, {"tp": 2}, experts=EP2),
    "PP2": Case(2, {"pp": 2}),
    "PP2, last stage 1 layer": Case(2, {"pp": 2, "last_stage_layers": 1}),
    "PP2, stages 1, 3": Case(2, {"pp": 2, "stage_layers": [1, 3]}),
    "PP2 x VP2": Case(2, {"pp": 2, "vp": 2}),
    "PP3, stages 1, 2, 1": Case(3, {"pp": 3, "stage_layers": [1, 2, 1]}),
    "PP4": Case(4, {"pp": 4}),
    "TP2 + SP x PP2": Case(4, {"tp": 2, "pp": 2}, experts=EP2),
    "TP2 + SP x PP2 x VP2": Case(4, {"tp": 2, "pp": 2, "vp": 2}, experts=EP2),
    "EP2": Case(2, EP2, only_experts=True),
    "EP2, distributed optimizer": Case(2, EP2, only_experts=True, optimizer=SHARDED),
    "EP4": Case(4, {"ep": 4}, only_experts=True),
    "EP2 x PP2": Case(4, {"ep": 2, "pp": 2}, only_experts=True),
    "TP2 + SP x EP2": Case(2, {"tp": 2, "ep": 2}, only_experts=True),
    "TP2 + SP x ETP2": Case(2, {"tp": 2, "etp": 2}, only_experts=True),
    "TP4 + SP x ETP2 x EP2": Case(4, {"tp": 4, "etp": 2, "ep": 2}, only_experts=True),
    "CP2": Case(2, {"cp": 2}),
    "CP2 x EP2": Case(2, {"cp": 2, "ep": 2}, only_experts=True),
    "CP2 x TP2 + SP": Case(4, {"cp": 2, "tp": 2}, experts=EP2),
    "CP2 x PP2": Case(4, {"cp": 2, "pp": 2}),
    "CP2 x PP2 x VP2": Case(4, {"cp": 2, "pp": 2, "vp": 2}),
    "CP2 x DP2, distributed optimizer": Case(4, {"cp": 2}, optimizer=SHARDED),
    "CP3": Case(3, {"cp": 3}),
    "CP4": Case(4, {"cp": 4}),
}
