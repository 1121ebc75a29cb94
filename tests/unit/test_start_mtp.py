"""What becomes of a model's multi-token-prediction layers when a stage starts from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from r1mega.config import load
from r1mega.data.tokenizers import train_sentencepiece
from r1mega.models.families import checkpoint_shapes, copies
from r1mega.models.mtp_weights import mtp_tensors
from r1mega.models.spec import load_spec
from r1mega.stages.base import Context
from r1mega.stages.start import Start, start
from r1mega.types import UserError
from tests import tiny

CONFIG = """
name = "a"
[stages.base]
kind = "KIND"
model = { path = "MODEL", mtp = "HOW" }
data = DATA
train = { steps = 1, micro_batch_tokens = 40_000 }
"""
TEXT = '{ kind = "toy", max_length = 512 }'
TASKS = '{ kind = "tasks", tasks.sums = { kind = "sums" } }'


def write(where: Path, depths: int, without: str = "no such tensor") -> dict[str, torch.Tensor]:
    """A V3 folder of 320 rows with so many further layers and a tokenizer of 300 pieces."""
    import transformers

    config = transformers.DeepseekV3Config(
        **tiny.CONFIGS["v3"][1] | {"vocab_size": 320, "num_nextn_predict_layers": depths}
    )
    config.architectures = ["DeepseekV3ForCausalLM"]
    config.save_pretrained(where)
    spec = load_spec(where)
    tensors = {name: torch.randn(shape) for name, shape in checkpoint_shapes(spec).items()}
    tensors |= {copy: tensors[original].clone() for copy, original in copies(spec).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
    save_file(tensors, where / "model.safetensors")
    texts = [f"number {n} and {n + 1}" for n in range(400)]
    train_sentencepiece(texts, where / "tokenizer.model", vocab_size=300, symbols=()).save(where)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("mtp")
    write(where, 1)
    return where


def started(folder: Path, room: Path, how: str, **changes: Any) -> Start:
    file = room / "run.toml"
    text = CONFIG.replace("KIND", "pretrain").replace("DATA", TEXT)
    file.write_text(text.replace("MODEL", str(folder)).replace("HOW", how))
    config = load(file, [])
    stage = config.stages["base"]
    if changes:
        stage = stage.model_copy(update={"model": stage.model.model_copy(update={"changes": changes})})
    return start(Context(config, "base", stage, room))


@pytest.mark.parametrize(("how", "layers"), [("drop", 0), ("keep", 1), ("train", 1)])
def test_they_are_there_or_not_as_the_config_says(
    folder: Path, tmp_path: Path, how: str, layers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = started(folder, tmp_path, how)
    assert (begin.spec.mtp_layers, begin.spec.hf["num_nextn_predict_layers"]) == (layers, layers)
    assert ("are left out" in "".join(capsys.readouterr())) == (how == "drop")
    longer = started(folder, tmp_path, how, max_position_embeddings=1024)
    assert (longer.spec.mtp_layers, longer.spec.max_positions) == (layers, 1024)


def test_a_model_without_them_has_nothing_to_train(tmp_path: Path) -> None:
    write(tmp_path / "plain", 0)
    with pytest.raises(UserError, match=r"model\.mtp = 'train'.*num_nextn_predict_layers"):
        started(tmp_path / "plain", tmp_path, "train")
    assert started(tmp_path / "plain", tmp_path, "keep").spec.mtp_layers == 0


def test_a_folder_that_only_declares_them_can_be_had_without(tmp_path: Path) -> None:
    """As people convert DeepSeek-V3: the config says 1, the layer is gone."""
    write(tmp_path / "declared", 1, without="model.layers.4.")
    assert started(tmp_path / "declared", tmp_path, "drop").spec.mtp_layers == 0
    with pytest.raises(UserError, match=r"missing: model\.layers\.4"):
        started(tmp_path / "declared", tmp_path, "keep")


def test_a_copy_that_differs_is_refused_unless_it_is_left_out(tmp_path: Path) -> None:
    where = tmp_path / "differs"
    write(where, 1)
    tensors = load_file(where / "model.safetensors")
    assert len(mtp_tensors(load_spec(where))) == sum(name.startswith("model.layers.4.") for name in tensors)
    tensors["model.layers.4.embed_tokens.weight"][3, 3] += 1
    save_file(tensors, where / "model.safetensors")
    with pytest.raises(UserError, match=r"layers\.4\.embed_tokens\.weight differs from model\.embed_tokens"):
        started(where, tmp_path, "keep")
    assert started(where, tmp_path, "drop").spec.mtp_layers == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [("model.mtp=train", "model.mtp = 'train'"), ("train.balance_weight=1e-4", "train.balance_weight")],
)
def test_reinforcement_learning_teaches_neither(
    folder: Path, tmp_path: Path, change: str, words: str
) -> None:
    file = tmp_path / "run.toml"
    text = CONFIG.replace("KIND", "grpo").replace("DATA", TASKS)
    file.write_text(text.replace("MODEL", str(folder)).replace("HOW", "keep"))
    load(file, [])
    with pytest.raises(UserError, match=words) as refusal:
        load(file, [f"stages.base.{change}"])
    assert "pretrain and sft" in str(refusal.value) and "this is grpo" in str(refusal.value)


def test_fp8_is_refused_where_it_cannot_be_had(folder: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = tmp_path / "run.toml"
    text = CONFIG.replace("KIND", "pretrain").replace("DATA", TEXT)
    file.write_text(text.replace("MODEL", str(folder)).replace("HOW", "drop"))
    config = load(file, ["stages.base.model.fp8=true"])
    with pytest.raises(UserError, match=r"model\.fp8 needs Transformer Engine's layers.*there is no GPU"):
        start(Context(config, "base", config.stages["base"], tmp_path))
