"""What a script is asked for, and a config cut into jobs that wait for each other."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pytest

from launch.graph import SCRIPTS, cut, tree
from launch.request import ask, parse
from launch.targets import targets
from r1mega.config.graph import inputs
from r1mega.config.load import load
from r1mega.types import UserError

TOY, REAL = "configs/toy/r1.toml", "configs/r1/r1_v3_671b.toml"


def asked(*words: str) -> argparse.Namespace:
    return parse(["--script", "r1_stage2.sh", "--stages", "rl_reasoning", "--default", REAL, *words])


def test_all_of_the_toy_as_jobs() -> None:
    config = load(TOY)
    links = cut(config.stages, list(config.stages))
    assert [(link.script, link.stages, link.after) for link in links] == [
        ("r1_zero.sh", ("base", "r1_zero"), ()),
        ("r1_stage1.sh", ("cold_start_data", "cold_start"), (0,)),
        ("r1_stage2.sh", ("rl_reasoning",), (1,)),
        ("r1_stage3.sh", ("rejection_data", "rejection_sft"), (0, 2)),
        ("reward_models.sh", ("reward_models",), (3,)),
        ("r1_stage4.sh", ("rl_general",), (3, 4)),
        ("distill.sh", ("distill_data",), (5,)),
        ("distill.sh", ("qwen2", "distill-qwen2"), (6,)),
        ("distill.sh", ("llama", "distill-llama"), (6,)),
    ]
    shown = list(tree(links, [str(10 + place) for place in range(len(links))], ["base"]))
    assert shown[0] == "  done: base"
    assert "13  r1_stage3.sh  rejection_data, rejection_sft  (and after 10)" in shown[4]


@pytest.mark.parametrize("file", [TOY, REAL, "configs/toy/r1_zero.toml", "configs/distill/qwen2.5-7b.toml"])
@pytest.mark.parametrize("seed", range(5))
def test_every_stage_has_one_job_behind_those_it_needs(file: str, seed: int) -> None:
    """Also when any of the stages are done already."""
    stages = load(file).stages
    chance = random.Random(seed)
    wanted = [name for name in stages if seed == 0 or chance.random() < 0.6]
    links = cut(stages, wanted)
    assert sorted(name for link in links for name in link.stages) == sorted(wanted)
    home = {name: place for place, link in enumerate(links) for name in link.stages}
    for place, link in enumerate(links):
        needs = {home[one] for name in link.stages for one in inputs(stages[name]) if one in home} - {place}
        assert set(link.after) == needs and all(one < place for one in needs)


def test_every_script_of_the_graph_exists() -> None:
    scripts = {script for script, _ in SCRIPTS} | {
        "run.sh",
        "distill.sh",
        "r1_all.sh",
        "eval.sh",
        "convert.sh",
    }
    assert {path.name for path in Path("slurm").glob("*.sh")} == scripts | {"common.sh"}


def test_what_a_script_is_asked() -> None:
    request = ask(asked("--cluster", "test", TOY, "with_upstream=false", "seed=3"))
    assert (request.asked, request.stages, request.ranks, request.nodes) == (
        ("rl_reasoning",),
        ("rl_reasoning",),
        2,
        2,
    )
    assert request.rank_arguments[2:] == [
        "run", TOY, "with_upstream=false", "seed=3", "--stage", "rl_reasoning",
    ]  # fmt: skip
    whole = ask(asked("--cluster", "test", TOY))
    assert whole.stages == ("base", "r1_zero", "cold_start_data", "cold_start", "rl_reasoning")
    again = ask(parse(["--script", "run.sh", *request.script_arguments]))
    assert (again.asked, again.config, again.ranks) == (request.asked, request.config, request.ranks)


def test_nodes_make_the_ranks() -> None:
    request = ask(asked("--cluster", "h100x8", "--nodes", "64"))
    assert (request.ranks, request.nodes, request.config.nproc) == (512, 64, 512)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--cluster", "nope", TOY], "no cluster 'nope'"),
        (["--cluster", "test", "configs/toy/nope.toml"], "no such config"),
        (["--cluster", "test", TOY, "nproc=3"], "3 ranks"),
        (["--cluster", "test", TOY, "--stage", "nope"], "--stage nope: no such stage"),
        (["--cluster", "test", "configs/toy/r1_zero.toml"], "this config has no stage rl_reasoning"),
        (["--cluster", "h100x8", "nproc=8"], "say nproc=N, or --nodes N"),
        (["--cluster", "test", TOY, "--nodes", "0"], "--nodes 0: at least one"),
    ],
)
def test_what_is_refused_before_any_machine_is_asked_for(words: list[str], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        ask(asked(*words))
    assert complaint in str(error.value)


def test_a_clusters_scratch_holds_the_runs(tmp_path: Path) -> None:
    text = f'description = "x"\nscratch = "{tmp_path}"\n[nodes]\nranks = 2\n'
    (tmp_path / "site.toml").write_text(text)
    site = str(tmp_path / "site.toml")
    assert ask(asked("--cluster", site, TOY)).run == tmp_path / "toy-r1"
    assert ask(asked("--cluster", site, TOY, "out=here")).run == Path("here")


def test_the_targets_of_distillation() -> None:
    options = parse(["--script", "distill.sh", "--stages", "distill-*", "--cluster", "test", TOY])
    assert [target.stages for target in targets(options)] == [("distill-qwen2",), ("distill-llama",)]
    options = parse(["--script", "distill.sh", "--stages", "distill-*", "--cluster", "h100x8"])
    files = [target.file for target in targets(options)]
    assert files == sorted(map(str, Path("configs/distill").glob("*.toml"))) and len(files) == 8
