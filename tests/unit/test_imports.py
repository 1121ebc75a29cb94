"""The walls between the rooms: imports go downward only, and each heavy package stays behind its door.

Read from the source text, so an import inside a function counts like one at the top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top down. A room imports from lower layers, never from its own or a higher one.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"commands"}),
    frozenset({"launch", "doctor"}),
    frozenset({"stages"}),
    frozenset({"evaluation"}),
    frozenset({"train", "sync", "rollout", "rewards", "data", "planner", "report"}),
    frozenset({"models", "algo"}),
    frozenset({"config", "device", "files", "logs", "parallel", "progress", "revision", "types"}),
)
FOUNDATION = LAYERS[-1]  # small single files mostly; these may import each other
NOUNS_ONLY = frozenset({"algo", "rewards"})  # pure: no other room than the nouns
MAY_IMPORT: dict[str, frozenset[str]] = {  # package -> the rooms that may
    "megatron": frozenset({"device", "parallel", "models", "train"}),
    "vllm": frozenset({"rollout", "sync"}),
    "submitit": frozenset({"launch"}),
}


@dataclass(frozen=True)
class Import:
    """One import statement: the room it stands in, and the dotted module it names."""

    place: str
    room: str
    module: str


def imports(root: Path) -> Iterator[Import]:
    for path in sorted([*root.glob("r1mega/**/*.py"), *root.glob("launch/**/*.py")]):
        inside = path.relative_to(root)
        room = _room(inside.with_suffix("").parts)
        package = inside.parts[:-1]  # what a relative import starts from, one dot for itself
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for module in _modules(node, package):
                yield Import(f"{inside}:{getattr(node, 'lineno', 0)}", room, module)


def _room(parts: tuple[str, ...]) -> str:
    """("r1mega", "train", "policy") -> "train"; ("launch", "entry") -> "launch"; r1mega itself -> ""."""
    if parts[0] != "r1mega":
        return parts[0]
    return parts[1] if len(parts) > 1 and parts[1] not in ("__init__", "__version__") else ""


def _modules(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """The modules a statement names. `from r1mega import x` names r1mega.x."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join([*start, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(root: Path) -> list[str]:
    return [f"{one.place}: {why}" for one in imports(root) if (why := _wrong(one))]


def _wrong(one: Import) -> str:
    top = one.module.split(".")[0]
    if top in MAY_IMPORT and one.room not in MAY_IMPORT[top]:
        return f"{one.room or 'r1mega'} imports {top}; only {', '.join(sorted(MAY_IMPORT[top]))} may"
    if top not in ("r1mega", "launch"):
        return ""
    target = _room(tuple(one.module.split(".")))
    if target in ("", one.room):
        return ""
    for room in (one.room, target):
        if room and _layer(room) is None:
            return f"the room {room} is not in the table of layers: give it its place"
    if one.room in NOUNS_ONLY and target != "types":
        return f"{one.room} imports {target}; it may import the nouns (types) only"
    if one.room in FOUNDATION and target in FOUNDATION and one.room != "types":
        return ""
    here, there = _layer(one.room), _layer(target)
    assert there is not None
    if here is None or here >= there:
        return f"{one.room or 'r1mega'} imports {target}, which is not below it"
    return ""


def _layer(room: str) -> int | None:
    """0 is the top; None for a room that nobody has placed."""
    return next((depth for depth, rooms in enumerate(LAYERS) if room in rooms), None)


def test_every_import_of_the_project_goes_downward() -> None:
    assert violations(ROOT) == []


def test_every_room_has_its_place() -> None:
    rooms = {_room(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("r1mega/**/*.py")}
    assert sorted(room for room in rooms - {""} if _layer(room) is None) == []


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("r1mega/train/policy.py", "from r1mega.stages.sft import run", "train imports stages"),
        ("r1mega/train/policy.py", "from r1mega.data import packing", "train imports data"),
        ("r1mega/models/build.py", "from ..train import policy", "models imports train"),
        ("r1mega/models/families/llama.py", "from ... import cli", "models imports cli"),
        ("r1mega/parallel.py", "from r1mega import models", "parallel imports models"),
        ("r1mega/types.py", "import r1mega.config", "types imports config"),
        ("r1mega/__init__.py", "from r1mega.types import UserError", "r1mega imports types"),
        ("r1mega/algo/loss.py", "from r1mega.logs import say", "it may import the nouns"),
        ("r1mega/rewards/math.py", "def f():\n    from r1mega.models import spec", "it may import the nouns"),
        ("r1mega/stages/sft.py", "from megatron.core import parallel_state", "stages imports megatron"),
        ("r1mega/train/policy.py", "import vllm", "train imports vllm"),
        ("r1mega/stages/sft.py", "import submitit", "stages imports submitit"),
        ("r1mega/stages/sft.py", "import launch.entry", "stages imports launch"),
        ("launch/entry.py", "from r1mega.cli import main", "launch imports cli"),
        ("r1mega/attic/old.py", "from r1mega.types import UserError", "attic is not in the table"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, line: str, complaint: str) -> None:
    _write(tmp_path / path, line)
    [found] = violations(tmp_path)
    assert found.startswith(path) and complaint in found


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("r1mega/train/policy.py", "from r1mega.models.build import build\nimport megatron.core"),
        ("r1mega/models/build.py", "from .spec import ModelSpec\nfrom r1mega import device"),
        ("r1mega/config/load.py", "from r1mega.types import UserError"),
        ("r1mega/algo/loss.py", "from r1mega.types import Sample\nimport torch"),
        ("r1mega/rollout/engine.py", "from vllm import LLM"),
        ("r1mega/cli.py", "from r1mega import __version__, stages"),
        ("launch/entry.py", "import submitit\nfrom r1mega import stages"),
    ],
)
def test_a_permitted_import_is_left_alone(tmp_path: Path, path: str, line: str) -> None:
    _write(tmp_path / path, line)
    assert violations(tmp_path) == []


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
