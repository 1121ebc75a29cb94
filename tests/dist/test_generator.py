"""The generator: what its answers are, what it refuses, and what it leaves alone in the trainer's process."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r1mega.parallel import Layout, Mesh
from r1mega.rollout.options import EngineOptions, Share
from r1mega.rollout.requests import check_sampling, seed_of
from r1mega.rollout.vllm_engine import VLLMGenerator
from r1mega.types import Completion, Prompt, Sampling, UserError
from tests.engines import (
    EOS,
    MODELS,
    OPTIONS,
    VOCABULARY,
    Speller,
    apart,
    as_reader,
    prompts,
    random_weights,
    run_engines,
    spec_of,
    token_ids,
)

SAMPLING = Sampling(max_tokens=30, seed=7)
DRAWS = 4000


# In the ranks ---------------------------------------------------------------------------------------------


def engine_with_weights(kind: str, mesh: Mesh, options: EngineOptions = OPTIONS) -> tuple[Any, Any]:
    """(generator, policy) with the same random weights."""
    from r1mega.models import weights
    from r1mega.sync import PolicyWeights, push
    from r1mega.train.policy import Policy

    spec = spec_of(kind)
    policy = Policy(spec, mesh, dtype="float32")
    weights.load(spec, mesh, policy.model, as_reader(random_weights(spec, 1)))
    generator = VLLMGenerator(spec.hf, Speller(), options)
    push(PolicyWeights(policy), generator, 5)
    return generator, policy


def one_engine(rank: int) -> dict[str, Any]:
    """Many observations of a single engine, since starting one takes longest."""
    seen: dict[str, Any] = {}
    with Mesh(Layout.of(1)) as mesh:
        generator, policy = engine_with_weights("qwen2_untied", mesh)
        with generator:
            seen |= observe_answers(generator)
            seen |= observe_draws(generator, policy)
            seen["refused"] = refusals(generator)
            seen["crowd"] = crowd(generator)
            seen["broken_off"] = break_off(generator)
            generator.sleep()
            generator.wake()
            seen["version_after_sleep"] = generator.version
    return seen


def observe_answers(generator: Any) -> dict[str, Any]:
    asked = prompts()
    ask = generator.generate
    answers = ask(asked, n=3, sampling=SAMPLING)
    one_by_one = [ask([prompt], n=3, sampling=SAMPLING)[0] for prompt in reversed(asked)]
    greedy = ask(asked, n=1, sampling=replace(SAMPLING, temperature=0.0))
    first = greedy[0][0].token_ids[0]
    generator.tokenizer = Speller(eos_id=first)
    empty = ask(asked[:1], n=1, sampling=replace(SAMPLING, temperature=0.0))[0][0]
    generator.tokenizer = Speller(vocab_size=VOCABULARY // 2)
    beyond = ask(asked, n=1, sampling=SAMPLING)
    generator.tokenizer = Speller()
    return {
        "answers": answers,
        "again": ask(asked, n=3, sampling=SAMPLING),
        "more_answers": ask(asked, n=5, sampling=SAMPLING),
        "split": one_by_one[::-1],
        "other_seed": ask(asked, n=3, sampling=replace(SAMPLING, seed=8)),
        "greedy": greedy,
        "greedy_other_seed": ask(asked, n=1, sampling=replace(SAMPLING, temperature=0.0, seed=8)),
        "empty": empty,
        "beyond": beyond,
    }


def observe_draws(generator: Any, policy: Any) -> dict[str, Any]:
    """First tokens of one prompt, many times, and the distribution that the trainer gives them."""
    from r1mega.train.batch import micro_batch
    from r1mega.types import Sample

    prompt = prompts()[2]
    [drawn] = generator.generate([prompt], n=DRAWS, sampling=Sampling(max_tokens=1, temperature=0.7))
    ids = np.array([*prompt.token_ids, 0], dtype=np.int32)
    logits_TV = policy.logits(micro_batch([Sample(ids, np.ones(len(ids), np.uint8))]))
    wanted_V = (logits_TV[-1] / 0.7).log_softmax(-1).tolist()
    return {"drawn": [(one.token_ids[0], one.logprobs[0]) for one in drawn], "wanted": wanted_V}


def crowd(generator: Any) -> dict[str, Any]:
    """More prompt tokens at once than vLLM computes in one go by default, 2,048; and some of them alone."""
    asked = [Prompt(f"crowd/{i}", "crowd", "", tuple(range(3, 83)), "") for i in range(32)]
    sampling = Sampling(max_tokens=4, temperature=1.0, seed=3)
    together = generator.generate(asked, n=2, sampling=sampling)
    return {"together": together[:4], "alone": generator.generate(asked[:4], n=2, sampling=sampling)}


def refusals(generator: Any) -> dict[str, str]:
    long = Prompt("long/1", "long", "", tuple([5] * 110), "")
    cases = {
        "long": ([long], SAMPLING),
        "no_tokens": ([replace(long, id="long/0", token_ids=())], SAMPLING),
        "foreign": ([replace(long, id="long/2", token_ids=(5, VOCABULARY))], SAMPLING),
        "cold": (prompts(), replace(SAMPLING, temperature=0.001)),
    }
    found = {}
    for name, (asked, sampling) in cases.items():
        try:
            generator.generate(asked, n=1, sampling=sampling)
        except UserError as error:
            found[name] = str(error)
    fits = [generator.fits(replace(long, token_ids=(5,) * n), 30) for n in (0, 1, 98, 99)]
    return found | {"fits": str(fits)}


def break_off(generator: Any) -> dict[str, Any]:
    """Ctrl-C between two steps of the engine, answers half written; then another call."""
    whole, steps = generator.engine.step, iter(range(5))

    def step() -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return whole()

    generator.engine.step = step
    try:
        generator.generate(prompts(), n=3, sampling=SAMPLING)
        raised = False
    except KeyboardInterrupt:
        raised = True
    generator.engine.step = whole
    left = generator.engine.get_num_unfinished_requests()
    return {"raised": raised, "left": left, "next": generator.generate(prompts(), n=3, sampling=SAMPLING)}


def surroundings() -> dict[str, Any]:
    """What of a process an engine must not change."""
    return {
        "threads": torch.get_num_threads(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "numpy": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),  # type: ignore[index, union-attr]
        "python": hash(random.getstate()),
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "handlers": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "children": {
            name: os.environ.get(name) for name in ("LD_PRELOAD", "LOCAL_WORLD_SIZE", "LD_LIBRARY_PATH")
        },
    }


def beside_a_trainer(rank: int, kind: str) -> dict[str, Any]:
    """Two updates of a policy with an engine started, used, synced and closed in between; and without."""
    with Mesh(Layout.of(1)) as mesh:
        return {
            "alone": two_updates(kind, mesh, engine=False),
            "beside": two_updates(kind, mesh, engine=True),
            "group_lives": torch.distributed.is_initialized(),
        }


def two_updates(kind: str, mesh: Mesh, *, engine: bool) -> dict[str, Any]:
    from r1mega.algo.loss import cross_entropy
    from r1mega.config.sections import Train
    from r1mega.models import weights
    from r1mega.sync import PolicyWeights, push
    from r1mega.train.batch import micro_batch
    from r1mega.train.policy import Policy
    from r1mega.types import Sample

    spec = spec_of(kind)
    policy = Policy(spec, mesh, dtype="float32", train=Train(steps=2, lr=1e-3))
    weights.load(spec, mesh, policy.model, as_reader(random_weights(spec, 1)))
    policy.prepare_to_learn()
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, VOCABULARY, 20).astype(np.int32) for _ in range(4)]
    samples = [Sample(each, np.ones(20, np.uint8)) for each in tokens]

    def update() -> float:
        torch.set_num_threads(1)
        batch = micro_batch(samples)
        done = policy.update(
            [batch], lambda logp_T, b: cross_entropy(logp_T, b.weights_T), denominator=76.0, lr=1e-3
        )
        torch.set_num_threads(2)
        return done.loss

    losses, around = [update()], [surroundings()]
    if engine:
        with VLLMGenerator(spec.hf, Speller(), OPTIONS) as generator:
            push(PolicyWeights(policy), generator, policy.version)
            around.append(surroundings())
            generator.generate(prompts(), n=2, sampling=SAMPLING)
            around.append(surroundings())
            losses.append(update())
    else:
        losses.append(update())
    state = {name: tensor.clone() for name, tensor in weights.tensors(policy.model).items()}
    return {"losses": losses, "weights": state, "around": around}


def failing_starts(rank: int) -> dict[str, Any]:
    """What each mistake is answered with; and that the process can start an engine all the same."""

    qwen, v3 = MODELS["qwen2_tied"], MODELS["v3"]
    cases: dict[str, tuple[dict[str, Any], EngineOptions]] = {
        "no_cache": (qwen, replace(OPTIONS, kv_cache_gb=1e-5)),
        "huge_cache": (qwen, replace(OPTIONS, kv_cache_gb=1e5)),
        "context": (qwen, replace(OPTIONS, max_model_len=4096)),
        "no_kernel": (v3 | dict(qk_rope_head_dim=8), OPTIONS),
        "unknown_model": (qwen | dict(architectures=["NobodysForCausalLM"]), OPTIONS),
        "tensor_parallel": (qwen, replace(OPTIONS, tensor_parallel=2)),
    }
    said = {}
    for name, (hf, options) in cases.items():
        try:
            VLLMGenerator(hf, Speller(), options).close()
        except UserError as error:
            said[name] = str(error)
    with VLLMGenerator(qwen, Speller(), OPTIONS) as generator:
        try:
            generator.generate(prompts(), n=1, sampling=SAMPLING)
        except AssertionError as error:
            said["no_weights"] = str(error)
    return said


def several_ranks(rank: int, kind: str, sizes: dict[str, Any], tensor_parallel: int) -> dict[str, Any]:
    """The same answers from each rank's engine, or from one engine over all."""
    options = replace(OPTIONS, tensor_parallel=tensor_parallel)
    with Mesh(Layout.of(int(os.environ["WORLD_SIZE"]), **sizes)) as mesh:
        generator, _ = engine_with_weights(kind, mesh, options)
        with generator:
            answers = generator.generate(prompts(), n=3, sampling=SAMPLING)
            left_on_disk = [file.name for file in Path("/dev/shm").glob("*cpushm*")]
        total = torch.ones(1)
        torch.distributed.all_reduce(total)  # the trainer's group outlives the engine
        return {
            "answers": answers,
            "share": generator.share,
            "left_on_disk": left_on_disk,
            "sum": float(total),
        }


# In pytest's process --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return run_engines(1, one_engine)[0]


def test_a_crowd_of_prompts_is_answered_like_a_few(seen: dict[str, Any]) -> None:
    together, alone = (
        [[one.token_ids for one in group] for group in seen["crowd"][which]]
        for which in ("together", "alone")
    )
    assert together == alone and len({tuple(map(tuple, group)) for group in together}) > 1


def test_answers_are_whole(seen: dict[str, Any]) -> None:
    """Tokens with the stop token, a logprob each, text without it, how it ended, and from which weights."""
    answers: list[list[Completion]] = seen["answers"]
    assert [len(group) for group in answers] == [3] * len(prompts())
    ends = Counter(one.finish for group in answers for one in group)
    assert ends["stop"] and ends["length"]
    for one in (one for group in answers for one in group):
        stopped = one.finish == "stop"
        assert (one.token_ids[-1] == EOS) is stopped and EOS not in one.token_ids[:-1]
        assert stopped or len(one.token_ids) == SAMPLING.max_tokens
        assert len(one.logprobs) == len(one.token_ids) and all(x <= 0 for x in one.logprobs)
        assert one.text == Speller().decode(one.token_ids[:-1] if stopped else one.token_ids)
        assert one.version == 5


def test_the_same_call_gives_the_same_bits(seen: dict[str, Any]) -> None:
    assert seen["again"] == seen["answers"]


def test_an_answer_does_not_depend_on_its_neighbours(seen: dict[str, Any]) -> None:
    """Asked one by one and backwards, or with more siblings: the same tokens; logprobs but for rounding."""
    assert token_ids(seen["split"]) == token_ids(seen["answers"])
    assert apart(seen["split"], seen["answers"]) < 1e-5
    fewer = [group[:3] for group in seen["more_answers"]]
    assert token_ids(fewer) == token_ids(seen["answers"])


def test_siblings_and_seeds_differ(seen: dict[str, Any]) -> None:
    groups = token_ids(seen["answers"])
    assert all(len(set(group)) == 3 for group in groups)
    assert all(a != b for a, b in zip(groups, token_ids(seen["other_seed"]), strict=True))


def test_temperature_0_is_greedy(seen: dict[str, Any]) -> None:
    assert seen["greedy"] == seen["greedy_other_seed"]


def test_tokens_are_drawn_from_the_distribution_that_the_logprobs_name(seen: dict[str, Any]) -> None:
    """Against the trainer's own softmax(logits / 0.7): each logprob, and the frequencies by chi square."""
    wanted_V = seen["wanted"]
    assert all(abs(logprob - wanted_V[token]) < 1e-4 for token, logprob in seen["drawn"])
    counts = Counter(token for token, _ in seen["drawn"])
    expected = {token: DRAWS * math.exp(logprob) for token, logprob in enumerate(wanted_V)}
    common = [token for token, count in expected.items() if count >= 5]
    rare = [token for token in expected if token not in set(common)]
    cells = [(counts[t], expected[t]) for t in common]
    cells.append((sum(counts[t] for t in rare), sum(expected[t] for t in rare)))
    chi_square = sum((n - mean) ** 2 / mean for n, mean in cells)
    freedom = len(cells) - 1
    assert len(common) > 10
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_an_empty_answer_is_its_stop_token(seen: dict[str, Any]) -> None:
    empty = seen["empty"]
    assert (len(empty.token_ids), len(empty.logprobs), empty.text, empty.finish) == (1, 1, "", "stop")


def test_tokens_without_a_piece_have_no_text(seen: dict[str, Any]) -> None:
    """An embedding may be larger than the tokenizer."""
    told = [int(word) for group in seen["beyond"] for one in group for word in one.text.split()]
    drawn = [token for group in seen["beyond"] for one in group for token in one.token_ids]
    assert max(told) < VOCABULARY // 2 <= max(drawn)


def test_what_cannot_be_asked_is_refused(seen: dict[str, Any]) -> None:
    refused = seen["refused"]
    assert "long/1 has 110 tokens; allowed is 1 to 98" in refused["long"]
    assert "long/0 has 0 tokens" in refused["no_tokens"]
    assert "long/2 has the token 96" in refused["foreign"] and "0 to 95" in refused["foreign"]
    assert "temperature is 0.001" in refused["cold"]
    assert refused["fits"] == "[False, True, True, False]"


def test_a_call_that_is_broken_off_leaves_nothing_behind(seen: dict[str, Any]) -> None:
    found = seen["broken_off"]
    assert found["raised"] and found["left"] == 0
    assert found["next"] == seen["answers"]


def test_after_sleep_the_weights_count_as_gone(seen: dict[str, Any]) -> None:
    assert seen["version_after_sleep"] is None


@pytest.mark.parametrize("kind", ["v3", pytest.param("qwen2_tied", marks=pytest.mark.slow)])
def test_the_trainer_does_not_notice_an_engine(kind: str) -> None:
    """Same updates, bitwise; same threads, random states, environment; the process group lives on."""
    [found] = run_engines(1, beside_a_trainer, kind)
    assert found["beside"]["losses"] == found["alone"]["losses"]
    for name, tensor in found["alone"]["weights"].items():
        assert torch.equal(found["beside"]["weights"][name], tensor), name
    before, started, generated = found["beside"]["around"]
    assert before["threads"] == 2
    assert started == before and generated == before
    assert found["group_lives"]


def test_an_engine_that_cannot_start_says_why() -> None:
    [said] = run_engines(1, failing_starts)
    wanted = {
        "no_cache": ["raise kv_cache_gb"],
        "huge_cache": ["100000", "lower kv_cache_gb"],
        "context": ["4096", "512", "lower max_model_len"],
        "no_kernel": ["head_dim=24", "qk_nope_head_dim + qk_rope_head_dim"],
        "unknown_model": ["NobodysForCausalLM"],
        "tensor_parallel": ["1 rank(s)", "tensor_parallel 2"],
        "no_weights": ["push some first"],
    }
    assert {name: [text for text in texts if text not in said[name]] for name, texts in wanted.items()} == {
        name: [] for name in wanted
    }


CASES = [
    ("qwen2_tied", {"tp": 2}, 2),
    pytest.param("v3", {"ep": 2}, 2, marks=pytest.mark.slow),
    pytest.param("v3", {"ep": 2}, 1, marks=pytest.mark.slow),
    pytest.param("v3_fused_mla", {"pp": 2}, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "sizes", "tensor_parallel"), CASES)
def test_ranks_generate_alone_or_together(kind: str, sizes: dict[str, Any], tensor_parallel: int) -> None:
    """Either way each rank gets the answers that one engine alone gives."""
    [alone] = run_engines(1, several_ranks, kind, {}, 1)
    found = run_engines(2, several_ranks, kind, sizes, tensor_parallel)
    assert [one["share"] for one in found] == [
        Share(rank // tensor_parallel, 2 // tensor_parallel) for rank in (0, 1)
    ]
    assert found[0]["answers"] == found[1]["answers"]  # the engine's ranks agree to the bit, and so do twins
    assert token_ids(found[0]["answers"]) == token_ids(alone["answers"])
    assert apart(found[0]["answers"], alone["answers"]) < (1e-5 if tensor_parallel > 1 else 1e-9)
    assert [one["sum"] for one in found] == [2.0, 2.0]
    assert [one["left_on_disk"] for one in found] == [[], []]  # or a killed job would leave it for ever


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": 0.005}, "temperature is 0.005"),
        ({"temperature": 2.5}, "temperature is 2.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_impossible_sampling_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_sampling(replace(SAMPLING, **change))
    check_sampling(SAMPLING)
    check_sampling(replace(SAMPLING, temperature=0.0, top_p=0.9, top_k=20))


def test_seeds_are_for_ever() -> None:
    """Runs are resumed: the seed of an answer may never change. From Python's hashlib, by hand."""
    assert seed_of(7, "c3/12", 4) == int.from_bytes(hashlib.sha256(b"7\x00c3/12\x004").digest()[:4], "little")
    seeds = {seed_of(s, f"p/{p}", a) for s in range(10) for p in range(10) for a in range(10)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**32 for seed in seeds)


def test_shares() -> None:
    assert [Share.of(rank, 4, 2) for rank in range(4)] == [Share(0, 2), Share(0, 2), Share(1, 2), Share(1, 2)]
    assert [Share.of(rank, 3, 1) for rank in range(3)] == [Share(rank, 3) for rank in range(3)]
    with pytest.raises(UserError, match=r"6 rank.* tensor_parallel 4 .*allowed are 1, 2, 3, 6"):
        Share.of(0, 6, 4)


def test_a_folder_that_vllm_would_read_wrongly_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["v3_tied"]))
    with pytest.raises(UserError, match=r"tied embeddings.*push the weights"):
        VLLMGenerator(tmp_path, Speller(), OPTIONS)


def test_importing_the_room_does_not_import_vllm() -> None:
    """Ten seconds, and changes to torch, that only a process with an engine should pay for."""
    import subprocess
    import sys

    program = "import sys, r1mega.rollout.vllm_engine, r1mega.sync; print('vllm' in sys.modules)"
    started = time.monotonic()
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False", time.monotonic() - started
