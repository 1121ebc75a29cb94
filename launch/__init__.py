"""Starting ranks: on this machine (`local`), in a Slurm job (`job`, `node`), through submitit (`submit`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.handle import Handle
    from launch.send import submit

__all__ = ["Handle", "submit"]
_HOMES = {"Handle": "launch.handle", "submit": "launch.send"}


def __getattr__(name: str) -> Any:
    """`launch.submit` and `launch.Handle`, imported when asked for: each rank imports this package."""
    if name not in _HOMES:
        raise AttributeError(f"module 'launch' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
