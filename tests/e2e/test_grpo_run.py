"""A GRPO stage on real vLLM: its numbers, and it ends the same whether it was killed on the way or not."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from r1mega.logs import read_metrics
from r1mega.report.rollouts import read_rollouts, steps_with_rollouts
from r1mega.rewards import Rubric
from r1mega.train import checkpoint
from tests.e2e.runs import Coin, Telling, config_file, dapo_file, gsm8k_file, outcome, run, run_until
from tests.ranks import RankError


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run on one rank."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(config_file(folder, rl=True), folder / "out", 1, "layout.ep=1")
    return folder / "out"


def test_its_numbers(undisturbed: Path) -> None:
    said = outcome(undisturbed)["stages"][1]
    assert (said["name"], said["kind"], said["status"]) == ("r1_zero", "grpo", "done")
    wanted = {"loss", "reward", "accuracy", "kl", "grad_norm", "length", "mismatch_max"}
    steps = said["log"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert wanted <= row.keys()
        assert all(math.isfinite(row[name]) for name in wanted)
        assert row["mismatch_max"] < 1e-4 and row["probe"] < 1e-4  # trainer and generator are the same model
    assert [row["step"] for row in said["log"] if "held_out_accuracy" in row] == [2, 4]
    assert [row["version"] for row in steps] == [0, 2, 4, 6] and len({row["weights"] for row in steps}) == 4
    assert all(
        row["mixed_groups"] > 0 and row["grad_norm"] > 0 for row in steps
    )  # there is something to learn
    # The reference became the policy after update 3: the KL starts anew in step 2's second mini-batch.
    assert steps[3]["kl"] > 0
    assert {"accuracy_before", "accuracy_after", "greedy_after", "format_after"} <= said["metrics"].keys()


def test_it_learns_what_pays(undisturbed: Path) -> None:
    """The exported weights are not the base's, in every tensor that a gradient is sure to reach."""
    from safetensors.torch import load_file

    before, after = (
        load_file(undisturbed / room / "model" / "model.safetensors") for room in ("01-base", "02-r1_zero")
    )
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    routed = {name for name in after if ".experts." in name}  # of which few tokens reach all
    frozen = {name for name in after if name.endswith("e_score_correction_bias")}
    assert moved - routed == after.keys() - routed - frozen
    assert moved & routed


def test_its_rollouts(undisturbed: Path) -> None:
    room = undisturbed / "02-r1_zero"
    assert steps_with_rollouts(room) == [1, 2, 3, 4]
    for step, updates in ((1, 0), (2, 2), (4, 6)):
        rows = read_rollouts(room, step)
        assert len(rows) == 16 and len({row["prompt_id"] for row in rows}) == 4
        assert {row["version"] for row in rows} == {updates}  # drawn from the weights of just then


def killed_at(
    config: Path, out: Path, world: int, moments: list[Callable[[], bool]], *overrides: str
) -> None:
    assert [run_until(config, out, world, moment, *overrides) for moment in moments] == [True] * len(moments)


def test_killed_anywhere_it_ends_the_same(undisturbed: Path, tmp_path: Path) -> None:
    """kill -9 between steps, while answers are drawn, and inside the writing of a checkpoint."""
    config, out = config_file(tmp_path, rl=True), tmp_path / "out"
    room = out / "02-r1_zero"
    moments = [
        lambda: (room / "rollouts" / "step_000002.jsonl.gz").exists(),
        lambda: (room / "checkpoints" / "step_000003.partial" / "model").exists(),
    ]
    killed_at(config, out, 1, moments, "layout.ep=1")
    run(config, out, 1, "layout.ep=1")
    same(out, undisturbed)


@pytest.mark.slow
def test_a_guard_that_stops_keeps_the_step(undisturbed: Path, tmp_path: Path) -> None:
    """With the guard on "warn" the run then goes on, and ends as if nothing had been."""
    config, out = config_file(tmp_path, rl=True), tmp_path / "out"
    told = "stages.r1_zero.guards.mismatch"
    said = r"(?s)stopped after step 1, which is saved, by guards\.mismatch.*=warn"
    with pytest.raises(RankError, match=said):
        run(config, out, 1, "layout.ep=1", f"{told}_limit=1e-30", f"{told}=stop")
    newest = checkpoint.newest(out / "02-r1_zero" / "checkpoints")
    assert newest is not None and newest.name == "step_000001"
    run(config, out, 1, "layout.ep=1", f"{told}_limit=1e-30")
    same(out, undisturbed)


@pytest.mark.slow
def test_two_ranks_killed_anywhere(tmp_path: Path) -> None:
    """The same with an engine on each of two ranks, experts parallel."""
    config = config_file(tmp_path, rl=True)
    run(config, tmp_path / "whole", 2)
    out = tmp_path / "out"
    room = out / "02-r1_zero"
    moments = [
        lambda: (room / "STARTED.json").exists(),
        lambda: (room / "rollouts" / "step_000001.jsonl.gz").exists(),
        lambda: (room / "checkpoints" / "step_000002.partial").exists(),
        lambda: (room / "rollouts" / "step_000004.jsonl.gz").exists(),
        lambda: (
            (room / "model.partial").exists() or (room / "checkpoints" / "step_000004" / "COMPLETE").exists()
        ),
    ]
    killed_at(config, out, 2, moments)
    run(config, out, 2)
    same(out, tmp_path / "whole")


def same(ours: Path, theirs: Path, stage: str = "02-r1_zero") -> None:
    assert outcome(ours) == outcome(theirs)
    for step in (1, 2, 3, 4):
        assert read_rollouts(ours / stage, step) == read_rollouts(theirs / stage, step)
    from safetensors.torch import load_file

    a, b = (load_file(out / stage / "model" / "model.safetensors") for out in (ours, theirs))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- dynamic sampling


@pytest.fixture(scope="module")
def dapo(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The config, and a finished run of it."""
    folder = tmp_path_factory.mktemp("dapo")
    config = dapo_file(folder, undisturbed / "01-base" / "model")
    run(config, folder / "out", 1, reward=Coin, warm=True)
    return config, folder / "out"


def test_dynamic_sampling_killed_anywhere_ends_the_same(dapo: tuple[Path, Path], tmp_path: Path) -> None:
    """Killed when step 2 is drawn, and with the checkpoint of step 3: no prompt is lost or asked twice."""
    config, whole = dapo
    out = tmp_path / "out"
    room = out / "01-rl"
    moments = [
        lambda: (room / "rollouts" / "step_000002.jsonl.gz").exists(),
        lambda: any((room / "checkpoints").glob("step_000003*")),
    ]
    for moment in moments:
        assert run_until(config, out, 1, moment, reward=Coin, warm=True)
    run(config, out, 1, reward=Coin, warm=True)
    same(out, whole, "01-rl")


def test_what_dynamic_sampling_draws(dapo: tuple[Path, Path]) -> None:
    room = dapo[1] / "01-rl"
    log = outcome(dapo[1])["stages"][0]["log"]
    for row in log:
        assert row["groups_kept"] in (0, 2, 4) and row["updates"] == (4 if row["groups_kept"] else 0)
        assert row["groups_drawn"] * 2 == row["answers_drawn"] == len(read_rollouts(room, row["step"]))
        assert "kl" not in row and row["probe"] < 1e-4
        assert row["mismatch_max"] < 1e-4, "also when the temperature has changed"
    assert sum(row["groups_all_wrong"] + row["groups_all_right"] for row in log) > 0
    assert sum(row["groups_surplus"] for row in log) > 0, "or nothing would have been put back"
    waiting: list[str] = []
    asked: list[str] = []
    for row in log:
        ids = [each["prompt_id"] for each in read_rollouts(room, row["step"])[::2]]
        assert ids[: len(waiting)] == waiting and not set(ids[len(waiting) :]) & set(asked)
        asked += ids
        rewards = [each["reward"] for each in read_rollouts(room, row["step"])]
        teaching = [id for i, id in enumerate(ids) if rewards[2 * i] != rewards[2 * i + 1]]
        waiting = teaching[int(row["groups_kept"]) :]


def test_the_longest_answer_is_that_of_the_step(dapo: tuple[Path, Path]) -> None:
    longest = [max(row["tokens"] for row in read_rollouts(dapo[1] / "01-rl", step)) for step in (1, 2, 3, 4)]
    assert longest == [10, 14, 14, 14]


def test_without_a_divergence_no_reference_is_kept(undisturbed: Path, dapo: tuple[Path, Path]) -> None:
    def keys(room: Path) -> set[str]:
        reader = FileSystemReader(room / "checkpoints" / "step_000004" / "model")
        return set(reader.read_metadata().state_dict_metadata)

    with_one, without = keys(undisturbed / "02-r1_zero"), keys(dapo[1] / "01-rl")
    named = {key for key in with_one if key.startswith("reference.")}
    assert named and with_one - named == without


# ---- real questions, interrupted in order


@pytest.fixture(scope="module")
def questions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GSM8K's training questions; where they are absent, made-up ones in their format."""
    try:
        found: Path = request.getfixturevalue("shared") / "gsm8k" / "train.jsonl"
    except pytest.skip.Exception:
        found = tmp_path_factory.mktemp("gsm8k") / "train.jsonl"
        rows = [(f"Ann has {i} nuts{' and more' * i} and gets {i}. How many?", 2 * i) for i in range(60)]
        found.write_text(
            "".join(json.dumps({"question": q, "answer": f"so\n#### {n:,}"}) + "\n" for q, n in rows)
        )
    return found


@pytest.mark.slow
def test_two_pipeline_stages(questions: Path, tmp_path: Path) -> None:
    """Policy and reference in two stages, an engine on each rank: one rank's answers and first step."""
    config, logs = gsm8k_file(tmp_path, questions), []
    for world, more in ((1, []), (2, ["stages.rl.layout.pp=2"])):
        out = tmp_path / f"world_{world}"
        run(config, out, world, "stages.rl.train.steps=2", *more, reward=Rubric, warm=True)
        logs.append(outcome(out)["stages"][0]["log"])
    alone, staged = logs
    assert [row["step"] for row in staged] == [1, 2]
    assert all(row["mismatch_max"] < 1e-4 and row["probe"] < 1e-4 and row["kl"] > 0 for row in staged)
    said = [[row["answer"] for row in read_rollouts(tmp_path / f"world_{w}" / "01-rl", 1)] for w in (1, 2)]
    assert said[0] == said[1]
    figures = ("loss", "grad_norm", "entropy", "ratio", "clipped", "kl", "lr", "updates", "reward")
    assert {name: staged[0][name] for name in figures} == pytest.approx(
        {name: alone[0][name] for name in figures}, rel=1e-3, abs=1e-6
    )


@pytest.mark.slow
def test_real_questions_interrupted_and_resumed(questions: Path, tmp_path: Path) -> None:
    """SIGTERM between two steps, then SIGINT while answers are drawn: each time the step is ended and kept,
    and the run ends with the same numbers, answers and weights as without."""
    config, out, whole = gsm8k_file(tmp_path, questions), tmp_path / "out", tmp_path / "whole"
    marks = tmp_path / "marks"
    marks.mkdir()
    run(config, whole, 1, reward=Rubric, warm=True)
    room = out / "01-rl"
    reward = partial(Telling, marks)

    def steps_done() -> int:
        return len(read_metrics(room / "metrics.jsonl"))

    def stop(moment: Callable[[], bool], number: int) -> int:
        """The step that is kept."""
        assert run_until(config, out, 1, moment, number=number, reward=reward, warm=True)
        assert outcome(out)["stages"][0]["status"] == "interrupted"
        kept = checkpoint.complete_steps(room / "checkpoints")[-1]
        assert steps_done() == kept
        return kept

    first = stop(lambda: steps_done() == 1, signal.SIGTERM)
    assert first in (1, 2), "at once, or after the step that has just begun"
    drawing = first + 1

    def is_drawing() -> bool:
        return (marks / f"step_{drawing}").exists() and drawing not in steps_with_rollouts(room)

    assert stop(is_drawing, signal.SIGINT) == drawing
    run(config, out, 1, reward=Rubric, warm=True)
    same(out, whole, "01-rl")
