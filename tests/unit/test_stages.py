"""Pipelines: which layers their parts have, what is refused, and that every element has its place."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.config.sections import LayoutSizes
from r1mega.models.blocks import check_cover, extents
from r1mega.models.families import checkpoint_shapes
from r1mega.models.shards import check_layout, export_plan, import_blocks
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.models.stages import chunk_layers, part_layers
from r1mega.parallel import Layout
from r1mega.types import UserError
from tests.tiny import CONFIGS

V3 = "deepseek_v3.config.json"
KINDS = ("qwen2_tied", "llama3", "v3", "v3_yarn")


@cache
def spec_of(kind: str) -> ModelSpec:
    import transformers

    name, values = CONFIGS[kind]
    return load_spec(getattr(transformers, f"{name}Config")(**values).to_dict())


def counts(layers: int, **sizes: Any) -> list[int]:
    return [len(part) for part in part_layers(layers, Layout.least(**sizes))]


def test_parts_follow_one_another_and_chunks_are_dealt_to_the_stages_in_turn() -> None:
    layout = Layout(pp=2, vp=2)
    assert part_layers(8, layout) == [range(0, 2), range(2, 4), range(4, 6), range(6, 8)]
    assert chunk_layers(8, layout, 0) == [range(0, 2), range(4, 6)]
    assert chunk_layers(8, layout, 1) == [range(2, 4), range(6, 8)]


@pytest.mark.parametrize(
    ("layers", "sizes", "expected"),
    [
        (12, dict(pp=3), [4, 4, 4]),
        (61, dict(pp=16, last_stage_layers=1), [4] * 15 + [1]),
        (61, dict(pp=16, first_stage_layers=3, last_stage_layers=2), [3] + [4] * 14 + [2]),
        (61, dict(pp=16, stage_layers=[4] * 13 + [3] * 3), [4] * 13 + [3] * 3),
        (61, dict(pp=16, vp=2, first_stage_layers=1), None),
        (61, dict(pp=10, vp=2, last_stage_layers=4), [3] * 19 + [4]),
        (4, dict(pp=2, first_stage_layers=3, last_stage_layers=1), [3, 1]),
    ],
)
def test_uneven_parts(layers: int, sizes: dict[str, Any], expected: list[int] | None) -> None:
    """DeepSeek-V3's 61 layers on 16 stages among them."""
    if expected is None:
        with pytest.raises(UserError, match="leaves 60 for 31 equal parts"):
            counts(layers, **sizes)
    else:
        assert counts(layers, **sizes) == expected


@pytest.mark.parametrize(
    ("layers", "sizes", "words"),
    [
        (61, dict(pp=16), "pp 16 does not divide num_hidden_layers 61: use last_stage_layers 1"),
        (4, dict(pp=8), "makes 8 parts, and num_hidden_layers is 4.*use pp 4 at most"),
        (4, dict(pp=4, vp=2), "pp 4 x vp 2 makes 8 parts.*use vp 1 at most"),
        (2, dict(pp=4, vp=2), "makes 8 parts.*use pp 2 at most, and vp 1"),
        (6, dict(pp=2, vp=2), "pp 2 x vp 2 does not divide num_hidden_layers 6.*or pp 1 or 3"),
        (4, dict(pp=2, first_stage_layers=4), "first_stage_layers 4 of num_hidden_layers 4 leaves 0 for 1"),
        (4, dict(pp=2, first_stage_layers=1, last_stage_layers=1), "leaves 2 for 0 equal parts"),
        (4, dict(pp=2, stage_layers=[1, 2]), "makes 3 layers.*num_hidden_layers is 4"),
        (4, dict(pp=2, stage_layers=[4, 0]), "at least 0 a part.*each at least 1"),
        (4, dict(pp=2, stage_layers=[4]), "stage_layers has 1 numbers, and pp 2 x vp 1 needs 2"),
        (4, dict(pp=2, stage_layers=[2, 2], last_stage_layers=2), "stage_layers says all"),
        (4, dict(vp=2), "pp 1 has none: use vp 1"),
        (4, dict(last_stage_layers=2), "for pp above 1"),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused_with_what_can(
    layers: int, sizes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        counts(layers, **sizes)


def test_what_a_refusal_advises_works() -> None:
    assert counts(61, pp=16, last_stage_layers=1) == [4] * 15 + [1]
    assert counts(4, pp=3, last_stage_layers=2) == [1, 1, 2]
    for layers in range(1, 70):
        for pp in range(2, 18):
            try:
                counts(layers, pp=pp)
            except UserError as error:
                if "last_stage_layers " in str(error):
                    last = int(str(error).split("last_stage_layers ")[1].split()[0])
                    assert sum(counts(layers, pp=pp, last_stage_layers=last)) == layers


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (dict(pp=2, stage_layers=[1]), "stage_layers has 1 numbers, and pp 2 x vp 1 needs 2"),
        (dict(pp=2, stage_layers=[1, 1], first_stage_layers=1), "leave out first_stage_layers"),
        (dict(vp=2), "vp 2 is for a pipeline, and pp is 1"),
        (dict(last_stage_layers=1), "last_stage_layers is for a pipeline"),
    ],
)
def test_the_config_refuses_the_same(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LayoutSizes.model_validate(values)


SIZES = st.fixed_dictionaries(
    {
        "tp": st.sampled_from((1, 2, 3, 4)),
        "pp": st.integers(1, 5),
        "vp": st.integers(1, 3),
        "cp": st.sampled_from((1, 2, 3)),
        "ep": st.sampled_from((1, 2, 3, 4)),
        "etp": st.sampled_from((1, 2, 5)),
        "first_stage_layers": st.sampled_from((None, 1, 2)),
        "last_stage_layers": st.sampled_from((None, None, 1, 3)),
        "stage_layers": st.one_of(st.none(), st.none(), st.lists(st.integers(0, 3), max_size=4)),
    }
)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), sizes=SIZES, dp=st.integers(1, 2))
def test_every_layout_is_refused_or_gives_every_element_its_place(
    kind: str, sizes: dict[str, Any], dp: int
) -> None:
    """What a rank reads covers its own parameters once; what all ranks export covers the checkpoint once."""
    spec = spec_of(kind)
    try:
        least = Layout.least(**sizes)
        layout = Layout.of(least.world * dp, **sizes)
        check_layout(spec, layout)
    except UserError:
        return
    plan = export_plan(spec, layout)
    check_cover([block for blocks in plan.values() for block in blocks], checkpoint_shapes(spec))
    for coord in layout.coords():
        incoming = import_blocks(spec, layout, coord)
        check_cover(incoming, extents((block.dst, block.dst_box) for block in incoming))


def test_chunks_are_numbered_before_their_names() -> None:
    spec, layout = spec_of("qwen2_tied"), Layout(pp=2, vp=2)
    first = {block.dst for block in import_blocks(spec, layout, layout.coord(0))}
    last = {block.dst for block in import_blocks(spec, layout, layout.coord(1))}
    assert "0.embedding.word_embeddings.weight" in first and "1.output_layer.weight" in last
    assert "1.decoder.final_layernorm.weight" in last and "0.decoder.final_layernorm.weight" not in last
    layers = {name.split("self_attention")[0] for name in first if "self_attention" in name}
    assert layers == {"0.decoder.layers.0.", "1.decoder.layers.0."}
    third = [b for b in import_blocks(spec, layout, layout.coord(0)) if b.src.startswith("model.layers.2.")]
    assert third and all(b.dst.startswith("1.decoder.layers.0.") for b in third)


@pytest.mark.parametrize(
    ("more", "counted"),
    [
        (dict(last_stage_layers=1), [4] * 15 + [1]),
        (dict(stage_layers=[3, *[4] * 14, 2]), [3, *[4] * 14, 2]),
    ],
)
def test_deepseek_v3_on_sixteen_stages(shared: Path, more: dict[str, Any], counted: list[int]) -> None:
    """671B in the layouts that docs/layouts.md names: 61 layers, 256 experts, 128 heads."""
    spec = load_spec(shared / "model_configs" / V3)
    sizes = LayoutSizes.model_validate(dict(tp=8, pp=16, ep=64) | more)
    layout = Layout.least(**sizes.model_dump())
    check_layout(spec, layout)
    assert layout.world == 64 * 16
    assert [len(part) for part in part_layers(spec.layers, layout)] == counted
