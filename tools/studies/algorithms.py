"""Toy curves of the GRPO family: one base, the same prompts, another algorithm each.

    python tools/study.py algorithms runs/study             all runs, one after another, then the pictures
    python tools/study.py algorithms runs/study --list      what there is to do
    python tools/study.py algorithms runs/study --only dapo,gspo

Every run is an `r1mega run` of configs/toy/r1_zero.toml's second stage in a folder of its own: killed, it
goes on where it was; what is done is not done again. Results: DIR/*.png and DIR/results.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from launch.local import launch
from r1mega.files import read_json, write_json
from r1mega.logs import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """A line of a picture. keys: of the stage, as on the command line; coarse: rounded generator weights."""

    name: str
    label: str
    picture: str
    seed: int = 0
    keys: tuple[str, ...] = ()
    coarse: bool = False


RUNS = (
    *(Run(f"grpo-{seed}", "GRPO, 3 seeds", "algorithms", seed) for seed in SEEDS),
    Run("dr_grpo", "Dr.GRPO, 1 seed", "algorithms", keys=("algorithm.preset=dr_grpo",)),
    Run(
        "dapo",
        "DAPO, 1 seed",
        "algorithms",
        keys=(
            "algorithm.preset=dapo",
            "rollout.rounds=3",
            "rewards.overlong.weight=1",
            "rewards.overlong.buffer=16",
        ),
    ),
    Run("gspo", "GSPO, 1 seed", "algorithms", keys=("algorithm.preset=gspo",)),
    Run("cispo", "CISPO, 1 seed", "algorithms", keys=("algorithm.preset=cispo",)),
    *(Run(f"coarse-{seed}", "8-bit generator", "mismatch", seed, coarse=True) for seed in SEEDS),
    *(
        Run(
            f"coarse-tis-{seed}",
            "8-bit generator, TIS",
            "mismatch",
            seed,
            ("algorithm.correction=truncate",),
            coarse=True,
        )
        for seed in SEEDS
    ),
)
FIGURES = ("accuracy", "format", "length")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--list", action="store_true", help="say what is done and what is not")
    parser.add_argument("--only", default="", metavar="NAME,...", help="runs whose names begin like this")
    parser.add_argument(
        "--base", type=Path, help="a model folder to begin with; default: DIR/base is trained"
    )
    options = parser.parse_args()
    chosen = [run for run in RUNS if run.name.startswith(tuple(options.only.split(",")))]
    if options.list:
        for run in RUNS:
            print(f"{'done' if is_done(options.folder / run.name) else 'to do':6} {run.name}")
        return 0
    base = options.base or train_base(options.folder / "base")
    for run in chosen:
        if not is_done(options.folder / run.name):
            print(f"== {run.name}", flush=True)
            if code := start(run, options.folder, base):
                return code
    report(options.folder)
    return 0


def is_done(folder: Path) -> bool:
    return any(folder.glob("*-r1_zero/DONE.json"))


def train_base(folder: Path) -> Path:
    command = [sys.executable, "-m", "r1mega", "run", "configs/toy/pretrain_v3.toml", f"out={folder}"]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "01-base" / "model"


def start(run: Run, folder: Path, base: Path) -> int:
    os.environ["PYTHONPATH"] = str(ROOT)  # ranks that run a script of this folder take the package from here
    keys = [f"stages.r1_zero.{key}" for key in run.keys]
    out = (folder / run.name).resolve()
    arguments = ["run", str(ROOT / "configs/toy/r1_zero.toml"), "--stage", "r1_zero", f"out={out}"]
    arguments += [f"seed={run.seed}", f"stages.r1_zero.model.path={base.resolve()}", *keys]
    if not run.coarse:
        return subprocess.run([sys.executable, "-m", "r1mega", *arguments], cwd=ROOT).returncode
    outcome = launch(2, [sys.executable, str(ROOT / "tools/studies/coarse_generator.py"), *arguments])
    print(outcome.details, outcome.message, file=sys.stderr)
    return outcome.code


def report(folder: Path) -> None:
    """Pictures and numbers of what is done."""
    done = [run for run in RUNS if is_done(folder / run.name)]
    write_json(folder / "results.json", {run.name: numbers(folder / run.name) for run in done})
    for picture in sorted({run.picture for run in done}):
        # The plain runs stand in both pictures: what is to be reached.
        shown = [run for run in done if run.picture == picture or run.name.startswith("grpo-")]
        draw(folder, shown, folder / f"{picture}.png")
    for run in done:
        found = numbers(folder / run.name)
        print(f"{run.name:16} " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()))


def records(folder: Path) -> list[dict[str, Any]]:
    [room] = folder.glob("*-r1_zero")
    return read_metrics(room / "metrics.jsonl")


def numbers(folder: Path) -> dict[str, float]:
    """Before and after, on held-out prompts; means over all steps of the rollouts' accuracy and mismatch."""
    steps = records(folder)
    stage = next(one for one in read_json(folder / "summary.json")["stages"] if one["name"] == "r1_zero")
    found = {
        f"{name}_{when}": stage["metrics"][f"{name}_{when}"]
        for name in FIGURES
        for when in ("before", "after")
    }
    found["mean_accuracy"] = fmean(step["accuracy"] for step in steps)
    found["mismatch_mean"] = fmean(step["mismatch_mean"] for step in steps if "mismatch_mean" in step)
    found["answers"] = sum(step.get("answers_drawn", 0) for step in steps)
    return found


def draw(folder: Path, runs: Sequence[Run], picture: Path) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    labels = list(dict.fromkeys(run.label for run in runs))
    for axes, name in zip(figure.subplots(1, len(FIGURES)), FIGURES, strict=True):
        for run in runs:
            steps = records(folder / run.name)
            points = [
                (step["step"], step[f"held_out_{name}"]) for step in steps if f"held_out_{name}" in step
            ]
            first = next(one for one in runs if one.label == run.label)
            axes.plot(
                *zip(*[(0, numbers(folder / run.name)[f"{name}_before"]), *points], strict=True),
                color=f"C{labels.index(run.label)}",
                linewidth=1.4,
                marker="o",
                markersize=2.5,
                alpha=0.9,
                label=run.label if run is first else None,
            )
        axes.set_title(f"held-out {name}", fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
