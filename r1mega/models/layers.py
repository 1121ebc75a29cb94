"""Our own norm, packed positions and core attention for Megatron-Core's local layer spec.

They are plugged in through ModuleSpec, so no upstream code is changed. They run on CPU and GPU without
Transformer Engine, with sequence and context parallelism and packed sequences, for multi-head, grouped-query
and multi-latent attention. W tokens of this context-parallel rank, T of all of them, B sequences, S longest
sequence of a bucket, N heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear, gather_from_sequence_parallel_region
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch.nn.attention.bias import causal_lower_right

from r1mega import device
from r1mega.models.packing import Bucket, Packing


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm; its weight's gradient is summed over TP ranks under sequence parallelism."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(
            torch.ones(hidden_size, dtype=config.params_dtype, device=device.current())
        )
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class DuplicatedLinear(torch.nn.Linear):
    """A linear layer that each TP rank holds whole: MLA's down-projections.

    Megatron-Core's local spec puts a ColumnParallelLinear there, which gives wrong gradients with TP > 1
    (0.16.1), and its MLA accepts no other class through the spec, hence the exchange after construction.
    Under sequence parallelism it sees T / tp tokens, so its gradient is summed over TP ranks.
    """

    def __init__(self, config: Any, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False, dtype=config.params_dtype, device=device.current())
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class OutputLayer(ColumnParallelLinear):
    """Megatron-Core's output layer, which lets the hidden states through: the model ends with [1, S, H].

    What wants logits multiplies them with `output_weight` itself, and not all tokens at once
    (train/logprob.py). The model makes its own layer without asking a spec, so this one takes its place and
    its weight afterwards.
    """

    def __init__(self, replaced: ColumnParallelLinear) -> None:
        super().__init__(
            replaced.input_size,
            replaced.output_size,
            config=replaced.config,
            init_method=replaced.config.init_method,
            bias=False,
            skip_weight_param_allocation=True,
            tp_group=replaced.tp_group,
        )
        self.weight = replaced.weight  # None when it is the embedding of the same stage

    def forward(self, input_: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        return input_, None


def output_weight(model: GPTModel) -> torch.Tensor:
    """[V / tp, H], this TP rank's part of the output layer, which the last pipeline stage has."""
    own = model.output_layer.weight
    weight: torch.Tensor = model.shared_embedding_or_output_weight() if own is None else own
    return weight


class CoreAttention(MegatronModule):
    """Causal attention within each packed sequence, through torch's scaled_dot_product_attention.

    Under context parallelism a rank has the queries of its own tokens and gathers everyone's keys and values;
    in the backward pass their gradients are summed onto the ranks that they came from.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale
        self.context_group = pg_collection.cp if config.context_parallel_size > 1 else None

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        packed_seq_params: Packing,
        **_: Any,
    ) -> torch.Tensor:
        """query, key, value: [W, 1, N, D] or, from MLA, [W, N, D]; returns [W, 1, N * D of value]."""
        query, key, value = (x.flatten(0, 1) if x.ndim == 4 else x for x in (query, key, value))
        packing = packed_seq_params
        assert packing.order_T is not None
        if self.context_group is not None:
            key, value = self._everyones(key, value)
        outputs = [self._bucket(query, key, value, bucket) for bucket in packing.buckets]
        together = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return together.index_select(0, packing.order_T)[:, None]

    def _everyones(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[T, N, D] each, rank by rank, in one exchange."""
        both = torch.cat([key, value], dim=-1)
        gathered = gather_from_sequence_parallel_region(
            both, tensor_parallel_output_grad=True, group=self.context_group
        )
        return tuple(gathered.split([key.shape[-1], value.shape[-1]], dim=-1))

    def _bucket(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bucket: Bucket
    ) -> torch.Tensor:
        """The attention output of a bucket's real tokens: [R, N * D]."""

        def padded(x: torch.Tensor, rows: torch.Tensor, width: int) -> torch.Tensor:
            """[W or T, N, D] -> [B, N, width, D]."""
            return x.index_select(0, rows).view(bucket.sequences, width, *x.shape[1:]).transpose(1, 2)

        square = bucket.width == bucket.keys
        out = F.scaled_dot_product_attention(
            padded(query, bucket.rows_BS, bucket.width),
            padded(key, bucket.keys_BK, bucket.keys),
            padded(value, bucket.keys_BK, bucket.keys),
            attn_mask=None if square else causal_lower_right(bucket.width, bucket.keys),
            is_causal=square,
            scale=self.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        flat = out.transpose(1, 2).flatten(2).flatten(0, 1)  # [B * S, N * D]
        return flat.index_select(0, bucket.real_R)


class PackedSelfAttention(SelfAttention):
    """Multi-head and grouped-query attention whose rope follows each token's position in its own sequence."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        positions = kwargs["packed_seq_params"].positions_T
        kwargs["rotary_pos_emb"] = kwargs["rotary_pos_emb"].index_select(0, positions)
        return super().forward(hidden_states, attention_mask, **kwargs)


class PackedMLASelfAttention(MLASelfAttention):
    """Multi-latent attention with the same: upstream builds its rope table inside, so it is indexed there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rotary_pos_emb: Any = _PackedRotary(self.rotary_pos_emb)
        config = self.config
        if config.q_lora_rank is not None:
            self.linear_q_down_proj = DuplicatedLinear(config, config.hidden_size, config.q_lora_rank)
        self.linear_kv_down_proj = DuplicatedLinear(
            config, config.hidden_size, config.kv_lora_rank + config.qk_pos_emb_head_dim
        )

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        # Set at each call, so a recomputation in the backward pass sees its own micro-batch.
        self.rotary_pos_emb.positions_T = kwargs["packed_seq_params"].positions_T
        return super().forward(hidden_states, attention_mask, **kwargs)


class _PackedRotary(torch.nn.Module):
    def __init__(self, rotary: Any) -> None:
        super().__init__()
        rotary.cp_group = None  # of the whole table: each token's row is taken by its position
        self.rotary = rotary
        self.positions_T: torch.Tensor | None = None

    def get_rotary_seq_len(self, *args: Any) -> int:
        return self.rotary.get_rotary_seq_len(*args)  # type: ignore[no-any-return, operator]

    def forward(self, length: int, **kwargs: Any) -> Any:
        """[W, 1, D] angles (yarn: and its attention factor); MLA's queries are [W, N, D] when packed."""
        table = self.rotary(length, **kwargs)
        angles, *rest = table if isinstance(table, tuple) else (table,)
        assert self.positions_T is not None
        packed = angles.index_select(0, self.positions_T).squeeze(1)
        return (packed, *rest) if rest else packed
