"""Stages as a graph: who takes what, what a change invalidates, and what is said before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1mega.cli import main
from r1mega.config import RunConfig, load
from r1mega.config.graph import inputs, takes, upstream
from r1mega.config.identity import Identities, files, settings
from r1mega.config.ledger import Ledger, artifact
from r1mega.files import write_json
from r1mega.report.tree import describe_plan
from r1mega.types import UserError

CONFIG = """
name = "graph"
[tokenizer.train]
vocab_size = 300
[model.config]
vocab_size = 300
[data]
kind = "pairs"
[stages.base]
kind = "pretrain"
data = { kind = "text", path = "texts.jsonl" }
train.steps = 5
[stages.small]
kind = "pretrain"
data = { kind = "text", path = "texts.jsonl" }
train.steps = 6
[stages.asked]
kind = "collect"
model.from_stage = "base"
data = { kind = "tasks", tasks.sums.kind = "sums" }
sampling.prompts = 10
[stages.student]
kind = "sft"
model.from_stage = "small"
data.from_stage = "asked"
train.steps = 3
[stages.alone]
kind = "sft"
model.from_stage = "base"
data.path = "pairs.jsonl"
train.steps = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "pairs.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    return tmp_path


def config(folder: Path, *overrides: str) -> RunConfig:
    return load(folder / "run.toml", overrides)


def test_who_takes_what(folder: Path) -> None:
    stages = config(folder).stages
    assert [tuple(take) for take in takes(stages["student"])] == [
        ("model.from_stage", "model", "small"),
        ("data.from_stage", "dataset", "asked"),
    ]
    assert {name: inputs(stage) for name, stage in stages.items()} == {
        "base": [], "small": [], "asked": ["base"], "student": ["small", "asked"], "alone": ["base"],
    }  # fmt: skip
    assert upstream(stages, "student") == ["base", "small", "asked"]
    assert upstream(stages, "alone") == ["base"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.student.model.from_stage=alone", "stages.student.model.from_stage = 'alone': stages before"),
        ("stages.student.model.from_stage=asked", "that stage makes a data set, here a model is wanted"),
        ("stages.student.data.from_stage=small", "stages that make one: asked"),
        ("stages.asked.model.from_stage=nobody", "= 'nobody': stages before asked: base, small"),
    ],
)
def test_an_edge_that_cannot_be_is_refused(folder: Path, override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        config(folder, override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stages.base.train.lr=1e-4", {"base", "asked", "student", "alone"}),
        ("stages.small.train.steps=7", {"small", "student"}),
        ("stages.alone.train.lr=1e-4", {"alone"}),
        ("stages.student.data.held_out=0.5", {"student"}),
        ("seed=1", {"base", "small", "asked", "student", "alone"}),
        ("layout.tp=2", set()),
        ("log.every=3", set()),
        ("stages.base.label=Base", set()),
        ("stages.base.benchmarks.prompts=3", set()),
        ("stages.base.benchmarks.data=nowhere", set()),
        ("stages.base.benchmarks.tasks.g={kind='gsm8k',path='pairs.jsonl'}", set()),
        ("out=elsewhere", set()),
    ],
)
def test_a_change_invalidates_what_depends_on_it_and_nothing_else(
    folder: Path, override: str, changed: set[str]
) -> None:
    before, after = Identities(config(folder)), Identities(config(folder, override))
    assert {name for name in config(folder).stages if before.of(name) != after.of(name)} == changed


def test_a_file_counts_by_its_content_not_by_its_place(folder: Path) -> None:
    before = Identities(config(folder)).of("alone")
    (folder / "pairs.jsonl").rename(folder / "moved.jsonl")
    moved = ["stages.alone.data.path=moved.jsonl"]
    assert Identities(config(folder, *moved)).of("alone") == before
    (folder / "moved.jsonl").write_text('{"question": "a", "answer": "c"}\n')
    assert Identities(config(folder, *moved)).of("alone") != before


def test_a_default_said_aloud_changes_nothing(folder: Path) -> None:
    stage = config(folder, "stages.alone.train.weight_decay=0.1").stages["alone"]
    assert settings(stage) == settings(config(folder).stages["alone"])
    assert [key for key, _ in files(stage)] == ["data.path"]


PAIRS = """
[stages.pairs]
kind = "preferences"
model.from_stage = "base"
answers.from_stage = "asked"
[stages.judges]
kind = "reward_models"
model.from_stage = "base"
train = { steps = 1, micro_batch_tokens = 20_000 }
[stages.judges.models.helpful]
objective = "pairwise"
data.from_stage = "pairs"
[stages.rl]
kind = "grpo"
model.from_stage = "base"
data = { kind = "tasks", tasks.sums.kind = "sums" }
train.steps = 1
train.micro_batch_tokens = 40_000
rewards.helpful = { weight = 1, from_stage = "judges" }
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.judges.models.helpful.data.from_stage=asked",
            "here a data set of preference pairs is wanted",
        ),
        ("stages.rl.rewards.helpful.name=kind", "stage 'judges' makes no model 'kind', but helpful; say"),
        ("stages.rl.rewards.safety={weight=1,from_stage='judges'}", "makes no model 'safety', but helpful"),
    ],
)
def test_pairs_are_no_rows_and_reward_models_have_names(folder: Path, override: str, said: str) -> None:
    (folder / "run.toml").write_text(CONFIG + PAIRS)
    config(folder)  # is fine as it is
    with pytest.raises(UserError) as caught:
        config(folder, override)
    assert said in str(caught.value)


def mark_done(run: RunConfig, *names: str) -> None:
    identities = Identities(run)
    for name in names:
        artifact(run, name).mkdir(parents=True)
        done = {"identity": identities.of(name), "parts": identities.parts(name), "seconds": 61.0}
        write_json(run.stage_dir(name) / "DONE.json", done | {"metrics": {}, "revision": None})


def test_the_ledger_names_what_has_changed(folder: Path) -> None:
    mark_done(config(folder), "base", "small", "asked", "alone")
    ledger = Ledger(config(folder, "stages.base.train.lr=1e-4", "stages.base.train.weight_decay=0.2"))
    found = {name: (ledger.entry(name).state, ledger.entry(name).why) for name in ledger.config.stages}
    assert found == {
        "base": ("changed", (
            "train.lr: default -> 0.0001", "train.min_lr: 5e-06 -> 1e-05",
            "train.weight_decay: default -> 0.2",
        )),
        "small": ("done", ()),
        "asked": ("changed", ("its input base",)),
        "student": ("to do", ()),
        "alone": ("changed", ("its input base",)),
    }  # fmt: skip


def test_a_stage_keeps_its_folder_when_another_is_put_before_it(folder: Path) -> None:
    run = config(folder)
    mark_done(run, "base", "small", "alone")
    text = CONFIG.replace("[stages.small]", '[stages.first]\nkind = "pretrain"\ntrain.steps = 1\n'
                          'data = { kind = "text", path = "texts.jsonl" }\n[stages.small]')  # fmt: skip
    (folder / "run.toml").write_text(text)
    ledger = Ledger(config(folder))
    assert {name: ledger.entry(name).state for name in ("base", "first", "small", "alone")} == {
        "base": "done", "first": "to do", "small": "done", "alone": "done",
    }  # fmt: skip


def test_the_tree(folder: Path) -> None:
    run = config(folder)
    mark_done(run, "base")
    head, *lines = describe_plan(run).splitlines()
    assert head == "graph  runs/graph"
    assert [(len(line) - len(line.lstrip()), line.split()[0]) for line in lines] == [
        (2, "01-base"), (4, "03-asked"), (4, "05-alone"), (2, "02-small"), (4, "04-student"),
    ]  # fmt: skip
    assert "done 1:01" in lines[0] and "to do" in lines[1]
    assert lines[-1].endswith("small (model), asked (data); 3 steps of 128 sequences")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", ""], "--stage : no such stage"),
        (["--stage", "r3"], "--stage r3: no such stage; stages: base, small, asked, student, alone"),
        (["--from", "r3"], "--from r3: no such stage"),
        (["--from", "alone", "--until", "base"], "--from alone comes after --until base: no stage is left"),
        (["--stage", "base", "--from", "base"], "leave out --from and --until"),
    ],
)
def test_stages_are_chosen_by_name(
    folder: Path, arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(folder / "run.toml"), *arguments]) == 2
    assert said in capfd.readouterr().err
