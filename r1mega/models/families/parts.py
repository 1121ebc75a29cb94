"""The parts that families share: facts of every config, and tables of embeddings, norms, attention and MLP.

Names on the left are Megatron-Core's (local layer spec), on the right those of checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from r1mega.models.config_json import ConfigJson
from r1mega.models.families.family import Entry, Rows, Shard, single, stacked
from r1mega.models.spec import ModelSpec

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT = "output_layer.weight"
HEAD = "score.weight"
"""Of a checkpoint: the scalar head, a row of [1, hidden]."""


def common_facts(config: ConfigJson) -> dict[str, Any]:
    """The fields of ModelSpec that every family reads alike."""
    config.only("hidden_act", ["silu"])
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    return {
        "family": config.text("model_type"),
        "hidden": config.integer("hidden_size"),
        "layers": config.integer("num_hidden_layers"),
        "vocab": config.integer("vocab_size"),
        "heads": heads,
        "kv_heads": kv_heads,
        "ffn": config.integer("intermediate_size"),
        "rms_eps": config.number("rms_norm_eps"),
        "tied": config.flag("tie_word_embeddings", False),
        "max_positions": config.integer("max_position_embeddings"),
        "hf": config.values,
    }


def head_dim(config: ConfigJson) -> int:
    """The size of a head: said, or the hidden size shared out. Always even, since rope turns pairs."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if config.values.get("head_dim") is None and hidden % heads:
        raise config.error("hidden_size", f"a multiple of num_attention_heads, {heads} (or give head_dim)")
    size = config.integer("head_dim", hidden // heads)
    if size % 2:
        raise config.error("head_dim", f"an even number (by default hidden_size / heads, {size})")
    return size


def ignored(spec: ModelSpec) -> re.Pattern[str]:
    """Tensors that some checkpoints hold in vain: rope tables, and the output layer of tied models."""
    return re.compile(r".*rotary_emb\.inv_freq" + (r"|lm_head\.weight" if spec.tied else ""))


def ends(spec: ModelSpec) -> Iterator[Entry]:
    """What comes before and after the layers."""
    yield single(EMBEDDING, "model.embed_tokens.weight", (spec.vocab, spec.hidden), Shard(0))
    yield single(FINAL_NORM, "model.norm.weight", (spec.hidden,))
    if spec.scalar:
        yield single(OUTPUT, HEAD, (1, spec.hidden))
    elif not spec.tied:
        yield single(OUTPUT, "lm_head.weight", (spec.vocab, spec.hidden), Shard(0))


def norms(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Entry]:
    """A layer's two norms; `ours` and `theirs` are the layer's prefixes."""
    shape = (spec.hidden,)
    yield single(f"{ours}input_layernorm.weight", f"{theirs}input_layernorm.weight", shape)
    yield single(f"{ours}pre_mlp_layernorm.weight", f"{theirs}post_attention_layernorm.weight", shape)


def grouped_query_attention(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Entry]:
    """linear_qkv stacks, for each key-value head: the queries that share it, the key, the value."""
    size = spec.head_dim
    queries = spec.heads // spec.kv_heads * size

    def interleaved(kind: str) -> Iterator[Rows]:
        for group in range(spec.kv_heads):
            yield Rows(f"{theirs}self_attn.q_proj.{kind}", queries, group * queries)
            yield Rows(f"{theirs}self_attn.k_proj.{kind}", size, group * size)
            yield Rows(f"{theirs}self_attn.v_proj.{kind}", size, group * size)

    qkv = f"{ours}self_attention.linear_qkv"
    yield stacked(f"{qkv}.weight", interleaved("weight"), (spec.hidden,), Shard(0))
    if spec.qkv_bias:
        yield stacked(f"{qkv}.bias", interleaved("bias"), (), Shard(0))
    shape = (spec.hidden, spec.heads * size)
    yield single(
        f"{ours}self_attention.linear_proj.weight", f"{theirs}self_attn.o_proj.weight", shape, Shard(1)
    )


def swiglu(hidden: int, ffn: int, ours: str, theirs: str, *, expert: bool = False) -> Iterator[Entry]:
    """An MLP, or one expert: linear_fc1 stacks gate and up."""
    group: Any = "etp" if expert else "tp"
    gate_up = (Rows(f"{theirs}gate_proj.weight", ffn), Rows(f"{theirs}up_proj.weight", ffn))
    yield stacked(f"{ours}linear_fc1.weight", gate_up, (hidden,), Shard(0, group, parts=2))
    yield single(f"{ours}linear_fc2.weight", f"{theirs}down_proj.weight", (hidden, ffn), Shard(1, group))


def layer_prefixes(spec: ModelSpec) -> Iterable[tuple[int, str, str]]:
    """(layer, our prefix, their prefix) of every layer."""
    return ((i, f"decoder.layers.{i}.", f"model.layers.{i}.") for i in range(spec.layers))


def dense_model(spec: ModelSpec) -> Iterator[Entry]:
    """The whole table of a dense model with grouped-query attention."""
    yield from ends(spec)
    for _, ours, theirs in layer_prefixes(spec):
        yield from norms(spec, ours, theirs)
        yield from grouped_query_attention(spec, ours, theirs)
        yield from swiglu(spec.hidden, spec.ffn, f"{ours}mlp.", f"{theirs}mlp.")
