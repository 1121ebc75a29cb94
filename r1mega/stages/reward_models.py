"""The stage `reward_models`: reward models of one base, each from its own judgments, one after another.

room/NAME/            data, checkpoints and metrics.jsonl of one model; DONE.json when it is finished
room/models/NAME/     the model, a Hugging Face folder with reward_model.json beside the weights
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from r1mega.algo.judgments import label_figures, pair_figures
from r1mega.algo.reward_loss import bradley_terry, logistic
from r1mega.config.reward_models import RewardModel, RewardModels
from r1mega.data.preferences.prepare import Judgments
from r1mega.data.prepare import ROWS
from r1mega.data.source import Source
from r1mega.data.store import TokenStore
from r1mega.files import read_json, write_json
from r1mega.logs import say
from r1mega.models import weights
from r1mega.models.build import DTYPES
from r1mega.models.reward_head import WithNewHead, reward_spec
from r1mega.parallel import Mesh, on_leader
from r1mega.report.plots import plot_curves
from r1mega.stages.base import Context, Metrics
from r1mega.stages.export import export
from r1mega.stages.loop import Lesson, Loop
from r1mega.stages.scorer import Card, reading
from r1mega.stages.start import Start, start
from r1mega.train.policy import Policy
from r1mega.train.reward_model import LOSSES, ask
from r1mega.types import Sample, UserError

_CONSTANT = ("longer", "most")
"""Figures of the data, which no training changes."""


def run(ctx: Context) -> Metrics:
    """Train and export every model that is not finished; the stage's metrics, each with the model's name."""
    config = _config(ctx)
    begin = start(ctx)
    judgments = {name: _judgments(ctx, begin, name, model) for name, model in config.models.items()}
    for name, its in judgments.items():  # all of them before the first is trained
        on_leader(its.prepare)
        _refuse_few(name, its, config)
    metrics: Metrics = {}
    with Mesh(ctx.layout) as mesh:
        for name, its in judgments.items():
            metrics |= {
                f"{name}_{key}": value for key, value in _Training(ctx, begin, mesh, name, its).run().items()
            }
    return metrics


def _judgments(ctx: Context, begin: Start, name: str, model: RewardModel) -> Judgments:
    data = model.data
    file = ctx.inputs[data.from_stage] / ROWS if data.from_stage is not None else data.path
    if model.max_length > begin.spec.max_positions:
        raise UserError(
            f"models.{name}.max_length is {model.max_length}, the model's max_position_embeddings "
            f"{begin.spec.max_positions}: lower it"
        )
    how = reading(begin.tokenizer, model.template, begin.carry_from)
    return Judgments(model, file, how, ctx.run.seed, ctx.room / name / "data")


def _refuse_few(name: str, judgments: Judgments, config: RewardModels) -> None:
    rows = len(judgments.open().train) // LOSSES[judgments.section.objective][1]
    try:
        Source(rows, config.train.batch_size, 0)
    except UserError as error:
        raise UserError(f"models.{name}, train.batch_size: {error}") from None


@dataclass(frozen=True)
class _Training:
    """One model."""

    ctx: Context
    begin: Start
    mesh: Mesh
    name: str
    judgments: Judgments

    def run(self) -> Metrics:
        done = on_leader(lambda: read_json(self._room / "DONE.json"))
        if done is not None and (self.ctx.reward_models / self.name).is_dir():
            say(f"{self._title}: done, skipped")
            return dict(done)
        policy = self._policy()
        state = Loop(
            self._title, self._room, _config(self.ctx), policy, self._lesson(policy), self.ctx.run.seed
        ).run()
        self._export(policy, state.latest["mean"])
        metrics: Metrics = {"steps": state.step, "tokens": state.tokens}
        for key, value in state.latest.items():
            known = key in _CONSTANT
            metrics |= {key: value} if known else {f"{key}_before": state.before[key], f"{key}_after": value}
        before, after = state.before["accuracy"], state.latest["accuracy"]
        say(f"{self._title}: held-out accuracy {before:.3f}, now {after:.3f}")
        on_leader(lambda: self._conclude(metrics))
        return metrics

    @property
    def _room(self) -> Path:
        return self.ctx.room / self.name

    @property
    def _title(self) -> str:
        return f"{self.ctx.name}/{self.name}"

    def _policy(self) -> Policy:
        config, seed = _config(self.ctx), self.ctx.run.seed
        spec = reward_spec(self.begin.spec)
        policy = Policy(
            spec,
            self.mesh,
            dtype=config.model.dtype,
            train=config.train,
            seed=seed,
            backend=self.begin.backend,
        )
        reader = WithNewHead.on(self.begin.weights, spec, seed, DTYPES[config.model.dtype])
        weights.load(spec, self.mesh, policy.model, reader)
        policy.prepare_to_learn()
        return policy

    def _lesson(self, policy: Policy) -> Lesson:
        loss, together = LOSSES[self.judgments.section.objective]
        data, section = self.judgments.open(), _config(self.ctx)

        def figures(store: TokenStore) -> Mapping[str, float]:
            few = range(min(len(store), section.eval.samples * together))
            samples = [store[i] for i in few]
            values = ask(policy, samples, section.train.micro_batch_tokens)
            return _FIGURES[self.judgments.section.objective](values, samples) | {"mean": fmean(values)}

        return Lesson(data.train, loss, data.held_out, figures, together)

    def _export(self, policy: Policy, mean: float) -> None:
        model = self.judgments.section
        folder = self.ctx.reward_models / self.name
        export(policy, self.begin.tokenizer, folder, self.begin.carry_from)
        centre = mean if model.objective == "pairwise" else 0.0
        card = Card(model.objective, model.template, model.max_length, centre)
        on_leader(lambda: card.write(folder))

    def _conclude(self, metrics: Metrics) -> None:
        plot_curves(self._room / "metrics.jsonl", self._room / "plots")
        write_json(self._room / "DONE.json", metrics)


def _of_pairs(values: list[float], samples: list[Sample]) -> dict[str, float]:
    value_B = torch.tensor(values)
    loss = bradley_terry(value_B[0::2], value_B[1::2]).sum / (len(values) // 2)
    return {"loss": float(loss)} | pair_figures(values, [len(sample) for sample in samples])


def _of_labels(values: list[float], samples: list[Sample]) -> dict[str, float]:
    labels = [int(sample.tokens[-1]) for sample in samples]
    loss = logistic(torch.tensor(values), torch.tensor(labels)).sum / len(values)
    return {"loss": float(loss)} | label_figures(values, labels)


_FIGURES = {"pairwise": _of_pairs, "pointwise": _of_labels}


def _config(ctx: Context) -> RewardModels:
    config: Any = ctx.config
    assert isinstance(config, RewardModels)
    return config
