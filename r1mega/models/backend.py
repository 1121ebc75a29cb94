"""Which implementation of the layers a run uses, decided here and nowhere else. Pure but for `look`.

    local               our own norm, attention and MLA projections on Megatron-Core's layers
                        (models/layers.py); runs everywhere
    transformer_engine  Transformer Engine's layers through Megatron-Core's own layer spec: fused kernels,
                        grouped matrix products for experts, FP8; NVIDIA GPUs only

Nothing here imports what it decides about: `r1mega doctor` asks, too, and there a package may be broken.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Name = Literal["local", "transformer_engine"]

_BLOCKWISE = (2, 3)
"""The first Transformer Engine that scales FP8 in blocks of 128 x 128, as DeepSeek-V3 does."""


@dataclass(frozen=True)
class Found:
    """What this machine and this Python have.

    transformer_engine: its version, None where it is missing.
    apex:               NVIDIA's. fused_gradients: its kernel that adds a weight's gradient in place.
    """

    cuda: bool = False
    transformer_engine: str | None = None
    apex: bool = False
    fused_gradients: bool = False


@dataclass(frozen=True)
class Backend:
    """The choice. why: in words, for people. fields: of Megatron-Core's TransformerConfig, over the rest."""

    name: Name
    why: str
    fp8: bool
    found: Found

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"gradient_accumulation_fusion": self.found.fused_gradients}
        if self.name == "transformer_engine":
            fields |= {
                "gradient_accumulation_fusion": True,
                "moe_grouped_gemm": True,
                "moe_permute_fusion": True,
                "apply_rope_fusion": False,  # its packed form wants other tables than MLA's and ours
            }
        if self.fp8:
            fields |= {"fp8": "e4m3", "fp8_recipe": "blockwise"}
        return fields

    @property
    def adam(self) -> str:
        """Whose Adam Megatron-Core takes: it looks for itself, in this order."""
        if not self.found.cuda:
            return "torch's AdamW"
        if self.found.transformer_engine is not None:
            return "Transformer Engine's fused Adam"
        return "apex's fused Adam" if self.found.apex else "torch's fused AdamW"

    def __str__(self) -> str:
        """One line: what is used, and why."""
        if self.name == "local":
            layers = "own norm, torch's attention, one matrix product an expert"
        else:
            layers = "Transformer Engine's layers, grouped matrix products for experts"
        parts = [layers, self.adam]
        if self.fields["gradient_accumulation_fusion"]:
            parts.append("gradients added in place")
        if self.fp8:
            parts.append("FP8 in blocks")
        return f"{self.name} ({self.why}): {', '.join(parts)}"


def choose(wanted: str, found: Found, *, fp8: bool = False, cp: int = 1) -> Backend:
    """wanted: auto, local or transformer_engine. cp: ranks that share a micro-batch's tokens.

    Raises UserError where what is wanted cannot be had, saying what is in the way.
    """
    obstacle = _obstacle(found, cp)
    if wanted == "transformer_engine" and obstacle:
        raise _refusal(f"model.backend = 'transformer_engine': {obstacle}; use 'auto' or 'local'")
    name: Name = "local" if wanted == "local" or obstacle else "transformer_engine"
    why = obstacle if wanted == "auto" and obstacle else f"model.backend = '{wanted}'"
    if wanted == "auto" and not obstacle:
        why = f"Transformer Engine {found.transformer_engine} and a GPU are there"
    if fp8:
        _check_fp8(name, why, found)
    return Backend(name, why, fp8, found)


def look(*, cuda: bool) -> Found:
    """Looks, without importing. cuda: whether torch sees a GPU."""
    return Found(
        cuda=cuda,
        transformer_engine=_version("transformer-engine"),
        apex=is_nvidias_apex(),
        fused_gradients=cuda and importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None,
    )


def _obstacle(found: Found, cp: int) -> str:
    """What keeps Transformer Engine's layers from being used; nothing: empty."""
    if not found.cuda:
        return "there is no GPU"
    if found.transformer_engine is None:
        return "Transformer Engine is not installed"
    if cp > 1:
        return f"cp {cp} cuts tokens otherwise than Transformer Engine does"
    return ""


def _check_fp8(name: str, why: str, found: Found) -> None:
    if name == "local":
        raise _refusal(
            f"model.fp8 needs Transformer Engine's layers, and these are local ones ({why}): use false"
        )
    assert found.transformer_engine is not None
    numbers = tuple(int(part) for part in found.transformer_engine.split(".")[:2])
    if numbers < _BLOCKWISE:
        wanted = ".".join(map(str, _BLOCKWISE))
        raise _refusal(
            f"model.fp8 needs Transformer Engine {wanted} or newer, which scales in blocks; this is "
            f"{found.transformer_engine}"
        )


def _refusal(text: str) -> Exception:
    # Here and not above: the doctor asks in environments that lack what that module needs.
    from r1mega.types import UserError

    return UserError(text)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_nvidias_apex() -> bool:
    """PyPI has another project of that name."""
    spec = importlib.util.find_spec("apex")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return any((Path(folder) / "optimizers" / "fused_adam.py").is_file() for folder in folders)
