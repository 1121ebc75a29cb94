"""All of R1 on the toy, and what it is compared with: configs/toy/study.toml for several seeds.

    python tools/study.py r1 runs/study             three seeds, one after another, then pictures and numbers
    python tools/study.py r1 runs/study --seeds 0   one
    python tools/study.py r1 runs/study --one-base  all seeds begin with the same pretrained models

Killed, it goes on where it was. Results: DIR/results.json, DIR/*.png, and the table that is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from r1mega.config import load
from r1mega.config.schema import stage_rooms
from r1mega.files import read_json, write_json
from r1mega.logs import read_metrics

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "toy" / "study.toml"


class Curve(NamedTuple):
    """A line of a picture: a figure of a stage's log, step by step."""

    picture: str
    figure: str
    stage: str
    label: str


CURVES = (
    Curve("rl", "accuracy", "r1_zero", "R1-Zero: from the base"),
    Curve("rl", "accuracy", "rl_reasoning", "R1: from the cold start"),
    Curve("rl", "format", "r1_zero", "R1-Zero: from the base"),
    Curve("rl", "format", "rl_reasoning", "R1: from the cold start"),
    Curve("language", "language", "rl_reasoning", "with the language reward"),
    Curve("language", "language", "rl_no_language", "without"),
    Curve("language", "accuracy", "rl_reasoning", "with the language reward"),
    Curve("language", "accuracy", "rl_no_language", "without"),
    Curve("general", "helpful", "rl_general", "RL for all scenarios"),
    Curve("general", "safety", "rl_general", "RL for all scenarios"),
    Curve("general", "accuracy", "rl_general", "RL for all scenarios"),
)
STARTS = {
    "base": ("r1_zero", "cold_start", "rejection_sft"),
    "qwen2": ("distill-qwen2", "rl-qwen2"),
    "llama": ("distill-llama",),
}
"""Pretrained models, and the stages that begin with each."""
SMOOTH = 5  # steps over which a curve is averaged


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--seeds", default="0,1,2", metavar="N,...", help="default %(default)s")
    parser.add_argument(
        "--one-base",
        action="store_true",
        help="pretrain with the first seed only",
    )
    parser.add_argument("--until", metavar="STAGE", help="only so far, in every seed")
    parser.add_argument(
        "--report", action="store_true", help="only the table and the pictures of what is there"
    )
    parser.add_argument("keys", metavar="key=value", nargs="*", help="passed on to r1mega run")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    os.environ["PYTHONPATH"] = str(ROOT)
    for seed in [] if options.report else seeds:
        print(f"== seed {seed}", flush=True)
        out = (options.folder / f"seed-{seed}").resolve()
        command = [sys.executable, "-m", "r1mega", "run", str(CONFIG), f"seed={seed}", f"out={out}"]
        command += [*options.keys, *(["--until", options.until] if options.until else [])]
        if options.one_base and seed != seeds[0]:
            command += from_bases(options.folder / f"seed-{seeds[0]}")
        if code := subprocess.run(command, cwd=ROOT).returncode:
            return code
    report(options.folder, seeds)
    return 0


def from_bases(run: Path) -> list[str]:
    """Arguments for a run that takes the pretrained models of another one and makes all the rest."""
    bases = {room.name[3:]: room.resolve() / "model" for room in stage_rooms(run) if room.name[3:] in STARTS}
    stages = [name for name in load(CONFIG).stages if name not in STARTS]
    taken = [f"stages.{name}.model.path={path}" for base, path in bases.items() for name in STARTS[base]]
    return [*taken, "--stage", ",".join(stages)]


def report(folder: Path, seeds: Sequence[int]) -> None:
    """The table of all seeds, and the pictures."""
    seeds = [seed for seed in seeds if (folder / f"seed-{seed}" / "summary.json").is_file()]
    runs = {seed: read_json(folder / f"seed-{seed}" / "summary.json") for seed in seeds}
    results = {seed: {row["name"]: row for row in run["stages"]} for seed, run in runs.items()}
    write_json(folder / "results.json", {str(seed): rows for seed, rows in results.items()})
    print(table(results))
    for picture in dict.fromkeys(curve.picture for curve in CURVES):
        curves = [curve for curve in CURVES if curve.picture == picture]
        draw(folder, seeds, curves, folder / f"{picture}.png")


def table(results: Mapping[int, Mapping[str, Any]]) -> str:
    """pass@1 in per cent: the mean over seeds, and the lowest and highest; last, the seconds of the stage."""
    first = next(iter(results.values()))
    measured = [name for name, row in first.items() if row["benchmarks"]]
    columns = list(dict.fromkeys(column for name in measured for column in first[name]["benchmarks"]))
    lines = ["| | " + " | ".join(columns) + " | seconds |", "|---" * (len(columns) + 2) + "|"]
    for name in measured:
        rows = [result[name] for result in results.values() if result[name]["benchmarks"]]
        cells = [_cell([row["benchmarks"][column]["pass@1"] for row in rows]) for column in columns]
        seconds = fmean(row["seconds"] for row in rows)
        lines.append(f"| {first[name]['label']} | " + " | ".join([*cells, f"{seconds:.0f}"]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * fmean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def draw(folder: Path, seeds: Sequence[int], curves: Sequence[Curve], picture: Path) -> None:
    """One plot a figure; seeds of one curve have one colour."""
    names = list(dict.fromkeys(curve.figure for curve in curves))
    labels = list(dict.fromkeys(curve.label for curve in curves))
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for curve in (one for one in curves if one.figure == name):
            for seed in seeds:
                points = _points(folder / f"seed-{seed}", curve)
                label = curve.label if seed == seeds[0] else None
                axes.plot(*points, color=f"C{labels.index(curve.label)}", linewidth=1.4, label=label)
        axes.set_title(f"{name} of the rollouts", fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=110)


def _points(run: Path, curve: Curve) -> tuple[list[int], list[float]]:
    """Steps, and the figure's mean over the last SMOOTH of them."""
    rooms = [room for room in stage_rooms(run) if room.name[3:] == curve.stage]
    records = [one for room in rooms for one in read_metrics(room / "metrics.jsonl") if curve.figure in one]
    values = [one[curve.figure] for one in records]
    means = [fmean(values[max(0, i - SMOOTH + 1) : i + 1]) for i in range(len(values))]
    return [one["step"] for one in records], means


if __name__ == "__main__":
    sys.exit(main())
