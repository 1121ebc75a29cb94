"""Multi-token prediction as in the paper (arXiv 2412.19437, section 2.2), around a tiny transformers model.

transformers has no such layers. This is written from the paper's equations 21-25, one sequence at a time,
with transformers' decoder layer as the transformer block and, as in DeepSeek's checkpoints, the embedding
before the state in what eh_proj reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

from tests import tiny


class Module(deepseek.DeepseekV3DecoderLayer):
    """One prediction depth; its parameters have the names of a checkpoint's layer."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__(config, layer)
        norm, hidden = deepseek.DeepseekV3RMSNorm, config.hidden_size
        self.enorm, self.hnorm = norm(hidden, config.rms_norm_eps), norm(hidden, config.rms_norm_eps)
        self.eh_proj = torch.nn.Linear(2 * hidden, hidden, bias=False)
        self.shared_head = torch.nn.ModuleDict({"norm": norm(hidden, config.rms_norm_eps)})

    def advance(self, state_1NH: torch.Tensor, embedded_1NH: torch.Tensor, rope: Any) -> torch.Tensor:
        """The state at each of N places and the embedding of the token ahead -> the next depth's state."""
        both = torch.cat([self.enorm(embedded_1NH), self.hnorm(state_1NH)], -1)
        places = state_1NH.shape[1]
        causal = torch.full((places, places), float("-inf")).triu(1)[None, None]
        positions = torch.arange(places)[None]
        out = self(
            self.eh_proj(both),
            attention_mask=causal,
            position_ids=positions,
            position_embeddings=rope(state_1NH, positions),
        )
        return self.shared_head["norm"](out[0] if isinstance(out, tuple) else out)


@dataclass
class Model:
    """A causal model and its further depths. losses: see there."""

    main: Any
    depths: list[Module]

    def losses(self, tokens: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """tokens int64 [N], mask [N] -> summed cross entropies of the counted tokens: the model's, then each
        depth's."""
        state = self.main.model(tokens[None, :-1]).last_hidden_state
        found = [self._loss(state, tokens[1:], mask[1:])]
        for k, depth in enumerate(self.depths, start=1):
            places = len(tokens) - 1 - k  # those whose token ahead has a successor
            if places < 1:
                found.append(torch.zeros(()))
                continue
            embedded = self.main.model.embed_tokens(tokens[None, k : k + places])
            state = depth.advance(state[:, :places], embedded, self.main.model.rotary_emb)
            found.append(self._loss(state, tokens[1 + k :], mask[1 + k :]))
        return found

    def _loss(self, state: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = self.main.lm_head(state)[0]
        return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * mask).sum()

    def checkpoint(self, *, gradients: bool = False) -> dict[str, torch.Tensor]:
        """Under the names of DeepSeek's checkpoints, the copies of embedding and output layer included."""
        found = tiny.checkpoint(self.main, gradients=gradients)
        embedding, head = found["model.embed_tokens.weight"], found["lm_head.weight"]
        for k, depth in enumerate(self.depths):
            layer = f"model.layers.{self.main.config.num_hidden_layers + k}."
            found |= {layer + name: t for name, t in tiny.checkpoint(depth, gradients=gradients).items()}
            found |= {f"{layer}embed_tokens.weight": embedding, f"{layer}shared_head.head.weight": head}
        return found


def make(kind: str, depths: int = 1) -> Model:
    """The model of tests/tiny.py with so many depths, random weights throughout."""
    main = tiny.make(kind)
    main.config.num_nextn_predict_layers = depths
    layers = main.config.num_hidden_layers
    modules = [Module(main.config, layers + k).float().eval() for k in range(depths)]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in modules:
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(1 + 0.1 * noise if "norm" in name else noise * 0.12)
    return Model(main, modules)
