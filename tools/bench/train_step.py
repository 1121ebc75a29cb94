"""Training speed: real tokens a second on sequences of very different lengths, beside its peers, in one run.

    python tools/bench/train_step.py --threads 1 --reps 3
    python tools/bench/train_step.py --trl-python path/to/venv/bin/python    also TRL's SFTTrainer, packed
    python tools/bench/train_step.py --mfu qwen2.5-1.5b --peak-tflops 989    one GPU's utilisation, see mfu.py

The work is the same for all: a Qwen2-shaped model of 6.0M parameters in float32, log-normal lengths (8 to
512 tokens, mean about 120), 16 sequences an optimizer step (TRL: 4 packed rows of 512, about as many tokens),
AdamW, gradients clipped at 1. Only real tokens count, padding does not. Every measurement is a process of its
own, the peers take turns, and the median of the rounds is compared. An environment for TRL:
pip install torch==2.13.0 trl==1.16.0
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCAB, LONGEST, BATCH, WARM_UP = 512, 512, 16, 2
CONFIG: dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=1,
)


def sequences(count: int) -> list[list[int]]:
    """The same for every process: token ids with a stop token at the end."""
    rng = random.Random(7)
    lengths = [min(LONGEST, max(8, round(math.exp(rng.gauss(4.38, 0.9))))) for _ in range(count)]
    return [[*(rng.randrange(2, VOCAB) for _ in range(n - 1)), 1] for n in lengths]


def make_checkpoint(folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(**CONFIG)
    config.architectures = ["Qwen2ForCausalLM"]
    Qwen2ForCausalLM(config).save_pretrained(folder)


def timed(work: list[list[int]], step: Callable[[list[list[int]]], float]) -> dict[str, float]:
    """Batches in file order; the first WARM_UP of them are repeated beforehand and not measured."""
    batches = [work[i : i + BATCH] for i in range(0, len(work), BATCH)]
    for batch in batches[:WARM_UP]:
        step(batch)
    started, cpu = time.perf_counter(), time.process_time()
    losses = [step(batch) for batch in batches]
    tokens = sum(map(len, work))
    return {
        "tokens_per_second": tokens / (time.perf_counter() - started),
        "tokens_per_cpu_second": tokens / (time.process_time() - cpu),
        "last_loss": losses[-1],
    }


def ours(checkpoint: Path, work: list[list[int]], threads: int) -> dict[str, float]:
    import numpy as np

    from r1mega import device
    from r1mega.algo.loss import cross_entropy
    from r1mega.algo.packing import plan
    from r1mega.config.sections import Train
    from r1mega.models import weights
    from r1mega.models.hf import HFFolder
    from r1mega.models.spec import load_spec
    from r1mega.parallel import Layout, Mesh
    from r1mega.train.batch import micro_batch
    from r1mega.train.policy import Policy
    from r1mega.types import Sample

    device.prepare(0, 1, threads)
    with Mesh(Layout.of(1)) as mesh:
        spec = load_spec(checkpoint)
        train = Train(steps=1, lr=1e-4, weight_decay=0.0, clip_grad=1.0)
        policy = Policy(spec, mesh, dtype="float32", train=train)
        weights.load(spec, mesh, policy.model, HFFolder.open(checkpoint))
        policy.prepare_to_learn()

        def step(batch: list[list[int]]) -> float:
            samples = [Sample(np.array(ids, np.int32), np.ones(len(ids), np.uint8)) for ids in batch]
            parts = plan([len(s) for s in samples], 1, 4096)[0]
            batches = [micro_batch([samples[i] for i in part]) for part in parts]
            counted = float(sum(len(s) - 1 for s in samples))
            update = policy.update(
                batches, lambda logp_T, b: cross_entropy(logp_T, b.weights_T), denominator=counted, lr=1e-4
            )
            return update.loss

        return timed(work, step)


def transformers_padded(checkpoint: Path, work: list[list[int]], threads: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)

    def step(batch: list[list[int]]) -> float:
        width = max(map(len, batch))
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return timed(work, step)


def trl_packed(checkpoint: Path, work: list[list[int]], threads: int) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    marks: list[tuple[float, float]] = []
    seen: list[int] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.append((time.perf_counter(), time.process_time()))

        on_step_end = on_train_begin

    class Counting(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
            return super().compute_loss(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Counting(
            model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=4,
                num_train_epochs=1,
                max_length=LONGEST,
                packing=True,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                optim="adamw_torch",
                report_to="none",
                disable_tqdm=True,
                logging_steps=1,
                save_strategy="no",
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_dict({"input_ids": work}),
            processing_class=_tokenizer(checkpoint),
            callbacks=[Clock()],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    tokens = sum(seen[WARM_UP:])  # the first steps are the warm-up: left out of time and tokens alike
    seconds, cpu = (marks[-1][i] - marks[WARM_UP][i] for i in (0, 1))
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / cpu,
        "last_loss": losses[-1],
    }


def _tokenizer(checkpoint: Path) -> Any:
    """TRL wants one, though the sequences are token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"<{i}>": i for i in range(VOCAB)}
    made = Tokenizer(models.WordLevel(words, unk_token="<2>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<0>", eos_token="<1>")


RUNNERS: dict[str, Callable[[Path, list[list[int]], int], dict[str, float]]] = {
    "r1mega packed": ours,
    "transformers padded": transformers_padded,
    "TRL packed": trl_packed,
}


def measure(name: str, python: str, checkpoint: Path, options: argparse.Namespace) -> dict[str, float]:
    command = [
        python,
        __file__,
        "--only",
        name,
        "--checkpoint",
        str(checkpoint),
        "--limit",
        str(options.limit),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--reps", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--limit", type=int, default=256, help="sequences")
    parser.add_argument("--trl-python", help="python of an environment with TRL; without it TRL is left out")
    text = "measure model FLOPs utilisation of this shape instead, in bfloat16 on the device that is there"
    parser.add_argument("--mfu", metavar="SHAPE", help=f"{text}: qwen2.5-1.5b or v3-small")
    parser.add_argument(
        "--peak-tflops", type=float, help="of the device, dense bfloat16 (H100 and H200: 989)"
    )
    parser.add_argument("--only", choices=list(RUNNERS), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mfu:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from tools.bench import mfu

        if options.mfu not in mfu.SHAPES:
            parser.error(f"--mfu is {options.mfu}; allowed are {', '.join(mfu.SHAPES)}")
        if options.peak_tflops is None or options.peak_tflops <= 0:
            parser.error("--mfu needs --peak-tflops: the device's peak in dense bfloat16, above 0")
        print(mfu.measure(mfu.SHAPES[options.mfu], options.peak_tflops, options.reps, options.threads))
        return
    if options.only:
        result = RUNNERS[options.only](options.checkpoint, sequences(options.limit), options.threads)
        print(json.dumps(result))
        return
    pythons = {"r1mega packed": sys.executable, "transformers padded": sys.executable}
    if options.trl_python:
        pythons["TRL packed"] = options.trl_python
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder)
        make_checkpoint(checkpoint)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
        for rep in range(options.reps):
            for name, python in pythons.items():
                found[name].append(measure(name, python, checkpoint, options))
                rate = found[name][-1]["tokens_per_second"]
                print(
                    f"round {rep + 1}: {name}: {rate:,.0f} tok/s (load {os.getloadavg()[0]:.1f})", flush=True
                )
    print(f"\n{options.threads} thread(s), {options.limit} sequences, median of {options.reps}:")
    mine = statistics.median(r["tokens_per_second"] for r in found["r1mega packed"])
    for name, rows in found.items():
        wall, cpu = (
            statistics.median(r[f"tokens_per_{unit}"] for r in rows) for unit in ("second", "cpu_second")
        )
        print(
            f"  {name:22s} {wall:8,.0f} real tok/s   {cpu:8,.0f} a CPU second   r1mega is {mine / wall:.2f}x"
        )


if __name__ == "__main__":
    main()
