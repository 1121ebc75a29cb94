"""Which value wins, what a stage gets, and what a mistake is answered with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1mega.config import KINDS, load
from r1mega.types import UserError

Given = Callable[..., Any]

SHARED = """
name = "a"
[model.config]
vocab_size = 300
hidden_size = 16
[tokenizer.train]
vocab_size = 300
[data]
kind = "toy"
[train]
steps = 100
lr = 1e-3
betas = [0.9, 0.95]
"""
ONE = SHARED + '[stages.base]\nkind = "pretrain"\n'
TWO = ONE + '[stages.more]\nkind = "pretrain"\nmodel.from_stage = "base"\ntrain.lr = 2e-3\n'
RL = (
    ONE
    + """
[stages.rl]
kind = "grpo"
model.from_stage = "base"
data = { kind = "tasks", max_prompt = 40, tasks.sums.kind = "sums" }
rollout = { prompts = 8, group = 4, max_tokens = 64 }
"""
)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """load(text, *overrides, name=text of another file)."""

    def load_text(text: str, *overrides: str, **others: str) -> Any:
        for name, other in others.items():
            (tmp_path / f"{name}.toml").write_text(other, encoding="utf-8")
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        return load(tmp_path / "run.toml", overrides)

    return load_text


def complaint(given: Given, text: str, *overrides: str, **others: str) -> str:
    with pytest.raises(UserError) as caught:
        given(text, *overrides, **others)
    return str(caught.value)


def test_a_stage_gets_the_shared_values_and_its_own_win(given: Given) -> None:
    stages = given(TWO).stages
    assert list(stages) == ["base", "more"]
    assert [stage.train.lr for stage in stages.values()] == [1e-3, 2e-3]
    assert [stage.train.steps for stage in stages.values()] == [100, 100]
    assert stages["more"].train.betas == (0.9, 0.95)


def test_later_layers_win_and_tables_merge_key_by_key(given: Given) -> None:
    bottom = ONE + "[profile.smoke.train]\nsteps = 3\nwarmup_steps = 2\n"
    middle = 'base = "bottom.toml"\nname = "b"\n[train]\nlr = 4e-3\neps = 1e-9\n'
    top = 'base = "middle.toml"\n[train]\neps = 1e-7\n[profile.smoke]\ntrain.warmup_steps = 1\n'

    def values(*overrides: str) -> tuple[object, ...]:
        config = given(top, *overrides, bottom=bottom, middle=middle)
        train = config.stages["base"].train
        return config.name, train.lr, train.eps, train.steps, train.warmup_steps

    assert values() == ("b", 4e-3, 1e-7, 100, 0)
    assert values("profile=smoke") == ("b", 4e-3, 1e-7, 3, 1)
    assert values("profile=smoke", "train.steps=7", "name=c") == ("c", 4e-3, 1e-7, 7, 1)
    assert values("stages.base.train.steps=8") == ("b", 4e-3, 1e-7, 8, 0)


def test_values_of_the_command_line_are_toml_and_else_text(given: Given) -> None:
    config = given(
        ONE,
        "train.betas=[0.8, 0.9]",
        "log.tensorboard=true",
        "log.wandb_project=my project",
        'log.wandb_entity="quoted"',
        "model.config.hidden_size=32",
        "out=/some/where=else",
        "tokenizer.train.symbols=['<a>', '</a>']",
    )
    stage = config.stages["base"]
    assert stage.train.betas == (0.8, 0.9)
    assert (stage.log.tensorboard, stage.log.wandb_project, stage.log.wandb_entity) == (
        True,
        "my project",
        "quoted",
    )
    assert stage.model.config == {"vocab_size": 300, "hidden_size": 32}
    assert config.out == Path("/some/where=else")
    assert stage.tokenizer.train is not None and stage.tokenizer.train.symbols == ("<a>", "</a>")


def test_keys_that_exclude_each_other_displace_each_other(given: Given) -> None:
    base = given(ONE, "train.epochs=2").stages["base"]
    assert (base.train.steps, base.train.epochs) == (None, 2.0)
    base = given(ONE, "model.path=hf", "data.kind=text", "data.path=x.jsonl").stages["base"]
    assert (base.model.path, base.model.config, base.tokenizer.train) == (Path("hf"), None, None)
    with_levels = ONE.replace('"toy"', '"toy"\nlevels = ["c3"]')
    assert given(with_levels, "data.kind=text", "data.path=x.jsonl").stages["base"].data.path == Path(
        "x.jsonl"
    )


def test_a_trained_tokenizer_reaches_only_random_weights(given: Given) -> None:
    stages = given(TWO, "tokenizer.train.vocab_size=299").stages
    first, second = (stage.tokenizer.train for stage in stages.values())
    assert first is not None and first.vocab_size == 299
    assert second is None
    assert "have a tokenizer already" in complaint(given, TWO + "tokenizer.train.vocab_size = 299\n")


def test_a_shared_override_that_a_stage_hides_is_refused(given: Given) -> None:
    assert "stages.more.train.lr" in complaint(given, TWO, "train.lr=5e-3")
    stages = given(TWO, "train.lr=5e-3", "stages.more.train.lr=6e-3").stages
    assert [stage.train.lr for stage in stages.values()] == [5e-3, 6e-3]
    assert "stages.more.train.lr" in complaint(given, 'base = "b.toml"\n[train]\nlr = 3e-3\n', b=TWO)
    hidden = TWO + "[profile.p]\ntrain.lr = 3e-3\n"
    assert given(hidden).stages["base"].train.lr == 1e-3
    assert "profile p sets train.lr" in complaint(given, hidden, "profile=p")


def test_an_override_that_acts_on_no_stage_is_refused(given: Given) -> None:
    said = complaint(given, ONE, "model.path=hf", "tokenizer.train.vocab_size=299")
    assert "tokenizer.train.vocab_size" in said and "acts on no stage" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lrr=1", "unknown key 'lrr' in [train]; did you mean 'lr'?"),
        ("stages.base.train.lrr=1", "unknown key 'lrr' in [stages.base.train]; did you mean 'lr'?"),
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train'?"),
        ("sead=1", "unknown key 'sead'; did you mean 'seed'?"),
        ("eval.tensorboard=true", "unknown key 'tensorboard' in [eval]; it belongs into [log]"),
        ("tokenizer.train.vocab=300", "unknown key 'vocab' in [tokenizer.train]; did you mean 'vocab_size'?"),
        ("train.qqqq=1", "unknown key 'qqqq' in [train]; known keys: balance_weight, batch_size, betas"),
        ("stages.bas.train.lr=1", "no stage 'bas'; stages: base"),
        ("stages.base.kind=grop", f"stages.base.kind = 'grop': allowed: {', '.join(KINDS)}"),
        ("profile=smok", "no profile 'smok'; profiles: none"),
        ("train.lr=-1", "train.lr = -1: should be greater than 0 (highest learning rate)"),
        ("train.lr=fast", "train.lr = 'fast': should be a number"),
        ("train.lr=nan", "train.lr = nan: should be"),
        ("train.steps=1.5", "train.steps = 1.5: should be a whole number"),
        ("train.steps=true", "train.steps = True: should be a whole number"),
        ("train.schedule=cosin", "train.schedule = 'cosin': should be 'cosine', 'linear' or 'constant'"),
        ("train.betas=[0.9]", "train.betas"),
        ("train.betas=[0.9,1.5]", "train.betas: must be two numbers in [0, 1)"),
        ("train.min_lr=1", "train: min_lr 1 is above lr 0.001"),
        ("train.warmup_steps=101", "train: warmup_steps 101 is more than steps 100"),
        ("data.levels=[]", "data.levels: must be a list of c2"),
        ("data.held_out=1.0", "data.held_out = 1.0: should be less than 1"),
        ("data.kind=text", "data: kind 'text' needs data.path"),
        ("data.path=x", "data: kind 'toy' has no use for path"),
        ("stages.base.kind=sft", "stages of kind sft learn from pairs"),
        ("model.config=7", "model.config = 7: should be a path or should be a table"),
        (
            "model.config.vocab_size=299",
            "model.config.vocab_size 299 is below tokenizer.train.vocab_size 300",
        ),
        ("model.from_stage=base", "stages before base: none"),
        ("train=3", "train = 3: must be a table, [train]"),
        ("stages.base=3", "stages.base = 3: should be a table"),
        ("name=a/b", "'a/b' becomes a folder"),
        ("nproc=0", "nproc = 0: should be greater than 0"),
        ("base=x.toml", "base cannot be given on the command line"),
        ("train.lr", "'train.lr' is no override; say key=value"),
        (
            "train.steps=1 train.epochs=1",
            "train: needs exactly one of steps, epochs; given: steps and epochs",
        ),
        ("train=1 train.lr=2", "'train.lr=2': the command line gives train a value of its own, too"),
        ("stages.base.kind=grop train.lr=2", f"stages.base.kind = 'grop': allowed: {', '.join(KINDS)}"),
        ("=1", "'=1' is no override"),
    ],
)
def test_a_mistake_names_the_key_and_what_is_allowed(given: Given, override: str, said: str) -> None:
    assert said in complaint(given, ONE, *override.split(" "))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.group=1", "rollout.group = 1: should be greater than or equal to 2"),
        ("rollout.prompts=0", "rollout.prompts = 0: should be greater than 0"),
        ("rollout.rounds=0", "rollout.rounds = 0: should be greater than 0"),
        ("rollout.truncated=drop", "should be 'grade', 'no_loss' or 'exclude'"),
        ("rollout.top_p=0.9", "top_p 0.9 and top_k 0: only top_p 1 and top_k 0 are allowed"),
        ("rollout.temperature=0", "rollout.temperature = 0: should be greater than or equal to 0.01"),
        ("rollout.changes.7.temperature=3", "temperature = 3: should be less than or equal to 2"),
        ("rollout.changes.0.max_tokens=8", "'0' is no step: a whole number from 1 on"),
        ("rollout.changes.late.max_tokens=8", "'late' is no step: a whole number from 1 on"),
        ("rollout.changes.7.max_token=8", "unknown key 'max_token'"),
        (
            "rollout.changes.7.max_tokens=20_000",
            "do not fit train.micro_batch_tokens 16384: raise it to 20040",
        ),
        ("rollout.max_tokens=20_000", "the longest answer 20000 tokens do not fit"),
        (
            "algorithm.mini_batches=5",
            "rollout.prompts 8 x rollout.group 4 = 32 answers cannot be cut into algorithm.mini_batches = 5",
        ),
        ("algorithm.inner_epochs=0", "algorithm.inner_epochs = 0: should be greater than 0"),
        ("algorithm.preset=ppo", "algorithm.preset = 'ppo': should be 'grpo', 'dr_grpo', 'dapo', 'gspo'"),
        ("algorithm.clip_low=-0.1", "algorithm.clip_low = -0.1: should be greater than or equal to 0"),
        ("algorithm.correction_low=1.5", "1, the weight of a generator that agrees, must lie between"),
        ("algorithm.correction_high=0.9", "1, the weight of a generator that agrees, must lie between"),
        ("algorithm.preset=cispo algorithm.dual_clip=3.0", "dual_clip belongs to objective = 'clip'"),
        ("algorithm.dual_clip=1.0", "algorithm.dual_clip = 1.0: should be greater than 1"),
        ("algorithm.preset=cispo algorithm.ratio=sequence_token", "say 'sequence_mean'"),
        ("train.epochs=2", "a grpo stage counts rollouts; give train.steps"),
        (
            "rewards.accuracy=0 rewards.format=0",
            "a part's weight must be above 0, or there is nothing to learn",
        ),
        ("rewards.accuracy=nan", "rewards.accuracy.weight = nan: should be a finite number"),
        ("rewards.format.from_step=9 rewards.format.to_step=3", "from_step 9 comes after to_step 3"),
        ("guards.kl=maybe", "guards.kl = 'maybe': should be 'off', 'warn' or 'stop'"),
        ("guards.nonfinite=off", "guards.nonfinite = 'off': should be 'skip' or 'stop'"),
    ],
)
def test_a_mistake_about_reinforcement_learning_is_told_at_the_start(
    given: Given, override: str, said: str
) -> None:
    wanted = [f"stages.rl.{part}" for part in override.split(" ")]
    assert said in complaint(given, RL, *wanted)


def test_every_mistake_is_told_and_each_once(given: Given) -> None:
    lines = complaint(
        given, TWO, "train.eps=-1", "train.foo=1", "seed=-3", "train.lr=-1", "stages.more.train.lr=0"
    )
    about = [line.split("=")[0].split(";")[0].strip() for line in lines.splitlines()[1:]]
    assert sorted(about) == sorted(
        ["train.eps", "unknown key 'foo' in [train]", "seed", "train.lr", "stages.more.train.lr"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = = 1\n", "run.toml is not valid TOML: Invalid value (at line 1, column 5)"),
        ("", "stages is missing"),
        (SHARED, "stages is missing"),
        (SHARED + "stages = {}\n", "stages"),
        (ONE.replace("steps = 100", ""), "needs exactly one of steps, epochs; given: none"),
        (ONE.replace("steps = 100", "steps = 1\nepochs = 1"), "given: steps and epochs"),
        (ONE.replace('kind = "toy"', ""), "data.kind is missing (toy = generated sums"),
        (
            ONE.replace("[tokenizer.train]\nvocab_size = 300", ""),
            "a model with random weights has no tokenizer",
        ),
        (
            SHARED + '[stages.base]\nkinds = "pretrain"\n',
            f"stages.base.kind is missing (allowed: {', '.join(KINDS)})",
        ),
        (SHARED + '[stages."a b"]\nkind = "pretrain"\n', "'a b' becomes a folder"),
        ('profile = "smoke"\n' + ONE, "profile must hold tables"),
        ("base = 3\n" + ONE, "base = 3: must be the name of a .toml file"),
        ('base = "none.toml"\n', "no such config"),
        ('base = "run.toml"\n', "bases go at most 2 deep"),
    ],
)
def test_a_broken_file_is_answered_in_words(given: Given, text: str, said: str) -> None:
    assert said in complaint(given, text)


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pretrain.toml").write_text(ONE)
    with pytest.raises(UserError, match=r"no such config: .*pretrian.toml; did you mean .*pretrain.toml\?"):
        load(tmp_path / "pretrian.toml")
    with pytest.raises(UserError, match="the config file comes before key=value"):
        load("profile=smoke")
    with pytest.raises(UserError, match="cannot read the config"):
        load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot read the config"):
        load(tmp_path / "binary.toml")


def test_loading_imports_nothing_heavy() -> None:
    heavy = "('torch', 'transformers', 'rich', 'matplotlib')"
    code = f"import sys, r1mega.cli, r1mega.config; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
