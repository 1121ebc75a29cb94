"""Multi-token prediction: layers behind the last one that predict further tokens (arXiv 2412.19437, 2.2).

Layer k of D, k = 1 ... D, reads at position t the state of layer k - 1 there (of the model itself for k = 1)
and token t + k, and predicts token t + k + 1. Embedding and output layer are the model's own. Each layer is a
decoder layer of the family; Megatron-Core's MultiTokenPredictionBlock runs them, on the last pipeline stage.

Megatron-Core makes the shifted tokens and the loss inside the model. Here they come from outside, since its
shift needs Transformer Engine's packed format and a loss of all tokens' logits at once: `ahead` makes them,
train/policy.py takes the loss through train/logprob.py.

T tokens of a micro-batch, S = T / tp of this rank, D layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlockSubmodules,
    MultiTokenPredictionLayer,
    MultiTokenPredictionLayerSubmodules,
)
from megatron.core.transformer.spec_utils import ModuleSpec


class MTPModel(GPTModel):
    """A GPTModel with multi-token-prediction layers, which run only where `labels` are given.

    labels: int64 [D, T], row k - 1: the token k places ahead, what layer k reads. The last stage's output is
            then [1 + D, S, H], the model's own states first; without labels it is [1, S, H] as ever.
    """

    def _postprocess(
        self, hidden_states: torch.Tensor, *, labels: torch.Tensor | None = None, **others: Any
    ) -> torch.Tensor:
        if self.mtp_process and labels is not None:
            passed_on = ("rotary_pos_emb", "rotary_pos_cos", "rotary_pos_sin", "packed_seq_params")
            hidden_states = self.mtp(
                input_ids=labels,
                position_ids=None,
                hidden_states=hidden_states,
                attention_mask=None,
                embedding=self.embedding,
                **{name: others[name] for name in passed_on},
            )
        if not self.post_process:
            return hidden_states
        rows = 1 if labels is None else 1 + len(labels)
        return hidden_states.view(rows, -1, hidden_states.shape[-1])


class MTPLayer(MultiTokenPredictionLayer):
    """Upstream's layer, given the tokens it reads instead of shifting its predecessor's."""

    def _get_embeddings(
        self,
        input_ids: torch.Tensor,
        position_ids: None,
        embedding: Any,
        hidden_states: torch.Tensor,
        packed_seq_params: Any = None,
    ) -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
        """Embeds the first row of input_ids; the others are for the layers after this one."""
        return input_ids[1:], None, embedding(input_ids=input_ids[:1], position_ids=None), hidden_states

    def _checkpointed_forward(self, forward_func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Without recomputation: upstream's saves arguments that are no tensors, which packed sequences are.

        What is kept is the activations of one layer.
        """
        return forward_func(*args, **kwargs)  # type: ignore[no-any-return]


def mtp_block_spec(
    layer: ModuleSpec, norm: Any, linear: Any, layers: int
) -> MultiTokenPredictionBlockSubmodules:
    """layer: of the decoder; norm, linear: the norm and the projection that is cut over TP ranks."""
    parts = MultiTokenPredictionLayerSubmodules(
        enorm=norm, hnorm=norm, eh_proj=linear, transformer_layer=layer, layer_norm=norm
    )
    return MultiTokenPredictionBlockSubmodules(layer_specs=[ModuleSpec(MTPLayer, submodules=parts)] * layers)


def ahead(values_T: torch.Tensor, lengths: Sequence[int], places: int) -> torch.Tensor:
    """[T], each token's value `places` tokens later in its own sequence; 0 where the sequence has ended.

    lengths: of the sequences that lie behind one another, in tokens.
    """
    length_B = torch.tensor(lengths, device=values_T.device)
    end_T = length_B.cumsum(0).repeat_interleave(length_B)
    later_T = torch.arange(places, places + len(values_T), device=values_T.device)
    inside_T = later_T < end_T
    return torch.where(inside_T, values_T[later_T.where(inside_T, 0)], torch.zeros_like(values_T))
