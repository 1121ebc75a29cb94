"""The template "chat": the tokens that transformers gives for the same turns, asked and learned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from r1mega.data import toy
from r1mega.data.chat import training_chat
from r1mega.data.graft import graft
from r1mega.data.graft_plan import THINK_TAGS
from r1mega.data.prompts import PromptSource, Share
from r1mega.data.samples import Report, pair_samples
from r1mega.data.target import check_format_rule, check_tags
from r1mega.data.tasks import ToySums, toy_logic
from r1mega.data.templates import TextForm, form
from r1mega.data.tokenizers import load_tokenizer, train_sentencepiece
from r1mega.rewards.format import RULES
from r1mega.types import UserError

RESPONSE = "<think>\n2+3=5\n</think>\n\n5"
IM = "{% for m in messages %}<im>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's tokenizer without think tags."""
    folder = tmp_path_factory.mktemp("plain")
    train_sentencepiece(toy.corpus(500, 0, (2, 3)), folder / "toy.model", vocab_size=400).save(folder / "hf")
    return folder / "hf"


@pytest.fixture(scope="module")
def folder(plain: Path) -> Path:
    """The same with R1's tokens and template."""
    graft(plain, plain.with_name("r1"), rows=500)
    return plain.with_name("r1")


def read(folder: Path, question: str, response: str | None = None) -> list[int]:
    """transformers' tokens of a question, up to where the model goes on, or with the answer behind."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    turns = [{"role": "user", "content": question}]
    ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    if response is not None:
        ids = ids + tokenizer.encode(response + tokenizer.eos_token, add_special_tokens=False)
    return ids


def test_prompts(folder: Path) -> None:
    """Special tokens are single ids, bos comes once; text templates beside it are as ever."""
    tokenizer = load_tokenizer(folder)
    chat = training_chat(folder, tokenizer)
    shares = Share(ToySums(), 1, "chat"), Share(toy_logic(), 1, "toy")
    prompts = PromptSource(shares, tokenizer, seed=0, max_tokens=80, chat=chat).take(20)
    for i, prompt in enumerate(p for p in prompts if p.task == "toy"):
        question = ToySums().train(0, i).text
        assert list(prompt.token_ids) == read(folder, question)
        assert prompt.token_ids.count(tokenizer.bos_id) == 1 and "begin" not in prompt.text
    [text] = [p for p in prompts if p.task != "toy"][:1]
    assert list(text.token_ids) == [tokenizer.bos_id, *tokenizer.encode(text.text)]
    with pytest.raises(UserError, match="here is none: give weights with a chat template"):
        PromptSource(shares, tokenizer, seed=0, max_tokens=80)


def test_rows_to_learn(folder: Path) -> None:
    """The prompt is the one that is asked; thoughts are opened once; the stop token ends and counts."""
    tokenizer = load_tokenizer(folder)
    chat = training_chat(folder, tokenizer)
    rows = [("2+3=?", RESPONSE), ("hi", "hello"), ("none", "")]
    report = Report()
    made = list(pair_samples(rows, tokenizer, template="chat", max_length=200, report=report, chat=chat))
    behind = ["2+3=5\n</think>\n\n5", "\n</think>\n\nhello"]
    for (question, _), sample, response in zip(rows, made, behind, strict=False):
        assert sample.tokens.tolist() == read(folder, question, response)
        prompt = len(read(folder, question))
        assert sample.mask.tolist() == [0] * prompt + [1] * (len(sample) - prompt)
        assert sample.tokens[-1] == tokenizer.eos_id
    assert (report.kept, report.empty) == (2, 1)
    opening = tokenizer.encode(THINK_TAGS[0].text)[0]
    assert [sample.tokens.tolist().count(opening) for sample in made] == [1, 1]


def test_a_template_without_bos_gets_none(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    tokenizer = load_tokenizer(tmp_path / "copy")
    chat = training_chat(tmp_path / "copy", tokenizer)
    assert not chat.begins_with_bos and chat.opening == "" and chat.answer(RESPONSE) == RESPONSE
    [prompt] = PromptSource([Share(ToySums(), 1, "chat")], tokenizer, seed=0, max_tokens=80, chat=chat).take(
        1
    )
    assert list(prompt.token_ids) == read(tmp_path / "copy", ToySums().train(0, 0).text)
    assert tokenizer.bos_id not in prompt.token_ids


def test_another_template_is_another_digest(folder: Path, tmp_path: Path) -> None:
    """What was tokenised with one template is not taken for the other's."""
    tokenizer = load_tokenizer(folder)
    graft(folder, tmp_path / "closed", rows=500, open_thoughts=False)
    first, other = (training_chat(place, tokenizer).digest for place in (folder, tmp_path / "closed"))
    assert first == training_chat(folder, tokenizer).digest != other


def test_a_template_that_ends_otherwise_is_refused(plain: Path, folder: Path, tmp_path: Path) -> None:
    """The model would learn an end that no generator stops at."""
    with pytest.raises(UserError, match=r"has no chat template; say tokenizer\.graft='r1'"):
        training_chat(plain, load_tokenizer(plain))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").write_text(IM)
    with pytest.raises(UserError, match=r"ends an answer with '<end>\\n', but its tokenizer's stop token is"):
        training_chat(tmp_path / "copy", load_tokenizer(tmp_path / "copy"))


def test_a_target_without_tags_is_refused(plain: Path, folder: Path) -> None:
    check_tags(load_tokenizer(folder), folder)
    with pytest.raises(
        UserError, match=r"reads <think> as \d+, </think> as \d+ tokens.*tokenizer\.graft='r1'"
    ):
        check_tags(load_tokenizer(plain), plain)


def test_a_format_that_no_answer_can_have_is_refused(folder: Path) -> None:
    """A good answer behind each kind of prompt has full marks by a rule that is let through, else none."""
    opening = training_chat(folder, load_tokenizer(folder)).opening
    answers = {"": "<think>a</think>\n\n5", opening: "a\n</think>\n\n5"}
    for begun, answer in answers.items():
        for rule in ("think_first", "chat"):
            if RULES[rule](answer) == 1.0:
                check_format_rule(rule, begun)
            else:
                with pytest.raises(UserError, match=r"rewards\.format\.rule="):
                    check_format_rule(rule, begun)


def test_forms() -> None:
    assert form("toy")("1+1") == "User: 1+1 Assistant:" and form("Q {prompt}") == TextForm("Q {prompt}")
    with pytest.raises(UserError, match="none of the names"):
        form("nonsense")
