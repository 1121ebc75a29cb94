"""Is .venv what pyproject.toml and tools/constraints.txt say? tools/install.sh asks, with .venv's Python.

install_state.py check EXTRA     ends with 0 when the stamp is the present digest and nothing is unmet
install_state.py digest EXTRA    prints what a finished install of EXTRA is stamped with
install_state.py unmet EXTRA     prints the requirements that .venv does not meet
install_state.py pin NAME EXTRA  prints the exact version that pyproject.toml pins NAME to
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STAMP = Path(sys.prefix) / "r1mega-installed"
INSTALLED_FROM = ("name", "requires-python", "dependencies", "optional-dependencies", "scripts")


def digest(extra: str) -> str:
    """A hash of all that decides what an install does. Descriptions, lint settings and the like are not."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = sorted(folder.parent.name for folder in ROOT.glob("*/__init__.py"))
    files = [(ROOT / "tools" / name).read_text("utf-8") for name in ("constraints.txt", "install.sh")]
    project = [pyproject["build-system"], *(pyproject["project"][key] for key in INSTALLED_FROM)]
    return hashlib.sha256(
        repr([extra, sys.version, str(ROOT), project, packages, files]).encode()
    ).hexdigest()


def unmet(extra: str) -> tuple[str, ...]:
    from r1mega.doctor.packages import unmet

    try:
        return unmet(extra)
    except ImportError:  # not even `packaging` is there
        return ("everything",)


def check(extra: str) -> int:
    if not STAMP.is_file() or STAMP.read_text("utf-8").strip() != digest(extra):
        return 1
    return 1 if unmet(extra) else 0


def pin(name: str, extra: str) -> str:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    exact = next(r for r in pyproject["project"]["optional-dependencies"][extra] if r.startswith(f"{name}=="))
    return exact.removeprefix(f"{name}==").split(";")[0].strip()


def main(argv: list[str]) -> int:
    match argv:
        case ["digest", extra]:
            print(digest(extra))
        case ["check", extra]:
            return check(extra)
        case ["unmet", extra]:
            print("\n".join(unmet(extra)))
        case ["pin", name, extra]:
            print(pin(name, extra))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
