"""The stage `reward_models` and its models in use: killed anywhere it ends the same, ranks agree to the bit.

transformers is the reference for what the exported folder says.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from r1mega.config import load as load_config
from r1mega.config.rewards import HelpfulPart, SafetyPart
from r1mega.data.tokenizers import load_tokenizer, train_sentencepiece
from r1mega.data.toy_general import preference_pairs
from r1mega.parallel import Layout, Mesh
from r1mega.rewards import DEFAULT_PARTS, Part, Rubric
from r1mega.rewards.model import helpful, safe
from r1mega.rollout.collect import Group, settled
from r1mega.stages.base import Context
from r1mega.stages.reward_models import run as run_stage
from r1mega.stages.scorer import Card, load_scorers
from r1mega.types import Completion, Prompt, UserError
from tests.ranks import RankError, run_ranks

CONFIG = """
name = "rm"
[stages.rm]
kind = "reward_models"
model.dtype = "float32"
tokenizer.path = "TOKENIZER"
train = { batch_size = 8, lr = 2e-3, steps = 6, micro_batch_tokens = 512 }
eval = { every = 3, samples = 24 }
checkpoint = { every = 1 }
[stages.rm.model.config]
model_type = "qwen2"
vocab_size = 400
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
intermediate_size = 48
max_position_embeddings = 160
rms_norm_eps = 1e-6
tie_word_embeddings = true
[stages.rm.models.helpful]
objective = "pairwise"
max_length = 96
held_out = 0.2
data = { kind = "toy", count = 200 }
[stages.rm.models.safety]
objective = "pointwise"
max_length = 96
held_out = 0.2
data = { kind = "toy", count = 200 }
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rm")
    tokenizer = folder / "tokenizer.model"

    def train() -> None:
        texts = [f"User: {p.prompt} Assistant: {p.chosen}" for p in preference_pairs(300, 0)]
        train_sentencepiece(texts, tokenizer, vocab_size=400, symbols=("<think>", "</think>"))

    run_ranks(1, lambda rank: train())
    (folder / "config.toml").write_text(CONFIG.replace("TOKENIZER", str(tokenizer)))
    return folder / "config.toml"


def stage(rank: int, config: Path, room: Path, sizes: dict[str, Any]) -> dict[str, Any]:
    loaded = load_config(config)
    section = loaded.stages["rm"]
    section = section.model_copy(update={"layout": section.layout.model_copy(update=sizes)})
    return run_stage(Context(loaded, "rm", section, room))


@pytest.fixture(scope="module")
def room(config: Path) -> Path:
    """The stage's folder after a run on two ranks with tensor parallelism."""
    room = config.parent / "room"
    metrics = run_ranks(2, stage, config, room, {"tp": 2})[0]
    assert metrics["helpful_steps"] == metrics["safety_steps"] == 6
    assert {
        "helpful_accuracy_before",
        "helpful_accuracy_after",
        "helpful_longer",
        "safety_auc_after",
    } <= metrics.keys()
    return room


def weights_of(room: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        f"{name}.{key}": tensor
        for name in ("helpful", "safety")
        for key, tensor in load_file(room / "models" / name / "model.safetensors").items()
    }


@pytest.mark.slow
def test_killed_anywhere_it_ends_the_same(config: Path, room: Path, tmp_path: Path) -> None:
    """kill -9 within the first model, within the second, and between a model's end and its export."""
    again = tmp_path / "room"

    def killed_at(rank: int, moment: Path) -> None:
        """Rank 0 is killed by a thread of its own as soon as the file is there."""
        import threading

        def watch() -> None:
            while not moment.exists():
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
        stage(rank, config, again, {"tp": 2})

    for moment in (
        again / "helpful" / "checkpoints" / "step_000002" / "COMPLETE",
        again / "models" / "helpful" / "config.json",
        again / "safety" / "checkpoints" / "step_000004" / "COMPLETE",
    ):
        with pytest.raises(RankError):
            run_ranks(2, killed_at, moment)
        assert not (again / "safety" / "DONE.json").exists()
    found = run_ranks(2, stage, config, again, {"tp": 2})[0]
    expected = {
        f"{name}_{key}": value
        for name in ("helpful", "safety")
        for key, value in json.loads((room / name / "DONE.json").read_text()).items()
    }
    assert found == expected
    ours, theirs = weights_of(again), weights_of(room)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = [
        json.loads(line)["step"] for line in (again / "safety" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 7))


def group(i: int, prompt: str, texts: list[str]) -> Group:
    asked = Prompt(f"t/{i}", "t", f"User: {prompt} Assistant:", (1,), "7", {"question": prompt})
    return Group(asked, tuple(Completion((1,), (0.0,), t, "stop", 0) for t in texts), ())


def groups() -> list[Group]:
    """Answers with and without thoughts, some far longer than the models' context."""
    made = [
        group(
            i,
            p.prompt,
            [f"<think> hm </think> {p.chosen}", p.rejected, "<think> no end", f"{p.chosen} " * 60],
        )
        for i, p in enumerate(preference_pairs(7, 5))
    ]
    return made


def settle(rank: int, models: Path, sizes: dict[str, Any], world: int, scale: Any = "raw") -> Any:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        parts = {
            "helpful": HelpfulPart(weight=1.0, from_stage="rm", scale=scale, missing=-3.0),
            "safety": SafetyPart(weight=0.5, from_stage="rm", scale=scale),
        }
        scorers = load_scorers(parts, {"rm": models}, mesh, dtype="float32", micro_batch_tokens=200)
        judges = {
            "helpful": Part(1.0, helpful(scorers["helpful"], missing=-3.0)),
            "safety": Part(0.5, safe(scorers["safety"])),
        }
        rubric = Rubric({"t": "integer"}, {**DEFAULT_PARTS, **judges})
        scored = [
            Group(g.prompt, g.completions, tuple(rubric(g.prompt, c) for c in g.completions))
            for g in groups()
        ]
        found = settled(scored, rubric)
        values = [(s.parts["helpful"], s.parts["safety"], s.total) for g in found for s in g.scores]
        return values, {name: scorer.truncated for name, scorer in scorers.items()}


def by_transformers(models: Path) -> list[tuple[float, float]]:
    from transformers import AutoModelForSequenceClassification

    loaded = {
        name: AutoModelForSequenceClassification.from_pretrained(models / name).float().eval()
        for name in ("helpful", "safety")
    }
    tokenizer = load_tokenizer(models / "helpful")

    def value(name: str, prompt: str, text: str) -> float:
        ids = [tokenizer.bos_id, *tokenizer.encode(f"User: {prompt} Assistant:")]
        ids += [*tokenizer.encode(f" {text}"), tokenizer.eos_id]
        with torch.no_grad():
            return float(loaded[name](torch.tensor([ids[-96:]])).logits[0, 0])

    found = []
    for g in groups():
        for c in g.completions:
            prompt = g.prompt.facts["question"]
            _, closed, behind = c.text.rpartition("</think>")
            summary = behind.strip() if closed else None if "<think>" in c.text else c.text.strip()
            judged = -3.0 if summary is None else value("helpful", prompt, summary)
            found.append((judged, value("safety", prompt, c.text)))
    return found


@pytest.mark.parametrize(
    ("world", "sizes"),
    [
        (2, {"tp": 2}),
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(2, {"pp": 2}, marks=pytest.mark.slow),
    ],
)
def test_all_ranks_get_what_transformers_says(room: Path, world: int, sizes: dict[str, Any]) -> None:
    models = room / "models"
    expected = run_ranks(1, lambda rank: by_transformers(models))[0]
    results = run_ranks(world, settle, models, sizes, world)
    assert all(result == results[0] for result in results), "to the bit, or groups would differ between ranks"
    values, truncated = results[0]
    torch.testing.assert_close(
        torch.tensor([v[:2] for v in values]), torch.tensor(expected), rtol=1e-4, atol=1e-4
    )
    assert truncated == {"helpful": 7, "safety": 7}


@pytest.mark.slow
def test_the_sigmoid_is_around_the_mean_of_pairs_and_a_probability_of_labels(room: Path) -> None:
    raw, _ = run_ranks(1, settle, room / "models", {}, 1)[0]
    scaled, _ = run_ranks(1, settle, room / "models", {}, 1, "sigmoid")[0]
    centre = Card.read(room / "models" / "helpful").centre
    assert centre != 0 and Card.read(room / "models" / "safety").centre == 0
    for (helped, safety, _), (helped_s, safety_s, _) in zip(raw, scaled, strict=True):
        expected = -3.0 if helped == -3.0 else float(torch.sigmoid(torch.tensor(helped - centre)))
        assert helped_s == pytest.approx(expected, abs=1e-6)
        assert safety_s == pytest.approx(float(torch.sigmoid(torch.tensor(safety))), abs=1e-6)


def refusal(models: Path, part: HelpfulPart) -> str:
    def ask(rank: int) -> str:
        with Mesh(Layout.of(1)) as mesh:
            try:
                load_scorers({"helpful": part}, {"rm": models}, mesh, dtype="float32", micro_batch_tokens=200)
            except UserError as error:
                return str(error)
        return ""

    return str(run_ranks(1, ask)[0])


@pytest.mark.slow
def test_what_is_no_reward_model_is_refused(room: Path, tmp_path: Path) -> None:
    import shutil

    models = room / "models"
    assert "has no model 'kind'; it has helpful, safety" in refusal(
        models, HelpfulPart(weight=1.0, from_stage="rm", name="kind")
    )

    def broken(name: str, change: Any) -> str:
        folder = tmp_path / name
        shutil.copytree(models / "helpful", folder)
        change(folder)
        return refusal(models, HelpfulPart(weight=1.0, path=folder))

    def language_model(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | {"architectures": ["Qwen2ForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(config))

    def headless(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors["score.weight"]
        save_file(tensors, folder / "model.safetensors")

    said = broken("language", language_model)
    assert said.startswith("rewards.helpful: ") and "is no reward model: config.json says" in said
    assert "missing: score.weight" in broken("headless", headless)
    assert "reward_model.json is not there" in broken("cardless", lambda f: (f / Card.FILE).unlink())
    assert not broken("whole", lambda folder: None)
