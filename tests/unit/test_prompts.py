"""The prompt source: exact shares, no repeat or loss across restarts, and the tokens that training sees."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from r1mega.data import toy
from r1mega.data.prompts import PromptSource, Share
from r1mega.data.samples import Report, pair_samples
from r1mega.data.tasks import Countdown, FileTask, Task, ToySums, toy_countdown, toy_logic
from r1mega.data.templates import TEMPLATES, fill, template
from r1mega.data.tokenizers import SentencePieceTokenizer, Tokenizer, train_sentencepiece
from r1mega.types import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As the toy run trains it."""
    file = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    return train_sentencepiece(
        toy.corpus(3000, 0, (2, 3, 4, 5, 6)), file, vocab_size=400, symbols=toy.THINK_TAGS
    )


@pytest.fixture
def rows(tmp_path: Path) -> FileTask:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": f"{i}+{i}", "answer": f"#### {2 * i}"}) for i in range(30)]
    path.write_text("\n".join(lines))
    return FileTask("rows", path, "gsm8k", held_out=0.2)


def source(tokenizer: Tokenizer, *shares: Share, seed: int = 0, max_tokens: int = 100) -> PromptSource:
    return PromptSource(shares, tokenizer, seed=seed, max_tokens=max_tokens)


def mixture(rows: Task) -> tuple[Share, ...]:
    return Share(ToySums(), 5, "toy"), Share(toy_countdown(), 2, "toy"), Share(rows, 1, "plain")


def test_the_tokens_are_those_that_training_on_the_same_template_gives(tokenizer: Tokenizer) -> None:
    for name in TEMPLATES:
        prompts = source(tokenizer, Share(ToySums(), template=name), max_tokens=500).take(20)
        for i, prompt in enumerate(prompts):
            pairs = [(ToySums().train(0, i).text, " 5")]
            [sample] = pair_samples(
                pairs, tokenizer, template=template(name), max_length=500, report=Report()
            )
            assert prompt.token_ids == tuple(sample.tokens[: len(sample) - sample.mask.sum()])
            assert prompt.text == fill(template(name), ToySums().train(0, i).text)
            assert prompt.token_ids[0] == tokenizer.bos_id
            assert tokenizer.decode(prompt.token_ids) == prompt.text


def test_shares_are_exact(tokenizer: Tokenizer, rows: FileTask) -> None:
    shares = mixture(rows)
    weights = {share.task.name: Fraction(share.weight) / 8 for share in shares}
    drawn = source(tokenizer, *shares)
    counts: Counter[str] = Counter()
    for taken in range(1, 801):
        counts[drawn.take(1)[0].task] += 1
        assert all(-1 < counts[name] - weight * taken < 1 for name, weight in weights.items()), taken
    assert counts == {"toy": 500, "countdown": 200, "rows": 100}


def test_a_mixture_is_independent_of_the_size_of_the_takes(tokenizer: Tokenizer, rows: FileTask) -> None:
    one, other = (source(tokenizer, *mixture(rows)) for _ in range(2))
    assert one.take(60) == [prompt for n in (1, 7, 0, 52) for prompt in other.take(n)]


@pytest.mark.parametrize("before", [0, 1, 7, 23, 40, 111])
def test_a_restart_neither_repeats_nor_loses(tokenizer: Tokenizer, rows: FileTask, before: int) -> None:
    straight = source(tokenizer, *mixture(rows), max_tokens=15)  # some are too long
    whole = straight.take(300)
    first = source(tokenizer, *mixture(rows), max_tokens=15)
    taken = first.take(before)
    first.held_out(5)  # evaluation moves nothing
    saved = json.loads(json.dumps(first.state()))
    second = source(tokenizer, *mixture(rows), max_tokens=15)
    second.load_state(saved)
    assert taken + second.take(300 - before) == whole
    assert second.skipped == straight.skipped and sum(straight.skipped.values()) > 0
    assert len({prompt.id for prompt in whole}) == 300
    epochs = Counter(prompt.text for prompt in whole if prompt.task == "rows")
    assert max(epochs.values()) - min(epochs.values()) <= 1


def test_what_is_put_back_comes_first_and_nothing_else_moves(tokenizer: Tokenizer, rows: FileTask) -> None:
    """In the order in which it is given; what was waiting already comes after it."""
    prompts, straight = (source(tokenizer, *mixture(rows)) for _ in range(2))
    whole = straight.take(40)
    prompts.take(10)
    prompts.put_back([whole[7], whole[2], whole[9]])
    assert prompts.take(2) == [whole[7], whole[2]]
    assert prompts.is_again(whole[7]) and not prompts.is_again(whole[9]), "of this step"
    prompts.put_back([whole[2]])
    assert not prompts.is_again(whole[7]), "a new step"
    assert prompts.take(5) == [whole[2], whole[9], *whole[10:13]]
    assert [prompts.is_again(prompt) for prompt in whole[9:13]] == [True, False, False, False]
    prompts.put_back([])
    assert prompts.take(27) == whole[13:]


def test_what_was_put_back_survives_a_restart(tokenizer: Tokenizer, rows: FileTask) -> None:
    """Also of a file's later epochs, whose order is another."""
    first, second = (source(tokenizer, *mixture(rows), max_tokens=15) for _ in range(2))
    taken = first.take(300)
    back = [taken[i] for i in (299, 3, 250, 251)]
    assert any("#" in prompt.id for prompt in back + taken[-20:])
    first.put_back(back)
    second.take(7)
    second.load_state(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert second.take(4) == back and all(map(second.is_again, back))
    assert first.take(4) == back and second.take(20) == first.take(20)
    assert second.skipped == first.skipped, "nothing is skipped twice"


def test_the_seed_changes_what_is_trained_on_but_not_what_is_evaluated(
    tokenizer: Tokenizer, rows: FileTask
) -> None:
    one, other = (source(tokenizer, *mixture(rows), seed=seed) for seed in (0, 1))
    assert [p.text for p in one.take(40)] != [p.text for p in other.take(40)]
    assert one.held_out(40) == other.held_out(40) == one.held_out(40)


def test_held_out_prompts_are_in_their_shares_and_never_trained_on(
    tokenizer: Tokenizer, rows: FileTask
) -> None:
    prompts = source(tokenizer, *mixture(rows))
    evaluated = prompts.held_out(40)
    assert Counter(p.task for p in evaluated) == {"toy": 25, "countdown": 10, "rows": 5}
    assert evaluated[:8] == prompts.held_out(8)
    more = Counter(p.task for p in prompts.held_out(800))
    assert more == {"toy": 500, "countdown": 200, "rows": 6}  # the file has no more
    trained_on = prompts.take(800)
    assert not {p.text for p in evaluated} & {p.text for p in trained_on}
    assert not {p.id for p in evaluated} & {p.id for p in trained_on}


def test_too_long_prompts_are_skipped_and_counted(tokenizer: Tokenizer, rows: FileTask) -> None:
    drawn = source(tokenizer, Share(ToySums(levels=(3, 5)), 1, "toy"), Share(rows), max_tokens=12)
    prompts = drawn.take(100)
    assert max(len(p.token_ids) for p in prompts) <= 12
    assert Counter(p.task for p in prompts) == {"toy": 50, "rows": 50}  # a skipped one costs no share
    assert drawn.skipped["toy"] > 10 and drawn.skipped["rows"] == 0
    position = drawn.state()["tasks"]["toy"]["position"]
    assert position == 50 + drawn.skipped["toy"]
    every = [ToySums(levels=(3, 5)).train(0, k).text for k in range(position)]
    short = [fill(TEMPLATES["toy"], text) for text in every if len(text) == len("1+2+3=?")]
    assert [p.text for p in prompts if p.task == "toy"] == short


def test_only_too_long_prompts_are_an_error(tokenizer: Tokenizer) -> None:
    drawn = source(tokenizer, Share(ToySums(), template="r1_zero"), max_tokens=20)
    with pytest.raises(UserError, match="task toy: 1,000 prompts in a row are longer than the 20 tokens"):
        drawn.take(1)
    assert drawn.held_out(3) == []


def test_the_toys_of_other_tasks_are_short(tokenizer: Tokenizer) -> None:
    shares = Share(toy_countdown(), 1, "toy"), Share(toy_logic(), 1, "toy")
    prompts = source(tokenizer, *shares).take(200)
    assert max(len(p.token_ids) for p in prompts) <= 24
    assert "User: count 15 of 7 8 Assistant:" in {p.text for p in source(tokenizer, shares[0]).take(2000)}


def test_the_same_row_twice_is_two_prompts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Their ids differ, so they are drawn with different seeds, and a step can hold both."""
    path = tmp_path / "twice.jsonl"
    path.write_text((json.dumps({"id": "a", "question": "1+1", "answer": "#### 2"}) + "\n") * 5)
    drawn = source(tokenizer, Share(FileTask("twice", path, "gsm8k", held_out=0.0), 1, "plain"))
    prompts = drawn.take(15)
    assert len({prompt.id for prompt in prompts}) == 15 and {prompt.text for prompt in prompts} == {"1+1"}
    drawn.put_back([prompts[4], prompts[11]])
    assert drawn.take(2) == [prompts[4], prompts[11]]


def test_prompts_carry_what_their_grader_needs(tokenizer: Tokenizer) -> None:
    task = Countdown(name="numbers")
    drawn = source(tokenizer, Share(task), max_tokens=500)
    [prompt] = drawn.take(1)
    question = task.train(0, 0)
    assert (prompt.id, prompt.task, prompt.answer) == ("numbers/0", "numbers", question.answer)
    assert prompt.facts == question.facts
    assert drawn.graders == {"numbers": "countdown"}


def other_state(change: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    task = {**state["tasks"]["toy"], **change}
    return {**state, "tasks": {**state["tasks"], "toy": task}}


def test_a_foreign_or_damaged_position_is_refused(tokenizer: Tokenizer) -> None:
    shares = Share(ToySums(), 2, "toy"), Share(toy_countdown(), 1, "toy")
    prompts = source(tokenizer, *shares)
    prompts.take(3)
    state = prompts.state()
    foreign = {
        "seed differ": source(tokenizer, *shares, seed=1),
        "task countdown differ": source(tokenizer, shares[0]),
        "task toy differ": source(tokenizer, Share(ToySums(levels=(2,)), 2), shares[1]),
        "task toy, task countdown differ": source(tokenizer, Share(ToySums(), 3), Share(toy_countdown(), 3)),
    }
    for complaint, other in foreign.items():
        with pytest.raises(UserError, match=complaint):
            other.load_state(state)
    damaged: list[dict[str, Any]] = [
        {}, {"seed": 0, "tasks": None}, {"seed": 0, "tasks": {"toy": {}}},
        other_state({"position": -1}, state), other_state({"skipped": 9}, state),
        other_state({"position": "3"}, state),
        *({**state, "again": again} for again in (None, 3, [3], [["toy"]], [["other", 0]], [["toy", "1"]])),
        *({**state, "again": [["toy", position]]} for position in (-1, 99)),
    ]  # fmt: skip
    for broken in damaged:
        with pytest.raises(UserError, match="damaged"):
            prompts.load_state(broken)
    assert prompts.state() == state, "what is refused changes nothing"


def test_impossible_mixtures_are_refused(tokenizer: Tokenizer) -> None:
    toy_sums = ToySums()
    for shares, complaint in (
        ((), "at least one task"),
        ((Share(toy_sums), Share(toy_sums)), "the same name"),
        ((Share(toy_sums, 0),), "must be above 0"),
        ((Share(toy_sums, float("nan")),), "must be above 0"),
        ((Share(toy_sums, 1, "r2_zero"),), "none of the names r1_zero, toy, plain"),
        ((Share(toy_sums, 1, "{prompt} {prompt}"),), "once"),
    ):
        with pytest.raises(UserError, match=complaint):
            source(tokenizer, *shares)
    with pytest.raises(UserError, match="allow 1 or more"):
        source(tokenizer, Share(toy_sums), max_tokens=0)


def test_templates() -> None:
    assert fill(template("toy"), "2+9-6+6=?") == toy.Problem((2, 9, -6, 6)).prompt
    assert fill(template("Q: {prompt} {x}"), "a {prompt}") == "Q: a {prompt} {x}"
    published = TEMPLATES["r1_zero"]
    assert published.startswith("A conversation between User and Assistant. The user asks a question, and")
    assert published.endswith("<answer> answer here </answer>. User: {prompt}. Assistant:")


def test_the_r1_zero_template_is_the_published_one(shared: Path) -> None:
    facts = shared.parent / "R1_FACTS.md"
    if not facts.is_file():
        pytest.skip("the published text is absent: there is no R1_FACTS.md beside the data")
    assert f'"{TEMPLATES["r1_zero"]}"' in facts.read_text("utf-8").replace("`", "")


def test_a_tokenizer_without_bos_gets_none(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, SentencePieceTokenizer)
    without = SentencePieceTokenizer(tokenizer._model, "toy")
    without.bos_id = None
    [prompt] = source(without, Share(ToySums(), template="toy")).take(1)
    assert prompt.token_ids == tuple(tokenizer.encode(prompt.text))
