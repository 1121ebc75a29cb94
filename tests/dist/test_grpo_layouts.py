"""What GRPO and its relatives learn is the same in every layout: each parameter's gradient at each update.

The whole learner is under test: advantages, mini-batches, packing, old and reference log-probabilities,
figures. The reference is transformers, torch's AdamW and a plain loop, one answer at a time, that shares no
formula with r1mega.algo. Weights move between updates, so ratios, clips and divergences all matter.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from r1mega.config.schema import Grpo
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.rollout.collect import Group
from r1mega.stages.learning import Learner
from r1mega.train.policy import Policy
from r1mega.types import Completion, Prompt, Score
from tests import tiny
from tests.dist.test_layouts import name_of
from tests.ranks import run_ranks

TEMPERATURE, SEED, LONGEST = 0.7, 11, 40
# With so large an epsilon Adam's steps are smooth in the gradient; with a small one, noise would become a
# direction.
TRAIN: dict[str, Any] = dict(
    steps=2, lr=0.5, min_lr=0.5, schedule="constant", eps=1.0, clip_grad=0.0, weight_decay=0.01,
    expert_bias_rate=0.0, micro_batch_tokens=64,
)  # fmt: skip
LENGTHS = ((14, 6, 0), (9, 31, 3))  # of each prompt's answers; the 31 were cut at the limit
REWARDS = ((2.0, 0.0, 1.0), (1.0, 0.0, 0.5))


@dataclass(frozen=True)
class Case:
    """What is learned. steps: rollouts; prompts: of LENGTHS, from the first on; lr: of all updates."""

    algorithm: dict[str, Any]
    truncated: str = "grade"
    steps: int = 1
    prompts: int = 2
    group: int = 3
    train: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Grpo:
        rollout = {"prompts": self.prompts, "group": self.group, "max_tokens": LONGEST}
        return Grpo.model_validate(
            {
                "kind": "grpo",
                "model": {"path": "unused"},
                "data": {"kind": "tasks", "max_prompt": 8, "tasks": {"t": {"kind": "sums"}}},
                "train": TRAIN | self.train,
                "rollout": rollout | {"truncated": self.truncated},
                "algorithm": self.algorithm,
            }
        )


CASES = {
    "grpo": Case({"mini_batches": 2, "inner_epochs": 2, "kl_weight": 0.3}),
    "gspo": Case(
        {"preset": "gspo", "mini_batches": 2, "inner_epochs": 2, "clip_low": 0.05, "clip_high": 0.05},
        prompts=1,
        group=2,
    ),
    "dapo_mis": Case(
        {"preset": "dapo", "mini_batches": 2, "correction": "mask", "correction_high": 1.5}, "no_loss"
    ),
    "dr_grpo": Case({"preset": "dr_grpo", "inner_epochs": 2, "kl_weight": 0.2}, "exclude"),
    "cispo_tis": Case(
        {
            "preset": "cispo",
            "mini_batches": 2,
            "clip_high": 0.1,
            "correction": "truncate",
            "correction_high": 1.2,
        }
    ),
    "rloo": Case({"preset": "rloo", "kl_weight": 0.5}, steps=2),
}


# ---- the reference


def blank_groups(case: Case, step: int) -> list[Group]:
    """Prompts, answers and rewards; nobody has drawn them yet."""
    rng = np.random.default_rng(step)
    made = []
    for p in range(case.prompts):
        prompt = Prompt(f"t/{p}", "t", "", tuple(rng.integers(0, 96, 4 + p).tolist()), "")
        answers = tuple(
            Completion(tuple(rng.integers(0, 96, n).tolist()), (), "", "length" if n == 31 else "stop", 0)
            for n in LENGTHS[p][: case.group]
        )
        made.append(Group(prompt, answers, tuple(Score(r, "wrong") for r in REWARDS[p][: case.group])))
    return made


def logprobs(model: Any, prompt: Prompt, completion: Completion) -> torch.Tensor:
    """Of the answer's tokens."""
    tokens = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
    logits = model(tokens).logits[0, :-1] / TEMPERATURE
    logp = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return logp[len(prompt.token_ids) - 1 :]


@torch.no_grad()
def draw(model: Any, groups: list[Group]) -> list[Group]:
    """Drawn by a generator that is another model: up to a nat off, in either direction."""
    rng = np.random.default_rng(9)

    def drawn(prompt: Prompt, answer: Completion) -> Completion:
        exact = logprobs(model, prompt, answer).numpy()
        off = exact + rng.normal(0, 0.4, len(exact))
        return Completion(answer.token_ids, tuple(off.tolist()), "", answer.finish, 0)

    return [Group(g.prompt, tuple(drawn(g.prompt, a) for a in g.completions), g.scores) for g in groups]


@dataclass
class Answer:
    """One answer, as the plain loop sees it. group, loss: whether it counts there."""

    prompt: Prompt
    completion: Completion
    reward: float
    siblings: list[int]
    group: bool
    loss: bool
    advantage: float = 0.0
    old: Any = None
    ref: Any = None


def answers_of(case: Case, groups: list[Group]) -> list[Answer]:
    found: list[Answer] = []
    for g in groups:
        numbers = list(range(len(found), len(found) + len(g.completions)))
        for completion, score in zip(g.completions, g.scores, strict=True):
            cut = completion.finish == "length"
            counts = not (cut and case.truncated == "exclude"), not (cut and case.truncated != "grade")
            found.append(Answer(g.prompt, completion, score.total, numbers, *counts))
    return found


def set_advantages(case: Case, answers: list[Answer]) -> None:
    options = case.config.algorithm
    rewards = [a.reward for a in answers]
    if options.kl_in == "reward":
        rewards = [
            a.reward - options.kl_weight * float((a.old - a.ref).double().sum()) for a in answers
        ]  # k1
    for i, answer in enumerate(answers):
        peers = [j for j in answer.siblings if answers[j].group]
        others = [j for j in peers if j != i]
        if not answer.group:
            continue
        compared = others if options.baseline == "leave_one_out" else peers
        better = rewards[i] - fmean(rewards[j] for j in compared)
        spread = float(np.std([rewards[j] for j in peers], ddof=1)) if len(peers) > 1 else 0.0
        answer.advantage = better / (spread + 1e-4) if options.scale == "group" else better


def answer_loss(
    case: Case, answer: Answer, logp: torch.Tensor, tally: list[dict[str, float]]
) -> torch.Tensor:
    """[tokens] of one answer; notes the figures of each token."""
    options = case.config.algorithm
    low, high, advantage = 1 - options.clip_low, 1 + options.clip_high, answer.advantage
    log_ratio = logp - answer.old
    if options.ratio == "sequence_mean":
        log_ratio = (log_ratio.sum() / max(1, len(logp))).expand(len(logp))
    losses = []
    for t in range(len(logp)):
        ratio = log_ratio[t].exp() if options.ratio != "on_policy" else (logp[t] - logp[t].detach()).exp()
        weight = float(torch.exp(answer.old[t] - answer.completion.logprobs[t]))
        if options.correction == "none":
            weight = 1.0
        elif options.correction == "truncate":
            weight = min(weight, options.correction_high)
        elif not options.correction_low <= weight <= options.correction_high:
            weight = 0.0
        if options.objective == "cispo":
            gain = ratio.detach().clamp(low, high) * advantage * logp[t]
            clipped = not low <= float(ratio) <= high
        else:
            gain = torch.min(ratio * advantage, ratio.clamp(low, high) * advantage)
            clipped = (float(ratio) > high and advantage > 0) or (float(ratio) < low and advantage < 0)
        noted = {"ratio": float(ratio), "clipped": float(clipped)}
        loss = -weight * gain
        if options.kl_weight:
            away = answer.ref[t] - logp[t]
            kl = away.exp() - away - 1 if options.kl == "k3" else -away
            noted["kl"] = float(kl)
            if options.kl_in == "loss":
                loss = loss + options.kl_weight * kl
        losses.append(loss)
        tally.append(noted)
    return torch.stack(losses) if losses else torch.zeros(0)


def reference(kind: str, case: Case) -> dict[str, Any]:
    """The groups that are learned from, the gradients of each update, and the last step's figures."""
    model, first = tiny.make(kind), tiny.make(kind)
    options, train = case.config.algorithm, case.config.train
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=train.lr, betas=train.betas, eps=train.eps,
    )  # fmt: skip
    drawn, gradients, figures = [], [], {}
    for step in range(1, case.steps + 1):
        drawn.append(draw(model, blank_groups(case, step)))
        answers = answers_of(case, drawn[-1])
        with torch.no_grad():
            for a in answers:
                a.old, a.ref = (logprobs(m, a.prompt, a.completion) for m in (model, first))
        set_advantages(case, answers)
        order = np.random.default_rng((SEED, step - 1)).permutation(len(answers))
        losses, tally = [], []
        for _ in range(options.inner_epochs):
            for part in np.split(order, options.mini_batches):
                counted = [answers[i] for i in part if answers[i].loss]
                lengths = [len(a.completion.token_ids) for a in counted]
                total = {
                    "answer": len(counted), "token": sum(lengths), "constant": len(counted) * LONGEST,
                }[options.mean]  # fmt: skip
                optimizer.zero_grad()
                loss = torch.zeros(())
                for answer, length in zip(counted, lengths, strict=True):
                    noted: list[dict[str, float]] = []
                    tokens = answer_loss(
                        case, answer, logprobs(model, answer.prompt, answer.completion), noted
                    )
                    weight = 1 / max(1, length) if options.mean == "answer" else 1.0
                    loss = loss + weight * tokens.sum() / total
                    tally += [{"weight": weight} | each for each in noted]
                loss.backward()
                gradients.append({n: g.clone() for n, g in tiny.checkpoint(model, gradients=True).items()})
                optimizer.step()
                losses.append(float(loss))
        spread = sum(each["weight"] for each in tally)
        figures = {
            name: sum(each["weight"] * each[name] for each in tally) / spread
            for name in tally[0].keys() - {"weight"}
        }
        olds = torch.cat([a.old for a in answers])
        apart = olds - torch.tensor([x for a in answers for x in a.completion.logprobs])
        figures |= {"loss": fmean(losses), "updates": len(losses), "entropy": -float(olds.mean())}
        figures |= {"mismatch_max": float(apart.abs().max()), "mismatch_mean": float(apart.abs().mean())}
    return {"groups": drawn, "gradients": gradients, "figures": figures}


# ---- the learner


def in_layout(
    rank: int, kind: str, sizes: dict[str, Any], world: int, case: Case, drawn: list[list[Group]]
) -> dict[str, Any]:
    with Mesh(Layout.of(world, **sizes)) as mesh:
        start = tiny.make(kind)
        spec, tensors = load_spec(start.config.to_dict()), tiny.InMemory(tiny.checkpoint(start))

        def policy(train: Any) -> Policy:
            made = Policy(spec, mesh, dtype="float32", train=train)
            weights.load(spec, mesh, made.model, tensors)
            made.temperature = TEMPERATURE
            return made

        learning = policy(case.config.train)
        learning.prepare_to_learn()
        gradients = capture(learning, mesh)
        reference = policy(None) if case.config.algorithm.kl_weight else None
        learner = Learner(case.config, learning, reference, lambda name: nullcontext())
        figures = [learner.learn(groups, step, LONGEST, SEED) for step, groups in enumerate(drawn, 1)]
        assert learner.updates == learning.version == len(gradients)
        return {"gradients": gradients if rank == 0 else [], "figures": figures[-1]}


def capture(policy: Policy, mesh: Mesh) -> list[dict[str, torch.Tensor]]:
    """The gradients of every update from now on, whole and by checkpoint names."""
    assert policy.optimizer is not None
    step, found = policy.optimizer.step, []

    def noting() -> Any:
        mine = {name: p.main_grad for name, p in policy.model.named_parameters()}
        mine |= {n: t for n, t in weights.tensors(policy.model).items() if n not in mine}
        found.append({n: t.clone() for n, t in weights.whole(policy.spec, mesh, mine)})
        return step()

    policy.optimizer.step = noting  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize(
    ("kind", "world", "sizes", "algorithm"),
    [
        ("v3", 1, {}, "grpo"),
        ("qwen2_tied", 2, {}, "gspo"),  # two mini-batches of one answer: one rank has none
        ("v3", 2, {"ep": 2}, "dapo_mis"),
        ("v3", 2, {"tp": 2, "ep": 2}, "dr_grpo"),
        ("llama3", 2, {"tp": 2}, "cispo_tis"),
        ("qwen2_tied", 2, {"pp": 2}, "rloo"),
        pytest.param("v3", 4, {"pp": 2, "ep": 2}, "grpo", marks=pytest.mark.slow),
    ],
    ids=name_of,
)
def test_every_update_equals_transformers(
    kind: str, world: int, sizes: dict[str, Any], algorithm: str
) -> None:
    case = CASES[algorithm]
    expected = run_ranks(1, lambda rank: reference(kind, case))[0]
    results = run_ranks(world, in_layout, kind, sizes, world, case, expected["groups"])
    for ours, theirs in zip(results[0]["gradients"], expected["gradients"], strict=True):
        for name, gradient in theirs.items():
            scale = float(gradient.abs().max())
            assert torch.allclose(ours[name], gradient, rtol=2e-4, atol=2e-6 + 2e-5 * scale), (
                f"{name}: {float((ours[name] - gradient).abs().max())} of {scale}"
            )
    for result in results:
        got = result["figures"]
        assert {name: got[name] for name in expected["figures"]} == pytest.approx(
            expected["figures"], rel=1e-4, abs=1e-5
        )
    if len(expected["gradients"]) > 1 and algorithm != "rloo":
        assert 0.01 < expected["figures"]["clipped"] < 0.9 and abs(expected["figures"]["ratio"] - 1) > 1e-3
