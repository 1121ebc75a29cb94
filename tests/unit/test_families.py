"""Specs, tables and shards of the three families, against transformers' checkpoints and real inventories."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from r1mega.models.blocks import Block, Box, check_cover, extents, invert
from r1mega.models.families import checkpoint_shapes, copies, params, table
from r1mega.models.mtp import ahead
from r1mega.models.mtp_weights import check_copies, mtp_tensors, without_mtp
from r1mega.models.shards import check_layout, export_plan, import_blocks
from r1mega.models.spec import MLA, ModelSpec, MoE, Rope, load_spec
from r1mega.parallel import Layout
from r1mega.types import UserError
from tests.tiny import CONFIGS, InMemory, make

Arrays = dict[str, np.ndarray]
CHECKPOINTS = (
    "qwen2_tied", "qwen2_untied", "llama3", "llama_tied", "mistral", "v3", "v3_yarn", "v3_no_q_lora"
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each tiny model, as transformers saves it."""
    root = tmp_path_factory.mktemp("models")
    for kind in CHECKPOINTS:
        make(kind).save_pretrained(root / kind)
    return {kind: root / kind for kind in CHECKPOINTS}


def real(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "model_configs" / name).read_text())


def prove(spec: ModelSpec) -> int:
    """The table covers both sides once; the number of elements."""
    blocks = table(spec)
    check_cover(blocks, {name: param.shape for name, param in params(spec).items()})
    check_cover(invert(blocks), checkpoint_shapes(spec))
    return sum(block.volume for block in blocks)


def stored(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a folder's only weight file, through the safetensors library."""
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


# --- tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_table_has_the_very_tensors_that_transformers_saves(folders: dict[str, Path], kind: str) -> None:
    spec = load_spec(folders[kind])
    assert checkpoint_shapes(spec) == stored(folders[kind])
    prove(spec)


def test_all_tiny_models_are_tried() -> None:
    assert set(CHECKPOINTS) == set(CONFIGS)


REAL = {
    "deepseek_v3": ("deepseek_v3.config.json", {}),
    "llama3.1-8b": ("llama3.1-8b.config.json", {}),
    "cogito-14b": ("cogito_v1_qwen2.5-14b.config.json", {}),
    "llama3-70b_reflection": ("llama3-70b_reflection.config.json", {}),
    "llama3.3-70b": ("llama3-70b_reflection.config.json", {"vocab_size": 128256}),
    "llama3.2-1b": (
        "llama3.1-8b.config.json",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "head_dim": 64,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "llama3.2-3b": (
        "llama3.1-8b.config.json",
        {
            "hidden_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
    ),
}
QWEN_SIZES = {  # hidden, layers, heads, key-value heads, ffn, vocabulary, tied
    "qwen2.5-1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-math-1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-7b": (3584, 28, 28, 4, 18944, 152064, False),
    "qwen2.5-14b": (5120, 48, 40, 8, 13824, 152064, False),
    "qwen2.5-32b": (5120, 64, 40, 8, 27648, 152064, False),
}
QWEN_KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def real_spec(shared: Path, name: str) -> ModelSpec:
    if name in QWEN_SIZES:
        values = real(shared, QWEN) | dict(zip(QWEN_KEYS, QWEN_SIZES[name], strict=True))
        math = {"rope_theta": 10000.0, "max_position_embeddings": 4096} if "math" in name else {}
        return load_spec(values | math)
    config, changes = REAL[name]
    return load_spec(real(shared, config) | changes)


# Of DeepSeek-V3's multi-token-prediction module, by hand: experts, the shared one, router and its bias,
# attention, norms, eh_proj. What it shares with the model does not count.
MODULE = (
    257 * 3 * 7168 * 2048
    + 256 * (7168 + 1)
    + 7168 * (1536 + 576 + 16384) + 1536 * 24576 + 512 * 32768 + 1536 + 512
    + 5 * 7168
    + 2 * 7168 * 7168
)  # fmt: skip
# Parameters as published in the models' safetensors metadata.
PUBLISHED = {
    "deepseek_v3": 671_026_419_200 + MODULE,
    "llama3.1-8b": 8_030_261_248,
    "cogito-14b": 29_531_895_808 // 2,  # bytes in bfloat16: its index's total_size
    "llama3-70b_reflection": 70_553_804_800,
    "llama3.3-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-math-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
}


@pytest.mark.parametrize("name", [*REAL, *QWEN_SIZES])
def test_every_real_config_loads_and_counts_what_its_model_holds(shared: Path, name: str) -> None:
    spec = real_spec(shared, name)
    sizes = {n: param.shape for n, param in params(spec).items() if not param.buffer}
    buffers = sum(math.prod(p.shape) for p in params(spec).values() if p.buffer)
    assert sum(map(math.prod, sizes.values())) + buffers == PUBLISHED[name]
    if spec.moe is None:  # its layers are all alike, and the long proof of all of them is the next test's
        prove(replace(spec, layers=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in (*REAL, *QWEN_SIZES) if n != "deepseek_v3"])
def test_the_whole_table_of_real_models_covers_both_sides_once(shared: Path, name: str) -> None:
    assert prove(real_spec(shared, name)) == PUBLISHED[name]


def test_the_whole_table_of_deepseek_v3_covers_both_sides_once(shared: Path) -> None:
    """With the copies that its checkpoint holds; and it has as many tensors as real headers list.

    The headers are those of V3.2, which have, besides, 7 tensors of an indexer a layer, and a tensor of
    scales for each matrix in FP8: all but the embeddings, output layers, routers and eh_proj.
    """
    spec = real_spec(shared, "deepseek_v3")
    blocks, shapes = table(spec, with_copies=True), checkpoint_shapes(spec)
    check_cover(invert(blocks), shapes)
    own = [block for block in blocks if block.src not in copies(spec)]
    check_cover(own, {name: param.shape for name, param in params(spec).items()})
    assert sum(block.volume for block in own) == PUBLISHED["deepseek_v3"]
    plain = ("embed_tokens.weight", "head.weight", "mlp.gate.weight", "eh_proj.weight")
    scaled = [name for name, shape in shapes.items() if len(shape) == 2 and not name.endswith(plain)]
    inventory = real(shared, "tensor_inventory.json")
    headers = inventory["deepseek_v3_family (V3.2-Speciale headers; V3/R1 lack the indexer rows)"]
    assert len(shapes) + len(scaled) + 7 * 62 == headers["tensors_with_scales"]


def test_deepseek_v3_has_the_names_and_shapes_of_its_headers(shared: Path) -> None:
    """The patterns were read from real safetensors headers; {a,b} and 3-60 stand for several names."""
    inventory = real(shared, "tensor_inventory.json")
    patterns = inventory["deepseek_v3_family (V3.2-Speciale headers; V3/R1 lack the indexer rows)"][
        "patterns"
    ]
    spec = load_spec(shared / "model_configs" / "deepseek_v3.config.json")
    expected = {
        name: tuple(shape)
        for pattern, shape in patterns.items()
        if "scale_inv" not in pattern
        for name in expanded(pattern.removesuffix(" (MTP)"), spec)
    }
    found = checkpoint_shapes(spec)
    alone = {n: shape for n, shape in found.items() if n in expected or not n.startswith("model.layers.61.")}
    assert alone == expected
    layer, block = "model.layers.61.", "model.layers.60."  # the last layer's block is one with experts
    rest = {n.removeprefix(layer): found[n] for n in found.keys() - alone.keys()}
    assert rest.pop("embed_tokens.weight") == (129280, 7168)
    assert rest == {n.removeprefix(block): found[n] for n in found if n.startswith(block)}


def expanded(pattern: str, spec: ModelSpec) -> Iterator[str]:
    assert spec.moe is not None
    for mark, values in (("{L}", range(spec.layers)), ("{E}", range(spec.moe.experts))):
        if mark in pattern:
            for value in values:
                yield from expanded(pattern.replace(mark, str(value)), spec)
            return
    if found := re.search(r"(\d+)-(\d+)", pattern):
        for value in range(int(found[1]), int(found[2]) + 1):
            yield from expanded(pattern.replace(found[0], str(value)), spec)
    elif found := re.search(r"{(\w+),(\w+)}", pattern):
        for choice in found.groups():
            yield from expanded(pattern.replace(found[0], choice), spec)
    else:
        yield pattern


@pytest.mark.parametrize("size", ["3B", "7B", "14B"])
def test_qwen_has_the_number_of_tensors_of_its_headers(shared: Path, size: str) -> None:
    known = real(shared, "tensor_inventory.json")["qwen2"][f"Qwen2.5-Coder-{size}-Instruct"]
    config = real(shared, "cogito_v1_qwen2.5-14b.config.json") | {
        "hidden_size": known["hidden"],
        "num_hidden_layers": known["layers"],
        "num_attention_heads": known["heads"],
        "num_key_value_heads": known["kv"],
        "intermediate_size": known["inter"],
        "vocab_size": known["vocab"],
        "tie_word_embeddings": known["tie"],
    }
    spec = load_spec(config)
    assert len(checkpoint_shapes(spec)) == known["tensors"]
    assert spec.head_dim == known["head_dim"]
    prove(spec)


def test_fused_parameters_are_laid_out_as_megatron_reads_them() -> None:
    """qkv: for each of 2 key-value heads its 2 queries, key and value of 8 rows; fc1: gate, then up."""
    model = make("qwen2_untied")
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    spec = load_spec(model.config.to_dict())
    built = filled(table(spec), tensors, {name: param.shape for name, param in params(spec).items()})
    attention, mlp = "model.layers.1.self_attn.", "model.layers.1.mlp."
    for kind in ("weight", "bias"):
        q, k, v = (tensors[f"{attention}{part}_proj.{kind}"] for part in "qkv")
        expected = np.concatenate([q[:16], k[:8], v[:8], q[16:], k[8:], v[8:]])
        np.testing.assert_array_equal(built[f"decoder.layers.1.self_attention.linear_qkv.{kind}"], expected)
    gate_up = np.concatenate([tensors[f"{mlp}gate_proj.weight"], tensors[f"{mlp}up_proj.weight"]])
    np.testing.assert_array_equal(built["decoder.layers.1.mlp.linear_fc1.weight"], gate_up)


def filled(blocks: list[Block], sources: Arrays, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    result = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for block in blocks:
        part = sources[block.src][block.src_box.slices]
        result[block.dst][block.dst_box.slices] = part.reshape(block.dst_box.shape)
    return result


# --- specs ------------------------------------------------------------------------------


def test_deepseek_v3_facts(shared: Path) -> None:
    spec = load_spec(shared / "model_configs" / "deepseek_v3.config.json")
    assert spec.mla == MLA(q_lora=1536, kv_lora=512, nope=128, rope=64, v=128)
    assert spec.moe == MoE(256, 8, 8, 4, ffn=2048, shared_experts=1, first_dense=3, scale=2.5, norm_topk=True)
    assert spec.rope == Rope("yarn", 10000.0, 40.0, 4096, mscale=1.0, mscale_all_dim=1.0)
    assert (spec.layers, spec.hidden, spec.heads, spec.head_dim, spec.mtp_layers) == (61, 7168, 128, 192, 1)
    assert spec.moe_layers == range(3, 61)
    assert spec.hf == real(shared, "deepseek_v3.config.json")


def test_llama_facts(shared: Path) -> None:
    spec = load_spec(shared / "model_configs" / "llama3.1-8b.config.json")
    assert spec.rope == Rope("llama3", 500000.0, 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    assert (spec.kv_heads, spec.head_dim, spec.ffn, spec.rms_eps) == (8, 128, 14336, 1e-5)
    assert (spec.mla, spec.moe, spec.tied, spec.qkv_bias) == (None, None, False, False)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("deepseek_v3.config.json", "DeepseekV3Config"),
        ("llama3.1-8b.config.json", "LlamaConfig"),
        ("llama3-70b_reflection.config.json", "LlamaConfig"),
        ("cogito_v1_qwen2.5-14b.config.json", "Qwen2Config"),
    ],
)
def test_both_spellings_say_the_same(shared: Path, tmp_path: Path, config: str, name: str) -> None:
    """Old files of real models, against what transformers 5 makes of them when it saves them anew."""
    import transformers

    old = real(shared, config)
    getattr(transformers, name).from_dict(old).save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in new and "rope_theta" not in new
    assert replace(load_spec(tmp_path), hf={}) == replace(load_spec(old), hf={})


V3, QWEN, LLAMA = "deepseek_v3.config.json", "cogito_v1_qwen2.5-14b.config.json", "llama3.1-8b.config.json"
ABSENT: Any = object()


@pytest.mark.parametrize(
    ("config", "change", "parts"),
    [
        (QWEN, {"model_type": "mamba"}, ['model_type is "mamba"', "deepseek_v3, llama, mistral, qwen2"]),
        (QWEN, {"model_type": ABSENT}, ["model_type is missing"]),
        (
            QWEN,
            {"architectures": ["Qwen2ForSequenceClassification"]},
            ["Classification", '"Qwen2ForCausalLM"'],
        ),
        (QWEN, {"hidden_size": ABSENT}, ["hidden_size is missing", "an integer of at least 1"]),
        (QWEN, {"hidden_size": "5120"}, ['hidden_size is "5120"', "an integer"]),
        (QWEN, {"hidden_size": 5121}, ["hidden_size is 5121", "a multiple of num_attention_heads, 40"]),
        (QWEN, {"num_hidden_layers": 0}, ["num_hidden_layers is 0"]),
        (
            QWEN,
            {"num_key_value_heads": 7},
            ["num_key_value_heads is 7", "a divisor of num_attention_heads, 40"],
        ),
        (QWEN, {"rms_norm_eps": True}, ["rms_norm_eps is true", "a number above 0"]),
        (QWEN, {"tie_word_embeddings": 1}, ["tie_word_embeddings is 1", "true or false"]),
        (QWEN, {"hidden_act": "gelu"}, ['hidden_act is "gelu"', '"silu"']),
        (QWEN, {"use_sliding_window": True}, ["use_sliding_window is true", "false"]),
        (QWEN, {"layer_types": ["sliding_attention"] * 48}, ["layer_types", "full_attention"]),
        (QWEN, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ['rope_type is "dynamic"', '"default"']),
        (QWEN, {"rope_scaling": ["yarn"]}, ["rope_scaling", "an object or null"]),
        (QWEN, {"quantization_config": {"quant_method": "fp8"}}, ['quant_method "fp8"', "dequantise"]),
        (LLAMA, {"attention_bias": True}, ["attention_bias is true", "false"]),
        (LLAMA, {"mlp_bias": True}, ["mlp_bias is true", "false"]),
        (
            LLAMA,
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096},
            ["sliding_window is 4096", "null"],
        ),
        (LLAMA, {"head_dim": 127}, ["head_dim is 127", "even"]),
        (LLAMA, {"partial_rotary_factor": 0.5}, ["partial_rotary_factor is 0.5"]),
        (
            LLAMA,
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            ["original_max_position_embeddings"],
        ),
        (
            LLAMA,
            {"rope_scaling": {"rope_type": "default", "factor": 8.0}},
            ["factor is not built", '"default"'],
        ),
        (LLAMA, {"rope_scaling": {"rope_type": "llama3", "type": "yarn"}}, ['"yarn"', '"llama3"']),
        (V3, {"attention_bias": True}, ["attention_bias is true"]),
        (V3, {"scoring_func": "softmax"}, ['scoring_func is "softmax"', '"sigmoid"']),
        (V3, {"topk_method": "greedy"}, ['topk_method is "greedy"', '"noaux_tc"']),
        (V3, {"q_lora_rank": ABSENT}, ["q_lora_rank is missing"]),
        (V3, {"rope_interleave": False}, ["rope_interleave is false"]),
        (V3, {"num_key_value_heads": 64}, ["num_key_value_heads is 64", "128"]),
        (V3, {"n_group": 7}, ["n_group is 7", "a divisor of n_routed_experts, 256"]),
        (V3, {"topk_group": 9}, ["topk_group is 9", "at most n_group, 8"]),
        (V3, {"num_experts_per_tok": 129}, ["num_experts_per_tok is 129", "at most 128"]),
        (V3, {"num_experts_per_tok": 4}, ["num_experts_per_tok is 4", "8 or 9"]),
        (V3, {"norm_topk_prob": False}, ["norm_topk_prob is false"]),
        (V3, {"first_k_dense_replace": 61}, ["first_k_dense_replace is 61"]),
        (V3, {"n_shared_experts": None}, ["n_shared_experts is null"]),
        (V3, {"num_nextn_predict_layers": -1}, ["num_nextn_predict_layers is -1"]),
        (V3, {"tie_word_embeddings": True}, ["tie_word_embeddings is true", "multi-token prediction"]),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(
    shared: Path, config: str, change: dict[str, Any], parts: list[str]
) -> None:
    values = {key: value for key, value in (real(shared, config) | change).items() if value is not ABSENT}
    with pytest.raises(UserError) as refusal:
        load_spec(values)
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mscale": 0.7, "mscale_all_dim": 0}, "both or neither"),
        ({"mscale": None, "mscale_all_dim": 1.0}, "both or neither"),
        ({"truncate": False}, "truncate is false"),
        ({"attention_factor": 1.2}, "attention_factor is not built"),
        ({"factor": -1}, "factor is -1"),
    ],
)
def test_a_yarn_that_transformers_computes_otherwise_is_refused(
    shared: Path, change: dict[str, Any], part: str
) -> None:
    values = real(shared, V3)
    values["rope_scaling"] |= change
    with pytest.raises(UserError, match=re.escape(part)):
        load_spec(values)


@pytest.mark.parametrize(
    ("content", "part"), [(None, "there is no"), ("{", "is not valid JSON"), ("[1]", "holds a JSON list")]
)
def test_a_config_that_cannot_be_read(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=part):
        load_spec(tmp_path)


# --- shards -----------------------------------------------------------------------------

DENSE_LAYOUTS = (
    Layout(),
    Layout(tp=2),
    Layout(pp=2),
    Layout(pp=4),
    Layout(dp=2),
    Layout(cp=2),
    Layout(tp=2, pp=2, dp=2, cp=2),
)
EXPERT_LAYOUTS = (
    Layout(ep=2, dp=2),
    Layout(ep=2, dp=4),
    Layout(ep=4, dp=2, cp=2),
    Layout(tp=2, ep=2),
    Layout(tp=2, etp=2),
    Layout(tp=2, ep=4, dp=2),
    Layout(tp=2, ep=2, etp=2, dp=2),
    Layout(tp=2, pp=2, ep=2, dp=2),
    Layout(tp=2, pp=4, ep=2, etp=2, dp=2, cp=2),
)
CASES = [
    *((kind, layout) for kind in ("qwen2_tied", "llama3") for layout in DENSE_LAYOUTS),
    *(("v3", layout) for layout in (Layout(), Layout(pp=2), Layout(dp=2), *EXPERT_LAYOUTS)),
    *(("v3_mtp", layout) for layout in (Layout(), Layout(pp=2), Layout(tp=2, pp=2, ep=2, dp=2))),
]


def spec_of(kind: str) -> ModelSpec:
    import transformers

    name, values = CONFIGS[kind.removesuffix("_mtp")]
    depths = {"num_nextn_predict_layers": 2} if kind.endswith("_mtp") else {}
    return load_spec(getattr(transformers, f"{name}Config")(**values | depths).to_dict())


@pytest.mark.parametrize(("kind", "layout"), CASES, ids=str)
def test_import_gives_each_rank_its_part_and_export_covers_the_checkpoint_once(
    kind: str, layout: Layout
) -> None:
    """Numbered arrays go to all ranks and come back from them; every element is written by one rank."""
    spec = spec_of(kind)
    check_layout(spec, layout)
    shapes = checkpoint_shapes(spec)
    rng = np.random.default_rng(0)
    checkpoint = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    checkpoint |= {copy: checkpoint[original] for copy, original in copies(spec).items()}
    plan = export_plan(spec, layout)
    assert list(plan) == list(layout.coords())
    check_cover([block for blocks in plan.values() for block in blocks], shapes)
    back = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for coord, blocks in plan.items():
        incoming = import_blocks(spec, layout, coord)
        local_shapes = extents((block.dst, block.dst_box) for block in incoming)
        check_cover(incoming, local_shapes)
        local = filled(incoming, checkpoint, local_shapes)
        for block in blocks:
            part = local[block.src][block.src_box.slices]
            back[block.dst][block.dst_box.slices] = part.reshape(block.dst_box.shape)
    for name in shapes:
        np.testing.assert_array_equal(back[name], checkpoint[name])


def test_each_rank_names_and_sizes_its_parts_as_megatron_does() -> None:
    """The last rank of tp2 pp2 ep2: layers 2-3 of 4, experts 4-7 of 8, both counted from 0."""
    spec, layout = spec_of("v3"), Layout(tp=2, pp=2, ep=2)
    coord = layout.coord(3)
    assert (coord.tp, coord.pp, coord.ep) == (1, 1, 1)
    blocks = import_blocks(spec, layout, coord)
    shapes = extents((block.dst, block.dst_box) for block in blocks)
    layer = "decoder.layers.0."
    assert shapes["output_layer.weight"] == (48, 32) and "embedding.word_embeddings.weight" not in shapes
    assert shapes["decoder.final_layernorm.weight"] == (32,)
    assert shapes[f"{layer}self_attention.linear_q_down_proj.weight"] == (24, 32)  # whole on each rank
    assert shapes[f"{layer}self_attention.linear_q_up_proj.weight"] == (2 * 24, 24)
    assert shapes[f"{layer}self_attention.linear_proj.weight"] == (32, 2 * 12)
    assert shapes[f"{layer}mlp.shared_experts.linear_fc1.weight"] == (2 * 12, 32)
    assert shapes[f"{layer}mlp.router.expert_bias"] == (8,)
    experts = {name for name in shapes if name.startswith(f"{layer}mlp.experts") and "fc1" in name}
    assert experts == {f"{layer}mlp.experts.local_experts.{e}.linear_fc1.weight" for e in range(4)}
    up = [b for b in blocks if b.src == "model.layers.2.mlp.shared_experts.up_proj.weight"]
    assert [(b.src_box, b.dst_box) for b in up] == [(Box((12, 0), (24, 32)), Box((12, 0), (24, 32)))]
    first = [b for b in blocks if b.dst == f"{layer}mlp.experts.local_experts.0.linear_fc2.weight"]
    assert [b.src for b in first] == ["model.layers.2.mlp.experts.4.down_proj.weight"]


def test_the_last_stage_of_a_tied_model_holds_a_copy_of_the_embedding_but_does_not_export_it() -> None:
    spec, layout = spec_of("qwen2_tied"), Layout(tp=2, pp=2)
    last = layout.coord(3)
    copies = [b for b in import_blocks(spec, layout, last) if b.dst == "output_layer.weight"]
    assert copies == [
        Block(
            "model.embed_tokens.weight",
            Box((48, 0), (96, 32)),
            "output_layer.weight",
            Box.whole((48, 32)),
        )
    ]
    assert not [b for b in export_plan(spec, layout)[last] if b.src == "output_layer.weight"]


def test_an_export_at_full_width_covers_the_checkpoint_once(shared: Path) -> None:
    """6 layers of DeepSeek-V3 with all 256 experts, over 32 ranks."""
    spec = replace(load_spec(shared / "model_configs" / V3), layers=6, mtp_layers=0)
    layout = Layout(tp=2, pp=2, ep=16, dp=8)
    check_layout(spec, layout)
    plan = export_plan(spec, layout)
    check_cover([block for blocks in plan.values() for block in blocks], checkpoint_shapes(spec))


@pytest.mark.parametrize(
    ("kind", "layout", "parts"),
    [
        ("llama3", Layout(tp=3), ["num_attention_heads 4", "use tp 2 or 4", "num_attention_heads 3 or 6"]),
        ("llama3", Layout(tp=4), ["num_key_value_heads 2: use tp 2, or num_key_value_heads 4"]),
        ("llama3", Layout(pp=3), ["pp 3 does not divide num_hidden_layers 4", "last_stage_layers 2"]),
        ("llama3", Layout(pp=8), ["num_hidden_layers is 4: each part needs a layer", "use pp 4 at most"]),
        ("llama3", Layout(ep=2, dp=2), ["no experts", "ep 1"]),
        ("v3", Layout(ep=3, dp=3), ["ep 3", "n_routed_experts 8: use ep 2 or 4, or n_routed_experts 6 or 9"]),
        ("v3", Layout(etp=5, dp=5), ["etp 5", "moe_intermediate_size 24: use etp 4 or 6"]),
        ("v3", Layout(ep=4, dp=2), ["ep 4 x etp 1 does not divide the 2 ranks"]),
        ("v3", Layout(tp=2), ["wrong gradients", "use ep 2 or etp 2, or tp 1"]),
        ("v3", Layout(tp=2, dp=2), ["wrong gradients"]),
        ("v3", Layout(tp=4, ep=2), ["wrong gradients", "use ep 4 or etp 4"]),
    ],
    ids=str,
)
def test_a_layout_that_does_not_fit_is_refused_with_the_nearest_that_do(
    kind: str, layout: Layout, parts: list[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        check_layout(spec_of(kind), layout)
    for part in parts:
        assert part in str(refusal.value)


def test_an_odd_vocabulary_names_its_neighbours() -> None:
    spec = replace(spec_of("llama3"), vocab=97)
    with pytest.raises(
        UserError, match="tp 2 does not divide vocab_size 97: use tp 1, or vocab_size 96 or 98"
    ):
        check_layout(spec, Layout(tp=2))


def test_buffers_are_the_expert_biases_and_nothing_else() -> None:
    """They stay float32 and get no gradient; everything else is a parameter."""
    whole = params(spec_of("v3"))
    assert {name for name, param in whole.items() if param.buffer} == {
        f"decoder.layers.{i}.mlp.router.expert_bias" for i in (2, 3)
    }
    assert torch.Size((8,)) == whole["decoder.layers.2.mlp.router.expert_bias"].shape


# --- multi-token prediction ---------------------------------------------------------------


def test_further_layers_are_on_the_last_stage_with_a_copy_of_the_embedding() -> None:
    """On the second of two stages with experts 4-7: block, norms, projection, and the embedding once more."""
    spec, layout = spec_of("v3_mtp"), Layout(tp=2, pp=2, ep=2)
    blocks = import_blocks(spec, layout, layout.coord(3))
    shapes = extents((block.dst, block.dst_box) for block in blocks)
    assert shapes["mtp.layers.1.eh_proj.weight"] == (16, 64)
    assert shapes["embedding.word_embeddings.weight"] == (48, 32)
    expert = "mtp.layers.0.transformer_layer.mlp.experts.local_experts.0.linear_fc2.weight"
    assert [b.src for b in blocks if b.dst == expert] == ["model.layers.4.mlp.experts.4.down_proj.weight"]
    first = import_blocks(spec, layout, layout.coord(0))
    assert not [block for block in first if block.dst.startswith("mtp.")]
    exported = [b.src for b in export_plan(spec, layout)[layout.coord(3)]]
    assert "embedding.word_embeddings.weight" not in exported


def test_leaving_them_out_is_said_in_the_config() -> None:
    spec = spec_of("v3_mtp")
    plain = without_mtp(spec)
    assert (plain.mtp_layers, plain.hf["num_nextn_predict_layers"]) == (0, 0)
    assert load_spec(plain.hf) == plain and without_mtp(plain) is plain
    gone = mtp_tensors(spec)
    assert checkpoint_shapes(plain).keys() == checkpoint_shapes(spec).keys() - gone
    assert {name.split(".")[2] for name in gone} == {"4", "5"}


def test_a_copy_that_differs_is_named() -> None:
    """It would be lost without a word: only the original is kept. The sign of a 0 is a difference."""
    spec = spec_of("v3_mtp")
    shapes = checkpoint_shapes(spec)
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    check_copies(spec, InMemory(tensors), shapes)
    tensors["model.layers.5.shared_head.head.weight"][95, 31] = -0.0
    with pytest.raises(UserError, match=r"layers\.5\.shared_head\.head\.weight differs from lm_head"):
        check_copies(spec, InMemory(tensors), shapes)


def test_what_lies_ahead_stays_in_its_sequence() -> None:
    values = torch.tensor([10, 11, 12, 20, 30, 31])
    assert ahead(values, (3, 1, 2), 1).tolist() == [11, 12, 0, 0, 31, 0]
    assert ahead(values, (3, 1, 2), 2).tolist() == [12, 0, 0, 0, 0, 0]
    assert ahead(values, (6,), 9).tolist() == [0] * 6
