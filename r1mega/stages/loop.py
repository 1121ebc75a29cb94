"""Learning from samples on disk, step by step: the loop of every stage that fits a model to given data.

What is learned is a `Lesson`; the loop draws batches, packs them, updates, evaluates, logs, keeps checkpoints
and goes on from them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r1mega.algo.packing import plan
from r1mega.config.section import Section
from r1mega.config.sections import Checkpoint, Eval, Train
from r1mega.config.sections import Log as LogSection
from r1mega.data.source import Source
from r1mega.data.store import TokenStore
from r1mega.logs import Log, open_log, say
from r1mega.progress import beat
from r1mega.stages.interrupt import StopRequest
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.checkpoint_keeper import Keeper
from r1mega.train.loss_function import LossFunction
from r1mega.train.optimizer import learning_rate
from r1mega.train.policy import Policy
from r1mega.types import Interrupted, Sample, UserError


class LoopConfig(Protocol):
    """What a stage's config must have."""

    @property
    def train(self) -> Train: ...
    @property
    def eval(self) -> Eval: ...
    @property
    def checkpoint(self) -> Checkpoint: ...
    @property
    def log(self) -> LogSection: ...


@dataclass(frozen=True)
class Lesson:
    """What is learned.

    samples:  to learn from. `together` of them, one behind another, are one row: drawn and counted as one,
              and in the same micro-batch.
    loss:     its sum is divided by the weight of the batch: the tokens that count, over `together`.
    held_out: samples that are never learned from; None where nothing is held out.
    figures:  how good the model is on those, all ranks together.
    """

    samples: TokenStore
    loss: LossFunction
    held_out: TokenStore | None
    figures: Callable[[TokenStore], Mapping[str, float]]
    together: int = 1

    @property
    def rows(self) -> int:
        return len(self.samples) // self.together

    @property
    def longest(self) -> int:
        """Tokens of the longest row of either."""
        stores = [store for store in (self.samples, self.held_out) if store is not None]
        return max(int(store.lengths.reshape(-1, self.together).sum(1).max()) for store in stores)


@dataclass(frozen=True)
class Batch:
    """A batch as the trainer eats it. mine: this rank's micro-batches; weight, tokens: of the whole batch."""

    mine: list[MicroBatch]
    weight: float
    tokens: int


def batch_of(
    rows: Sequence[Sequence[Sample]], policy: Policy, micro_batch_tokens: int, together: int = 1
) -> Batch:
    """rows: of the whole batch, the same on every rank; the samples of a row are kept together."""
    layout, at = policy.mesh.layout, policy.mesh.at
    shares = plan([sum(map(len, row)) for row in rows], layout.dp, micro_batch_tokens)
    mine = [micro_batch([one for i in members for one in rows[i]], layout.tp) for members in shares[at.dp]]
    weight = sum(int(sample.mask[1:].sum()) for row in rows for sample in row) / together
    return Batch(mine, max(1.0, weight), sum(len(sample) - 1 for row in rows for sample in row))


@dataclass
class State:
    """What a checkpoint carries besides weights, optimizer, random state and data cursor.

    version: updates that the weights have seen. tokens: positions computed so far. loss: of the last step.
    before, latest: figures of held-out data before the first step and when they were last taken.
    """

    step: int = 0
    version: int = 0
    tokens: int = 0
    loss: float | None = None
    before: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)


class Loop:
    """One lesson, from the newest checkpoint in `room` or from the beginning.

    name: of what is learned, for people. room: where its checkpoints and its log are.
    Raises UserError for a row that is longer than a micro-batch.
    """

    def __init__(
        self, name: str, room: Path, config: LoopConfig, policy: Policy, lesson: Lesson, seed: int
    ) -> None:
        self.name, self.room, self.config = name, room, config
        self.policy, self.lesson, self.train = policy, lesson, config.train
        self.source = Source(lesson.rows, self.train.batch_size, seed)
        self.steps = self.train.steps or math.ceil(
            (self.train.epochs or 0.0) * lesson.rows / self.train.batch_size
        )
        self.state = State()
        self.keeper = Keeper(room / "checkpoints", policy, config.checkpoint)
        longest = lesson.longest
        if longest > self.train.micro_batch_tokens:
            raise UserError(
                f"the longest sequence has {longest} tokens, train.micro_batch_tokens is "
                f"{self.train.micro_batch_tokens}: raise it to {longest} or more, or lower data.max_length"
            )

    def run(self) -> State:
        """All steps that are not done yet."""
        self._resume()
        state = self.state
        with self.keeper, self._open_log() as log, StopRequest() as stop:
            if not state.before and self.lesson.held_out is not None:
                beat(f"{self.name}: held-out before step 1")
                state.before = state.latest = dict(self.lesson.figures(self.lesson.held_out))
                say(f"{self.name}: before the first step, held-out {_sentence(state.before)}")
            while state.step < self.steps:
                log.log(state.step + 1, self._step())
                self._keep(stopping=self.policy.mesh.any_rank(stop.asked))
        return state

    def _step(self) -> dict[str, Any]:
        """One optimizer step; returns what is logged of it."""
        started = time.perf_counter()
        state, train = self.state, self.train
        beat(f"{self.name}: step {state.step + 1}")
        batch = self._batch(self.source.next())
        lr = learning_rate(train, state.step + 1, self.steps)
        update = self.policy.update(batch.mine, self.lesson.loss, denominator=batch.weight, lr=lr)
        state.step, state.version = state.step + 1, self.policy.version
        state.loss, state.tokens = update.loss, state.tokens + batch.tokens
        seconds = time.perf_counter() - started
        record: dict[str, Any] = {
            "loss": update.loss,
            "grad_norm": update.grad_norm,
            "lr": lr,
            "tokens": batch.tokens,
            "epoch": self.source.epoch,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(batch.tokens / seconds, 1),
            "steps": self.steps,
        }
        record |= {name: value / batch.weight for name, value in update.sums.items()}
        every = self.config.eval.every
        due = state.step == self.steps or (every and state.step % every == 0)
        if due and self.lesson.held_out is not None:
            beat(f"{self.name}: held-out after step {state.step}")
            state.latest = dict(self.lesson.figures(self.lesson.held_out))
            record |= {f"held_out_{name}": value for name, value in state.latest.items()}
        return record

    def _batch(self, rows: np.ndarray) -> Batch:
        store, together = self.lesson.samples, self.lesson.together
        samples = [[store[int(row) * together + i] for i in range(together)] for row in rows]
        return batch_of(samples, self.policy, self.train.micro_batch_tokens, together)

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = self.keeper.resume()
        if found is None:
            return
        newest, loop = found
        self.state = State(**loop["state"])
        self.source.load_state(loop["source"])
        say(f"{self.name}: going on from step {self.state.step} of {self.steps} ({newest})")

    def _keep(self, *, stopping: bool) -> None:
        """Write a checkpoint where one is due; when asked to stop, stop."""
        state, section = self.state, self.config.checkpoint
        finished = state.step == self.steps
        if stopping or finished or (section.every and state.step % section.every == 0):
            beat(f"{self.name}: checkpoint of step {state.step}")
            loop = {"state": asdict(state), "source": self.source.state(), "version": state.version}
            self.keeper.save(state.step, loop)
        self.keeper.poll()
        if stopping:
            raise Interrupted(
                f"interrupted at step {state.step} of {self.steps}, which is saved; "
                "run the same command again to go on from there"
            )

    def _open_log(self) -> Log:
        assert isinstance(self.config, Section)
        return open_log(
            self.room,
            self.config.log,
            title=self.name,
            total_steps=self.steps,
            resume_step=self.state.step,
            config=self.config.model_dump(mode="json"),
        )


def _sentence(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
