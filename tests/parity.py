"""What a model computes in a layout, beside what transformers computes with torch's AdamW.

The reference takes each sequence alone, so packing, position reset and the isolation of packed sequences are
under test as well. Norms would hide errors (Adam and clipping cancel scale), so gradients are compared one
parameter at a time, under checkpoint names, gathered from whatever ranks hold them. Of multi-token prediction
transformers knows nothing: tests/tiny_mtp.py writes the paper's equations around its layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from r1mega.algo.loss import LossParts, cross_entropy
from r1mega.config.sections import Optimizer, Train
from r1mega.models import weights
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.policy import Policy
from r1mega.types import Sample
from tests import tiny
from tests.ranks import run_ranks

LENGTHS = (7, 30, 2, 19, 12, 41, 25, 9)
MTP = "_mtp"  # ends the name of a kind that is trained with one multi-token-prediction layer
MTP_WEIGHT = 0.3
BETAS, EPS, DECAY, RATE, CLIP = (0.9, 0.95), 1e-8, 0.01, 1e-3, 1.0

Sizes = Mapping[str, Any]


@dataclass(frozen=True)
class Deviation:
    """The largest differences from the reference over all ranks.

    logits:   absolute. loss, after: absolute, of the loss and of that after one AdamW step, in nats a token.
    gradient: of any element of a parameter's gradient, over the largest of that parameter; parameters whose
              whole gradient is below 1e-6 are left out. norm: of the gradient's norm, relative.
    """

    logits: float
    loss: float
    gradient: float
    norm: float
    after: float


TOLERANCE = Deviation(logits=1e-5, loss=2e-6, gradient=1e-5, norm=1e-6, after=3e-6)


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(rng.integers(0, 96, n).astype(np.int32), (rng.random(n) < 0.8).astype(np.uint8))
        for n in LENGTHS
    ]


DENOMINATOR = float(sum(int(s.mask[1:].sum()) for s in samples()))


def loss_function(logp_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    return cross_entropy(logp_T, batch.weights_T)


TRAIN = Train(
    steps=4,
    lr=RATE,
    batch_size=8,
    clip_grad=CLIP,
    weight_decay=DECAY,
    betas=BETAS,
    eps=EPS,
    expert_bias_rate=0.0,
    mtp_weight=MTP_WEIGHT,
)


def make_policy(kind: str, mesh: Mesh, optimizer: Optimizer | None = None) -> Policy:
    train = TRAIN.model_copy(update={"optimizer": optimizer or Optimizer()})
    config, tensors = _model(kind)
    spec = load_spec(config)
    policy = Policy(spec, mesh, dtype="float32", train=train, mtp=kind.endswith(MTP))
    weights.load(spec, mesh, policy.model, tiny.InMemory(tensors))
    return policy


def my_batches(mesh: Mesh) -> list[MicroBatch]:
    """Two micro-batches on each data-parallel rank, of different lengths.

    With virtual stages as many as there are: an odd number, and enough that forward and backward take turns.
    """
    mine = samples()[mesh.at.dp :: mesh.layout.dp]
    half = (len(mine) + 1) // 2
    parts = [mine[:half], mine[half:]] if mesh.layout.vp == 1 else [mine[:2], *([one] for one in mine[2:])]
    return [micro_batch(part, mesh.layout.tp) for part in parts]


def compare(kind: str, world: int, sizes: Sizes, *, optimizer: Optimizer | None = None) -> Deviation:
    """A layout against the reference."""
    expected = reference_of(kind)
    results = run_ranks(world, one_layout, kind, sizes, world, optimizer)
    gradients = results[0]["gradients"]
    biases = {name for name in gradients if name.endswith("e_score_correction_bias")}
    assert gradients.keys() - biases == expected["gradients"].keys()
    logits = results[-1]["logits"][: len(expected["logits"])]

    def worst(name: str) -> float:
        return max(abs(result[name] - expected[name]) for result in results)

    return Deviation(
        logits=float((logits - expected["logits"]).abs().max()),
        loss=max(worst("loss"), worst("mtp_loss")),
        gradient=max(relative(gradients[name], g) for name, g in expected["gradients"].items()),
        norm=worst("norm") / expected["norm"],
        after=worst("after"),
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of a gradient; what should be next to nothing and is not counts in full."""
    scale, gap = float(expected.abs().max()), float((found - expected).abs().max())
    return gap / scale if scale > 1e-6 else 0.0 if gap <= 1e-6 else 1.0


def beyond(found: Deviation) -> dict[str, float]:
    """What is outside of the tolerances, or no number at all."""
    allowed = vars(TOLERANCE)
    return {name: value for name, value in vars(found).items() if not value <= allowed[name]}


def one_layout(
    rank: int, kind: str, sizes: Sizes, world: int, optimizer: Optimizer | None = None
) -> dict[str, Any]:
    """Loss, gradients and logits of a layout, then the loss after an optimizer step."""
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy = make_policy(kind, mesh, optimizer)
        logits = policy.logits(micro_batch(samples(), mesh.layout.tp))
        policy.prepare_to_learn()
        batches = my_batches(mesh)
        policy.gradients(batches, loss_function, denominator=DENOMINATOR)
        gradients = {n: t.clone() for n, t in weights.whole(policy.spec, mesh, my_gradients(policy))}
        first = policy.update(batches, loss_function, denominator=DENOMINATOR, lr=RATE)
        second = policy.evaluate(batches, loss_function, denominator=DENOMINATOR)
        result = {
            "logits": logits,
            "loss": first.loss,
            "mtp_loss": first.sums.get("mtp_loss", 0.0) / DENOMINATOR,
            "norm": first.grad_norm,
            "after": second.loss,
        }
        return result | ({"gradients": gradients} if rank == 0 else {})


def my_gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """This rank's, by local name; under the distributed optimizer each rank first gets the others' shares."""
    for bucket, group in _shared_buckets(policy):
        share = bucket.chunk(group.size())[group.rank()].clone()
        dist.all_gather(list(bucket.chunk(group.size())), share, group=group)
    mine = {name: p.main_grad for name, p in policy.model.named_parameters() if hasattr(p, "main_grad")}
    return mine | {n: t for n, t in weights.tensors(policy.model).items() if n not in mine}


def _shared_buckets(policy: Policy) -> Iterator[tuple[torch.Tensor, Any]]:
    for chunk in policy._ddp:
        for group in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups):
            if group.ddp_config.use_distributed_optimizer:
                for bucket in group.buckets:
                    yield bucket.grad_data, group.intra_distributed_optimizer_instance_group


_REFERENCES: dict[str, dict[str, Any]] = {}
_MODELS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {}


def reference_of(kind: str) -> dict[str, Any]:
    """All kinds' are computed at once, in one process: importing transformers takes longer than they do."""
    if kind not in _REFERENCES:
        kinds = [*tiny.CONFIGS, *tiny.DEEP, f"v3{MTP}"]
        _REFERENCES.update(run_ranks(1, lambda rank: {one: reference(one) for one in kinds})[0])
        _MODELS.update({one: found.pop("model") for one, found in _REFERENCES.items()})
    return _REFERENCES[kind]


def _model(kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """config and weights: what the reference's process has made, or else made here."""
    if kind not in _MODELS:
        main, _, checkpoint = _made(kind)
        _MODELS[kind] = main.config.to_dict(), checkpoint()
    return _MODELS[kind]


def _made(kind: str) -> tuple[Any, Any, Any]:
    """The transformers model; with its further layers, or None; and what gives its checkpoint."""
    from tests import tiny_mtp

    if kind.endswith(MTP):
        whole = tiny_mtp.make(kind.removesuffix(MTP), 1)
        return whole.main, whole, whole.checkpoint
    main = tiny.make(kind)
    return main, None, partial(tiny.checkpoint, main)


def reference(kind: str) -> dict[str, Any]:
    """What transformers and torch's AdamW give, one sequence at a time."""
    main, model, checkpoint = _made(kind)
    start = {name: tensor.clone() for name, tensor in checkpoint().items()}

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        total = torch.zeros(2)
        for sample in samples():
            tokens = torch.from_numpy(sample.tokens.astype(np.int64))
            mask = torch.from_numpy(sample.mask.astype(np.float32))
            if model is not None:
                total = total + torch.stack(model.losses(tokens, mask))
                continue
            logits = main(tokens[None]).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            total = total + torch.stack([(nll * mask[1:]).sum(), torch.zeros(())])
        return total[0] / DENOMINATOR, total[1] / DENOMINATOR

    with torch.no_grad():
        tokens_of = [torch.from_numpy(s.tokens.astype(np.int64))[None, :-1] for s in samples()]
        logits = torch.cat([main(tokens).logits[0] for tokens in tokens_of])
    first, further = losses()
    (first + MTP_WEIGHT * further).backward()
    gradients = {name: g.clone() for name, g in checkpoint(gradients=True).items()}
    modules = [main, *(model.depths if model is not None else [])]
    parameters = [p for module in modules for p in module.parameters()]
    norm = _step(parameters)
    with torch.no_grad():
        after = float(losses()[0])
    return {
        "model": (main.config.to_dict(), start),
        "logits": logits,
        "loss": float(first.detach()),
        "mtp_loss": float(further.detach()),
        "norm": norm,
        "after": after,
        "gradients": gradients,
    }


def _step(parameters: list[torch.Tensor]) -> float:
    """One AdamW step after clipping; returns the gradient's norm before."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS)
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    optimizer.step()
    return float(norm)
