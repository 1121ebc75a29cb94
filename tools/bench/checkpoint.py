"""How long keeping a checkpoint holds up training: written at once, and while the steps go on.

    python tools/bench/checkpoint.py --hidden 768 --layers 6 --out /some/disk

One rank, a Qwen2-shaped model with random weights in float32, AdamW's state with it. "Held" is the time in
which no step is computed; "step meanwhile" is the median step while a thread writes. Summing the files
(crc32) is part of both, and given on its own.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCAB, TOKENS = 4096, 128


def config(hidden: int, layers: int) -> dict[str, Any]:
    return dict(
        architectures=["Qwen2ForCausalLM"],
        model_type="qwen2",
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=hidden * 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        rope_theta=1e4,
        tie_word_embeddings=False,
    )


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(hidden: int, layers: int, out: Path, rounds: int) -> dict[str, float]:
    """Seconds, GB and millions of parameters by name."""
    import numpy as np
    import torch

    from r1mega.algo.loss import cross_entropy
    from r1mega.config.sections import Checkpoint, Train
    from r1mega.models import weights
    from r1mega.models.init import random_tensors
    from r1mega.models.spec import load_spec
    from r1mega.parallel import Layout, Mesh
    from r1mega.train.batch import micro_batch
    from r1mega.train.checkpoint_keeper import Keeper
    from r1mega.train.complete import mark
    from r1mega.train.policy import Policy
    from r1mega.types import Sample

    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(0, VOCAB, TOKENS).astype(np.int32), np.ones(TOKENS, np.uint8))
    with Mesh(Layout()) as mesh:
        spec = load_spec(config(hidden, layers))
        policy = Policy(spec, mesh, dtype="float32", train=Train(steps=1000))
        weights.load(spec, mesh, policy.model, random_tensors(spec, 0, torch.float32))
        policy.prepare_to_learn()
        batch = micro_batch([sample], 1)

        def step() -> None:
            policy.update(
                [batch],
                lambda logp_T, one: cross_entropy(logp_T, one.weights_T),
                denominator=float(TOKENS),
                lr=1e-4,
            )

        step()
        alone = [timed(step) for _ in range(5)]
        at_once, held, until, meanwhile = [], [], [], []
        for number in range(1, rounds + 1):
            for keeper in (
                Keeper(out / "at_once", policy, Checkpoint(asynchronous=False, keep=1)),
                Keeper(out / "aside", policy, Checkpoint(asynchronous=True, keep=1)),
            ):
                started = time.perf_counter()
                seconds = timed(lambda: keeper.save(number, {}))  # noqa: B023
                if not keeper.section.asynchronous:
                    at_once.append(seconds)
                    continue
                held.append(seconds)
                while keeper.is_writing:
                    meanwhile.append(timed(step))
                keeper.wait()
                until.append(time.perf_counter() - started)
        files = [path for path in (out / "aside").rglob("*") if path.is_file()]
        return {
            "parameters (M)": sum(p.numel() for p in policy.model.parameters()) / 1e6,
            "checkpoint (GB)": sum(path.stat().st_size for path in files) / 1e9,
            "step alone (s)": statistics.median(alone),
            "at once: held (s)": statistics.median(at_once),
            "meanwhile: held (s)": statistics.median(held),
            "meanwhile: there after (s)": statistics.median(until),
            "step meanwhile (s)": statistics.median(meanwhile) if meanwhile else 0.0,
            "summing the files (s)": timed(lambda: [mark(path) for path in files]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768, help="a multiple of 64 (768)")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder on the disk to measure; default: a temporary one")
    given = parser.parse_args()
    out = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=given.out))
    try:
        for name, value in measure(given.hidden, given.layers, out, given.rounds).items():
            print(f"{name:28} {value:8.2f}")
    finally:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
