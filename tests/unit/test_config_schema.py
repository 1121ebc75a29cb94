"""The resolved config: what is printed, what its digest depends on, the files in configs/ and the docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from pydantic import ValidationError

from r1mega.config import digest, load
from r1mega.config.reference import reference
from r1mega.config.rl import Algorithm
from r1mega.config.schema import Grpo
from r1mega.config.stage import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "toy").rglob("*.toml"))


CONFIG = """
name = "a"
[model.config]
vocab_size = 300
rms_norm_eps = 1e-6
[tokenizer.train]
vocab_size = 300
[data]
kind = "toy"
[train]
steps = 100
lr = 3e-3
[stages.base]
kind = "pretrain"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "run.toml"


def base(file: Path, *overrides: str) -> Any:
    return load(file, overrides).stages["base"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_has_a_smoke_profile(path: Path) -> None:
    needed = [] if "data.path=" not in path.read_text(encoding="utf-8") else ["data.path=train.jsonl"]
    config, smoke = load(path, needed), load(path, [*needed, "profile=smoke"])
    for name, stage in config.stages.items():
        assert stage.model.dtype == "float32"  # bfloat16 is several times slower on CPU
        if isinstance(stage, TrainingConfig) and stage.train.steps:
            shorter = cast(TrainingConfig, smoke.stages[name]).train.steps
            assert shorter and shorter < stage.train.steps


def test_a_missing_data_path_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"say data\.path=FILE"):
        load(ROOT / "configs/toy/sft_gsm8k.toml")


def test_json_round_trips_through_the_models(file: Path) -> None:
    config = load(file)
    values = json.loads(config.to_json())
    assert type(config).model_validate(values) == config
    assert values["stages"]["base"]["train"]["min_lr"] == pytest.approx(3e-4)  # a tenth of lr
    assert values["out"] == "runs/a"


def test_the_config_cannot_change_once_loaded(file: Path) -> None:
    with pytest.raises(ValidationError):
        base(file).train.lr = 1.0


def test_folders_follow_the_name(file: Path) -> None:
    assert load(file, ["name=other"]).stage_dir("base") == Path("runs/other/01-base")
    assert load(file, ["out=/x"]).stage_dir("base") == Path("/x/01-base")


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("train.lr=2e-3", False),
        ("data.documents=3", False),
        ("model.config.rms_norm_eps=1e-5", False),
        ("eval.samples=3", False),
        ("layout.ep=2", True),
        ("train.micro_batch_tokens=512", True),
        ("log.tensorboard=true", True),
        ("checkpoint.every=7", True),
        ("eval.every=7", True),
        ("out=elsewhere", True),
        ("name=other", True),
        ("nproc=2", True),
        ("threads=3", True),
    ],
)
def test_the_digest_depends_on_what_the_result_depends_on(file: Path, override: str, same: bool) -> None:
    assert (digest(base(file, override)) == digest(base(file))) is same


RL = (
    CONFIG.replace('[data]\nkind = "toy"\n', "")
    + """
data.kind = "toy"
[stages.rl]
kind = "grpo"
model.from_stage = "base"
data = { kind = "tasks", max_prompt = 40, tasks.sums.kind = "sums" }
rollout = { prompts = 8, group = 4, max_tokens = 64 }
"""
)


@pytest.fixture
def rl_file(tmp_path: Path) -> Path:
    (tmp_path / "rl.toml").write_text(RL)
    return tmp_path / "rl.toml"


def rl(file: Path, *overrides: str) -> Grpo:
    stage = load(file, [f"stages.rl.{each}" for each in overrides]).stages["rl"]
    assert isinstance(stage, Grpo)
    return stage


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("rollout.rounds=3", False),
        ("rollout.changes.2.temperature=0.7", False),
        ("algorithm.preset=dapo", False),
        ("algorithm.mini_batches=4", False),
        ("rewards.overlong=0.5", False),
        ("rewards.accuracy.from_step=2", False),
        ("guards.kl=stop", True),  # or a run that a guard has stopped could not be told to go on
        ("guards.steps=7", True),
    ],
)
def test_the_digest_of_reinforcement_learning(rl_file: Path, override: str, same: bool) -> None:
    assert (digest(rl(rl_file, override)) == digest(rl(rl_file))) is same


# What each paper has, by hand from docs/algorithms.md ("As published").
PUBLISHED: dict[str, dict[str, Any]] = {
    "grpo": dict(
        baseline="group", scale="group", mean="answer", objective="clip", ratio="token", clip_low=0.2,
        clip_high=0.2, kl_weight=1e-3, kl="k3", kl_in="loss",
    ),
    "dr_grpo": dict(
        baseline="group", scale="none", mean="constant", objective="clip", ratio="token", clip_low=0.2,
        clip_high=0.2, kl_weight=0.0,
    ),
    "dapo": dict(
        baseline="group", scale="group", mean="token", objective="clip", ratio="token", clip_low=0.2,
        clip_high=0.28, kl_weight=0.0,
    ),
    "gspo": dict(
        baseline="group", scale="group", mean="answer", objective="clip", ratio="sequence_mean",
        clip_low=3e-4, clip_high=4e-4, kl_weight=0.0,
    ),
    "cispo": dict(
        baseline="group", scale="group", mean="token", objective="cispo", ratio="token", clip_low=1.0,
        kl_weight=0.0,
    ),
    "rloo": dict(
        baseline="leave_one_out", scale="none", mean="constant", objective="clip", ratio="on_policy",
        kl="k1", kl_in="reward", kl_weight=1e-3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("preset", get_args(Algorithm.model_fields["preset"].annotation))
def test_a_preset_is_what_its_paper_has(preset: str, rl_file: Path) -> None:
    made = rl(rl_file, f"algorithm.preset={preset}").algorithm
    assert {name: getattr(made, name) for name in PUBLISHED[preset]} == PUBLISHED[preset]
    assert made.correction == "none" and made.entropy_weight == 0 and made.inner_epochs == 1
    assert Algorithm.model_validate(json.loads(made.to_json())) == made


def test_what_is_said_wins_over_the_preset(rl_file: Path) -> None:
    """Also the grpo default of a key that the preset changes, and also once it is resolved."""
    made = rl(rl_file, "algorithm.preset=dapo", "algorithm.clip_high=0.2", "algorithm.kl_weight=0.01")
    assert (made.algorithm.clip_high, made.algorithm.kl_weight, made.algorithm.mean) == (0.2, 0.01, "token")
    assert Grpo.model_validate(json.loads(made.to_json())) == made


def test_the_published_clip_of_10_loads(rl_file: Path) -> None:
    made = rl(rl_file, "algorithm.clip_low=10", "algorithm.clip_high=10", "algorithm.ratio=sequence")
    assert (made.algorithm.clip_low, made.algorithm.clip_high) == (10, 10)


def test_what_changes_at_a_step(rl_file: Path) -> None:
    """Each key changes by itself; the order in the file does not matter, nor does the text's order."""
    made = rl(
        rl_file,
        "rollout.changes.10.temperature=0.7",
        "rollout.changes.10.max_tokens=32",
        "rollout.changes.9.max_tokens=128",
        "rollout.changes.30.temperature=1.0",
    ).rollout
    assert list(made.changes) == ["9", "10", "30"]
    assert [made.at(step) for step in (1, 8, 9, 10, 29, 30, 10**6)] == [
        (64, 1.0), (64, 1.0), (128, 1.0), (32, 0.7), (32, 0.7), (32, 1.0), (32, 1.0),
    ]  # fmt: skip
    assert made.limits == {64, 128, 32} and made.longest == 128
    from_the_first = rl(rl_file, "rollout.changes.1.max_tokens=32").rollout
    assert from_the_first.limits == {32} and from_the_first.at(1) == (32, 1.0)


def test_the_digest_is_the_same_in_another_process(file: Path) -> None:
    code = f"from r1mega.config import digest, load; print(digest(load({str(file)!r}).stages['base']))"
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        )
        assert done.stdout.strip() == digest(base(file))


def test_the_digest_leaves_out_just_what_it_is_told(file: Path) -> None:
    slow, fast = base(file), base(file, "train.lr=2e-3")
    rates = {"train.lr", "train.min_lr"}  # min_lr follows lr
    assert digest(slow, exclude=rates) == digest(fast, exclude=rates)
    assert digest(slow, exclude={"eval", "no.such.key"}) != digest(fast, exclude={"eval"})
    assert digest(slow, exclude=()) != digest(base(file, "eval.every=7"), exclude=())


def test_the_v3_config_has_the_recipes_shape() -> None:
    """Parameters and active parameters counted by hand from the recipe's table: 874K and 677K."""
    c = load(ROOT / "configs/toy/pretrain_v3.toml").stages["base"].model.config
    assert isinstance(c, dict)
    h, heads = c["hidden_size"], c["num_attention_heads"]
    qk = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    attention = h * c["q_lora_rank"] + c["q_lora_rank"] + c["q_lora_rank"] * heads * qk
    attention += h * (c["kv_lora_rank"] + c["qk_rope_head_dim"]) + c["kv_lora_rank"]
    attention += (
        c["kv_lora_rank"] * heads * (c["qk_nope_head_dim"] + c["v_head_dim"]) + heads * c["v_head_dim"] * h
    )
    expert = 3 * h * c["moe_intermediate_size"]
    dense, layers = c["first_k_dense_replace"], c["num_hidden_layers"]
    moe = layers - dense
    total = (
        2 * c["vocab_size"] * h + layers * (attention + 2 * h) + h + dense * 3 * h * c["intermediate_size"]
    )
    total += moe * (c["n_routed_experts"] * (expert + h) + c["n_shared_experts"] * expert)
    active = total - moe * (c["n_routed_experts"] - c["num_experts_per_tok"]) * expert
    assert (round(total / 1e3), round(active / 1e3)) == (874, 677)


def test_docs_hold_every_key_as_it_is() -> None:
    text = (ROOT / "docs/configs.md").read_text(encoding="utf-8")
    assert text.endswith(reference()), "docs/configs.md is stale: python -m r1mega.config.reference"


def test_the_example_in_the_docs_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/configs.md").read_text(encoding="utf-8")
    found = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert found
    (tmp_path / "run.toml").write_text(found[1], encoding="utf-8")
    config = load(tmp_path / "run.toml", ["profile=smoke"])
    stages: dict[str, Any] = {**config.stages}
    assert [stage.train.lr for stage in stages.values()] == [5e-5, 1e-5]
    assert stages["more"].train.epochs == 0.01
