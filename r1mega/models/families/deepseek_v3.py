"""DeepSeek-V3 and R1 (arXiv 2412.19437): multi-latent attention, sigmoid-routed experts beside a shared one.

A checkpoint's multi-token-prediction modules are layers behind the last one: a decoder layer with two norms
and a projection before it. They bring copies of the embedding and the output layer, which they share.
"""

from __future__ import annotations

from collections.abc import Iterator

from r1mega.models.config_json import ConfigJson
from r1mega.models.families.family import Entry, Family, Param, Rows, Shard, single
from r1mega.models.families.parts import common_facts, ends, ignored, layer_prefixes, norms, swiglu
from r1mega.models.rope import read_rope
from r1mega.models.spec import MLA, ModelSpec, MoE


def read(config: ConfigJson) -> ModelSpec:
    config.only("attention_bias", [False])
    facts = common_facts(config)
    if facts["kv_heads"] != facts["heads"]:
        raise config.error("num_key_value_heads", f"that of num_attention_heads, {facts['heads']}")
    mla = _read_mla(config)
    mtp = config.integer("num_nextn_predict_layers", 0, least=0)
    if mtp and facts["tied"]:
        raise config.error("tie_word_embeddings", "false for a model with multi-token prediction")
    return ModelSpec(
        **facts,
        head_dim=mla.nope + mla.rope,
        qkv_bias=False,
        rope=read_rope(config, ["default", "yarn"]),
        mla=mla,
        moe=_read_moe(config),
        mtp_layers=mtp,
    )


def entries(spec: ModelSpec) -> Iterator[Entry]:
    assert spec.moe is not None
    yield from ends(spec)
    for i, ours, theirs in layer_prefixes(spec):
        yield from norms(spec, ours, theirs)
        yield from _attention(spec, ours, theirs)
        if i in spec.moe_layers:
            yield from _experts(spec, f"{ours}mlp.", f"{theirs}mlp.")
        else:
            yield from swiglu(spec.hidden, spec.ffn, f"{ours}mlp.", f"{theirs}mlp.")
    for ours, theirs in _mtp_prefixes(spec):
        yield from _mtp(spec, ours, theirs)


def copies(spec: ModelSpec) -> dict[str, str]:
    """What a multi-token-prediction module shares with the model (section 2.2) and brings all the same."""
    found = {}
    for _, theirs in _mtp_prefixes(spec):
        found[f"{theirs}embed_tokens.weight"] = "model.embed_tokens.weight"
        found[f"{theirs}shared_head.head.weight"] = "lm_head.weight"
    return found


FAMILY = Family("deepseek_v3", "DeepseekV3ForCausalLM", read, entries, ignored, copies)


def _mtp_prefixes(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """(our prefix, their prefix) of every multi-token-prediction module."""
    return ((f"mtp.layers.{d}.", f"model.layers.{spec.layers + d}.") for d in range(spec.mtp_layers))


def _mtp(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Entry]:
    hidden = spec.hidden
    yield single(f"{ours}enorm.weight", f"{theirs}enorm.weight", (hidden,))
    yield single(f"{ours}hnorm.weight", f"{theirs}hnorm.weight", (hidden,))
    yield single(f"{ours}eh_proj.weight", f"{theirs}eh_proj.weight", (hidden, 2 * hidden), Shard(0))
    yield single(f"{ours}final_layernorm.weight", f"{theirs}shared_head.norm.weight", (hidden,))
    block = f"{ours}transformer_layer."
    yield from norms(spec, block, theirs)
    yield from _attention(spec, block, theirs)
    yield from _experts(spec, f"{block}mlp.", f"{theirs}mlp.")


def _read_mla(config: ConfigJson) -> MLA:
    config.only("rope_interleave", [True])
    rope = config.integer("qk_rope_head_dim")
    if rope % 2:
        raise config.error("qk_rope_head_dim", "an even number, since rope turns pairs")
    direct = "q_lora_rank" in config.values and config.values["q_lora_rank"] is None  # missing is a mistake
    return MLA(
        q_lora=None if direct else config.integer("q_lora_rank"),
        kv_lora=config.integer("kv_lora_rank"),
        nope=config.integer("qk_nope_head_dim"),
        rope=rope,
        v=config.integer("v_head_dim"),
    )


def _read_moe(config: ConfigJson) -> MoE:
    config.only("scoring_func", ["sigmoid"])
    config.only("topk_method", ["noaux_tc"])
    config.only("moe_layer_freq", [1])
    moe = MoE(
        experts=config.integer("n_routed_experts"),
        topk=config.integer("num_experts_per_tok"),
        groups=config.integer("n_group"),
        topk_groups=config.integer("topk_group"),
        ffn=config.integer("moe_intermediate_size"),
        shared_experts=config.integer("n_shared_experts"),
        first_dense=config.integer("first_k_dense_replace", least=0),
        scale=config.number("routed_scaling_factor"),
        norm_topk=config.flag("norm_topk_prob"),
    )
    _check_routing(config, moe)
    return moe


def _check_routing(config: ConfigJson, moe: MoE) -> None:
    """Refuse impossible choices, and those that Megatron-Core makes otherwise than the checkpoint's model."""
    if moe.first_dense >= config.integer("num_hidden_layers"):
        raise config.error("first_k_dense_replace", "less than num_hidden_layers: some layer has experts")
    if moe.experts % moe.groups:
        raise config.error("n_group", f"a divisor of n_routed_experts, {moe.experts}")
    if moe.topk_groups > moe.groups:
        raise config.error("topk_group", f"at most n_group, {moe.groups}")
    reachable = moe.experts // moe.groups * moe.topk_groups
    if moe.topk > reachable:
        raise config.error("num_experts_per_tok", f"at most {reachable}, the experts of topk_group groups")
    if moe.norm_topk != (moe.topk > 1):
        raise config.error("norm_topk_prob", "true with several experts a token and false with one")
    # A group's score is the sum of its best 2 experts; Megatron-Core takes the best topk / topk_groups.
    if moe.topk_groups < moe.groups and moe.topk // moe.topk_groups != 2:
        raise config.error(
            "num_experts_per_tok",
            f"{2 * moe.topk_groups} or {2 * moe.topk_groups + 1}, two for each of topk_group groups, "
            "or any number where topk_group equals n_group",
        )


def _attention(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Entry]:
    assert spec.mla is not None
    mla, hidden, heads = spec.mla, spec.hidden, spec.heads
    ours, theirs = f"{ours}self_attention.", f"{theirs}self_attn."
    queries, keys_values = heads * (mla.nope + mla.rope), heads * (mla.nope + mla.v)
    if mla.q_lora is None:
        yield single(f"{ours}linear_q_proj.weight", f"{theirs}q_proj.weight", (queries, hidden), Shard(0))
    else:
        yield single(f"{ours}linear_q_down_proj.weight", f"{theirs}q_a_proj.weight", (mla.q_lora, hidden))
        yield single(f"{ours}q_layernorm.weight", f"{theirs}q_a_layernorm.weight", (mla.q_lora,))
        yield single(
            f"{ours}linear_q_up_proj.weight", f"{theirs}q_b_proj.weight", (queries, mla.q_lora), Shard(0)
        )
    down = (mla.kv_lora + mla.rope, hidden)
    yield single(f"{ours}linear_kv_down_proj.weight", f"{theirs}kv_a_proj_with_mqa.weight", down)
    yield single(f"{ours}kv_layernorm.weight", f"{theirs}kv_a_layernorm.weight", (mla.kv_lora,))
    up = (keys_values, mla.kv_lora)
    yield single(f"{ours}linear_kv_up_proj.weight", f"{theirs}kv_b_proj.weight", up, Shard(0))
    yield single(f"{ours}linear_proj.weight", f"{theirs}o_proj.weight", (hidden, heads * mla.v), Shard(1))


def _experts(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Entry]:
    assert spec.moe is not None
    moe, hidden = spec.moe, spec.hidden
    yield single(f"{ours}router.weight", f"{theirs}gate.weight", (moe.experts, hidden))
    bias = Rows(f"{theirs}gate.e_score_correction_bias", moe.experts)
    yield Entry(f"{ours}router.expert_bias", Param((moe.experts,), buffer=True), (bias,))
    shared = moe.ffn * moe.shared_experts
    yield from swiglu(hidden, shared, f"{ours}shared_experts.", f"{theirs}shared_experts.")
    for e in range(moe.experts):
        expert = f"{theirs}experts.{e}."
        yield from swiglu(hidden, moe.ffn, f"{ours}experts.local_experts.{e}.", expert, expert=True)
