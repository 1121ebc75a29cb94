"""A stage that was begun in one layout goes on in another, through the pipeline and its loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from r1mega.train import checkpoint
from tests.e2e.runs import config_file, outcome, run

SHARDED = ("layout.ep=2", "train.optimizer.distributed=true")


def _as_if_killed(room: Path, step: int) -> None:
    """What is there when a run is killed behind this step: no result, no later checkpoint."""
    (room / "DONE.json").unlink()
    shutil.rmtree(room / "model")
    for later in checkpoint.complete_steps(room / "checkpoints"):
        if later > step:
            shutil.rmtree(checkpoint.step_folder(room / "checkpoints", later))


@pytest.mark.parametrize(
    ("world", "layout"),
    [
        (1, ("layout.ep=1",)),
        pytest.param(2, ("layout.tp=2", "layout.ep=2"), marks=pytest.mark.slow),
        pytest.param(
            2,
            ("layout.pp=2", "layout.last_stage_layers=1", "layout.ep=1", "train.recompute=full"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_goes_on_in_another_layout(
    world: int, layout: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the cursor where it was: the same numbers as undisturbed, but for rounding."""
    config, out = config_file(tmp_path), tmp_path / "out"
    run(config, out, 2, *SHARDED, "checkpoint.keep=9")
    undisturbed = outcome(out)["stages"][0]
    about = json.loads((out / "01-base" / "checkpoints" / "step_000004" / "about.json").read_text())
    assert (about["updates"], about["layout"]) == (4, "ep2 dp2")
    _as_if_killed(out / "01-base", 4)
    capfd.readouterr()
    run(config, out, world, *layout)
    assert "going on from step 4 of 8" in capfd.readouterr().out
    went_on = outcome(out)["stages"][0]
    assert [row["step"] for row in went_on["log"]] == list(range(1, 9))
    for ours, theirs in zip(went_on["log"], undisturbed["log"], strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)
        assert ours["lr"] == theirs["lr"]
    assert checkpoint.complete_steps(out / "01-base" / "checkpoints") == [6, 8]
