"""Draw the held-out curves of several GRPO runs into one picture.

    python tools/compare_runs.py docs/img/r1_zero.png "seed 0=runs/a" "seed 1=runs/b" ...

Three panels: accuracy, accuracy without tags, format. A curve begins with the base, before the first step.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from r1mega.config.schema import stage_rooms
from r1mega.files import read_json
from r1mega.logs import read_metrics
from r1mega.types import UserError

PANELS = (("accuracy", "accuracy"), ("accuracy_without_tags", "without tags"), ("format", "format"))


def curve(run: Path, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a held-out figure over the last stage that has one."""
    for number, room in reversed(list(enumerate(stage_rooms(run)))):
        records: list[dict[str, Any]] = read_metrics(room / "metrics.jsonl")
        found = [(r["step"], r[f"held_out_{name}"]) for r in records if f"held_out_{name}" in r]
        if found:
            stages = read_json(run / "summary.json")["stages"]
            before = stages[number]["metrics"].get(f"{name}_before")
            points = ([(0, before)] if before is not None else []) + found
            return [step for step, _ in points], [value for _, value in points]
    raise UserError(f"{run} has no stage with held_out_{name} in its metrics")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="the .png to write")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="what to call a run, and its folder")
    options = parser.parse_args()
    named = [text.partition("=") for text in options.runs]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        for label, _, run in named:
            axes.plot(*curve(Path(run), name), marker="o", markersize=3.5, linewidth=1.5, label=label)
        axes.set(title=title, xlabel="step", ylim=(0, 1))
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
