"""Log-probabilities and entropies in chunks are those of the plain computation, in value and gradient.

The reference computes all logits at once and leaves the rest to torch's autograd. It takes the place of
`score` in the same policy, so that everything below the output layer is the same. Chunks are made so small
that each micro-batch has several, of which some are kept for backward and some computed again.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from r1mega.algo.loss import LossParts
from r1mega.models import weights
from r1mega.models.layers import output_weight
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train import logprob
from r1mega.train import policy as policy_module
from r1mega.train.batch import MicroBatch, micro_batch
from r1mega.train.logprob import TokenScores
from r1mega.train.loss_function import WithEntropy
from r1mega.train.policy import Policy
from r1mega.types import Sample
from tests import tiny
from tests.dist.test_layouts import TRAIN, name_of
from tests.ranks import run_ranks

TEMPERATURE = 0.7
DENOMINATOR = 50.0


def plain_score(
    model: Any,
    hidden_1SH: torch.Tensor,
    batch: MicroBatch,
    mesh: Mesh,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> TokenScores:
    """The obvious way: all logits of all tokens on every rank."""
    from megatron.core.tensor_parallel import (
        gather_from_sequence_parallel_region,
        gather_from_tensor_model_parallel_region,
    )

    hidden_TH = gather_from_sequence_parallel_region(hidden_1SH[0]) if mesh.layout.tp > 1 else hidden_1SH[0]
    logits_TV = gather_from_tensor_model_parallel_region(hidden_TH @ output_weight(model).t())
    logp_TV = (logits_TV.float() / temperature).log_softmax(-1)
    counts_T = batch.weights_T != 0
    logp_T = logp_TV.gather(1, batch.targets_T[:, None])[:, 0] * counts_T
    return TokenScores(logp_T, -(logp_TV.exp() * logp_TV).sum(-1) * counts_T if entropy else None)


def loss(logp_T: torch.Tensor, entropy_T: torch.Tensor, batch: MicroBatch) -> LossParts:
    """Neither linear nor symmetric in its two inputs."""
    gain_T = (0.3 * logp_T).exp() + 0.2 * logp_T - 0.5 * entropy_T * logp_T.detach()
    return LossParts(-(gain_T * batch.weights_T).sum(), {"entropy": entropy_T.sum()})


def my_batches(mesh: Mesh) -> list[MicroBatch]:
    """Prompts and answers, a batch where everything counts, one of filler only, and one more."""
    rng = np.random.default_rng(mesh.at.dp)

    def sample(length: int, prompt: int) -> Sample:
        mask = np.ones(length, np.uint8)
        mask[:prompt] = 0
        return Sample(rng.integers(0, 96, length).astype(np.int32), mask)

    packs = [[sample(40, 17), sample(23, 5)], [sample(33, 0)], [], [sample(9, 8), sample(51, 30)]]
    return [micro_batch(pack, mesh.layout.tp) for pack in packs]


def small_chunks() -> None:
    logprob.LEAST_ROWS, logprob.CHUNK_LOGITS, logprob.KEPT_LOGITS = 7, 0, 2 * 7 * 96


def make_policy(kind: str, mesh: Mesh, dtype: str) -> Policy:
    model = tiny.make(kind)
    spec = load_spec(model.config.to_dict())
    policy = Policy(spec, mesh, dtype=dtype, train=TRAIN)
    policy.temperature = TEMPERATURE
    weights.load(spec, mesh, policy.model, tiny.InMemory(tiny.checkpoint(model)))
    return policy


def both_ways(rank: int, kind: str, sizes: dict[str, Any], world: int, dtype: str) -> Any:
    """[scores, gradients and how often each parameter's was accumulated] in chunks and plain."""
    small_chunks()
    with Mesh(Layout.of(world, **sizes)) as mesh:
        policy, batches = make_policy(kind, mesh, dtype), my_batches(mesh)
        policy.prepare_to_learn()
        times: Counter[str] = Counter()
        for name, parameter in policy.model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: times.update([name]))
        found = []
        for way in (logprob.score, plain_score):
            policy_module.score = way
            times.clear()
            scored = [(s.logp_T, s.entropy_T) for s in policy.score(batches, entropy=True)]
            alone = policy.logprobs(batches)
            policy.gradients(batches, WithEntropy(loss), denominator=DENOMINATOR)
            gradients = {name: p.main_grad.clone() for name, p in policy.model.named_parameters()}
            found.append((scored, alone, gradients, dict(times)))
        return found


CASES: list[tuple[str, int, dict[str, int], str]] = [
    ("qwen2_tied", 1, {}, "float32"),
    ("qwen2_untied", 1, {}, "float32"),
    ("llama3", 1, {}, "bfloat16"),
    ("v3", 1, {}, "float32"),
    ("qwen2_tied", 2, {"tp": 2}, "float32"),
    ("llama3", 2, {"tp": 2}, "bfloat16"),
    ("qwen2_tied", 2, {"pp": 2}, "float32"),
    ("v3", 2, {"pp": 2}, "float32"),
    ("v3", 2, {"ep": 2}, "float32"),
    ("v3", 2, {"tp": 2, "ep": 2}, "float32"),
]
# Two matrix products of bfloat16 in different order may round to neighbours: 2^-8 of a logit.
VALUE = {"float32": 2e-6, "bfloat16": 4e-2}
GRADIENT = {"float32": 1e-5, "bfloat16": 3e-2}


@pytest.mark.parametrize(("kind", "world", "sizes", "dtype"), CASES, ids=name_of)
def test_equals_the_plain_computation(kind: str, world: int, sizes: dict[str, Any], dtype: str) -> None:
    for rank, found in enumerate(run_ranks(world, both_ways, kind, sizes, world, dtype)):
        (scored, alone, gradients, times), (expected, _, plain, plain_times) = found
        for got, want in zip(scored, expected, strict=True):
            for values, reference in zip(got, want, strict=True):
                torch.testing.assert_close(values, reference, atol=VALUE[dtype], rtol=0)
        for logp_T, (both_T, _) in zip(alone, scored, strict=True):
            assert torch.equal(logp_T, both_T), "asking for the entropy must not change the last bits"
        assert gradients.keys() == plain.keys()
        for name, gradient in plain.items():
            scale = float(gradient.abs().max())
            apart = float((gradients[name] - gradient).abs().max())
            assert apart <= GRADIENT[dtype] * scale, f"rank {rank}, {name}: {apart} of {scale}"
        head = "output_layer.weight" if "output_layer.weight" in plain else "embedding.word_embeddings.weight"
        if head in plain:
            assert float(plain[head].abs().max()) > 0
            assert times[head] == len(scored), "once a micro-batch"
        assert times == plain_times


def extreme(rank: int) -> Any:
    """(value in chunks, value in float64) pairs for logits of up to some hundred.

    The factors are multiples of 1/8, so the logits are exact in float32: what differs comes after them.
    """
    small_chunks()
    generator = torch.Generator().manual_seed(0)
    pairs = []
    with Mesh(Layout()):
        for scale in (0.1, 3.0, 30.0):
            hidden_RH = (torch.randn(50, 8, generator=generator) * scale * 8).round().div(8).requires_grad_()
            weight_VH = torch.randn(300, 8, generator=generator).mul(8).round().div(8).requires_grad_()
            targets_R = torch.randint(0, 300, (50,), generator=generator)
            logp_R, entropy_R = logprob._Head.apply(hidden_RH, weight_VH, targets_R, 0, 0.5, True, True)
            (logp_R.clamp(min=-30).sum() + 2 * entropy_R.sum()).backward()
            double_RH, double_VH = (x.detach().double().requires_grad_() for x in (hidden_RH, weight_VH))
            all_RV = (double_RH @ double_VH.t() / 0.5).log_softmax(-1)
            exact_R = all_RV.gather(1, targets_R[:, None])[:, 0]
            exact_entropy_R = -(all_RV.exp() * all_RV).sum(-1)
            (exact_R.clamp(min=-30).sum() + 2 * exact_entropy_R.sum()).backward()
            pairs += [
                (logp_R, exact_R),
                (entropy_R, exact_entropy_R),
                (hidden_RH.grad, double_RH.grad),
                (weight_VH.grad, double_VH.grad),
            ]
    return pairs


def test_large_logits_lose_no_precision() -> None:
    for i, (got, exact) in enumerate(run_ranks(1, extreme)[0]):
        scale = max(1.0, float(exact.abs().max()))
        assert float((got.double() - exact).abs().max()) <= 2e-6 * scale, i
    peaked = run_ranks(1, extreme)[0][9]  # the entropies at the largest scale: nearly certain tokens
    assert float(peaked[1].min()) < 1e-3
    assert float(peaked[0].min()) > -1e-6, "an entropy is never negative"


class Meter(TorchDispatchMode):
    """Bytes of the tensors made inside: the largest one, and the most that lived at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.most = self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._see((args, kwargs), was_there=True)  # weights, which views and in-place operations return
        results = func(*args, **(kwargs or {}))
        self._see(results)
        return results

    def _see(self, tensors: Any, *, was_there: bool = False) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._seen:
                storage = tensor.untyped_storage()
                self._count(storage, storage._cdata, 0 if was_there else storage.nbytes())

    def _count(self, storage: torch.UntypedStorage, key: int, size: int) -> None:
        self._seen.add(key)
        self._now += size
        self.largest, self.most = max(self.largest, size), max(self.most, self._now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size


VOCABULARY, TOKENS, ROWS, KEPT = 8192, 1024, 64, 3
CHUNK_BYTES, ALL_BYTES = 4 * ROWS * VOCABULARY, 4 * TOKENS * VOCABULARY


def memory(rank: int, world: int, tp: int) -> Any:
    """(largest tensor, most bytes at a time) of scoring and of gradients, in chunks and plain."""
    import transformers

    logprob.LEAST_ROWS, logprob.CHUNK_LOGITS, logprob.KEPT_LOGITS = ROWS * tp, 0, KEPT * ROWS * VOCABULARY
    sizes = tiny.DENSE | dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16)
    config = transformers.Qwen2Config(**sizes, tie_word_embeddings=True, rope_parameters=tiny.PLAIN)
    config.architectures = ["Qwen2ForCausalLM"]
    with Mesh(Layout.of(world, tp=tp)) as mesh:
        policy = Policy(load_spec(config.to_dict()), mesh, dtype="float32", train=TRAIN)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.normal_(0, 0.1)
        policy.prepare_to_learn()
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, TOKENS + 1).astype(np.int32)
        batch = micro_batch([Sample(tokens, np.ones(TOKENS + 1, np.uint8))], tp)
        found = []
        for way in (logprob.score, plain_score):
            policy_module.score = way
            with Meter() as scoring:
                policy.score([batch], entropy=True)
            with Meter() as learning:
                policy.gradients([batch], WithEntropy(loss), denominator=DENOMINATOR)
            found.append([(meter.largest, meter.most) for meter in (scoring, learning)])
        return found


@pytest.mark.parametrize("tp", [1, 2])
def test_never_all_logits_at_once(tp: int) -> None:
    """32 MiB would hold one float32 tensor of all logits; everything together stays well below that."""
    for chunked, plain in run_ranks(tp, memory, tp, tp):
        (scoring, scoring_most), (learning, learning_most) = chunked
        assert scoring == learning == CHUNK_BYTES
        other = 4 * 2**20 // tp  # weight gradients, and activations of 16 features
        assert scoring_most <= 4 * CHUNK_BYTES + other
        assert learning_most <= (KEPT + 4) * CHUNK_BYTES + other < 0.75 * ALL_BYTES
        assert plain[0][0] >= ALL_BYTES and plain[1][1] >= 3 * ALL_BYTES // tp, "the meter sees it"
