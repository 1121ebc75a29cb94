"""How fast tools/convert_hf.py is beside a plain copy of the same files, and how much memory it takes.

    python tools/bench/convert.py --room /scratch/me            # 6 GB of random bfloat16, shaped like Qwen2.5
    python tools/bench/convert.py --room /scratch/me --gb 1 --rounds 5

Each round copies the folder, converts it to a checkpoint, copies that and converts it back, each in a process
of its own, so that what else the machine does meets all of them alike; medians over the rounds are printed.
All wait until what they have written is on the disk (fsync). The floor is the bytes, read once and written
once; a conversion also takes or checks a checksum. Needs three times the size on the disk, and removes
what it has made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

STEPS = ("copy of SRC", "to-megatron", "copy of CKPT", "to-hf")
_BASELINE = {"to-megatron": "copy of SRC", "to-hf": "copy of CKPT"}


@dataclass(frozen=True)
class Measured:
    """Of one process. nbytes: written. wall, cpu: seconds without imports. peak: of its memory, in bytes."""

    nbytes: int
    wall: float
    cpu: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--room", type=Path, help="folder on the disk to measure; default: the system's temporary"
    )
    parser.add_argument("--gb", type=float, default=6.0, help="size of the model in GB; default 6")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="of the conversion; default: its own")
    parser.add_argument("--one", nargs=3, metavar=("STEP", "FROM", "TO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        step, source, target = options.one
        print(json.dumps(asdict(measured(step, Path(source), Path(target), options.workers))))
        return
    free = shutil.disk_usage(options.room or tempfile.gettempdir()).free
    if free < 3.2e9 * options.gb:
        sys.exit(f"{3.2 * options.gb:.0f} GB are needed, {free / 1e9:.0f} GB are free: choose another --room")
    with tempfile.TemporaryDirectory(prefix="convert-", dir=options.room) as room:
        report(rounds(Path(room), options.gb, options.rounds, options.workers))


def rounds(room: Path, gb: float, count: int, workers: int | None) -> dict[str, list[Measured]]:
    source, checkpoint = room / "hf", room / "ckpt"
    make_model(source, gb)
    found: dict[str, list[Measured]] = {step: [] for step in STEPS}
    for i in range(count):
        routes = dict(
            zip(
                STEPS,
                (
                    (source, room / "a"),
                    (source, checkpoint),
                    (checkpoint, room / "b"),
                    (checkpoint, room / "c"),
                ),
                strict=True,
            )
        )
        for step, (start, end) in routes.items():
            command = [sys.executable, __file__, "--one", step, str(start), str(end)]
            command += ["--workers", str(workers)] if workers else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[step].append(Measured(**json.loads(done.stdout.splitlines()[-1])))
            print(f"round {i + 1}: {line(step, [found[step][-1]])}", flush=True)
            if end != checkpoint:
                shutil.rmtree(end)
        shutil.rmtree(checkpoint)
    return found


def report(found: dict[str, list[Measured]]) -> None:
    print("\nmedians")
    for step in STEPS:
        print(line(step, found[step]))
    for step, base in _BASELINE.items():
        ours, theirs = found[step], found[base]
        wall, cpu = (median(theirs, key) / median(ours, key) for key in ("wall", "cpu"))
        print(
            f"{step}: {wall:.0%} of the copy's throughput by the clock, {cpu:.0%} by CPU time of all threads"
        )


def line(step: str, all_of_it: list[Measured]) -> str:
    gb = median(all_of_it, "nbytes") / 1e9
    wall, cpu, peak = (median(all_of_it, key) for key in ("wall", "cpu", "peak"))
    speed = f"{gb / wall:5.2f} GB/s, {cpu / gb:5.2f} CPU seconds a GB"
    return f"{step:<13} {gb:5.2f} GB in {wall:6.1f} s: {speed}, peak {peak / 1e6:.0f} MB"


def median(all_of_it: list[Measured], key: str) -> float:
    return float(statistics.median(getattr(one, key) for one in all_of_it))


def measured(step: str, source: Path, target: Path, workers: int | None) -> Measured:
    """Do one step in this process."""
    action = prepared(step, source, target, workers)
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    nbytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    [peak] = [row.split()[1] for row in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in row]
    return Measured(nbytes, wall, cpu, int(peak) * 1024)


def prepared(step: str, source: Path, target: Path, workers: int | None) -> Callable[[], object]:
    if step.startswith("copy"):
        return lambda: copy(source, target)
    if step == "to-megatron":
        from r1mega.train.convert.to_megatron import to_megatron

        return lambda: to_megatron(source, target, workers=workers)
    from r1mega.train.convert.to_hf import to_hf

    return lambda: to_hf(source, target, workers=workers)


def copy(source: Path, target: Path) -> None:
    """File by file, through the kernel; then wait for the disk."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for file in sorted(target.rglob("*")):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def make_model(folder: Path, gb: float) -> None:
    """Random bfloat16 in the shapes of Qwen2.5-3B, with as many layers as fill so many GB."""
    import torch

    from r1mega.models.families import checkpoint_shapes
    from r1mega.models.hf_write import HFWriter
    from r1mega.models.safetensors_file import TensorInfo
    from r1mega.models.spec import load_spec

    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_position_embeddings": 32768,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": 151936,
    }

    def size(layers: int) -> int:
        shapes = checkpoint_shapes(load_spec({**config, "num_hidden_layers": layers}))
        return sum(TensorInfo(torch.bfloat16, shape, "").nbytes for shape in shapes.values())

    config["num_hidden_layers"] = max(1, round((gb * 1e9 - size(1)) / (size(2) - size(1))) + 1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 25, generator=generator).bfloat16()
    with HFWriter(folder, config, max_shard_bytes=1e9) as writer:
        for i, (name, shape) in enumerate(checkpoint_shapes(load_spec(config)).items()):
            count = torch.Size(shape).numel()
            turned = noise.roll(i)  # tensors differ, and none is all of one page
            repeated = turned.repeat(-(-count // len(turned)))[:count]
            writer.add(name, repeated.view(shape).clone())


if __name__ == "__main__":
    main()
