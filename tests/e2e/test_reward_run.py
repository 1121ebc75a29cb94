"""Reward models in a whole run: trained, then asked by a GRPO stage on two ranks that share the experts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from r1mega.report.rollouts import read_rollouts
from r1mega.rewards import Rubric
from tests.e2e.runs import ROOT, outcome, run

_CONFIG = """
name = "tiny"
base = "BASE"
[model.config]
hidden_size = 32
intermediate_size = 48
moe_intermediate_size = 16
q_lora_rank = 16
kv_lora_rank = 16
[tokenizer.train]
documents = 500
[stages.base.data]
documents = 600
[stages.base.train]
steps = 4
batch_size = 8
warmup_steps = 1

[stages.reward_models]
kind = "reward_models"
model = { from_stage = "base", dtype = "float32" }
train = { steps = 3, batch_size = 8, lr = 1e-3, micro_batch_tokens = 1024 }
[stages.reward_models.models]
helpful = { objective = "pairwise", max_length = 256, held_out = 0.2, data.kind = "toy", data.count = 100 }
safety = { objective = "pointwise", max_length = 256, held_out = 0.2, data.kind = "toy", data.count = 100 }

[stages.rl]
kind = "grpo"
model = { from_stage = "base", dtype = "float32" }
data = { kind = "tasks", max_prompt = 40, tasks.sums = { kind = "sums", template = "toy", levels = ["c2"] } }
rollout = { prompts = 4, group = 4, max_tokens = 12, kv_cache_gb = 0.05 }
train = { steps = 2, lr = 1e-3 }
eval.samples = 4
gate.action = "off"
[stages.rl.rewards]
helpful = { weight = 0.5, from_stage = "reward_models", from_step = 2, missing = -1.0 }
safety = { weight = 0.25, from_stage = "reward_models", scale = "raw" }
"""


@pytest.mark.slow
def test_a_run_with_reward_models(tmp_path: Path) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(_CONFIG.replace("BASE", str(ROOT / "configs" / "toy" / "pretrain_v3.toml")))
    run(config, out, 2, reward=Rubric)
    _, models, rl = outcome(out)["stages"]
    assert {"helpful_accuracy_after", "safety_auc_after"} <= models["metrics"].keys()
    first, second = rl["log"]
    assert "helpful" not in first and {"helpful", "safety"} <= second.keys() and "safety" in first
    assert all(math.isfinite(row["reward"]) for row in rl["log"])
    room = out / "03-rl"
    for step in (1, 2):
        for row in read_rollouts(room, step):
            parts = row["parts"]
            total = parts["accuracy"] + parts["format"] + 0.25 * parts["safety"]
            assert row["reward"] == pytest.approx(total + 0.5 * parts.get("helpful", 0.0), abs=1e-6)
            assert ("helpful" in parts) == (step == 2)
            if step == 2:
                assert parts["helpful"] == -1 or 0 < parts["helpful"] < 1
