"""tools/install.sh up to the point where pip starts: what counts as installed, and every way to refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from r1mega.doctor.packages import flavour

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files an install reads, in a place of their own."""
    for name in ("pyproject.toml", "tools/install.sh", "tools/install_state.py", "tools/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "r1mega" / "doctor", tmp_path / "r1mega" / "doctor")
    shutil.copy(ROOT / "r1mega" / "__init__.py", tmp_path / "r1mega")
    return tmp_path


def install(checkout: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return _run(["bash", "tools/install.sh"], checkout, settings)


def state(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "tools/install_state.py", *arguments], checkout, {})


def _run(command: list[str], cwd: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**{k: v for k, v in os.environ.items() if k not in ("EXTRA", "PYTHON")}, **settings}
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_digest_follows_what_an_install_depends_on_and_nothing_else(checkout: Path) -> None:
    first = state(checkout, "digest", "cpu").stdout
    assert len(first.strip()) == 64

    replace(checkout / "pyproject.toml", "line-length = 110", "line-length = 100")
    replace(checkout / "pyproject.toml", 'description = "', 'description = "Really: ')
    assert state(checkout, "digest", "cpu").stdout == first, "neither is a reason to install again"

    digests = {first, state(checkout, "digest", "gpu").stdout}
    for name, old, new in (
        ("tools/constraints.txt", "numpy==", "numpy==1."),
        ("pyproject.toml", '"rich>=13"', '"rich>=14"'),
        ("tools/install.sh", "set -euo pipefail", "set -euo  pipefail"),
    ):
        replace(checkout / name, old, new)
        digests.add(state(checkout, "digest", "cpu").stdout)
    (checkout / "launch").mkdir()
    (checkout / "launch" / "__init__.py").touch()  # an editable install knows only the packages it has seen
    digests.add(state(checkout, "digest", "cpu").stdout)
    assert len(digests) == 6


def test_the_pins_come_from_pyproject(checkout: Path) -> None:
    extras = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"torch=={state(checkout, 'pin', 'torch', 'cpu').stdout.strip()}" in extras["cpu"]
    assert f"vllm=={state(checkout, 'pin', 'vllm', 'gpu').stdout.strip()}" in extras["gpu"]


def test_this_environment_lacks_nothing_and_a_new_requirement_shows(checkout: Path) -> None:
    extra = flavour()
    assert state(checkout, "unmet", extra).stdout.strip() == ""
    replace(checkout / "pyproject.toml", '"rich>=13"', '"rich>=9999", "no-such-package-of-r1mega"')
    assert state(checkout, "unmet", extra).stdout.split() == ["rich>=9999", "no-such-package-of-r1mega"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"EXTRA": "tpu"}, "EXTRA=tpu is not known: it is cpu or gpu"),
        ({"PYTHON": "/bin/false"}, "PYTHON=/bin/false is not a Python 3.11 to 3.14"),
        ({"EXTRA": "gpu", "PATH": "/usr/bin:/bin", "CUDA_HOME": ""}, "finds no nvcc"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_made(
    checkout: Path, settings: dict[str, str], says: str
) -> None:
    answer = install(checkout, **settings)
    assert answer.returncode == 1 and says in answer.stderr
    assert not (checkout / ".venv").exists()


def test_without_a_new_enough_python_it_says_how_to_get_one(checkout: Path) -> None:
    tools = checkout / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    answer = install(checkout, PATH=str(tools))
    assert answer.returncode == 1
    assert "no Python 3.11 to 3.14" in answer.stderr and "PYTHON=/path/to/python3.11" in answer.stderr
    assert not (checkout / ".venv").exists()


def test_the_two_extras_are_not_mixed_in_one_environment(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "r1mega-extra").write_text("cpu\n")
    answer = install(checkout, EXTRA="gpu")
    assert answer.returncode == 1 and "holds the cpu install" in answer.stderr
    assert "rm -rf .venv" in answer.stderr
