"""A rank's chunks of a model as one module, where virtual pipeline stages give it several."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel


class Chunks(torch.nn.ModuleList):
    """Parameters are called as in models/shards.py: the chunk's number, a dot, its own name."""

    def __init__(self, chunks: list[GPTModel]) -> None:
        super().__init__(chunks)
        self.config = chunks[0].config

    def sharded_state_dict(self, prefix: str = "", *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As of one GPTModel, for Megatron-Core's checkpoints, which count layers of the model."""
        return {
            f"{prefix}{number}.{name.removeprefix(prefix)}": value
            for number, chunk in enumerate(chunks_of(self))
            for name, value in chunk.sharded_state_dict(prefix, *args, **kwargs).items()
        }


def chunks_of(model: torch.nn.Module) -> list[GPTModel]:
    """In the order in which the layers pass through them."""
    return list(model) if isinstance(model, Chunks) else [model]
