"""Studies on the toy: what shows there, over several seeds, with curves.

    python tools/study.py r1 runs/study-r1                  all of R1 and what it is compared with
    python tools/study.py algorithms runs/study-algorithms  GRPO and its relatives from one base

A study is killed and resumed like any run; what is done is not done again. Each has its own --help.
"""

from __future__ import annotations

import importlib
import sys

STUDIES = ("r1", "algorithms")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in STUDIES:
        print(__doc__)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    name = sys.argv.pop(1)
    sys.argv[0] = f"{sys.argv[0]} {name}"
    return int(importlib.import_module(f"studies.{name}").main())


if __name__ == "__main__":
    sys.exit(main())
