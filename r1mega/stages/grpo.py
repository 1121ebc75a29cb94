"""The stage `grpo`: group relative policy optimisation, trainer and generator in the same job.

One step reads top to bottom in `_Training._step`: push the weights, draw and grade groups of answers, learn
from them. What is learned, and how, is in `learning`; which groups, in `drawing`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from r1mega.algo.batch_words import BatchSizes
from r1mega.algo.guards import Finding
from r1mega.config.schema import Grpo
from r1mega.config.sections import Train
from r1mega.data.target import check_format_rule
from r1mega.logs import Log, open_log, say
from r1mega.models import weights
from r1mega.models.mtp_weights import without_mtp
from r1mega.parallel import Layout, Mesh, on_leader
from r1mega.progress import beat
from r1mega.report.plots import plot_curves
from r1mega.report.rollouts import printable
from r1mega.rewards import Rubric
from r1mega.rollout.collect import Group, collect
from r1mega.rollout.options import EngineOptions
from r1mega.rollout.vllm_engine import VLLMGenerator
from r1mega.stages.base import Context, Metrics
from r1mega.stages.drawing import draw
from r1mega.stages.evaluate import evaluate, gate
from r1mega.stages.experience import answer_sample
from r1mega.stages.export import export
from r1mega.stages.guards import watch
from r1mega.stages.interrupt import StopRequest
from r1mega.stages.learning import Learner
from r1mega.stages.mixture import prompt_source, templates
from r1mega.stages.reward import model_parts, reward_parts, rules
from r1mega.stages.rollouts import write_rollouts
from r1mega.stages.scorer import RewardScorer, load_scorers
from r1mega.stages.start import Start, start
from r1mega.sync import PolicyWeights, probe, push
from r1mega.train.batch import micro_batch
from r1mega.train.checkpoint_keeper import Keeper
from r1mega.train.policy import Policy
from r1mega.types import Completion, Interrupted, Prompt, Sampling, Seen, UserError

PROBE_TOKENS = 8
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
"""How far apart both may be on the probe, in nats: well above rounding, far below stale weights."""

_SEEDS = 1_000_003
"""Steps between the seeds of runs: more than a run has."""

EVALUATION_SEED = 2**31 - 1
"""Evaluations draw with seeds of their own, the same each time: a rise is the policy's, not the dice's."""


def run(ctx: Context) -> Metrics:
    """Raise a policy by its rewards, keeping checkpoints, and export it; returns the stage's metrics."""
    config = _config(ctx)
    begin = start(ctx)
    with Mesh(ctx.layout) as mesh:

        def model(train: Train | None) -> Policy:
            spec = begin.spec if train is not None else without_mtp(begin.spec)
            made = Policy(
                spec,
                mesh,
                dtype=config.model.dtype,
                train=train,
                seed=ctx.run.seed,
                backend=begin.backend,
            )
            weights.load(spec, mesh, made.model, begin.weights)
            return made

        if config.algorithm.routing_replay and begin.spec.moe is None:
            raise UserError("algorithm.routing_replay: this model has no experts; leave it out")
        policy = model(config.train)
        reference = model(None) if config.algorithm.kl_weight else None
        if reference is not None and "reference" in config.train.offload:
            reference.wait_on_host()
        policy.prepare_to_learn()
        scorers = load_scorers(
            model_parts(config.rewards),
            ctx.inputs,
            mesh,
            dtype=config.model.dtype,
            micro_batch_tokens=config.train.micro_batch_tokens,
        )
        drawn_from = without_mtp(begin.spec).hf
        with VLLMGenerator(drawn_from, begin.tokenizer, _engine_options(config, ctx.layout)) as generator:
            training = _Training(ctx, config, begin, policy, reference, generator, scorers)
            metrics = training.run()
        export(policy, begin.tokenizer, ctx.model, begin.carry_from)
    if mesh.at.rank == 0:
        plot_curves(ctx.room / "metrics.jsonl", ctx.room / "plots")
    return metrics


@dataclass
class _State:
    """What a checkpoint carries besides weights, optimizer, reference, random state and prompt cursor.

    step: rollouts done. updates: optimizer steps. best: the highest held-out accuracy so far; waited:
          evaluations since then. before, latest: held-out figures before the first step and of the last
          evaluation. recent: what the guards look back at.
    """

    step: int = 0
    updates: int = 0
    tokens: int = 0
    best: float = 0.0
    waited: int = 0
    converged: bool = False
    gate: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    recent: list[dict[str, float]] = field(default_factory=list)


class _Training:
    """The loop of one stage."""

    def __init__(
        self,
        ctx: Context,
        config: Grpo,
        begin: Start,
        policy: Policy,
        reference: Policy | None,
        generator: VLLMGenerator,
        scorers: Mapping[str, RewardScorer],
    ) -> None:
        self.ctx, self.config = ctx, config
        self.tokenizer = begin.tokenizer
        self.policy, self.reference, self.generator = policy, reference, generator
        self.mesh = policy.mesh
        self.scorers = scorers
        self.keeper = Keeper(ctx.checkpoints, policy, config.checkpoint, reference=reference)
        self.learner = Learner(config, policy, reference, self._phase)
        chat = begin.chat(templates(config.data.tasks or {}))
        if config.rewards.format.weight > 0:
            check_format_rule(config.rewards.format.rule, chat.opening if chat else "")
        self.prompts = prompt_source(config.data, begin.tokenizer, ctx.run.seed, chat)
        self.held_out = self.prompts.held_out(max(config.eval.samples, config.gate.prompts))
        if not self.held_out:
            raise UserError(
                f"no held-out prompt: data.held_out {config.data.held_out} leaves none, or all are longer "
                f"than data.max_prompt {config.data.max_prompt} tokens; raise one of them"
            )
        # Lengths are judged by the longest answer that is allowed at a step.
        self.rewards = {
            longest: Rubric(
                self.prompts.graders,
                reward_parts(config.rewards, longest, scorers),
                where=config.rewards.accuracy.where,
                rules=rules(config.rewards),
            )
            for longest in config.rollout.limits
        }
        assert config.train.steps is not None  # the config has seen to it
        self.steps = config.train.steps
        self.state = _State()
        self.seconds: dict[str, float] = {}
        self.proved: Sampling | None = None
        self.sync: dict[str, Any] = {}
        self.log = Log(())

    def run(self) -> Metrics:
        """All steps that are not done yet."""
        self._resume()
        state, steps = self.state, self.steps
        say(f"{self.ctx.name}: one step\n{batch_sizes(self.config, self.mesh.layout.dp)}")
        with self.keeper, self._open_log() as log, StopRequest() as stop:
            self.log = log
            self._set_temperature()
            if not state.before:
                self._push()
                self._gate()
                state.before = state.latest = self._evaluate()
                state.best = state.before["accuracy"]
                say(f"{self.ctx.name}: held-out {_sentence(state.before)}")
            while state.step < steps and not state.converged:
                record = self._step()
                log.log(state.step, record)
                found = watch(self.config.guards, state.recent, record)
                self._keep(stopping=self.mesh.any_rank(stop.asked), halting=found)
        return self._metrics()

    def _step(self) -> dict[str, Any]:
        """One rollout and the optimizer steps on it; returns what is logged."""
        state, config = self.state, self.config
        self.seconds = {}
        self._set_temperature()
        # Weights first: a generator that was started anew needs no special path.
        self._push()
        with self._phase("generate"):
            drawn = draw(self.prompts, self._draw, config.rollout, config.algorithm.mini_batches)
        self._show(drawn.all[0])
        on_leader(lambda: write_rollouts(self.ctx.room, state.step + 1, drawn.all))
        self.learner.updates = state.updates
        learned = self.learner.learn(drawn.kept, state.step + 1, self._sampling.max_tokens, self.ctx.run.seed)
        state.updates = self.learner.updates
        tokens = sum(len(c.token_ids) for group in drawn.all for c in group.completions)
        read = sum(len(group.prompt.token_ids) * len(group.completions) for group in drawn.all)
        state.tokens += tokens + read
        skipped = {"skipped_prompts": sum(self.prompts.skipped.values())}
        skipped |= {f"{name}_truncated": scorer.truncated for name, scorer in self.scorers.items()}
        record = drawn.figures | learned | skipped | {"tokens": tokens} | self.sync
        if self._evaluation_due():
            record |= _named("held_out_", self._judge())
        state.step += 1
        spent = sum(self.seconds.values())
        record |= {"seconds": round(spent, 3), "tokens_per_second": round(tokens / spent, 1)}
        return record | {f"seconds_{name}": round(value, 3) for name, value in self.seconds.items()}

    @property
    def _sampling(self) -> Sampling:
        """Of the step that is being done, its evaluation included.

        The seed goes with the step: a prompt may be asked again.
        """
        step = self.state.step + 1
        max_tokens, temperature = self.config.rollout.at(step)
        return Sampling(max_tokens, temperature=temperature, seed=self.ctx.run.seed * _SEEDS + step)

    def _set_temperature(self) -> None:
        """The trainer's log-probabilities are of the distribution that answers are drawn from."""
        for each in filter(None, (self.policy, self.reference)):
            each.temperature = self._sampling.temperature

    def _draw(self, prompts: Sequence[Prompt]) -> list[Group]:
        return self._ask(prompts, self.config.rollout.group, self._sampling)

    def _show(self, group: Group) -> None:
        """A sample answer now and then: with the first step and with each evaluation."""
        step, every = self.state.step + 1, self.config.eval.every
        if step == 1 or (every and step % every == 0):
            answer, score = group.completions[0], group.scores[0]
            text = printable(" ".join(answer.text.split()))
            say(f"step {step}: {printable(group.prompt.text)}{'' if text[:1].isspace() else ' '}{text[:300]}")
            say(f"        gold {group.prompt.answer}; {score.outcome}, reward {score.total:g}")

    def _ask(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[Group]:
        return collect(
            prompts,
            self.generator,
            self.rewards[self._sampling.max_tokens].at(self.state.step + 1),
            self.mesh,
            n=n,
            sampling=sampling,
            ranks_per_engine=self.generator.options.tensor_parallel,
        )

    def _push(self) -> None:
        """Give the generator the policy's weights, unless it has them, and prove that it uses them.

        A proof is of a temperature. So a run proves the same whether it was interrupted before a change of
        temperature or not.
        """
        sampling = self._sampling
        asked = replace(sampling, max_tokens=min(PROBE_TOKENS, sampling.max_tokens), seed=EVALUATION_SEED)
        if self.generator.version == self.policy.version and self.proved == asked:
            return
        with self._phase("sync"):
            report = push(PolicyWeights(self.policy), self.generator, self.policy.version)
            difference = probe(
                _AllRanks(self.generator, self.mesh),
                self._score,
                self.held_out[:1],
                asked,
                tolerance=PROBE_TOLERANCE[self.config.model.dtype],
            )
        self.proved = asked
        self.sync = {"version": report.version, "weights": report.digest, "probe": difference}

    def _score(self, pairs: Sequence[tuple[Prompt, Completion]], temperature: float) -> list[list[float]]:
        """The trainer's log-probabilities of answers' tokens; every rank computes the same answers."""
        assert temperature == self.policy.temperature
        samples = [answer_sample(prompt, completion) for prompt, completion in pairs]
        batch = micro_batch(samples, self.mesh.layout.tp)
        logp_T = self.mesh.from_last_stage(self.policy.logprobs([batch])[0].cpu())
        ends = np.cumsum([len(sample) - 1 for sample in samples])
        return [
            logp_T[end - len(completion.token_ids) : end].tolist()
            for (_, completion), end in zip(pairs, ends, strict=True)
        ]

    def _gate(self) -> None:
        section = self.config.gate
        if section.action != "off":
            prompts = self.held_out[: section.prompts]
            sampling = replace(self._sampling, seed=EVALUATION_SEED)
            samples = section.samples or self.config.rollout.group
            self.state.gate = gate(self._ask, prompts, self.tokenizer, section, samples, sampling)

    def _evaluate(self) -> dict[str, float]:
        section = self.config.eval
        sampling = replace(self._sampling, seed=EVALUATION_SEED)
        return evaluate(self._ask, self.held_out[: section.samples], section.answers, sampling)

    def _evaluation_due(self) -> bool:
        every, step = self.config.eval.every, self.state.step + 1
        return step == self.steps or bool(every and step % every == 0)

    def _judge(self) -> dict[str, float]:
        """Evaluate the updated policy, and decide whether it has converged."""
        state, section = self.state, self.config.eval
        self._push()
        with self._phase("evaluate"):
            state.latest = self._evaluate()
        if state.latest["accuracy"] > state.best + section.min_delta:
            state.best, state.waited = state.latest["accuracy"], 0
        else:
            state.waited += 1
        state.converged = bool(section.patience) and state.waited >= section.patience
        if state.converged:
            say(f"{self.ctx.name}: converged, no gain of {section.min_delta} in {state.waited} evaluations")
        return state.latest

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = self.keeper.resume()
        if found is None:
            return
        newest, loop = found
        self.state = _State(**loop["state"])
        self.prompts.load_state(loop["prompts"])
        say(f"{self.ctx.name}: going on from step {self.state.step} of {self.steps} ({newest})")

    def _keep(self, *, stopping: bool, halting: Sequence[Finding]) -> None:
        """Write a checkpoint where one is due; when asked to stop, or a guard says so, stop."""
        state, section, steps = self.state, self.config.checkpoint, self.steps
        finished = state.step == steps or state.converged
        if stopping or halting or finished or (section.every and state.step % section.every == 0):
            beat(f"{self.ctx.name}: checkpoint of step {state.step}")
            loop = {
                "state": asdict(state),
                "prompts": self.prompts.state(),
                "version": self.policy.version,
            }
            self.keeper.save(state.step, loop)
        self.keeper.poll()
        if halting:
            self.keeper.wait()
            raise UserError(
                f"stopped after step {state.step}, which is saved, by guards.{halting[0].guard}:\n"
                + "\n".join(map(str, halting))
                + f"\nTo go on nevertheless, say guards.{halting[0].guard}=warn"
            )
        if stopping:
            raise Interrupted(
                f"interrupted at step {state.step} of {steps}, which is saved; "
                "run the same command again to go on from there"
            )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self.log.phase(name)
        beat(f"{self.ctx.name}: step {self.state.step + 1}: {name}")
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def _open_log(self) -> Log:
        return open_log(
            self.ctx.room,
            self.config.log,
            title=self.ctx.name,
            total_steps=self.steps,
            resume_step=self.state.step,
            config=self.config.model_dump(mode="json"),
        )

    def _metrics(self) -> Metrics:
        """before and after: of held-out prompts. accuracy: pass@1 at the rollout's temperature."""
        state = self.state
        found: dict[str, Any] = {"steps": state.step, "updates": state.updates, "positions": state.tokens}
        found |= {"converged": int(state.converged)}
        found |= {f"gate_{name}": value for name, value in state.gate.items()}
        for name, value in state.before.items():
            found |= {f"{name}_before": value, f"{name}_after": state.latest[name]}
        return found


@dataclass(frozen=True)
class _AllRanks:
    """Asks every rank's generator the same and gives every rank all the answers.

    So the probe judges all engines on all ranks alike: they agree on its outcome, and their collectives stay
    in step also when one engine is wrong.
    """

    generator: VLLMGenerator
    mesh: Mesh

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, seen: Seen | None = None
    ) -> list[list[Completion]]:
        everyones = self.mesh.gather(self.generator.generate(prompts, n=n, sampling=sampling, seen=seen))
        return [[answer for theirs in everyones for answer in theirs[i]] for i in range(len(prompts))]


def _sentence(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _config(ctx: Context) -> Grpo:
    assert isinstance(ctx.config, Grpo)
    return ctx.config


def batch_sizes(config: Grpo, ranks: int) -> BatchSizes:
    """In words, for a person; raises UserError for sizes that cannot be. ranks: data-parallel."""
    sizes = BatchSizes(
        prompts=config.rollout.prompts,
        group=config.rollout.group,
        mini_batches=config.algorithm.mini_batches,
        micro_batch_tokens=config.train.micro_batch_tokens,
        longest=config.data.max_prompt + config.rollout.longest,
        ranks=ranks,
        inner_epochs=config.algorithm.inner_epochs,
    )
    sizes.check()
    return sizes


def _engine_options(config: Grpo, layout: Layout) -> EngineOptions:
    rollout = config.rollout
    return EngineOptions(
        max_model_len=config.data.max_prompt + rollout.longest,
        max_num_seqs=rollout.max_sequences,
        kv_cache_gb=rollout.kv_cache_gb,
        dtype=config.model.dtype,
        tensor_parallel=layout.tp * layout.pp if rollout.engines == "per_replica" else 1,
    )


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}
