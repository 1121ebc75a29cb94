"""The machine: Python, cores, memory, disk, accelerators. Standard library only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from r1mega.doctor.report import Check

GIB = 2**30
TOY_MEMORY_GIB = 4  # two training ranks with Megatron-Core imported, and room to write a checkpoint
TOY_DISK_GIB = 1


def machine_checks(flavour: str) -> Iterator[Check]:
    version = platform.python_version()
    is_new_enough = sys.version_info >= (3, 11)
    fix = "make .venv with a newer Python: PYTHON=/path/to/python3.11 make install"
    yield Check("Python", "ok" if is_new_enough else "fail", f"{version}  {sys.executable}", ">=3.11", fix)
    if sys.prefix == sys.base_prefix:
        yield Check("environment", "note", "no virtual environment: make install would make and use .venv")
    yield Check("system", "note", f"{platform.system()} {platform.machine()}")
    yield _cpu()
    yield _memory()
    yield _disk()
    yield _gpus(flavour)


def _cpu() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    vector = _vector_instructions()
    found = f"{cores} {'core' if cores == 1 else 'cores'}, {vector}"
    if vector == "no AVX2":
        return Check("CPU", "warn", found, "AVX2", "use a machine with AVX2: vLLM's CPU build needs it")
    return Check("CPU", "ok", found)


def _vector_instructions() -> str:
    """What decides the speed on CPU. Linux lists it; elsewhere the architecture has to do."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return "vector instructions unknown"
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    for flag, name in (("amx_bf16", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2")):
        if flag in flags:
            return name
    return "no AVX2"


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    enough = total >= TOY_MEMORY_GIB
    fix = "use fewer ranks (--nproc 1) or a machine with more memory"
    return Check("memory", "ok" if enough else "warn", f"{total:.0f} GiB", f">= {TOY_MEMORY_GIB} GiB", fix)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    enough = free >= TOY_DISK_GIB
    fix = "free some disk space, or write the run elsewhere with out=DIR"
    wanted = f">= {TOY_DISK_GIB} GiB"
    return Check("disk here", "ok" if enough else "warn", f"{free:.1f} GiB free", wanted, fix)


def _gpus(flavour: str) -> Check:
    names = nvidia_devices()
    if names and flavour == "cpu":
        return Check("accelerator", "note", f"{_counted(names)}; unused, this is the CPU install")
    if names:
        return Check("accelerator", "ok", _counted(names))
    if flavour == "gpu":
        return Check(
            "accelerator", "warn", "no CUDA device", "CUDA", "run on a node with GPUs (a login node?)"
        )
    return Check("accelerator", "ok", "none: runs on the CPU")


def _counted(names: tuple[str, ...]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def nvidia_devices() -> tuple[str, ...]:
    """Names of the NVIDIA devices the driver shows, empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return tuple(answer.stdout.split("\n")[:-1]) if answer.returncode == 0 else ()
