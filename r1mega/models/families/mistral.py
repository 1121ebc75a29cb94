"""Mistral: grouped-query attention without biases, as Llama. The worked example of docs/adding_a_model.md."""

from __future__ import annotations

from r1mega.models.config_json import ConfigJson
from r1mega.models.families.family import Family
from r1mega.models.families.parts import common_facts, dense_model, head_dim, ignored
from r1mega.models.rope import read_rope
from r1mega.models.spec import ModelSpec


def read(config: ConfigJson) -> ModelSpec:
    if config.values.get("sliding_window") is not None:  # of the first 7B; later ones attend to everything
        raise config.error("sliding_window", "null: every layer attends to all that came before")
    rope = read_rope(config, ["default"])
    return ModelSpec(**common_facts(config), head_dim=head_dim(config), qkv_bias=False, rope=rope)


FAMILY = Family("mistral", "MistralForCausalLM", read, dense_model, ignored)
