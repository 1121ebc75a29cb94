"""Qwen2 and Qwen2.5 (and what is distilled into them): grouped-query attention with biases on q, k and v."""

from __future__ import annotations

from r1mega.models.config_json import ConfigJson
from r1mega.models.families.family import Family
from r1mega.models.families.parts import common_facts, dense_model, head_dim, ignored
from r1mega.models.rope import read_rope
from r1mega.models.spec import ModelSpec


def read(config: ConfigJson) -> ModelSpec:
    config.only("use_sliding_window", [False], "every layer attends to all that came before")
    layers = config.integer("num_hidden_layers")
    config.only("layer_types", [["full_attention"] * layers], "every layer attends to all that came before")
    rope = read_rope(config, ["default"])
    return ModelSpec(**common_facts(config), head_dim=head_dim(config), qkv_bias=True, rope=rope)


FAMILY = Family("qwen2", "Qwen2ForCausalLM", read, dense_model, ignored)
