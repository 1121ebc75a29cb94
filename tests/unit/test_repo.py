"""The repository as a stranger meets it: no trace of one machine, configs that load, commands that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
CLUSTERS = sorted((ROOT / "configs" / "clusters").glob("*.toml"))
CONFIGS = sorted(set((ROOT / "configs").glob("**/*.toml")) - set(CLUSTERS))
# What a config asks the command line for.
LEFT_TO_THE_USER = {name: ["data.path=train.jsonl"] for name in ("sft_gsm8k", "gsm8k")}

# What belongs to one machine or one site. Each pattern is written so that it does not match its own text.
FOREIGN = {
    "an absolute path of one machine": re.compile(
        r"(?<![\w.~}$/-])/(?:root|home|Users|work|mnt|media|srv)/[\w.-]+"
    ),
    "a package registry": re.compile(r"pypi[.]org|python[h]osted[.]org|anaconda[.]org|/simple[/\"' ]"),
    "an index that is not PyTorch's own": re.compile(
        r"index-url[= ]+['\"]?https?://(?!download\.pytorch\.org/whl/)"
    ),
}


def files_of_the_repository() -> list[Path]:
    """Tracked files and those about to be: everything git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("this is not a git checkout, so nobody knows which files belong to it")
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def foreign_matter(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        return  # a binary file
    for number, line in enumerate(lines, start=1):
        for what, pattern in FOREIGN.items():
            if match := pattern.search(line):
                yield f"{path.name}:{number}: {what}: {match.group()}"


def test_git_ignores_none_of_the_sources() -> None:
    """An unanchored pattern such as build or dist would quietly leave out a folder of ours."""
    known = set(files_of_the_repository())
    sources = {
        path for top in ("r1mega", "launch", "tests", "tools") for path in (ROOT / top).glob("**/*.py")
    }
    assert sources - known == set()


def test_no_file_names_one_machine_or_a_registry() -> None:
    files = files_of_the_repository()
    assert ROOT / "pyproject.toml" in files
    assert [found for path in files for found in foreign_matter(path)] == []


@pytest.mark.parametrize(
    ("line", "is_foreign"),
    [
        ("cd " + "/home/" + "me/code", True),
        ('path = "' + "/work/" + 'data"', True),
        ("pip install --index-url " + "https://mirror.example/x", True),
        ("see https://" + "pypi" + ".org/project/x", True),
        ("pip install --index-url https://download.pytorch.org/whl/cpu", False),
        ("data.path=../shared/data/gsm8k/train.jsonl", False),
        ("https://github.com/someone/home/work", False),
        ("r1mega/models/work/x", False),
    ],
)
def test_the_search_for_foreign_matter_finds_it(tmp_path: Path, line: str, is_foreign: bool) -> None:
    file = tmp_path / "x.md"
    file.write_text(f"harmless\n{line}\n")
    found = list(foreign_matter(file))
    assert bool(found) is is_foreign
    assert all(one.startswith("x.md:2:") for one in found)


@pytest.mark.parametrize("path", CONFIGS, ids=[str(path.relative_to(ROOT / "configs")) for path in CONFIGS])
def test_every_config_loads(path: Path) -> None:
    from r1mega.config import load

    assert load(path, LEFT_TO_THE_USER.get(path.stem, [])).stages


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_every_cluster_loads(path: Path) -> None:
    from r1mega.config.cluster import load_cluster

    assert load_cluster(path.stem, path.parent).description


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.parent.name == "toy"], ids=lambda p: p.stem
)
def test_every_toy_config_has_a_smoke_profile(path: Path) -> None:
    from r1mega.config import load

    needed = LEFT_TO_THE_USER.get(path.stem, [])
    assert load(path, ["profile=smoke", *needed]) != load(path, needed)


def test_there_are_configs_to_load() -> None:
    assert CONFIGS


def test_make_targets_named_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        (doc.name, target)
        for doc in DOCS
        for target in re.findall(
            r"(?:^ {4}|`|&& |=\S+ )make ([a-z][a-z-]*)", doc.read_text("utf-8"), re.MULTILINE
        )
    }
    assert {("README.md", "demo"), ("README.md", "test")} <= named
    assert {(doc, target) for doc, target in named if target not in targets} == set()


def test_files_named_in_the_docs_exist() -> None:
    """Markdown links, and the configs and tools that a command line in the docs names."""
    pattern = re.compile(
        r"\]\(([^)#:]+)(?:#[^)]*)?\)|\b((?:configs|tools|slurm)/[\w./-]+\.(?:toml|py|sh|txt))"
    )
    absent = []
    for doc in DOCS:
        for link, script in pattern.findall(doc.read_text("utf-8")):
            if script.endswith(("/NAME.toml", "/NAME.sh", "/mine.toml")):  # the reader's own
                continue
            target = doc.parent / link if link else ROOT / script
            if not target.exists():
                absent.append(f"{doc.name}: {link or script}")
    assert absent == []


def test_no_folder_of_tests_is_left_out(request: pytest.FixtureRequest) -> None:
    """pytest skips folders called dist or build unless it is told otherwise."""
    left_out = request.config.getini("norecursedirs")
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert not {name for name in folders for pattern in left_out if Path(name).match(pattern)}
