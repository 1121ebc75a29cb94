"""The stages `pretrain` and `sft`: learn to predict the next token, of whole texts or of answers only."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from r1mega.algo.loss import LossParts, cross_entropy
from r1mega.algo.packing import plan
from r1mega.data.prepare import Prepared, open_prepared, prepare
from r1mega.data.source import Source
from r1mega.data.store import TokenStore
from r1mega.logs import Log, open_log, say
from r1mega.models import weights
from r1mega.models.families import params
from r1mega.models.spec import ModelSpec
from r1mega.parallel import Mesh, on_leader
from r1mega.report.plots import plot_curves
from r1mega.stages.base import Context, Metrics
from r1mega.stages.export import export
from r1mega.stages.interrupt import StopRequest
from r1mega.stages.start import start
from r1mega.train import checkpoint
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.optimizer import learning_rate
from r1mega.train.policy import Policy
from r1mega.types import Interrupted, UserError


def run(ctx: Context) -> Metrics:
    """Train, keeping checkpoints, and export a Hugging Face folder; returns the stage's metrics."""
    config, seed = ctx.config, ctx.run.seed
    begin = start(ctx)
    held_out = config.eval.samples
    on_leader(lambda: prepare(config.data, begin.tokenizer, seed, ctx.data, held_out_samples=held_out))
    data = open_prepared(config.data, begin.tokenizer, seed, ctx.data, held_out_samples=held_out)
    with Mesh(ctx.layout) as mesh:
        policy = Policy(
            begin.spec,
            mesh,
            dtype=config.model.dtype,
            train=config.train,
            seed=seed,
        )
        weights.load(begin.spec, mesh, policy.model, begin.weights)
        policy.prepare_to_learn()
        say(f"{ctx.name}: {begin.spec.family}, {_parameters(begin.spec):,} parameters, layout: {ctx.layout}")
        metrics = _Training(ctx, policy, data).run()
        export(policy, begin.tokenizer, ctx.model, begin.carry_from)
    if mesh.at.rank == 0:
        plot_curves(ctx.room / "metrics.jsonl", ctx.room / "plots")
    return metrics


@dataclass
class _State:
    """What a checkpoint carries besides weights, optimizer, random state and data cursor.

    version: updates that the weights have seen. tokens: positions computed so far. loss: of the last step.
    held_out_before, held_out: the held-out loss before the first step and when it was last taken.
    """

    step: int = 0
    version: int = 0
    tokens: int = 0
    loss: float | None = None
    held_out_before: float | None = None
    held_out: float | None = None


class _Training:
    """The loop of one stage."""

    def __init__(self, ctx: Context, policy: Policy, data: Prepared) -> None:
        self.ctx, self.policy, self.data = ctx, policy, data
        self.train = ctx.config.train
        self.source = Source(len(data.train), self.train.batch_size, ctx.run.seed)
        epochs = self.train.epochs or 0.0
        self.steps = self.train.steps or math.ceil(epochs * len(data.train) / self.train.batch_size)
        self.state = _State()
        longest = max(int(store.lengths.max()) for store in (data.train, data.held_out) if store is not None)
        if longest > self.train.micro_batch_tokens:
            raise UserError(
                f"the longest sequence has {longest} tokens, train.micro_batch_tokens is "
                f"{self.train.micro_batch_tokens}: raise it to {longest} or more, or lower data.max_length"
            )

    def run(self) -> Metrics:
        """All steps that are not done yet."""
        self._resume()
        state = self.state
        with self._open_log() as log, StopRequest() as stop:
            if state.held_out_before is None and self.data.held_out is not None:
                state.held_out_before = state.held_out = self._held_out_loss()
                say(f"{self.ctx.name}: held-out loss {state.held_out:.4f} before the first step")
            while state.step < self.steps:
                log.log(state.step + 1, self._step())
                self._keep(stopping=self.policy.mesh.any_rank(stop.asked))
        return self._metrics()

    def _step(self) -> dict[str, Any]:
        """One optimizer step; returns what is logged of it."""
        started = time.perf_counter()
        state, train = self.state, self.train
        batches, weight, tokens = self._micro_batches(self.data.train, self.source.next())
        lr = learning_rate(train, state.step + 1, self.steps)
        update = self.policy.update(batches, _loss, denominator=weight, lr=lr)
        state.step, state.version = state.step + 1, self.policy.version
        state.loss, state.tokens = update.loss, state.tokens + tokens
        seconds = time.perf_counter() - started
        record: dict[str, Any] = {
            "loss": update.loss,
            "grad_norm": update.grad_norm,
            "lr": lr,
            "tokens": tokens,
            "epoch": self.source.epoch,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens / seconds, 1),
        }
        every = self.ctx.config.eval.every
        due = state.step == self.steps or (every and state.step % every == 0)
        if due and self.data.held_out is not None:
            record["held_out_loss"] = state.held_out = self._held_out_loss()
        return record

    def _held_out_loss(self) -> float:
        """Mean loss a token over the first held-out sequences, in nats."""
        store = self.data.held_out
        assert store is not None
        rows = np.arange(min(len(store), self.ctx.config.eval.samples))
        batches, weight, _ = self._micro_batches(store, rows)
        return self.policy.evaluate(batches, _loss, denominator=weight).loss

    def _micro_batches(self, store: TokenStore, rows: np.ndarray) -> tuple[list[MicroBatch], float, int]:
        """This rank's micro-batches of a global batch, the weight of the whole batch, and its positions."""
        layout, at = self.policy.mesh.layout, self.policy.mesh.at
        samples = [store[int(row)] for row in rows]
        shares = plan([len(sample) for sample in samples], layout.dp, self.train.micro_batch_tokens)
        batches = [micro_batch([samples[i] for i in members], layout.tp) for members in shares[at.dp]]
        weight = float(sum(int(sample.mask[1:].sum()) for sample in samples))
        return batches, max(1.0, weight), sum(len(sample) - 1 for sample in samples)

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        newest = on_leader(lambda: checkpoint.newest(self.ctx.checkpoints))
        if newest is None:
            return
        loop = checkpoint.load(self.policy, newest)
        self.state = _State(**loop["state"])
        self.source.load_state(loop["source"])
        say(f"{self.ctx.name}: going on from step {self.state.step} of {self.steps} ({newest})")

    def _keep(self, *, stopping: bool) -> None:
        """Write a checkpoint where one is due; when asked to stop, stop."""
        state, section = self.state, self.ctx.config.checkpoint
        finished = state.step == self.steps
        if stopping or finished or (section.every and state.step % section.every == 0):
            folder = checkpoint.step_folder(self.ctx.checkpoints, state.step)
            checkpoint.save(
                self.policy,
                folder,
                {"state": asdict(state), "source": self.source.state(), "version": state.version},
            )
            on_leader(lambda: checkpoint.prune(self.ctx.checkpoints, section.keep))
        if stopping:
            raise Interrupted(
                f"interrupted at step {state.step} of {self.steps}, which is saved; "
                "run the same command again to go on from there"
            )

    def _open_log(self) -> Log:
        return open_log(
            self.ctx.room,
            self.ctx.config.log,
            title=self.ctx.name,
            total_steps=self.steps,
            resume_step=self.state.step,
            config=self.ctx.config.model_dump(mode="json"),
        )

    def _metrics(self) -> Metrics:
        state = self.state
        found: dict[str, Any] = {
            "steps": state.step,
            "tokens": state.tokens,
            "loss": state.loss,
            "held_out_loss_before": state.held_out_before,
            "held_out_loss": state.held_out,
        }
        return {name: value for name, value in found.items() if value is not None}


def _loss(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    return cross_entropy(logp_T, batch.weights_T)


def _parameters(spec: ModelSpec) -> int:
    return sum(math.prod(param.shape) for param in params(spec).values() if not param.buffer)
