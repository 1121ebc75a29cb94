"""Losses and figures of reward models against numbers worked out by hand and by brute force; their config."""

from __future__ import annotations

from itertools import product
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from r1mega.algo.judgments import auc, judged, label_figures, pair_figures
from r1mega.algo.reward_loss import bradley_terry, logistic
from r1mega.config.reward_models import RewardModels
from r1mega.config.rewards import Rewards
from r1mega.stages.reward import model_parts, reward_parts


def test_bradley_terry_by_hand() -> None:
    # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4, sigmoid(0) = 1/2: -log of them is log of 4/3, 4 and 2.
    chosen, rejected = torch.tensor([log(3), 0.0, 1.0]), torch.tensor([0.0, log(3), 1.0])
    found = bradley_terry(chosen, rejected)
    assert float(found.sum) == pytest.approx(log(4 / 3) + log(4) + log(2), rel=1e-6)
    assert float(found.sums["right"]) == 1 and float(found.sums["margin"]) == pytest.approx(0, abs=1e-6)


def test_logistic_by_hand() -> None:
    value = torch.tensor([log(3), log(3), -log(3), 0.0])
    found = logistic(value, torch.tensor([1, 0, 0, 1]))
    assert float(found.sum) == pytest.approx(log(4 / 3) + log(4) + log(4 / 3) + log(2), rel=1e-6)
    assert float(found.sums["right"]) == 2


def test_they_do_not_overflow() -> None:
    far = torch.tensor([-1e4], requires_grad=True)
    bradley_terry(far, torch.zeros(1)).sum.backward()
    assert float(bradley_terry(far, torch.zeros(1)).sum.detach()) == 1e4
    assert far.grad is not None and float(far.grad) == -1


def test_no_pairs_give_a_loss_that_is_differentiable() -> None:
    """A rank of filler only takes part in backward's collectives."""
    values = torch.ones(3, requires_grad=True)
    none = values[:0]
    bradley_terry(none, none).sum.backward()
    assert values.grad is not None and not values.grad.any()


def test_auc_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 6, 60).astype(float).tolist(), rng.integers(0, 2, 60).tolist()
    ones = [v for v, label in zip(values, labels, strict=True) if label]
    zeros = [v for v, label in zip(values, labels, strict=True) if not label]
    each = [(a > b) + (a == b) / 2 for a, b in product(ones, zeros)]
    assert auc(values, labels) == pytest.approx(sum(each) / len(each), rel=1e-12)


def test_figures_by_hand() -> None:
    found = pair_figures([3.0, 1.0, 0.0, 0.0, -1.0, 4.0], [5, 4, 3, 9, 2, 2])
    assert found == pytest.approx({"accuracy": 1.5 / 3, "margin": -1.0, "longer": 1.5 / 3})
    found = label_figures([2.0, -1.0, 1.0, 0.5], [1, 0, 0, 1])
    assert found == pytest.approx({"accuracy": 0.75, "most": 0.5, "auc": 0.75})
    assert label_figures([1.0, -1.0], [1, 1]) == {"accuracy": 0.5, "most": 1.0}


def test_a_judged_sample() -> None:
    sample = judged([7, 8, 9], 1)
    assert sample.tokens.tolist() == [7, 8, 9, 1] and sample.mask.tolist() == [0, 0, 0, 1]


def stage(**values: Any) -> dict[str, Any]:
    pairs = {"objective": "pairwise", "max_length": 64, "data": {"kind": "toy"}}
    return {"kind": "reward_models", "model": {"path": "base"}, "models": {"helpful": pairs}} | values


def test_the_published_recipe_is_the_default() -> None:
    found = RewardModels.model_validate(stage(train={}))
    assert (found.train.batch_size, found.train.lr, found.train.epochs) == (256, 6e-6, 1.0)
    long = RewardModels.model_validate(
        stage(models={"helpful": {"objective": "pairwise", "data": {"kind": "toy"}}}, train={})
    )
    assert long.models["helpful"].max_length == 8192
    assert RewardModels.model_validate(stage(train={"steps": 3})).train.epochs is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": {}}, "at least 1"),
        ({"models": {"a/b": {"objective": "pairwise", "data": {"kind": "toy"}}}}, "becomes a folder"),
        ({"models": {"models": {"objective": "pairwise", "data": {"kind": "toy"}}}}, "'models'"),
        ({"models": {"h": {"objective": "pairwise", "data": {}}}}, "exactly one of path, from_stage"),
        (
            {"models": {"h": {"objective": "pairwise", "data": {"kind": "toy", "path": "x"}}}},
            "leave out path",
        ),
        (
            {"models": {"h": {"objective": "pointwise", "data": {"path": "x", "format": "sharegpt"}}}},
            "no pointwise judgments; those that do: rows, messages",
        ),
        ({"train": {"micro_batch_tokens": 100}}, "both answers of a pair, 128 tokens"),
        ({"tokenizer": {"train": {"vocab_size": 300}}}, "leave it out"),
        ({"model": {"config": {}}}, "give tokenizer.path"),
        (
            {"models": {"h": {"objective": "pairwise", "template": "no place", "data": {"kind": "toy"}}}},
            "once",
        ),
    ],
)
def test_a_config_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=message):
        RewardModels.model_validate(stage(**{"train": {}} | changed))


def test_model_parts_of_a_reward() -> None:
    with pytest.raises(ValidationError, match="exactly one of from_stage, path"):
        Rewards.model_validate({"helpful": 0.5})
    with pytest.raises(ValidationError, match="leave out name"):
        Rewards.model_validate({"helpful": {"weight": 0.5, "path": "x", "name": "y"}})
    rewards = Rewards.model_validate(
        {"helpful": {"weight": 0.5, "from_stage": "rm", "from_step": 3, "tasks": ["chat"]}}
    )
    assert list(model_parts(rewards)) == ["helpful"]
    assert "helpful" not in reward_parts(rewards, 100)
    part = reward_parts(rewards, 100, {"helpful": lambda pairs: [1.0] * len(pairs)})["helpful"]
    assert (part.weight, part.first, part.tasks) == (0.5, 3, frozenset({"chat"}))
