"""Checks of one node by itself. Each returns rows; whatever it raises is a row as well (`child`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from r1mega.doctor.machine import GIB
from r1mega.doctor.packages import apex, flavour, installed, package_checks
from r1mega.doctor.rows import Row

WRITTEN = 128 << 20  # bytes of the write test
_QUERY = ("name", "memory.total", "driver_version", "ecc.errors.uncorrected.volatile.total")


def machine(scratch: Path) -> list[Row]:
    """CPUs and memory; GPUs as their driver tells of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cpu = Row("cpu", "ok", f"{cores} / {memory:.0f} GiB", f"{cores} cores, {memory:.0f} GiB of memory")
    return [cpu, *_gpus(os.environ.get("R1MEGA_DOCTOR_GPUS"))]


def _gpus(wanted: str | None) -> list[Row]:
    """wanted: how many the cluster file says; None: as many as there are."""
    expected = int(wanted or 0)
    if shutil.which("nvidia-smi") is None:
        if expected:
            advice = "load the driver, or take the node out of the partition"
            return [Row("gpus", "broken", "none", f"no nvidia-smi; {expected} wanted", advice=advice)]
        return [Row("gpus", "note", "none", "no nvidia-smi: a CPU node")]
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return [gpu_row(done.stdout, expected)]


def gpu_row(answer: str, expected: int) -> Row:
    """From what nvidia-smi answers, a line a GPU. Pure."""
    found = [[part.strip() for part in line.split(",")] for line in answer.splitlines() if line.strip()]
    found = [one for one in found if len(one) == len(_QUERY)]
    kinds = sorted({f"{name} {float(memory) / 1024:.0f} GiB" for name, memory, _, _ in found})
    drivers = sorted({driver for _, _, driver, _ in found})
    text = f"{len(found)} x {' and '.join(kinds) or 'no GPU'}, driver {', '.join(drivers) or 'unknown'}"
    errors = [number for number, one in enumerate(found) if one[3].isdigit() and int(one[3])]
    cell = f"{len(found)} ({', '.join(drivers)})"
    if len(found) < expected or len(kinds) > 1:
        advice = "look at dmesg for Xid errors; reset or replace the GPU, or take the node out"
        return Row("gpus", "broken", cell, f"{text}; {expected} alike wanted", len(found), advice=advice)
    if errors:
        advice = "reset these GPUs; replace them where errors come back"
        return Row("gpus", "broken", cell, f"{text}; uncorrected ECC errors on {errors}", advice=advice)
    return Row("gpus", "ok", cell, text, len(found))


def versions(scratch: Path) -> list[Row]:
    """What is installed, against the pins of pyproject.toml."""
    wrong = [check for check in package_checks(flavour()) if check.status == "fail"]
    if not wrong:
        return [Row("pins", "ok", "ok", f"packages as pinned ({flavour()}), torch {installed('torch')}")]
    text = "; ".join(f"{check.name} {check.found}, wanted {check.wanted}" for check in wrong)
    return [Row("pins", "broken", f"{len(wrong)} wrong", text, advice=wrong[0].fix)]


def disk(scratch: Path) -> list[Row]:
    """Space and write speed (synced) where runs are kept."""
    free = shutil.disk_usage(scratch).free / GIB
    probe = scratch / f".write-{os.uname().nodename}-{os.getpid()}"
    block = os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with probe.open("wb", buffering=0) as file:
            for _ in range(WRITTEN >> 20):
                file.write(block)
            os.fsync(file.fileno())
        speed = WRITTEN / (time.perf_counter() - began) / 1e6
    except OSError as error:
        advice = "make room or ask for access; scratch in the cluster file says where runs are kept"
        return [Row("disk", "broken", "unwritable", f"{scratch}: {error.strerror}", advice=advice)]
    finally:
        probe.unlink(missing_ok=True)
    advice = "ask the site about the file system; checkpoints take as long as this says"
    text = f"{scratch}: {free:.0f} GiB free, {speed:.0f} MB/s written"
    return [Row("disk", "ok", f"{free:.0f} GiB {speed:.0f} MB/s", text, speed, advice=advice)]


def compute(scratch: Path) -> list[Row]:
    """A large matrix product, on the rank's own device: a slow GPU, or a CPU that others use, shows."""
    import torch

    from r1mega import device
    from r1mega.parallel import Launch

    here = Launch.from_env()
    device.prepare(here.local_rank, here.local_world, None)
    size, dtype = (8192, torch.bfloat16) if device.on_cuda() else (512, torch.float32)
    a, b = (torch.randn(size, size, device=device.current(), dtype=dtype) for _ in range(2))
    seconds = min(_timed(lambda: a @ b) for _ in range(10))
    rate = 2 * size**3 / seconds / 1e12
    if not torch.isfinite(a @ b).all():
        advice = "the device computes wrong numbers: take it out of the partition"
        return [Row("compute", "broken", "NaN", "a product of finite matrices is not finite", advice=advice)]
    advice = "look at clocks, temperature and other processes on it"
    text = f"{rate:.3g} TFLOP/s in {str(dtype).removeprefix('torch.')}"
    return [Row("compute", "ok", f"{rate:.3g} TF/s", text, rate, advice=advice)]


def _timed(action: object) -> float:
    import torch

    from r1mega import device

    began = time.perf_counter()
    action()  # type: ignore[operator]
    if device.on_cuda():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def fused(scratch: Path) -> list[Row]:
    """Transformer Engine's and apex's kernels against plain torch: built for this GPU and this torch?"""
    from r1mega import device

    engine, other = installed("transformer-engine"), apex()
    if not device.on_cuda():
        text = f"Transformer Engine {engine or 'not installed'}, apex {other}; they need CUDA"
        return [Row("fused", "note", "no CUDA", text)]
    rows = []
    theirs = other if other == "nvidia" else None
    for name, version, compare in (("TE", engine, _engine_norm), ("apex", theirs, _apex_adam)):
        if not version:
            rows.append(Row("fused", "note", f"no {name}", f"{name}: not installed, torch's own is used"))
            continue
        apart = compare()
        advice = f"{name} is built for another GPU or torch: build it anew (docs/install.md)"
        text = f"{name} {version}: differs from torch by {apart:.1e}"
        rows.append(Row("fused", "ok" if apart < 1e-2 else "broken", f"{name} ok", text, advice=advice))
    return rows


def _engine_norm() -> float:
    """The largest relative difference of an RMSNorm in bfloat16."""
    import torch
    import transformer_engine.pytorch as engine

    x = torch.randn(512, 1024, device="cuda", dtype=torch.bfloat16)
    fused_norm = engine.RMSNorm(1024, eps=1e-6, params_dtype=torch.bfloat16, device="cuda")
    plain = torch.nn.functional.rms_norm(x.float(), (1024,), eps=1e-6)
    return float((fused_norm(x).float() - plain).abs().max() / plain.abs().max())


def _apex_adam() -> float:
    """The largest difference of weights after a step of AdamW, relative to the step."""
    import torch
    from apex.optimizers import FusedAdam

    start, gradient = torch.randn(4096, device="cuda"), torch.randn(4096, device="cuda")
    ends = []
    for make in (FusedAdam, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        make([weight], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8).step()
        ends.append(weight.detach())
    return float((ends[0] - ends[1]).abs().max() / 1e-2)
