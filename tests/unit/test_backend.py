"""Whose layers a run uses: the decision, its reasons, its refusals, and the names that follow from it.

Transformer Engine is not here. What parameters it has is written down from Megatron-Core's layer spec; where
Megatron-Core itself says how the two spellings correspond, that is the reference.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from r1mega.models.backend import Found, choose, look
from r1mega.models.families import params
from r1mega.models.names import local_name
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.types import UserError
from tests.tiny import CONFIGS

GPU = Found(cuda=True, transformer_engine="2.11.0", apex=True, fused_gradients=True)


@pytest.mark.parametrize(
    ("wanted", "found", "cp", "name", "why"),
    [
        ("auto", GPU, 1, "transformer_engine", "Transformer Engine 2.11.0 and a GPU are there"),
        ("auto", replace(GPU, cuda=False), 1, "local", "there is no GPU"),
        ("auto", replace(GPU, transformer_engine=None), 1, "local", "Transformer Engine is not installed"),
        ("auto", GPU, 2, "local", "cp 2 cuts tokens otherwise"),
        ("local", GPU, 1, "local", "model.backend = 'local'"),
        ("local", Found(), 1, "local", "model.backend = 'local'"),
        ("transformer_engine", GPU, 1, "transformer_engine", "model.backend = 'transformer_engine'"),
    ],
)
def test_the_choice_and_its_reason(wanted: str, found: Found, cp: int, name: str, why: str) -> None:
    backend = choose(wanted, found, cp=cp)
    assert backend.name == name and why in backend.why
    assert str(backend).startswith(f"{name} ({backend.why}): ")


@pytest.mark.parametrize(
    ("wanted", "found", "options", "parts"),
    [
        ("transformer_engine", Found(), {}, ["there is no GPU", "use 'auto' or 'local'"]),
        ("transformer_engine", Found(cuda=True), {}, ["not installed"]),
        ("transformer_engine", GPU, {"cp": 2}, ["cp 2"]),
        ("auto", Found(), {"fp8": True}, ["model.fp8", "there is no GPU", "use false"]),
        ("local", GPU, {"fp8": True}, ["model.fp8", "model.backend = 'local'"]),
        ("auto", replace(GPU, transformer_engine="2.2.1"), {"fp8": True}, ["2.3 or newer", "2.2.1"]),
    ],
)
def test_what_cannot_be_had_is_refused(
    wanted: str, found: Found, options: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        choose(wanted, found, **options)
    for part in parts:
        assert part in str(refusal.value)


def test_what_each_choice_switches_on() -> None:
    fused = choose("auto", GPU, fp8=True)
    assert fused.fields["moe_grouped_gemm"] and fused.fields["gradient_accumulation_fusion"]
    assert (fused.fields["fp8"], fused.fields["fp8_recipe"]) == ("e4m3", "blockwise")
    assert "FP8 in blocks" in str(fused)
    apex = choose("auto", replace(GPU, transformer_engine=None))
    assert apex.fields == {"gradient_accumulation_fusion": True} and "apex's fused Adam" in str(apex)
    bare = choose("auto", Found(cuda=True))
    assert bare.fields == {"gradient_accumulation_fusion": False} and "torch's fused AdamW" in str(bare)
    assert "torch's AdamW" in str(choose("auto", Found()))


def test_here_it_is_the_local_one() -> None:
    found = look(cuda=torch.cuda.is_available())
    if found.cuda:
        pytest.skip("this machine has a GPU")
    assert choose("auto", found).name == "local"


def fused_names(spec: ModelSpec) -> dict[str, str]:
    """local name -> Transformer Engine's, of every parameter that has another one there."""
    found = {}
    for name in params(spec):
        layer, _, rest = name.rpartition("input_layernorm.weight")
        if layer and spec.mla is None:
            found[name] = f"{layer}self_attention.linear_qkv.layer_norm_weight{rest}"
        if name.endswith("pre_mlp_layernorm.weight"):
            layer = name.removesuffix("pre_mlp_layernorm.weight")
            if f"{layer}mlp.linear_fc1.weight" in params(spec):  # before experts it stays a module of its own
                found[name] = f"{layer}mlp.linear_fc1.layer_norm_weight"
        for lora in ("q", "kv"):
            if name.endswith(f"self_attention.{lora}_layernorm.weight"):
                up = f"linear_{lora}_up_proj.layer_norm_weight"
                found[name] = name.replace(f"{lora}_layernorm.weight", up)
        expert = re.fullmatch(r"(.*\.experts\.)local_experts\.(\d+)\.(linear_fc\d)\.weight", name)
        if expert is not None:
            found[name] = f"{expert[1]}{expert[3]}.weight{expert[2]}"
    return found


@pytest.mark.parametrize(
    ("kind", "others"), [("qwen2_tied", 4 + 4), ("v3", 4 * 2 + 2 + 2 * 8 * 2), ("v3_no_q_lora", 4 + 2 + 32)]
)
def test_every_parameter_of_the_fused_layers_is_found(kind: str, others: int) -> None:
    """With one multi-token-prediction layer where the family has them; and local names stay as they are."""
    import transformers

    family, values = CONFIGS[kind]
    further = {"num_nextn_predict_layers": 1} if kind.startswith("v3") else {}
    spec = load_spec(getattr(transformers, f"{family}Config")(**values | further).to_dict())
    fused = fused_names(spec)
    module = {"v3": 2 + 16, "v3_no_q_lora": 1 + 16}.get(kind, 0)
    assert len(fused) == others + module
    assert {name: local_name(theirs) for name, theirs in fused.items()} == {name: name for name in fused}
    assert [local_name(name) for name in params(spec)] == list(params(spec))
    chunk = {f"1.{name}": f"1.{theirs}" for name, theirs in fused.items()}
    assert all(local_name(theirs) == name for name, theirs in chunk.items())


def test_the_fused_norms_are_those_of_megatron_cores_own_map() -> None:
    """Its local spec stores norms under the fused names, so that checkpoints fit both."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    parts = get_gpt_layer_local_spec(normalization="RMSNorm").submodules
    for ours, theirs in parts.sharded_state_dict_keys_map.items():
        layer = "decoder.layers.3."
        assert local_name(f"{layer}{theirs}weight") == f"{layer}{ours}weight"


def test_attention_is_told_where_sequences_end() -> None:
    from types import SimpleNamespace

    from r1mega.models.packing import pack
    from r1mega.models.transformer_engine import understood

    packing = pack([3, 5, 2])
    assert understood(packing, SimpleNamespace(transformer_impl="local")) is packing
    told = understood(packing, SimpleNamespace(transformer_impl="transformer_engine"))
    assert told.qkv_format == "thd" and told.cu_seqlens_q.tolist() == [0, 3, 8, 10]
    assert told.cu_seqlens_kv.dtype == torch.int32 and told.max_seqlen_q == 5
