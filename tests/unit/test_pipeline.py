"""The pipeline around stages that only leave a note: what is done again, what is kept, what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from r1mega.config import KINDS as CONFIGS
from r1mega.config import load
from r1mega.config.stage import TrainingConfig
from r1mega.report.status import describe_end
from r1mega.report.tree import describe_plan
from r1mega.rewards.code import bubblewrap, level
from r1mega.stages import pipeline
from r1mega.stages.base import Context, Metrics
from r1mega.stages.refuse import refuse, refuse_machine
from r1mega.types import Interrupted, UserError
from tests.ranks import RankError, run_ranks

CONFIG = """
name = "a"
threads = 1

[stages.base]
kind = "pretrain"
data = {{ kind = "text", path = "{folder}/texts.jsonl" }}
tokenizer.train.vocab_size = 300
train.steps = 5
[stages.base.model.config]
model_type = "qwen2"
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 4096
rms_norm_eps = 1e-6
rope_theta = 1e4
tie_word_embeddings = true

[stages.r1]
kind = "grpo"
model.from_stage = "base"
rollout = {{ prompts = 4, group = 4, max_tokens = 8 }}
train = {{ steps = 3, micro_batch_tokens = 512 }}
[stages.r1.data]
kind = "tasks"
max_prompt = 64
[stages.r1.data.tasks]
sums.kind = "sums"
gsm8k = {{ kind = "gsm8k", path = "{folder}/questions.jsonl" }}
"""
KINDS = ("pretrain", "grpo")
Act = Callable[[Context], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config and the files that it names."""
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "questions.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n' * 3)
    return tmp_path


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], None]:
    """Chooses what the stages do besides leaving a note; nothing, before it is called."""

    def choose(act: Act, version: int = 1) -> None:
        def stage(ctx: Context) -> Metrics:
            with (ctx.run.out / "ran").open("a") as file:
                file.write(f"{ctx.name}\n")
            act(ctx)
            ctx.model.mkdir(exist_ok=True)
            assert isinstance(ctx.config, TrainingConfig)
            (ctx.model / "lr").write_text(str(ctx.config.train.lr))
            return {"lr": ctx.config.train.lr}

        for kind in KINDS:
            monkeypatch.setitem(pipeline.KINDS, kind, stage)
            monkeypatch.setattr(CONFIGS[kind], "version", version)

    choose(lambda ctx: None)
    return choose


def go(folder: Path, *overrides: str, only: str | None = None) -> dict[str, Any]:
    config = load(folder / "run.toml", [f"out={folder / 'out'}", *overrides])
    return pipeline.run(config, [only] if only else None, command="r1mega run run.toml")


def run(folder: Path, *overrides: str, only: str | None = None, world: int = 1) -> dict[str, Any]:
    """The whole pipeline in ranks of its own; its summary."""
    first, *others = run_ranks(world, lambda rank: go(folder, *overrides, only=only), timeout=60)
    for other in others:
        assert [row["status"] for row in other["stages"]] == [row["status"] for row in first["stages"]]
    return first


def ran(folder: Path, out: str = "out") -> list[str]:
    """The stages that have run so far, a name each time and each rank."""
    return (folder / out / "ran").read_text().split()


def rows(summary: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {row["name"]: (row["status"], row["metrics"]) for row in summary["stages"]}


def on_disk(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "summary.json").read_text())


# ---- what is done, and what is done again


@pytest.mark.usefixtures("act")
@pytest.mark.parametrize("world", [1, 2])
def test_stages_run_in_order_once(folder: Path, world: int) -> None:
    summary = run(folder, world=world)
    assert ran(folder) == ["base"] * world + ["r1"] * world
    assert rows(summary) == rows(on_disk(folder))
    assert rows(summary) == {"base": ("done", {"lr": 5e-5}), "r1": ("done", {"lr": 5e-5})}
    assert [path.name for path in sorted((folder / "out").glob("0*"))] == ["01-base", "02-r1"]
    written = json.loads((folder / "out" / "02-r1" / "config.json").read_text())
    assert written["rollout"]["group"] == 4 and written["model"]["from_stage"] == "base"
    assert run(folder, world=world) == summary
    assert len(ran(folder)) == 2 * world


def test_a_stage_is_given_the_earlier_ones_models(folder: Path, act: Callable[[Act], None]) -> None:
    def note(ctx: Context) -> None:
        given = {name: (path / "lr").exists() for name, path in ctx.inputs.items()}
        (ctx.room / "given").write_text(json.dumps(given))

    act(note)
    run(folder)
    given = [json.loads((folder / "out" / room / "given").read_text()) for room in ("01-base", "02-r1")]
    assert given == [{}, {"base": True}]


def append(name: str, line: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return do


def touch(folder: Path) -> None:
    """Other times, the same content."""
    for name in ("texts.jsonl", "questions.jsonl"):
        os.utime(folder / name, (1, 1))


def nothing(folder: Path) -> None:
    pass


PATIENT = "stages.r1.eval.patience=2"


@pytest.mark.usefixtures("act")
@pytest.mark.parametrize(
    ("before", "change", "after", "again"),
    [
        ([], nothing, [], []),
        ([], touch, [], []),
        ([], append("texts.jsonl", '{"text": "b"}'), [], ["base", "r1"]),
        ([], append("questions.jsonl", '{"question": "?", "answer": "#### 3"}'), [], ["r1"]),
        ([], nothing, ["stages.base.train.lr=1e-4"], ["base", "r1"]),
        ([], nothing, ["stages.r1.algorithm.kl_weight=0.5"], ["r1"]),
        ([], nothing, ["stages.r1.rewards.format=0.0"], ["r1"]),
        ([], nothing, ["seed=1"], ["base", "r1"]),
        ([], nothing, ["layout.pp=2", "layout.tp=2"], []),
        ([], nothing, ["checkpoint.every=1", "log.every=7", "threads=2", "name=other"], []),
        ([], nothing, ["eval.every=2", "stages.r1.train.micro_batch_tokens=600"], []),
        ([PATIENT], nothing, [PATIENT, "stages.r1.eval.every=2"], ["r1"]),
    ],
    ids=[
        "nothing", "times", "data", "a task's data", "lr", "kl_weight", "rewards", "seed", "layout", "looks",
        "eval.every", "eval.every with patience",
    ],
)  # fmt: skip
def test_a_stage_is_done_again_when_its_result_would_differ(
    folder: Path, before: list[str], change: Callable[[Path], None], after: list[str], again: list[str]
) -> None:
    """Then so are those that start from it."""

    def twice(rank: int) -> dict[str, Any]:
        go(folder, *before)
        change(folder)
        return go(folder, *after)

    [summary] = run_ranks(1, twice, timeout=60)
    assert ran(folder)[2:] == again
    assert {status for status, _ in rows(summary).values()} == {"done"}


def test_another_version_of_a_stage_is_another_result(folder: Path, act: Callable[..., None]) -> None:
    run(folder)
    act(lambda ctx: None, version=2)
    run(folder)
    assert ran(folder) == ["base", "r1"] * 2


@pytest.mark.usefixtures("act")
def test_a_moved_run_is_still_done(folder: Path) -> None:
    run(folder)
    shutil.move(folder / "out", folder / "elsewhere")
    run(folder, f"out={folder / 'elsewhere'}")
    assert ran(folder, "elsewhere") == ["base", "r1"]


@pytest.mark.usefixtures("act")
def test_what_another_config_left_is_kept_aside(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each earlier result whole, under a name of its own; what reads a run's folder passes over them."""
    rates = ("1e-3", "2e-3", "3e-3")
    for rate in rates:
        run(folder, f"stages.base.train.lr={rate}")
    said = capfd.readouterr().out
    assert "base: its config or inputs have changed; the earlier result is kept in 01-base.old1" in said
    assert "r1: its config or inputs have changed; the earlier result is kept in 02-r1.old2" in said
    found = {path.name: path for path in (folder / "out").glob("0*")}
    assert found.keys() == {f"{room}{old}" for room in ("01-base", "02-r1") for old in ("", ".old1", ".old2")}
    for old, rate in zip((".old1", ".old2", ""), rates, strict=True):
        room = found[f"01-base{old}"]
        assert (room / "model" / "lr").read_text() == str(float(rate))
        assert json.loads((room / "DONE.json").read_text())["metrics"] == {"lr": float(rate)}
    told = describe_end(folder / "out")
    assert str(found["02-r1"] / "model") in told and ".old" not in told


@pytest.mark.usefixtures("act")
def test_a_result_of_another_config_is_not_called_done(folder: Path) -> None:
    """Also while only the stage before it is done anew."""
    run(folder)
    changed = "stages.base.train.lr=1e-4"
    summary = run(folder, changed, only="base")
    assert rows(summary) == {"base": ("done", {"lr": 1e-4}), "r1": ("waiting", {})} == rows(on_disk(folder))
    with pytest.raises(RankError, match="stage 'r1' needs what 'base' makes, which is not done"):
        run(folder, only="r1")  # of the first config
    assert rows(run(folder, changed, only="r1"))["r1"] == ("done", {"lr": 5e-5})


@pytest.mark.usefixtures("act")
def test_one_stage_needs_those_before_it(folder: Path) -> None:
    with pytest.raises(RankError, match=r"(?s)stage 'r1' .* not done: .*run\.toml --stage base"):
        run(folder, only="r1")
    with pytest.raises(RankError, match="UserError: no stage 'r2' in this config; it has base, r1"):
        run(folder, only="r2")
    assert rows(run(folder, only="base")) == {"base": ("done", {"lr": 5e-5}), "r1": ("waiting", {})}
    assert ran(folder) == ["base"]


@pytest.mark.usefixtures("act")
def test_what_a_stage_needs_is_made_first_where_the_config_says_so(folder: Path) -> None:
    upstream = "with_upstream=true"
    assert rows(run(folder, upstream, only="r1"))["base"] == ("done", {"lr": 5e-5})
    assert ran(folder) == ["base", "r1"]
    run(folder, upstream, "stages.r1.train.lr=1e-4", only="r1")
    assert ran(folder) == ["base", "r1", "r1"]


@pytest.mark.usefixtures("act")
def test_what_will_be_made_again_is_told_first(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(folder)
    capfd.readouterr()
    run(folder, "stages.base.train.lr=1e-4")
    first, second, *_ = capfd.readouterr().out.splitlines()
    told = "base will be made again, since something has changed: train.lr: default -> 0.0001"
    assert first.startswith(told)
    assert second == "r1 will be made again, since something has changed: its input base"


@pytest.mark.usefixtures("act")
def test_an_artifact_that_is_gone_is_made_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(folder)
    shutil.rmtree(folder / "out" / "01-base" / "model")
    capfd.readouterr()
    summary = run(folder)
    assert "base: what it had made is gone, and is made again" in capfd.readouterr().out
    assert ran(folder) == ["base", "r1", "base"]
    assert {status for status, _ in rows(summary).values()} == {"done"}
    assert not list((folder / "out").glob("*.old*"))


@pytest.mark.usefixtures("act")
def test_what_is_done_stays_done_where_its_files_are_not(folder: Path) -> None:
    """As on another machine. What is not done needs them."""
    run(folder, only="base")
    (folder / "texts.jsonl").unlink()
    run(folder)
    assert ran(folder) == ["base", "r1"]
    with pytest.raises(RankError, match=r"stage 'base': cannot read .*texts\.jsonl"):
        run(folder, "stages.base.train.lr=1e-4")


@pytest.mark.usefixtures("act")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("rewards.language={weight=1,target='klingon'}", "language 'klingon': known are"),
        ("data.tasks.sums.template=fancy", "the template 'fancy' is no text with"),
        ("benchmarks.names=['aime']", "no benchmark 'aime'"),
        ("data.tasks.gsm8k.path=EMPTY", "empty.jsonl is empty"),
        ("data.tasks.gsm8k.path=ROWS", r"rows.jsonl, line 1: no key 'answer'"),
        ("rewards.helpful={weight=1,path='DIR'}", r"reward_model.json|is no reward model|config.json"),
        ("layout.ep=2", "layout .ep2 dp2. does not fit this qwen2 model: a qwen2 model has no experts"),
        ("layout.pp=3", "pp 3 makes 3 parts, and num_hidden_layers is 2"),
    ],
)
def test_a_later_stages_mistake_is_told_before_the_first_one_runs(
    folder: Path, change: str, told: str
) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "rows.jsonl").write_text('{"question": "1+1?"}\n')
    (folder / "dir").mkdir()
    for mark, name in {"EMPTY": "empty.jsonl", "ROWS": "rows.jsonl", "DIR": "dir"}.items():
        change = change.replace(mark, str(folder / name))
    with pytest.raises(RankError, match=f"UserError: stage 'r1': .*({told})"):
        run(folder, f"stages.r1.{change}")
    assert not (folder / "out" / "ran").exists()


@pytest.mark.usefixtures("act")
def test_a_stage_that_takes_up_no_other_one_can_be_run_alone(folder: Path) -> None:
    model = load(folder / "run.toml").stages["base"].model.config
    (folder / "config.json").write_text(json.dumps(model))
    summary = run(folder, f"stages.r1.model.path={folder}", only="r1")
    assert rows(summary) == {"base": ("waiting", {}), "r1": ("done", {"lr": 5e-5})}
    assert ran(folder) == ["r1"]


@pytest.mark.usefixtures("act")
def test_a_damaged_mark_is_named(folder: Path) -> None:
    run(folder)
    mark = folder / "out" / "01-base" / "DONE.json"
    mark.write_text(mark.read_text()[:20])
    with pytest.raises(RankError, match=r"UserError: .*01-base/DONE\.json is damaged .*; delete it"):
        run(folder)
    mark.unlink()
    run(folder)
    assert ran(folder) == ["base", "r1", "base"]


@pytest.mark.usefixtures("act")
@pytest.mark.parametrize("world", [1, 2])
def test_a_missing_file_is_named_on_every_rank(folder: Path, world: int) -> None:
    (folder / "questions.jsonl").unlink()
    with pytest.raises(RankError) as caught:
        run(folder, world=world)
    assert str(caught.value).count("cannot read") == str(caught.value).count("questions.jsonl") >= world
    assert "did not end" not in str(caught.value)


# ---- attempts that did not come to an end


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("of a step"), "failed"),
        (UserError("of a file"), "failed"),
        (Interrupted("as asked"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_an_attempt_that_ends_early_is_gone_on_with(
    folder: Path, act: Callable[[Act], None], error: BaseException, status: str
) -> None:
    """In the same folder, its seconds added up."""

    def first_time(ctx: Context) -> None:
        time.sleep(0.05)
        if ctx.name == "r1" and not (ctx.room / "half").exists():
            (ctx.room / "half").touch()
            raise error

    act(first_time)
    with pytest.raises(RankError, match=type(error).__name__):
        run(folder)
    assert rows(on_disk(folder)) == {"base": ("done", {"lr": 5e-5}), "r1": (status, {})}
    assert not (folder / "out" / "02-r1" / "DONE.json").exists()
    summary = run(folder)
    assert rows(summary)["r1"] == ("done", {"lr": 5e-5})
    assert (folder / "out" / "02-r1" / "half").exists() and not list((folder / "out").glob("*.old*"))
    seconds = {row["name"]: row["seconds"] for row in summary["stages"]}
    assert seconds["base"] >= 0.05 and seconds["r1"] >= 0.1
    assert summary["seconds"] == pytest.approx(sum(seconds.values()), abs=0.01)


def test_killed_it_goes_on_and_its_lock_is_gone(folder: Path, act: Callable[[Act], None]) -> None:
    def first_time(ctx: Context) -> None:
        if not (ctx.room / "half").exists():
            (ctx.room / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    act(first_time)
    with pytest.raises(RankError, match="exit code -9"):
        run(folder, only="base")
    assert rows(on_disk(folder))["base"] == ("running", {})
    assert rows(run(folder, only="base"))["base"] == ("done", {"lr": 5e-5})
    assert (folder / "out" / "01-base" / "half").exists()


@pytest.mark.usefixtures("act")
def test_what_an_attempt_with_another_config_left_is_not_gone_on_with(folder: Path) -> None:
    """Neither is a folder of which nobody knows what it belongs to."""
    room = folder / "out" / "01-base"
    room.mkdir(parents=True)
    (room / "of unknown origin").touch()
    run(folder, only="base")
    (room / "DONE.json").unlink()  # as if it had not come to its end
    run(folder, "seed=3", only="base")
    assert (room.with_name("01-base.old1") / "of unknown origin").exists()
    assert (room.with_name("01-base.old2") / "model" / "lr").exists()
    assert ran(folder) == ["base", "base"]


@pytest.mark.usefixtures("act")
def test_one_process_at_a_time(folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        with pytest.raises(RankError, match=r"UserError: another process is working on .*out: wait for it"):
            run(folder)
        assert not (out / "ran").exists()
    run(folder)
    assert ran(folder) == ["base", "r1"]


@pytest.mark.usefixtures("act")
def test_a_run_needs_a_folder_that_can_be_written(folder: Path) -> None:
    (folder / "out").touch()
    with pytest.raises(RankError, match=r"UserError: cannot write to .*out: .*with out=DIR"):
        run(folder)


# ---- what a grpo stage cannot be


def complaint(folder: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder / "run.toml", overrides)
    return str(caught.value).removeprefix(f"{folder / 'run.toml'}: ")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            "rollout.group=1",
            "rollout.group = 1: should be greater than or equal to 2 (answers to each prompt",
        ),
        ("rollout.group=0", "rollout.group = 0: should be"),
        ("rollout.prompts=0", "rollout.prompts = 0: should be greater than 0"),
        (
            "algorithm.mini_batches=3",
            "rollout.prompts 4 x rollout.group 4 = 16 answers cannot be cut into algorithm.mini_batches = 3",
        ),
        ("algorithm.mini_batches=32", "cannot be cut into algorithm.mini_batches = 32 equal parts"),
        ("rollout.top_p=0.9", "top_p 0.9 and top_k 0: only top_p 1 and top_k 0 are allowed while learning"),
        ("rollout.top_k=20", "top_p 1.0 and top_k 20: only"),
        ("rollout.temperature=0", "rollout.temperature = 0: should be greater than or equal to 0.01"),
        ("rollout.temperature=inf", "rollout.temperature = inf: should be less than or equal to 2"),
        ("rollout.max_tokens=0", "rollout.max_tokens = 0: should be greater than 0"),
        ("data.tasks.sums.kind=sum", "data.tasks.sums.kind = 'sum': should be 'sums', 'countdown'"),
        ("data.tasks.sums.weight=0", "data.tasks.sums.weight = 0: should be greater than 0"),
        ('data.tasks.sums.levels=["x3"]', "data.tasks.sums.levels: must be a list of c2"),
        ("data.tasks.more.kind=math", "task 'more' needs a file: data.path=FILE or"),
        ("data.tasks.sums.wieght=2", "unknown key 'wieght' in [stages.r1.data.tasks.sums]; did you"),
        ("rewards.accuracy=0.0 rewards.format=0.0", "weight must be above 0, or there is nothing"),
        ("rewards.format=inf", "rewards.format.weight = inf: should be a finite number"),
        ("train.epochs=2", "a grpo stage counts rollouts; give train.steps"),
        ("rollout.max_tokens=449", "tokens do not fit train.micro_batch_tokens 512: raise it to 513"),
        ("gate.action=halt", "gate.action = 'halt': should be 'stop', 'warn' or 'off'"),
        ("gate.pass_at_1=1.5", "gate.pass_at_1 = 1.5: should be less than or equal to 1"),
        ("rollout.engines=one", "rollout.engines = 'one': should be 'per_rank' or 'per_replica'"),
        ('data={kind="toy"}', "learn from tasks"),
    ],
)
def test_a_config_that_cannot_learn_is_refused_before_anything_runs(
    folder: Path, overrides: str, said: str
) -> None:
    prefixed = [f"stages.r1.{override}" for override in overrides.split(" ")]
    assert said in complaint(folder, *prefixed)


def test_a_mixture_of_nothing_is_refused(folder: Path) -> None:
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text[: text.index("[stages.r1.data.tasks]")])
    assert "kind 'tasks' needs a table data.tasks.NAME for each task of the mixture" in complaint(folder)


def test_the_plan_of_a_grpo_stage_counts_prompts_and_answers(folder: Path) -> None:
    plan = describe_plan(load(folder / "run.toml", [f"out={folder / 'out'}"]))
    base, r1 = plan.splitlines()[1:]
    assert base.startswith("  01-base  pretrain  to do  ") and "random weights; 5 steps of 128" in base
    assert r1.startswith("    02-r1  grpo  to do  ") and "base (model); 3 steps of 4 prompts x 4" in r1


def test_a_context_too_long_for_a_model_of_an_earlier_stage_is_told_first(folder: Path) -> None:
    """And is not, where the stage has extended it."""
    long = ["stages.r1.rollout.max_tokens=4033", "stages.r1.train.micro_batch_tokens=5000"]
    with pytest.raises(UserError, match=r"stage 'r1': data.max_prompt \+ rollout.max_tokens is 4097, but"):
        refuse(load(folder / "run.toml", long))
    refuse(load(folder / "run.toml", [*long, "stages.r1.model.changes.max_position_embeddings=4097"]))


def test_a_sandbox_that_a_later_stage_needs_is_missed_before_the_first_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not where that stage is not to run."""
    monkeypatch.setattr(bubblewrap, "program", lambda: None)
    level.works.cache_clear()
    config = load(folder / "run.toml", ["stages.r1.data.tasks.code.kind=toy_code"])
    try:
        with pytest.raises(UserError, match="stage 'r1': no code is run here"):
            refuse_machine(config, ["base", "r1"])
        refuse_machine(config, ["base"])
    finally:
        level.works.cache_clear()
