"""The stages `pretrain` and `sft`: learn to predict the next token, of whole texts or of answers only."""

from __future__ import annotations

import math
from typing import Any

import torch

from r1mega.algo.loss import LossParts, cross_entropy
from r1mega.config.stage import TrainingConfig
from r1mega.data.prepare import Prepared, Recipe, open_prepared, prepare, resolved
from r1mega.data.store import TokenStore
from r1mega.data.target import check_tags
from r1mega.data.templates import CHAT
from r1mega.logs import say
from r1mega.models import weights
from r1mega.models.families import params
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Mesh, on_leader
from r1mega.report.plots import plot_curves
from r1mega.stages.base import Context, Metrics
from r1mega.stages.export import export
from r1mega.stages.loop import Lesson, Loop, State, batch_of
from r1mega.stages.start import start
from r1mega.train.batch import MicroBatch
from r1mega.train.policy import Policy


def run(ctx: Context) -> Metrics:
    """Train, keeping checkpoints, and export a Hugging Face folder; returns the stage's metrics."""
    config, seed = ctx.config, ctx.run.seed
    assert isinstance(config, TrainingConfig)
    begin = start(ctx)
    section = resolved(config.data, ctx.inputs)
    if config.data.from_stage is not None or section.template == CHAT:
        check_tags(begin.tokenizer, config.model.path or f"stage '{config.model.from_stage}'")
    recipe = Recipe(section, begin.tokenizer, seed, config.eval.samples, begin.chat([section.template]))
    on_leader(lambda: prepare(recipe, ctx.data))
    data = open_prepared(recipe, ctx.data)
    with Mesh(ctx.layout) as mesh:
        policy = Policy(
            begin.spec,
            mesh,
            dtype=config.model.dtype,
            train=config.train,
            mtp=config.model.mtp == "train",
            seed=seed,
            backend=begin.backend,
        )
        weights.load(begin.spec, mesh, policy.model, begin.weights)
        policy.prepare_to_learn()
        say(f"{ctx.name}: {begin.spec.family}, {_parameters(begin.spec):,} parameters, layout: {ctx.layout}")
        lesson = _lesson(policy, data, config)
        metrics = _metrics(Loop(ctx.name, ctx.room, config, policy, lesson, seed).run())
        export(policy, begin.tokenizer, ctx.model, begin.carry_from)
    if mesh.at.rank == 0:
        plot_curves(ctx.room / "metrics.jsonl", ctx.room / "plots")
    return metrics


def _lesson(policy: Policy, data: Prepared, config: TrainingConfig) -> Lesson:
    def figures(held_out: TokenStore) -> dict[str, float]:
        """loss: the mean a token over the first held-out sequences, in nats."""
        rows = [[held_out[i]] for i in range(min(len(held_out), config.eval.samples))]
        batch = batch_of(rows, policy, config.train.micro_batch_tokens)
        return {"loss": policy.evaluate(batch.mine, _loss, denominator=batch.weight).loss}

    return Lesson(data.train, _loss, data.held_out, figures)


def _metrics(state: State) -> Metrics:
    found: dict[str, Any] = {
        "steps": state.step,
        "tokens": state.tokens,
        "loss": state.loss,
        "held_out_loss_before": state.before.get("loss"),
        "held_out_loss": state.latest.get("loss"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _loss(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    return cross_entropy(logp_T, batch.weights_T)


def _parameters(spec: ModelSpec) -> int:
    return sum(math.prod(param.shape) for param in params(spec).values() if not param.buffer)
