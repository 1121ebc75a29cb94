"""Learning from the groups of a step: weights, advantages, mini-batches, updates.

T positions of a micro-batch, N answers of a step. Everything of the algorithm itself is in `algo`; here it
meets the trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from r1mega.algo.advantage import Advantage, advantages, answer_divergence, penalised
from r1mega.algo.denominator import Denominator, denominator
from r1mega.algo.loss import LossParts
from r1mega.algo.mismatch import Correction, figures, importance
from r1mega.algo.policy_loss import PolicyLoss, policy_loss
from r1mega.config.schema import Grpo
from r1mega.rollout.collect import Group
from r1mega.stages.drawing import counted_in
from r1mega.stages.experience import Experience, cut, experiences, pack_share, sequences
from r1mega.train.batch import MicroBatch
from r1mega.train.loss_function import WithEntropy
from r1mega.train.optimizer import learning_rate
from r1mega.train.policy import Policy, Update

_MISMATCH = "mismatch/"


class Phase(Protocol):
    """Names what is going on, and how long it takes."""

    def __call__(self, name: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class MiniBatch:
    """The answers of one optimizer step: what their loss is divided by, and this rank's part of them."""

    weights: Denominator
    batches: list[MicroBatch]


class Learner:
    """A policy, its reference (none where no divergence is asked for), and how the one learns.

    updates: optimizer steps so far; the caller keeps it across restarts.
    """

    def __init__(self, config: Grpo, policy: Policy, reference: Policy | None, phase: Phase) -> None:
        self.config, self.policy, self.reference, self._phase = config, policy, reference, phase
        self.mesh = policy.mesh
        self.updates = 0
        algorithm = config.algorithm
        self._advantage = Advantage(algorithm.baseline, algorithm.scale)
        self._correction = Correction(
            algorithm.correction,
            algorithm.correction_of,
            algorithm.correction_low,
            algorithm.correction_high,
        )
        self._loss = PolicyLoss(
            objective=algorithm.objective,
            ratio=algorithm.ratio,
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
            dual_clip=algorithm.dual_clip,
            kl=algorithm.kl,
            kl_weight=algorithm.kl_weight if algorithm.kl_in == "loss" else 0.0,
            kl_corrected=algorithm.kl_corrected,
            entropy_weight=algorithm.entropy_weight,
        )

    def learn(self, groups: Sequence[Group], step: int, max_tokens: int, seed: int) -> dict[str, float]:
        """All optimizer steps on these groups; returns the figures to log. step: counted from 1."""
        if not groups:
            return {"updates": 0}
        algorithm = self.config.algorithm
        with self._phase("batch"):
            items = experiences(groups)
            parts = self._mini_batches(items, groups, max_tokens, np.random.default_rng((seed, step - 1)))
        with self._phase("logprobs"):
            parts = self._with_logprobs(parts)
        with self._phase("train"):
            advantage_N = self._advantages(groups, parts)
            seen = _Seen()
            done = []
            for epoch in range(algorithm.inner_epochs):
                for number, part in enumerate(parts):
                    if not part.weights.nothing:
                        place = (step - 1) * algorithm.updates + epoch * algorithm.mini_batches + number + 1
                        done.append(self._update(part, advantage_N, place, seen if not epoch else None))
        return self._figures(done, seen)

    def _mini_batches(
        self, items: Sequence[Experience], groups: Sequence[Group], max_tokens: int, rng: np.random.Generator
    ) -> list[MiniBatch]:
        algorithm, budget = self.config.algorithm, self.config.train.micro_batch_tokens
        in_loss = [c for group in groups for c in counted_in(group, self.config.rollout.truncated).in_loss]
        found = []
        for numbers in cut(len(items), algorithm.mini_batches, rng):
            mine = [items[i] for i in numbers]
            weights = denominator(
                algorithm.mean,
                [item.length for item in mine],
                [in_loss[item.number] for item in mine],
                max_tokens=max_tokens,
            )
            found.append(MiniBatch(weights, pack_share(mine, weights, self.mesh, budget)))
        return found

    def _with_logprobs(self, parts: list[MiniBatch]) -> list[MiniBatch]:
        """Old and reference log-probabilities as columns, all before the first update.

        With a single update on the answers the old ones are those of that update itself: no pass for them.
        """
        algorithm = self.config.algorithm
        flat = [batch for part in parts for batch in part.batches]
        columns: dict[str, list[torch.Tensor]] = {}
        if self.reference is not None:
            columns["reference"] = self.reference.logprobs(flat)
        if algorithm.updates > 1 or algorithm.kl_in == "reward" or algorithm.routing_replay:
            scored = self.policy.score(flat, record_routing=algorithm.routing_replay)
            columns["old"] = [each.logp_T for each in scored]
            if algorithm.routing_replay:
                flat = [
                    replace(batch, routing_SLK=each.routing_SLK)
                    for batch, each in zip(flat, scored, strict=True)
                ]
        filled = iter(
            replace(batch, columns={**batch.columns, **{name: values[i] for name, values in columns.items()}})
            for i, batch in enumerate(flat)
        )
        return [replace(part, batches=[next(filled) for _ in part.batches]) for part in parts]

    def _advantages(self, groups: Sequence[Group], parts: Sequence[MiniBatch]) -> torch.Tensor:
        """float32 [N], the same on every rank."""
        rewards_N = torch.tensor([s.total for group in groups for s in group.scores], dtype=torch.float64)
        sizes_P = torch.tensor([len(group.scores) for group in groups])
        group_N = torch.arange(len(groups)).repeat_interleave(sizes_P)
        treatment = self.config.rollout.truncated
        counted_N = torch.tensor([c for group in groups for c in counted_in(group, treatment).in_group])
        algorithm = self.config.algorithm
        if algorithm.kl_in == "reward" and algorithm.kl_weight:
            divergence_N = self._divergence(parts, len(rewards_N)).cpu()
            rewards_N = penalised(rewards_N, divergence_N, algorithm.kl_weight)
        return advantages(self._advantage, rewards_N, group_N, counted_N).float()

    def _divergence(self, parts: Sequence[MiniBatch], answers: int) -> torch.Tensor:
        """float64 [N]: of each whole answer from the reference, summed over ranks."""
        batches = [batch for part in parts for batch in part.batches]
        total_N = torch.zeros(answers, dtype=torch.float64, device=batches[0].weights_T.device)
        if self.mesh.speaks:
            for batch in batches:
                columns = batch.columns
                total_N += answer_divergence(
                    self.config.algorithm.kl,
                    columns["old"],
                    columns["reference"],
                    batch.weights_T != 0,
                    columns["answer"].long(),
                    answers,
                )
        return self.mesh.sum_over_world(total_N)

    def _update(self, part: MiniBatch, advantage_N: torch.Tensor, place: int, seen: _Seen | None) -> Update:
        """One optimizer step. place: its number in the schedule, from 1. seen: where to note the mismatch."""
        train, algorithm = self.config.train, self.config.algorithm
        assert train.steps is not None
        advantage_N = advantage_N.to(part.batches[0].weights_T.device)

        def loss(logp_T: torch.Tensor, entropy_T: torch.Tensor | None, batch: MicroBatch) -> LossParts:
            columns, counts_T, sequence_T = batch.columns, batch.weights_T != 0, sequences(batch)
            old_T = columns.get("old", logp_T.detach())
            weigh = importance(self._correction, old_T, columns["generator"], counts_T, sequence_T)
            parts = policy_loss(
                self._loss,
                logp_T,
                old_T,
                torch.where(counts_T, advantage_N[columns["answer"].long()], 0.0),
                columns["weight"],
                ref_T=columns.get("reference"),
                sequence_T=sequence_T,
                importance_T=weigh.weights_T if self._correction.how != "none" else None,
                entropy_T=entropy_T,
            )
            extra = {"weight": columns["weight"].sum()}
            if seen is not None:
                seen.largest = max(seen.largest, float(weigh.largest))
                extra |= {f"{_MISMATCH}{name}": value for name, value in weigh.sums.items()}
                extra["surprise"] = -torch.where(counts_T, old_T, 0.0).sum()
            return LossParts(parts.sum, parts.sums | extra)

        with_entropy = bool(algorithm.entropy_weight)
        lr = learning_rate(train, place, train.steps * algorithm.updates)
        update = self.policy.update(
            part.batches,
            WithEntropy(loss) if with_entropy else lambda logp_T, batch: loss(logp_T, None, batch),
            denominator=part.weights.total,
            lr=lr,
            skip_nonfinite=self.config.guards.nonfinite == "skip",
        )
        if update.skipped:
            return replace(update, sums=update.sums | {"lr": lr})
        self.updates += 1
        every = algorithm.reference_every
        if every and self.reference is not None and self.updates % every == 0:
            self.reference.copy_weights(self.policy)
        return replace(update, sums=update.sums | {"lr": lr})

    def _figures(self, done: Sequence[Update], seen: _Seen) -> dict[str, float]:
        """Means over the tokens that count, by their weight; of the mismatch over all tokens of answers."""
        if not done:
            return {"updates": 0}
        totals: Counter[str] = Counter()
        for update in done:
            totals.update(update.sums)
        weight = totals["weight"]
        tokens = max(1.0, totals[f"{_MISMATCH}tokens"])
        names = ("kl", "clipped", "clipped_low", "clipped_high", "ratio", "far")
        mismatch = {
            name.removeprefix(_MISMATCH): v for name, v in totals.items() if name.startswith(_MISMATCH)
        }
        # Where nobody computes it: what is drawn is as surprising as the entropy says, on average.
        entropy = totals["entropy"] / weight if "entropy" in totals else totals["surprise"] / tokens
        return {
            "updates": sum(not update.skipped for update in done),
            "loss": sum(update.loss for update in done) / len(done),
            **{name: totals[name] / weight for name in names if name in totals},
            "entropy": entropy,
            "grad_norm": sum(update.grad_norm for update in done) / len(done),
            "lr": done[-1].sums["lr"],
            **figures(mismatch, self.mesh.max_over_world(seen.largest)),
        }


@dataclass
class _Seen:
    """The largest |trainer - generator| on this rank."""

    largest: float = 0.0
