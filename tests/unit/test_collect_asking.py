"""What goes in: questions as the model reads them, and rows from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1mega.config.collect import Collect, General
from r1mega.data import toy
from r1mega.data.tasks import ToySums
from r1mega.data.tokenizers import load_tokenizer, train_sentencepiece
from r1mega.stages.collecting.asking import Model, Questions
from r1mega.stages.collecting.sources import Source
from r1mega.types import UserError

CHAT = "{{ bos_token }}<U>{{ messages[0]['content'] }}{{ '<A><think>\\n' }}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder without weights, and one with a chat template."""
    folder = tmp_path_factory.mktemp("asking")
    texts = toy.corpus(200, 0, (2, 3))
    tokenizer = train_sentencepiece(texts, folder / "toy.model", vocab_size=400, symbols=toy.THINK_TAGS)
    for name in ("plain", "chat"):
        tokenizer.save(folder / name)
        values = {"max_position_embeddings": 64, "eos_token_id": [2, 7]}
        (folder / name / "config.json").write_text(json.dumps(values))
    (folder / "chat" / "chat_template.jinja").write_text(CHAT)
    return folder


def config(model: Path, *templates: str) -> Collect:
    tasks: dict[str, Any] = {
        f"task{i}": {"kind": "sums", "template": template} for i, template in enumerate(templates)
    }
    sampling = {"prompts": 10, "shard": 4, "max_tokens": 16}
    return Collect.model_validate(
        {
            "kind": "collect",
            "model": {"path": str(model)},
            "data": {"kind": "tasks", "max_prompt": 1000, "tasks": tasks},
            "sampling": sampling,
        }
    )


def model(folder: Path) -> Model:
    return Model.of(folder, None, {})


def test_questions_come_without_their_template(folder: Path) -> None:
    templates = ("toy", "r1_zero", "chat", "<<{prompt}>>")
    made = config(folder / "chat", *templates)
    questions = Questions(made, model(folder / "chat"), 5)
    tokenizer = load_tokenizer(folder / "chat")
    for prompt in questions.shard(0):
        place, number = int(prompt.task.removeprefix("task")), int(prompt.id.partition("/")[2])
        question = ToySums(name=prompt.task).train(5, number).text
        assert questions.question(prompt) == question
        wanted = f"<U>{question}<A><think>\n" if templates[place] == "chat" else prompt.text
        assert question in wanted and prompt.text == wanted
        assert prompt.token_ids == (tokenizer.bos_id, *tokenizer.encode(wanted))


def test_a_shard_is_the_same_wherever_one_begins(folder: Path) -> None:
    made = config(folder / "plain", "toy", "plain")
    questions = Questions(made, model(folder / "plain"), 0)
    assert questions.shards == 3
    shards, states = [], []
    for number in range(3):
        states.append(questions.state())
        shards.append(questions.shard(number))
    assert [len(one) for one in shards] == [4, 4, 2]
    assert len({prompt.id for one in shards for prompt in one}) == 10
    again = Questions(made, model(folder / "plain"), 0)
    assert [again.shard(number, states[number]) for number in (2, 0, 1)] == [shards[i] for i in (2, 0, 1)]


def test_the_model_is_looked_at_before_anything_is_drawn(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no chat template; say r1_zero"):
        Questions(config(folder / "plain", "chat"), model(folder / "plain"), 0)
    with pytest.raises(UserError, match="holds no model"):
        Model.of(tmp_path, None, {})
    one = Model.of(None, "r1_zero", {"r1_zero": folder / "plain"})
    assert one.name == "r1_zero" and one.context == 64
    made = config(folder / "plain", "toy")
    assert one.sampling(made.sampling, 3).stops == (7,)  # besides the tokenizer's own


def source(folder: Path, room: Path, **section: Any) -> Source:
    found = Source("chats", General.model_validate({"category": "writing", **section}), room)
    found.prepare(load_tokenizer(folder / "plain"), 0, 2)
    return found


def test_further_data_becomes_rows(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"q{i}", "response": f"<think> hm </think> a{i}"} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = source(folder, tmp_path / "keep", path=str(path))
    assert made.facts == {"shards": 3, "rows": 5, "taken": 5, "skipped": {}}
    found = [row for number in range(3) for row in made.store.rows(number)]
    assert [row.response for row in found] == [row["response"] for row in rows]
    tokenizer = load_tokenizer(folder / "plain")
    assert found[4].tokens == len(tokenizer.encode("<think> hm </think> a4")) and found[4].id == "chats/4"
    plain = source(folder, tmp_path / "none", path=str(path), thoughts="none")
    assert plain.store.rows(1)[0].response == "a2"
    some = source(folder, tmp_path / "some", path=str(path), count=3)
    assert some.facts["taken"] == 3 and some.facts["skipped"] == {"not_needed": 2} and len(some.files()) == 2
    path.unlink()  # what is prepared is not read again
    source(folder, tmp_path / "keep", path=str(path))


def test_the_toys_own_demonstrations(folder: Path, tmp_path: Path) -> None:
    made = source(folder, tmp_path, kind="toy", count=3)
    found = [row for number in range(made.shards) for row in made.store.rows(number)]
    assert len(found) == 3 and all(row.response.startswith(" <think>") for row in found)


def test_a_bad_file_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"prompt": "q", "response": "a"}\n{"prompt": "q", "response": ""}\n')
    with pytest.raises(UserError, match="line 2: the answer is empty"):
        source(folder, tmp_path / "room", path=str(path))
    assert not (tmp_path / "room").exists()
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        source(folder, tmp_path / "room", path=str(path))
