"""The stage `collect` on real vLLM: killed between shards it ends the same, on one engine or on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1mega.config import load as load_config
from r1mega.data import toy
from r1mega.data.tokenizers import load_tokenizer, train_sentencepiece
from r1mega.models.hf_write import HFWriter
from r1mega.models.spec import load_spec
from r1mega.stages import collect
from r1mega.stages.base import Context
from r1mega.types import UserError
from tests.engines import MODELS, random_weights, run_engines

pytestmark = pytest.mark.slow

PATIENCE = 600.0  # seconds a run of four engines may take on a busy machine

CONFIG = """
name = "data"
[stages.data]
kind = "collect"
[stages.data.model]
path = "MODEL"
dtype = "float32"
[stages.data.data]
kind = "tasks"
max_prompt = 40
tasks.sums = { kind = "sums", template = "toy", levels = ["c2", "c3"] }
tasks.count = { kind = "toy_countdown", template = "toy" }
[stages.data.sampling]
prompts = 10
samples = 3
max_tokens = 12
shard = 4
max_sequences = 8
kv_cache_gb = 0.05
[stages.data.filter]
correct = false
ended = false
format = "none"
language = "en"
[stages.data.refine]
path = "MODEL"
template = "plain"
max_tokens = 8
[stages.data.judge]
path = "MODEL"
template = "plain"
max_tokens = 8
tasks = ["count"]
[stages.data.general.chats]
path = "CHATS"
category = "writing"
[stages.data.general.thoughtful]
path = "CHATS"
category = "thoughtful"
thoughts = "make"
[stages.data.chain_of_thought]
path = "MODEL"
template = "plain"
max_tokens = 8
otherwise = "drop"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer, a few chats, and a config."""
    folder = tmp_path_factory.mktemp("collect")
    corpus = toy.corpus(300, 0, (2, 3))
    tokenizer = train_sentencepiece(corpus, folder / "toy.model", vocab_size=400, symbols=toy.THINK_TAGS)
    config = MODELS["qwen2_untied"] | {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_id}
    config |= {"max_position_embeddings": 4096}
    with HFWriter(folder / "model", config) as writer:
        for name, tensor in random_weights(load_spec(config), 0).items():
            writer.add(name, tensor)
    tokenizer.save(folder / "model")
    chats = [{"prompt": f"say {i}", "response": f"{i}!"} for i in range(5)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    text = CONFIG.replace("MODEL", str(folder / "model")).replace("CHATS", str(folder / "chats.jsonl"))
    (folder / "data.toml").write_text(text)
    return folder


class Stopped(Exception):
    """A kill between two shards."""


def work(rank: int, folder: Path, room: Path, overrides: list[str], shards: int | None = None) -> Any:
    """The metrics of the stage; or, stopped after so many shards of this attempt, nothing."""
    from r1mega.stages.collecting.passes import Passes

    run = load_config(folder / "data.toml", [f"out={room}", *overrides])
    context = Context(run, "data", run.stages["data"], room)
    do, done = Passes._do, 0

    def limited(self: Passes, *given: Any) -> int:
        nonlocal done
        if done == shards:
            raise Stopped
        done += 1
        return do(self, *given)

    Passes._do = limited  # type: ignore[method-assign,assignment]
    try:
        return collect.run(context)
    except Stopped:
        return None


def rows(room: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (room / "dataset" / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    room = folder / "undisturbed"
    [metrics] = run_engines(1, work, folder, room, [], timeout=PATIENCE)
    assert metrics["answers"] == 30 and metrics["rows"] == len(rows(room))
    return room


def test_rows_are_the_right_ones(undisturbed: Path, folder: Path) -> None:
    found = rows(undisturbed)
    tokenizer = load_tokenizer(folder / "model")
    assert set(found[0]) == {"id", "category", "prompt", "response", "tokens", "source"}
    for row in found:
        assert row["tokens"] == len(tokenizer.encode(row["response"]))
    sums = [row for row in found if row["category"] == "sums"]
    assert sums and all("User" not in row["prompt"] and row["prompt"][0].isdigit() for row in sums)
    # A random model writes no judgment, so nothing that it had to judge is left.
    assert {row["category"] for row in found} == {"sums", "writing"}
    report = json.loads((undisturbed / "dataset" / "report.json").read_text())
    assert report["rows"] == len(found)
    assert report["drawn"]["answers"] == 30
    assert report["dropped_by"]["judge_unclear"] > 0
    assert sum(report["passes"]["refine"]["kept"]["sums"].values()) >= len(sums)  # fewer without duplicates
    lost = sum(report["dropped_by"].values())
    assert len(found) + lost == 30 + 5 + 5


def test_killed_between_shards_it_ends_the_same(undisturbed: Path, folder: Path) -> None:
    room = folder / "killed"
    for shards in (2, 4):  # while it draws, and while a judge or a writer is at work
        assert run_engines(1, work, folder, room, [], shards, timeout=PATIENCE) == [None]
    run_engines(1, work, folder, room, [], timeout=PATIENCE)
    for name in ("rows.jsonl", "report.json", "samples.jsonl"):
        assert (room / "dataset" / name).read_bytes() == (undisturbed / "dataset" / name).read_bytes()


def test_two_engines_make_the_same(undisturbed: Path, folder: Path) -> None:
    room = folder / "two"
    run_engines(2, work, folder, room, ["nproc=2"], timeout=PATIENCE)
    for name in ("rows.jsonl", "report.json", "samples.jsonl"):
        assert (room / "dataset" / name).read_bytes() == (undisturbed / "dataset" / name).read_bytes()


def test_a_model_that_gives_nothing_is_told_early(folder: Path) -> None:
    overrides = ["stages.data.filter.format=think_answer", "stages.data.give_up.after=12"]
    with pytest.raises(Exception, match="of the first 12 answers of 'draw' 0 were kept"):
        run_engines(1, work, folder, folder / "nothing", overrides, timeout=PATIENCE)
    assert not (folder / "nothing" / "dataset").exists()


def test_no_chat_template_is_told_before_anything_is_drawn(folder: Path) -> None:
    overrides = ["stages.data.refine.template=chat"]
    with pytest.raises(Exception, match="has no chat template") as told:
        run_engines(1, work, folder, folder / "chatless", overrides, timeout=PATIENCE)
    assert UserError.__name__ in str(told.value)
    assert not (folder / "chatless" / "shards" / "draw").exists()
