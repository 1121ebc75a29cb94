"""Llama 2 and 3: grouped-query attention without biases, from Llama 3.1 on with stretched rope."""

from __future__ import annotations

from r1mega.models.config_json import ConfigJson
from r1mega.models.families.family import Family
from r1mega.models.families.parts import common_facts, dense_model, head_dim, ignored
from r1mega.models.rope import read_rope
from r1mega.models.spec import ModelSpec


def read(config: ConfigJson) -> ModelSpec:
    config.only("attention_bias", [False])
    config.only("mlp_bias", [False])
    rope = read_rope(config, ["default", "llama3"])
    return ModelSpec(**common_facts(config), head_dim=head_dim(config), qkv_bias=False, rope=rope)


FAMILY = Family("llama", "LlamaForCausalLM", read, dense_model, ignored)
