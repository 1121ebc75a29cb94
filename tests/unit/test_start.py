"""What a stage starts from when its config changes the model's own config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from r1mega.config import load
from r1mega.data.tokenizers import train_sentencepiece
from r1mega.models.blocks import Box
from r1mega.models.families import checkpoint_shapes
from r1mega.stages.base import Context
from r1mega.stages.start import start
from r1mega.types import UserError
from tests import tiny

CONFIG = """
name = "a"
[stages.sft]
kind = "sft"
model.path = "MODEL"
data = { kind = "pairs", path = "pairs.jsonl", max_length = 512 }
train.steps = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Qwen2 that transformers has written, with a tokenizer of 300 of its 320 rows."""
    import transformers

    where = tmp_path_factory.mktemp("tied")
    _, values = tiny.CONFIGS["qwen2_tied"]
    config = transformers.Qwen2Config(**values | {"vocab_size": 320})
    config.architectures = ["Qwen2ForCausalLM"]
    transformers.Qwen2ForCausalLM(config).save_pretrained(where)
    texts = [f"number {n} and {n + 1}" for n in range(400)]
    train_sentencepiece(texts, where / "tokenizer.model", vocab_size=300, symbols=()).save(where)
    return where


def context(folder: Path, room: Path, **keys: Any) -> Context:
    file = room / "run.toml"
    file.write_text(CONFIG.replace("MODEL", str(folder)))
    config = load(file, [f"stages.sft.{key}={value}" for key, value in keys.items()])
    return Context(config, "sft", config.stages["sft"], room)


def changed(folder: Path, room: Path, **keys: Any) -> Context:
    ctx = context(folder, room)
    model = ctx.config.model.model_copy(update={"changes": keys})
    return Context(ctx.run, ctx.name, ctx.config.model_copy(update={"model": model}), room)


def test_an_untied_output_layer_begins_as_a_copy_of_the_embedding(folder: Path, tmp_path: Path) -> None:
    begin = start(changed(folder, tmp_path, tie_word_embeddings=False))
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights and not begin.spec.tied
    assert begin.spec.hf["tie_word_embeddings"] is False
    shapes = checkpoint_shapes(begin.spec)
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"]
    for name, shape in shapes.items():
        source = "model.embed_tokens.weight" if name == "lm_head.weight" else name
        assert torch.equal(begin.weights.read(name, Box.whole(shape)), weights[source])
    half = Box((10, 4), (20, 8))
    assert torch.equal(
        begin.weights.read("lm_head.weight", half), weights["model.embed_tokens.weight"][10:20, 4:8]
    )


def test_a_longer_context_is_asked_for_in_words(folder: Path, tmp_path: Path) -> None:
    ctx = context(folder, tmp_path, **{"data.max_length": 600})
    with pytest.raises(UserError, match=r"max_length is 600, but .* is 512: .*max_position_embeddings=600"):
        start(ctx)
    model = ctx.config.model.model_copy(update={"changes": {"max_position_embeddings": 1024}})
    longer = start(Context(ctx.run, ctx.name, ctx.config.model_copy(update={"model": model}), tmp_path))
    assert longer.spec.max_positions == 1024 == longer.spec.hf["max_position_embeddings"]


@pytest.mark.parametrize("keys", [{"hidden_size": 64}, {"intermediate_size": 32}, {"vocab_size": 400}])
def test_a_change_that_the_weights_do_not_fit_is_refused(
    folder: Path, tmp_path: Path, keys: dict[str, int]
) -> None:
    with pytest.raises(UserError, match=r"model\.changes .*the weights do not fit that"):
        start(changed(folder, tmp_path, **keys))


def test_r1s_tokens_are_grafted_and_go_into_the_config(folder: Path, tmp_path: Path) -> None:
    ctx = context(folder, tmp_path, **{"tokenizer.graft": "r1"})
    begin = start(ctx)
    assert begin.tokenizer.decode(begin.tokenizer.encode("<think> number 7 </think>")).count("think>") == 2
    assert len(begin.tokenizer.encode("<think>")) == 1
    assert begin.spec.hf["eos_token_id"] == begin.tokenizer.eos_id
    assert begin.carry_from is not None and begin.chat(["chat"]) is not None
    assert (
        json.loads((begin.carry_from / "config.json").read_text())["eos_token_id"] == begin.tokenizer.eos_id
    )
    with pytest.raises(UserError, match=r"has no chat template; say tokenizer\.graft='r1'"):
        start(context(folder, tmp_path)).chat(["plain", "chat"])
