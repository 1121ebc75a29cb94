"""How far every layout of every family is from transformers: a table of measured deviations.

    python tools/bench/layout_parity.py                       # all of it, on 1 to 4 processes: some minutes
    python tools/bench/layout_parity.py --layouts CP --families v3,llama3
    python tools/bench/layout_parity.py --docs docs/layouts.md    # put the table between its two marks there

Runs on CPU over gloo, in float32, and exits with 1 when something is outside of the tolerances.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from r1mega.types import UserError  # noqa: E402
from tests.layouts import FAMILIES, LAYOUTS  # noqa: E402
from tests.parity import TOLERANCE, Deviation, beyond, compare  # noqa: E402

BEGIN, END = "<!-- layout_parity: begin -->", "<!-- layout_parity: end -->"
NONE = "-"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES), help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--layouts", default="", help="those whose name contains this")
    parser.add_argument("--docs", type=Path, help="a Markdown file with the two marks")
    options = parser.parse_args(arguments)
    families = options.families.split(",")
    if unknown := sorted(set(families) - FAMILIES.keys()):
        print(f"unknown families {unknown}; there are {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    found = measure(families, options.layouts)
    text = table(found, families)
    print(f"\n{text}")
    if options.docs is not None:
        try:
            between(options.docs, text)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
    return 1 if any(beyond(each) for each in found.values()) else 0


def measure(families: Sequence[str], part: str) -> dict[tuple[str, str], Deviation]:
    """(layout, family) -> its deviation, said as it comes."""
    found = {}
    for name, case in LAYOUTS.items():
        for family in families:
            sizes = case.of(family.startswith("v3"))
            if part.lower() not in name.lower() or sizes is None:
                continue
            one = compare(family, case.world, sizes, optimizer=case.optimizer)
            found[name, family] = one
            numbers = "  ".join(f"{key} {value:.1e}" for key, value in vars(one).items())
            print(f"{name:34}{family:12}{numbers}  {'BEYOND' if beyond(one) else 'ok'}", flush=True)
    return found


def table(found: dict[tuple[str, str], Deviation], families: Sequence[str]) -> str:
    """Markdown: a row a layout; of each family the largest deviation of logits, loss and gradients."""
    names = [name for name in LAYOUTS if any((name, family) in found for family in families)]
    lines = [
        f"| logits, loss, gradients | {' | '.join(FAMILIES[family] for family in families)} |",
        f"|---|{'---|' * len(families)}",
    ]
    for name in names:
        cells = [_cell(found.get((name, family))) for family in families]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"| allowed | {' | '.join([_cell(TOLERANCE)] * len(families))} |")
    return "\n".join(lines)


def _cell(one: Deviation | None) -> str:
    if one is None:
        return NONE
    numbers = ", ".join(f"{value:.0e}" for value in (one.logits, one.loss, one.gradient))
    return f"**{numbers}**" if beyond(one) else numbers


def between(path: Path, text: str) -> None:
    """Replace what stands between the marks of a file."""
    content = path.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise UserError(f"{path} needs the lines {BEGIN} and {END} once each: the table goes between them")
    before, rest = content.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
