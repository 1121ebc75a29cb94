"""The parts of the grpo stage on scripted answers: real rubrics, tasks and micro-batches, but no model."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import pytest

from r1mega.algo.denominator import denominator
from r1mega.config.rewards import Rewards
from r1mega.config.rl import Gate
from r1mega.config.sections import FILE_TASKS, Data, TaskShare
from r1mega.data import toy
from r1mega.data.formats import FORMATS
from r1mega.data.tokenizers import Tokenizer, train_sentencepiece
from r1mega.parallel import Coord, Layout, Mesh
from r1mega.rewards import Rubric
from r1mega.rewards.graders import GRADERS
from r1mega.rollout.collect import Group, collect
from r1mega.stages.evaluate import Ask, evaluate, gate
from r1mega.stages.experience import Experience, answer_sample, cut, experiences, pack_share, sequences
from r1mega.stages.interrupt import SIGNALS, StopRequest
from r1mega.stages.mixture import prompt_source, texts
from r1mega.stages.reward import reward_parts
from r1mega.train.batch import MicroBatch
from r1mega.types import Completion, Prompt, Sampling, Score, Seen, UserError
from tests.ranks import run_ranks

T = TypeVar("T")
Finish = Literal["stop", "length"]
Said = tuple[str, Finish]

EOS = 2
RUBRIC = Rubric({"sum": "integer"})
SAMPLING = Sampling(max_tokens=8, temperature=0.7, seed=5)


@dataclass
class Scripted:
    """A generator that says what it is told, a token a word. asked: its calls, (prompt ids, n, sampling)."""

    say: Callable[[Prompt, int, Sampling], Said]
    longest: int = 1000  # tokens of a prompt and its answer: more is refused, as an engine does
    asked: list[tuple[list[str], int, Sampling]] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, seen: Seen | None = None
    ) -> list[list[Completion]]:
        """Answers are ready last to first, as an engine's may be in any order."""
        self.asked.append(([prompt.id for prompt in prompts], n, sampling))
        longest = max(len(prompt.token_ids) for prompt in prompts) + sampling.max_tokens
        assert longest <= self.longest, "more than the model's context"
        answers = [[wrote(*self.say(prompt, i, sampling)) for i in range(n)] for prompt in prompts]
        for p in reversed(range(len(prompts))):
            for k in reversed(range(n)):
                if seen:
                    seen(p, k, answers[p][k])
        return answers


@dataclass(frozen=True)
class Place:
    """What the parts ask of a Mesh."""

    layout: Layout
    at: Coord
    gather: Callable[[Any], list[Any]]


ALONE = cast(Mesh, Place(Layout(), Coord(), lambda value: [value]))


def together(layout: Layout, work: Callable[[Mesh], T]) -> list[T]:
    """The results of all ranks, each of them a thread."""
    values: list[Any] = [None] * layout.world
    barrier = Barrier(layout.world, timeout=20)

    def place(at: Coord) -> Mesh:
        def gather(value: Any) -> list[Any]:
            values[at.rank] = value
            barrier.wait()
            found = list(values)
            barrier.wait()
            return found

        return cast(Mesh, Place(layout, at, gather))

    with ThreadPoolExecutor(layout.world) as pool:
        return list(pool.map(work, map(place, layout.coords())))


def wrote(text: str, finish: Finish) -> Completion:
    token_ids = (*range(10, 10 + len(text.split())), *((EOS,) if finish == "stop" else ()))
    return Completion(token_ids, tuple(-token / 100 for token in token_ids), text, finish, 0)


def sums(count: int) -> list[Prompt]:
    return [Prompt(f"sum/{i}", "sum", f"{i}+1=?", (1, 10 + i, 11), str(i + 1)) for i in range(count)]


def tagged(answer: object) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


def asker(generator: Scripted) -> Ask:
    return lambda prompts, n, sampling: collect(prompts, generator, RUBRIC, ALONE, n=n, sampling=sampling)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    return train_sentencepiece(toy.corpus(300, 0, (2, 3)), file, vocab_size=400, symbols=toy.THINK_TAGS)


# ---- collect


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
@pytest.mark.parametrize(
    ("world", "ranks_per_engine"), [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (6, 3)], ids=str
)
def test_prompts_are_split_in_whole_groups_and_come_back_in_order(
    world: int, ranks_per_engine: int, count: int
) -> None:
    """Also with more engines than prompts: an engine without prompts is not asked."""
    engines = world // ranks_per_engine

    def signing(engine: int) -> Scripted:
        return Scripted(lambda prompt, number, _: (f"{prompt.id} {number} {engine}", "stop"))

    generators = [signing(rank // ranks_per_engine) for rank in range(world)]

    def work(mesh: Mesh) -> list[Group]:
        mine, size = generators[mesh.at.rank], ranks_per_engine
        return collect(sums(count), mine, RUBRIC, mesh, n=3, sampling=SAMPLING, ranks_per_engine=size)

    everyones = together(Layout(dp=world), work)
    assert all(groups == everyones[0] for groups in everyones)
    assert [group.prompt for group in everyones[0]] == sums(count)
    for group in everyones[0]:
        ids, numbers, drawn_by = zip(
            *(completion.text.split() for completion in group.completions), strict=True
        )
        assert ids == (group.prompt.id,) * 3 and numbers == ("0", "1", "2")
        assert len(set(drawn_by)) == 1, "one engine draws a group"

    for rank, generator in enumerate(generators):
        assert generator.asked == generators[rank // ranks_per_engine * ranks_per_engine].asked
        assert len(generator.asked) <= 1 and all(ids and n == 3 for ids, n, _ in generator.asked)
    one_each = generators[::ranks_per_engine]
    shares = [[id for asked, *_ in generator.asked for id in asked] for generator in one_each]
    assert sorted(id for share in shares for id in share) == sorted(prompt.id for prompt in sums(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 and len(shares) == engines


def test_answers_are_graded_against_their_own_prompt() -> None:
    """Number 1 always says 2, which is right for 1+1 alone; number 0 is always right."""
    generator = Scripted(lambda prompt, number, _: (tagged(prompt.answer if number == 0 else 2), "stop"))
    groups = asker(generator)(sums(3), 2, SAMPLING)
    assert [[score.outcome for score in group.scores] for group in groups] == [
        ["correct", "wrong"], ["correct", "correct"], ["correct", "wrong"],
    ]  # fmt: skip
    assert [group.correct for group in groups] == [1, 2, 1]


def test_two_gloo_ranks_see_what_one_rank_sees() -> None:
    def ask(mesh: Mesh) -> list[list[Group]]:
        generator = Scripted(lambda prompt, number, _: (tagged(f"{prompt.answer} {number}"), "stop"))
        return [collect(sums(n), generator, RUBRIC, mesh, n=2, sampling=SAMPLING) for n in (1, 5)]

    def work(rank: int) -> list[list[Group]]:
        with Mesh(Layout(dp=2)) as mesh:
            return ask(mesh)

    assert run_ranks(2, work) == [ask(ALONE)] * 2


# ---- evaluate and the gate

ANSWERS: dict[str, list[Said]] = {
    # Words and, where it stops, the stop token: 6 + 1, 2, 0 + 1 and 6 + 1, 3, 3 + 1 tokens.
    "sum/0": [(tagged(1), "stop"), ("so 1", "length"), ("", "stop")],
    "sum/1": [(tagged(8), "stop"), ("<answer> 2 </answer>", "length"), ("<answer> two </answer>", "stop")],
}


def test_an_evaluations_figures_by_hand() -> None:
    """Six sampled answers: 2 right, 3 if tags are no matter, 2 well formed, 2 cut, 3 without a number."""

    def say(prompt: Prompt, number: int, sampling: Sampling) -> Said:
        if sampling.temperature == 0.0:
            return tagged(1), "stop"  # right for the first of the two
        return ANSWERS[prompt.id][number]

    generator = Scripted(say)
    got = evaluate(asker(generator), sums(2), 3, SAMPLING)
    assert got == pytest.approx(
        {
            "accuracy": 2 / 6,
            "accuracy_without_tags": 3 / 6,
            "format": 2 / 6,
            "length": (7 + 2 + 1 + 7 + 3 + 4) / 6,
            "truncated": 2 / 6,
            "unparseable": 3 / 6,
            "timeout": 0,
            "error": 0,
            "greedy": 1 / 2,
        }
    )
    greedy = Sampling(SAMPLING.max_tokens, temperature=0.0, seed=SAMPLING.seed)
    ids = ["sum/0", "sum/1"]
    assert generator.asked == [(ids, 3, SAMPLING), (ids, 1, greedy)]


RIGHT = {"sum/0": 4, "sum/1": 1, "sum/2": 0, "sum/3": 1}  # of 4 answers: pass@1 6/16, pass@4 3/4
FORCED_RIGHT = ("sum/0", "sum/2")  # without tags


def middling(prompt: Prompt, number: int, _: Sampling) -> Said:
    if prompt.text.endswith("<think>"):
        right = prompt.id.startswith(FORCED_RIGHT)
        return f"x </think> {prompt.answer if right else 77}", "stop"
    return tagged(prompt.answer if number < RIGHT[prompt.id] else 77), "stop"


def hopeless(prompt: Prompt, number: int, _: Sampling) -> Said:
    return ("", "stop") if number else ("x " * 8, "length")


def judge(
    say: Callable[[Prompt, int, Sampling], Said], tokenizer: Tokenizer, **section: Any
) -> dict[str, float]:
    return gate(asker(Scripted(say)), sums(4), tokenizer, Gate(**section), 4, SAMPLING)


@pytest.mark.parametrize("action", ["warn", "stop"])
@pytest.mark.parametrize(("pass_at_1", "pass_at_k"), [(0.1, 0.5), (0.375, 0.75)], ids=str)
def test_the_gate_lets_a_base_pass_that_can_learn(
    action: str, pass_at_1: float, pass_at_k: float, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Just what is wanted is enough."""
    got = judge(middling, tokenizer, action=action, pass_at_1=pass_at_1, pass_at_k=pass_at_k)
    assert got == {"pass_at_1": 6 / 16, "pass_at_k": 3 / 4, "forced_chain": 2 / 4}
    said = capsys.readouterr().out
    assert "this base can learn" in said and "warning" not in said
    assert "pass@1 0.375, pass@4 0.750, forced chain of thought 0.500" in said


@pytest.mark.parametrize(("pass_at_1", "pass_at_k"), [(0.38, 0.0), (0.0, 0.76), (1.0, 1.0)], ids=str)
def test_the_gate_speaks_when_either_figure_is_too_low(
    pass_at_1: float, pass_at_k: float, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on with "warn", and refuses with "stop"."""
    section = {"pass_at_1": pass_at_1, "pass_at_k": pass_at_k}
    got = judge(middling, tokenizer, action="warn", **section)
    assert got["pass_at_1"] == 6 / 16
    said = capsys.readouterr().out
    assert said.startswith("warning: gate: pass@1 0.375, pass@4 0.750") and "can learn" not in said
    wanted = rf"pass@1 {pass_at_1} and pass@4 {pass_at_k} are wanted.*action=warn"
    with pytest.raises(UserError, match=wanted):
        judge(middling, tokenizer, action="stop", **section)


def test_a_base_that_never_scores_is_counted_as_such(
    tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty answers and answers cut at the limit; the gate's usual limits are above 0."""
    nothing = {"pass_at_1": 0.0, "pass_at_k": 0.0, "forced_chain": 0.0}
    assert judge(hopeless, tokenizer) == nothing
    assert "groups of equal rewards, from which nothing is learned" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"pass@1 0\.000, pass@4 0\.000"):
        judge(hopeless, tokenizer, action="stop")


@pytest.mark.parametrize("max_tokens", [72, 4])
def test_a_forced_chain_of_thought_fits_where_the_prompt_does(max_tokens: int, tokenizer: Tokenizer) -> None:
    """Its prompt is the same with the block opened, longer than any that the engine was made for."""
    prompts = sums(2)
    sampling = Sampling(max_tokens)
    generator = Scripted(lambda *_: ("", "stop"), longest=len(prompts[0].token_ids) + max_tokens)
    asked: list[Prompt] = []

    def ask(prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[Group]:
        asked.extend(prompts)
        return asker(generator)(prompts, n, sampling)

    gate(ask, prompts, tokenizer, Gate(), 3, sampling)
    assert generator.asked[0] == ([prompt.id for prompt in prompts], 3, sampling)
    plain, forced = asked[:2], asked[2:]
    for before, after in zip(plain, forced, strict=True):
        assert after.id != before.id, "or its answers would be drawn with the same seeds"
        assert after.text == f"{before.text} <think>" and after.answer == before.answer
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
        assert tokenizer.decode(after.token_ids[len(before.token_ids) :]) == " <think>"


# ---- experience


def answer(token_ids: Sequence[int], finish: Finish = "stop") -> Completion:
    """Drawn with a log-probability that tells the token."""
    return Completion(tuple(token_ids), tuple(-token / 1024 for token in token_ids), "", finish, 0)


def group(prompt: Sequence[int], *answers: tuple[Completion, float]) -> Group:
    completions, rewards = zip(*answers, strict=True)
    asked = Prompt("sum/0", "sum", "", tuple(prompt), "")
    return Group(asked, completions, tuple(Score(reward, "wrong") for reward in rewards))


def columns(item: Experience) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in item.columns.items()}


def test_a_tokens_values_stand_where_it_is_predicted() -> None:
    """Six tokens, five predictions; the answer's first is made where the prompt's last token is read."""
    whole, short = answer((32, 64, EOS)), answer((96,), "length")
    other = group((1, 11), (answer((EOS,)), 0.0), (answer((32,)), 1.0))
    items = experiences([other, group((1, 11, 12), (whole, 2.0), (short, 0.0))])
    assert [item.number for item in items] == [0, 1, 2, 3]
    first, second = items[2:]
    assert first.sample.tokens.tolist() == [1, 11, 12, 32, 64, EOS]
    assert first.sample.mask.tolist() == [0, 0, 0, 1, 1, 1] and first.length == 3
    assert columns(first) == {
        "generator": [0, 0, -32 / 1024, -64 / 1024, -EOS / 1024],
        "answer": [0, 0, 2, 2, 2],
    }
    assert second.sample.tokens.tolist() == [1, 11, 12, 96], "an answer that was cut gets no stop token"
    assert columns(second) == {"generator": [0, 0, -96 / 1024], "answer": [0, 0, 3]}


def test_an_empty_answer_is_an_item_with_nothing_to_learn_from() -> None:
    """Without any token; and with the stop token alone, which is a token like others."""
    answers = (answer(()), 0.0), (answer((EOS,)), 0.0), (answer((32, EOS)), 3.0)
    empty, stopped, _ = experiences([group((1, 2, 3), *answers)])
    assert len(empty.sample) == 3 and not empty.sample.mask.any() and empty.length == 0
    assert columns(empty) == {"generator": [0, 0], "answer": [0, 0]}
    assert columns(stopped) == {"generator": [0, 0, -EOS / 1024], "answer": [0, 0, 1]}
    [batch] = batches([empty], Layout(), 1)[0][0]
    assert batch.tokens == 2 and not batch.weights_T.any() and not batch.columns["weight"].any()


def test_nothing_at_all_is_packed_as_filler() -> None:
    """An empty answer to a prompt of one token predicts nothing, but a rank must bring a micro-batch."""
    items = experiences([group((1,), (answer(()), 0.0), (answer((32, EOS)), 1.0))])
    [batch] = batches(items[:1], Layout(), 1)[0][0]
    assert batch.tokens == 1 and not batch.weights_T.any()
    [both] = batches(items, Layout(), 1)[0][0]
    assert both.targets_T.tolist() == [32, EOS] and sequences(both).unique().numel() == 1


def test_prompt_and_answer_are_one_sample() -> None:
    sample = answer_sample(sums(1)[0], answer((32, 64)))
    assert (sample.tokens.tolist(), sample.mask.tolist()) == ([1, 10, 11, 32, 64], [0, 0, 0, 1, 1])


# ---- mini-batches

STRIDE = 1000  # answer k, counted from 1, has the tokens 1000 k, 1000 k + 1, ...
PROMPTS, GROUP = 6, 4
BUDGET = 40


def lesson(seed: int = 0) -> list[Experience]:
    """24 answers of 0 to 19 tokens to prompts of 2 to 7."""
    rng = np.random.default_rng(seed)
    groups = []
    for p in range(PROMPTS):
        first = STRIDE * (1 + p * GROUP)
        lengths = rng.integers(0, 20, GROUP)
        answers = [
            (answer(range(first + STRIDE * g, first + STRIDE * g + n)), float(rng.integers(0, 3)))
            for g, n in enumerate(lengths)
        ]
        groups.append(group(range(1, 1 + int(rng.integers(2, 8))), *answers))
    return experiences(groups)


def batches(
    items: Sequence[Experience],
    layout: Layout,
    count: int,
    seed: int = 0,
    budget: int = BUDGET,
    left_out: Collection[int] = (),
) -> list[list[list[MicroBatch]]]:
    """[rank][mini-batch] -> micro-batches. left_out: numbers of answers that do not count in the loss."""

    def work(mesh: Mesh) -> list[list[MicroBatch]]:
        found = []
        for numbers in cut(len(items), count, np.random.default_rng((seed, 1))):
            mine = [items[i] for i in numbers]
            counted = [item.number not in left_out for item in mine]
            weights = denominator("answer", [item.length for item in mine], counted)
            found.append(pack_share(mine, weights, mesh, budget))
        return found

    return together(layout, work)


def answers_in(micro_batches: Sequence[MicroBatch]) -> list[int]:
    """The answers, by number and once for each of their tokens that counts."""
    return sorted(
        int(token) // STRIDE for batch in micro_batches for token in batch.targets_T[batch.weights_T > 0]
    )


LAYOUTS = [Layout(), Layout(dp=2), Layout(dp=3), Layout(tp=2, dp=2), Layout(pp=2, dp=2)]


@pytest.mark.parametrize("count", [1, 3, 24])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_answer_is_learned_from_exactly_once(layout: Layout, count: int) -> None:
    items = lesson()
    everyones = batches(items, layout, count)
    places = list(layout.coords())
    replicas = [mine for mine, at in zip(everyones, places, strict=True) if (at.tp, at.pp) == (0, 0)]
    for mine, at in zip(everyones, places, strict=True):
        assert same_batches(mine, replicas[at.dp]), "the ranks of a replica have the same"
    for m in range(count):
        assert len({len(mine[m]) for mine in replicas}) == 1, "or ranks would wait for each other for ever"
    whole = [[batch for mine in replicas for batch in mine[m]] for m in range(count)]
    alone = batches(items, Layout(), count)[0]
    assert [answers_in(part) for part in whole] == [answers_in(part) for part in alone], "in every layout"
    expected = [int(token) // STRIDE for item in items for token in item.sample.tokens[item.sample.mask > 0]]
    assert sorted(number for part in whole for number in answers_in(part)) == expected
    if layout.tp == 1:  # no filler, so that the answers without a token can be counted by their prompts
        used = sum(int(batch.inputs_T.ne(0).sum()) for part in whole for batch in part)
        assert used == sum(len(item.sample) - 1 for item in items)
    for part in whole:
        distinct = len(set(answers_in(part)))
        silent = sum(not item.sample.mask.any() for item in items)
        assert PROMPTS * GROUP // count - silent <= distinct <= PROMPTS * GROUP // count
        assert all(batch.tokens % layout.tp == 0 and batch.tokens <= BUDGET for batch in part)


def test_in_a_micro_batch_every_value_is_beside_its_token() -> None:
    """What does not count in the loss weighs nothing, but is known as an answer's token all the same."""
    items, left_out = lesson(), {2, 9, 17}
    numbered = {int(item.sample.tokens[-1]) // STRIDE: item for item in items if item.sample.mask.any()}
    seen = 0
    for mine in batches(items, Layout(dp=2), 3, left_out=left_out):
        for batch in (batch for part in mine for batch in part):
            for t, target in enumerate(batch.targets_T.tolist()):
                values = {name: float(column[t]) for name, column in batch.columns.items()}
                if batch.weights_T[t] == 0:
                    assert not any(values.values())
                    continue
                item = numbered[target // STRIDE]
                before = target - 1 if target % STRIDE else item.sample.tokens[item.sample.mask == 0][-1]
                assert batch.inputs_T[t] == before
                assert values["generator"] == -target / 1024
                assert values["answer"] == item.number == target // STRIDE - 1
                weight = 0 if item.number in left_out else 1 / item.sample.mask.sum()
                assert values["weight"] == pytest.approx(weight)
                seen += 1
    assert seen == sum(int(item.sample.mask.sum()) for item in items)


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2, dp=2)], ids=str)
def test_the_sequences_of_a_micro_batch_are_its_answers(layout: Layout) -> None:
    for part in (part for mine in batches(lesson(), layout, 3) for part in mine):
        for batch in part:
            sequence_T = sequences(batch)
            assert sequence_T.tolist() == sorted(sequence_T.tolist()) and sequence_T[0] == 0
            pairs = zip(
                sequence_T[batch.weights_T > 0], batch.columns["answer"][batch.weights_T > 0], strict=True
            )
            met = {(int(s), int(a)) for s, a in pairs}
            assert len({s for s, _ in met}) == len({a for _, a in met}) == len(met), "one to one"


def test_the_seed_alone_decides_who_learns_when() -> None:
    items = lesson()
    one, again, other = (batches(items, Layout(dp=2), 4, seed) for seed in (0, 0, 1))
    assert all(map(same_batches, one, again))
    assert [answers_in(part) for part in one[0]] != [answers_in(part) for part in other[0]]


def same_batches(a: Sequence[Sequence[MicroBatch]], b: Sequence[Sequence[MicroBatch]]) -> bool:
    def values(batch: MicroBatch) -> list[list[float]]:
        columns = [batch.columns[name] for name in sorted(batch.columns)]
        return [column.tolist() for column in (batch.inputs_T, batch.targets_T, batch.weights_T, *columns)]

    return [list(map(values, part)) for part in a] == [list(map(values, part)) for part in b]


def test_an_answer_longer_than_a_micro_batch_is_refused() -> None:
    items = experiences([group((1, 2), (answer(range(32, 75)), 1.0), (answer((32,)), 0.0))])
    with pytest.raises(UserError, match="has 45 tokens, a micro-batch holds at most 44: raise"):
        batches(items, Layout(), 1, budget=44)
    assert batches(items, Layout(), 1, budget=45)


# ---- rewards


def test_a_reward_has_the_parts_and_the_steps_of_its_section() -> None:
    """By hand: right, well formed, 7 words with the stop token, so the length part gives 1 - 0.5 (7 / 14)."""
    section = Rewards.model_validate(
        {
            "accuracy": {"from_step": 3},
            "format": {"weight": 0.5, "to_step": 3},
            "length": {"weight": 2.0, "tasks": ["sum"]},
            "overlong": {"weight": 1.0, "buffer": 4},
        }
    )
    [prompt] = sums(1)
    said = wrote(tagged(1), "stop")
    for step, paid in ((1, 0.5), (3, 1.5), (4, 1.0)):
        for longest in (14, 7):
            rubric = Rubric({"sum": "integer"}, reward_parts(section, longest)).at(step)
            score = rubric(prompt, said)
            fits = {14: 0.75, 7: 0.5}[longest]  # 0.5 + 0.25 (1 + cos(pi t)), t half and whole
            late = {14: 0.0, 7: -1.0}[longest]  # nothing of the last 4 of 14; all of them
            assert score.parts["length"] == pytest.approx(fits) and score.parts["overlong"] == late
            assert score.total == pytest.approx(paid + 2 * fits + late), (step, longest)
            assert score.parts["accuracy"] == score.parts["format"] == 1, "reported when they do not count"


def test_parts_without_weight_are_left_out_but_accuracy_and_format() -> None:
    assert reward_parts(Rewards.model_validate({"format": 0}), 10).keys() == {"accuracy", "format"}


# ---- mixtures

ROWS: dict[str, dict[str, str]] = {
    "gsm8k": {"question": "1+2?", "answer": "so\n#### 3"},
    "math": {"problem": "half of 1?", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
    "kk": {"quiz": "who is Zoey?", "solution_text_format": "(1) Zoey is a knight"},
}
LOOKS = {
    "sums": r"\d([+-]\d){1,2}=\?",
    "toy_code": r"python: (print|read n, print n)[\d+-]*.*",
    "toy_general": r"[a-z ]+",
    "countdown": r"Use each of the numbers .*",
    "toy_countdown": r"count \d+ of [\d ]+",
    "logic": r"On an island .*",
    "toy_logic": r"1:[\d+=&|-]+ 2:[\d+=&|-]+",
    "gsm8k": r"1\+2\? #\d",
    "math": r"half of 1\? #\d",
    "kk": r"who is Zoey\? #\d",
}


def mixture(folder: Path, *kinds: str, **tasks: dict[str, Any]) -> Data:
    """A `[data]` section of these kinds. Those that read a file get ten rows, of which two are held out."""
    chosen: dict[str, dict[str, Any]] = {kind: {"kind": kind, "template": "Q: {prompt} A:"} for kind in kinds}
    for kind in set(kinds) & set(ROWS):
        question, rest = next(iter(ROWS[kind])), ROWS[kind]
        rows = [rest | {question: f"{rest[question]} #{i}"} for i in range(10)]
        path = folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        chosen[kind]["path"] = str(path)
    if "sums" in chosen:
        chosen["sums"]["levels"] = ["c2", "c3"]
    return Data.model_validate({"kind": "tasks", "tasks": chosen | tasks, "held_out": 0.2, "max_prompt": 400})


def test_every_kind_of_task_is_known() -> None:
    """Each generated kind is tested here, and three from files; what the others' rows mean is in
    test_benchmarks_rows."""
    kinds = set(get_args(TaskShare.model_fields["kind"].annotation))
    assert kinds >= set(FILE_TASKS) >= ROWS.keys()
    assert LOOKS.keys() - ROWS.keys() == kinds - set(FILE_TASKS)
    assert {FORMATS[kind].grader for kind in FILE_TASKS} <= GRADERS.keys()


@pytest.mark.parametrize("kind", LOOKS)
def test_every_kind_asks_its_questions_and_has_its_rule(
    kind: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = prompt_source(mixture(tmp_path, kind), tokenizer, seed=1)
    reward = Rubric(source.graders)
    trained_on, held_out = source.take(8), source.held_out(2)
    for prompt in trained_on + held_out:
        assert prompt.task == kind and prompt.id.startswith(f"{kind}/")
        assert re.fullmatch(rf"Q: {LOOKS[kind]} A:", prompt.text)
        assert reward(prompt, wrote(tagged(prompt.answer), "stop")).outcome == "correct"
        assert reward(prompt, wrote(tagged("none"), "stop")).outcome in ("wrong", "unparseable")
    assert len(held_out) == 2 and not {p.text for p in held_out} & {p.text for p in trained_on}


def test_a_mixtures_settings_reach_its_tasks(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Weights, levels, the longest prompt, and the file: the task's own before the section's."""
    rows = tmp_path / "own.jsonl"
    rows.write_text(json.dumps({"question": "own", "answer": "#### 1"}) + "\n")
    mixture(tmp_path, "gsm8k")
    given: dict[str, Any] = {"kind": "tasks", "path": str(tmp_path / "gsm8k.jsonl"), "held_out": 0.0}
    given["tasks"] = {
        "easy": {"kind": "sums", "levels": ["c2"], "weight": 3, "template": "plain"},
        "own": {"kind": "gsm8k", "path": str(rows), "template": "plain"},
        "shared": {"kind": "gsm8k"},
    }
    prompts = prompt_source(Data.model_validate(given), tokenizer, seed=0).take(10)
    texts = {name: [prompt.text for prompt in prompts if prompt.task == name] for name in given["tasks"]}
    assert {name: len(found) for name, found in texts.items()} == {"easy": 6, "own": 2, "shared": 2}
    assert all(re.fullmatch(r"\d[+-]\d=\?", text) for text in texts["easy"])
    assert set(texts["own"]) == {"own"} and all("User: 1+2? #" in text for text in texts["shared"])
    short = prompt_source(Data.model_validate(given | {"max_prompt": 1}), tokenizer, seed=0)
    with pytest.raises(UserError, match="longer than the 1 tokens allowed"):
        short.take(1)


def test_a_missing_file_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = mixture(tmp_path, lost={"kind": "gsm8k", "path": str(tmp_path / "lost.jsonl")})
    with pytest.raises(UserError, match=r"lost\.jsonl does not exist"):
        prompt_source(data, tokenizer, seed=0)


def test_texts_of_a_mixture_never_end_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Also where a file has few rows. Each is a filled template with its right answer behind."""
    data = mixture(tmp_path, "sums", "gsm8k")
    one, again, other = (list(islice(texts(data, seed), 200)) for seed in (3, 3, 4))
    assert one == again and one != other and len(one) == 200
    for text in one[::2]:
        expression, gold = text.removeprefix("Q: ").split(" A: ")
        assert eval(expression.removesuffix("=?")) == int(gold)
    assert {re.sub(r"#\d", "#", text) for text in one[1::2]} == {"Q: 1+2? # A: 3"}
    assert len(set(one[1::2])) == 8, "the rows that are not held out"


# ---- stopping


@pytest.fixture
def usual() -> Iterator[list[int]]:
    """What SIGINT and SIGTERM usually do here: they are noted."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in SIGNALS}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_asks_and_the_second_acts(
    number: signal.Signals, usual: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked and not usual
        assert "stopping after this step" in capsys.readouterr().out
        for again in (*SIGNALS, *SIGNALS):
            os.kill(os.getpid(), again)
        assert usual == [number, *SIGNALS]  # one of each kind is one request
    os.kill(os.getpid(), number)
    assert usual == [number, *SIGNALS, number]


def test_without_a_signal_nothing_is_left_behind(usual: list[int]) -> None:
    with pytest.raises(RuntimeError), StopRequest() as stop:
        raise RuntimeError("of a step")
    os.kill(os.getpid(), signal.SIGINT)
    assert usual == [signal.SIGINT] and not stop.asked


def test_in_a_thread_signals_are_left_alone(usual: list[int]) -> None:
    """Python sets handlers in the main thread only; a launcher's thread may run a stage all the same."""
    entered: list[bool] = []

    def run() -> None:
        with StopRequest() as stop:
            entered.append(not stop.asked)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert entered == [True]
