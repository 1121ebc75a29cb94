"""Where the seconds of a toy GRPO step go: Megatron-Core's, vLLM's, ours.

    python tools/bench/step_profile.py BASE [--steps 12] [--threads 1]

BASE: a base that can learn, such as runs/toy-r1-zero/01-base/model. One rank. A step is the stage's own
      step, without
evaluation and checkpoint. Counted for the engines: Megatron-Core's forward, backward and optimizer step;
vLLM's generation, its scheduler included, and its loading of weights. Everything else is ours: packing,
rewards, weight gathering, checksums, files, logging. The median step is printed, and what is ours as a share
of it.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINES = ("Megatron forward and backward", "Megatron optimizer", "vLLM generation", "vLLM weight loading")


class Clock:
    """Seconds spent inside wrapped callables; nested ones count for the outermost."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys(ENGINES, 0.0)
        self._inside = False

    def wrap(self, owner: Any, name: str, label: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.spent[label] += time.perf_counter() - started
                self._inside = False

        setattr(owner, name, timed)

    def take(self) -> dict[str, float]:
        spent, self.spent = self.spent, dict.fromkeys(ENGINES, 0.0)
        return spent


def run_file(folder: Path, base: Path, steps: int) -> Path:
    """The toy's r1_zero stage alone, on a base that exists, evaluated next to nothing."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "configs" / "toy" / "r1_zero.toml").read_text(encoding="utf-8")
    start = text.index("[stages.r1_zero]")
    stage = text[start : text.index("[profile.smoke")]
    stage = stage.replace('from_stage = "base"', f'path = "{base.resolve()}"')
    path = folder / "profile.toml"
    path.write_text(f'name = "profile"\n{stage}', encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, help="a Hugging Face folder that r1mega has pretrained")
    parser.add_argument("--steps", type=int, default=12, help="steps; the first two are not counted")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()

    from megatron.core.optimizer.optimizer import ChainedOptimizer

    from r1mega.config import load
    from r1mega.rollout.vllm_engine import VLLMGenerator
    from r1mega.stages import grpo, pipeline
    from r1mega.train import forward

    clock, steps = Clock(), []
    clock.wrap(ChainedOptimizer, "step", "Megatron optimizer")
    clock.wrap(VLLMGenerator, "_run", "vLLM generation")
    schedule = forward.get_forward_backward_func

    def timed_schedule() -> Callable[..., Any]:
        holder = argparse.Namespace(run=schedule())
        clock.wrap(holder, "run", "Megatron forward and backward")
        run: Callable[..., Any] = holder.run
        return run

    forward.get_forward_backward_func = timed_schedule
    _wrap_loading(clock, importlib.import_module("r1mega.sync.push"))
    original = grpo._Training._step

    def step(training: Any) -> dict[str, Any]:
        clock.take()
        started = time.perf_counter()
        record: dict[str, Any] = original(training)
        steps.append(clock.take() | {"whole": time.perf_counter() - started})
        return record

    setattr(grpo._Training, "_step", step)  # noqa: B010
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"out={folder}/out",
            f"threads={options.threads}",
            f"stages.r1_zero.train.steps={options.steps + 1}",
            "stages.r1_zero.eval.every=0",
            "stages.r1_zero.eval.samples=16",
            "stages.r1_zero.gate.action=off",
            "stages.r1_zero.checkpoint.every=0",
        ]
        pipeline.run(load(run_file(Path(folder), options.base, options.steps), overrides))
    report(steps[2:-1])  # the last one holds the final evaluation


def _wrap_loading(clock: Clock, push_module: Any) -> None:
    """vLLM's part of a sync: what happens inside its loader, less the time our iterator takes."""
    import r1mega.sync.vllm_fixes as fixes

    original = push_module._load
    gather = fixes.with_tied_head

    def load(engine: Any, weights: Any) -> None:
        ours = 0.0

        def given(*args: Any) -> Any:
            nonlocal ours
            stream = iter(gather(*args))
            while True:
                started = time.perf_counter()
                item = next(stream, None)
                ours += time.perf_counter() - started
                if item is None:
                    return
                yield item

        setattr(fixes, "with_tied_head", given)  # noqa: B010
        started = time.perf_counter()
        original(engine, weights)
        clock.spent["vLLM weight loading"] += time.perf_counter() - started - ours
        fixes.with_tied_head = gather

    push_module._load = load


def report(steps: list[dict[str, float]]) -> None:
    whole = statistics.median(step["whole"] for step in steps)
    print(f"\nmedian of {len(steps)} steps: {whole:.3f} s")
    for name in ENGINES:
        seconds = statistics.median(step[name] for step in steps)
        print(f"  {name:32s} {seconds:7.3f} s   {seconds / whole:6.1%}")
    ours = statistics.median(step["whole"] - sum(step[name] for name in ENGINES) for step in steps)
    print(f"  {'ours':32s} {ours:7.3f} s   {ours / whole:6.1%}")


if __name__ == "__main__":
    main()
