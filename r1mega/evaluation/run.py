"""One evaluation from its settings to its figures: what `r1mega eval` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1mega import device
from r1mega.data.benchmarks import benchmark, load
from r1mega.data.tokenizers import Tokenizer
from r1mega.evaluation.harness import Progress, Task, answers, draw, missing
from r1mega.evaluation.model import Asker, room, stops
from r1mega.evaluation.results import figures
from r1mega.evaluation.store import Store, read_answers, same_settings
from r1mega.files import fingerprint, write_json
from r1mega.parallel import Launch, connect, everyone, on_leader
from r1mega.rewards import DEFAULT_PARTS, GRADERS, Part, Rubric
from r1mega.rewards.code import code_grader
from r1mega.rewards.code.sandbox import Level
from r1mega.rewards.parts import format_rule, language
from r1mega.rollout.options import EngineOptions
from r1mega.types import Sampling, UserError

LONGEST = 32_768
"""Tokens of an answer, as the paper evaluates; less where the model's context is shorter."""
_FORMATS = {"r1_zero": "think_answer", "toy": "think_answer"}
"""Template -> what counts as well formed; else that the thoughts have an end and an answer follows."""


@dataclass(frozen=True)
class Settings:
    """What is asked of which model. Fields as the options of `r1mega eval`.

    benchmarks: name -> its file, folder or hub id; None: looked for in `data`, else on the hub.
    samples:    answers to each question; None: each benchmark's own, the paper's where it says.
    max_tokens: None: LONGEST, or what the context allows.
    """

    model: Path
    out: Path
    benchmarks: Mapping[str, str | None]
    data: str | None = None
    samples: int | None = None
    limit: int | None = None
    template: str | None = None
    bare: bool = False
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int | None = None
    seed: int = 0
    since: str | None = None
    until: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    tensor_parallel: int = 1
    max_sequences: int = 256
    kv_cache_gb: float | None = None
    sandbox: Level = "bubblewrap"


def evaluate(
    settings: Settings,
    progress: Callable[[int], Progress],
    more: Callable[[Tokenizer], Sequence[Task]] = lambda tokenizer: (),
) -> dict[str, dict[str, Any]]:
    """Draw what is missing, and the figures of all benchmarks, which also go into <out>/results.json.

    progress: is given the number of answers to draw, on this rank, and returns what is told of each.
    more:     further tasks than `settings.benchmarks`, for the model's tokenizer.
    Under a launcher all ranks call this together; each engine answers its share of the questions.
    Raises UserError for whatever does not fit, before anything is drawn where that can be known.
    """
    asker = Asker.of(settings.model, settings.template)
    tasks = [*(_task(name, settings, asker) for name in settings.benchmarks), *more(asker.tokenizer)]
    prompts = [prompt for task in tasks for prompt in task.prompts]
    space = room(settings.model, prompts, settings.max_tokens, LONGEST)
    sampling = Sampling(
        space.answer,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        stops=stops(settings.model, asker.tokenizer),
    )
    reward = rubric(asker.name, tasks, settings.sandbox)
    connect()
    on_leader(lambda: same_settings(settings.out, _noted(settings, asker, tasks, sampling)))
    _draw(settings, asker, tasks, sampling, space.context, reward, progress)
    everyone()  # the figures are of all ranks' answers
    return on_leader(lambda: _conclude(settings, tasks))


def rubric(template: str, tasks: Sequence[Task], sandbox: Level) -> Rubric:
    """Accuracy decides; format and the language of the thoughts are told beside it."""
    parts = {
        **DEFAULT_PARTS,
        "format": Part(0.0, format_rule(_FORMATS.get(template, "chat"))),
        "language": Part(0.0, language("question")),
    }
    rules = {**GRADERS, "code": code_grader(sandbox=sandbox)}
    return Rubric({task.name: task.grader for task in tasks}, parts, where="final", rules=rules)


def _task(name: str, settings: Settings, asker: Asker) -> Task:
    row = benchmark(name)
    dated = row.window is not None
    questions = load(
        name,
        settings.benchmarks[name] or settings.data,
        since=settings.since if dated else None,
        until=settings.until if dated else None,
    )[: settings.limit]
    prompts = asker.prompts(row, questions, bare=settings.bare)
    return Task(name, prompts, settings.samples or row.samples, row.grader)


def _draw(
    settings: Settings,
    asker: Asker,
    tasks: Sequence[Task],
    sampling: Sampling,
    context: int,
    reward: Rubric,
    progress: Callable[[int], Progress],
) -> None:
    """The answers that are not there yet. The engine is started only where some are missing."""
    wanted = on_leader(lambda: {task.name: missing(task, settings.out) for task in tasks})
    if not any(wanted.values()):
        return
    from r1mega.rollout.vllm_engine import VLLMGenerator

    options = EngineOptions(
        max_model_len=context,
        max_num_seqs=settings.max_sequences,
        kv_cache_gb=settings.kv_cache_gb or _cache_gb(settings),
        dtype=settings.dtype or ("bfloat16" if device.on_cuda() else "float32"),
        tensor_parallel=settings.tensor_parallel,
    )
    with VLLMGenerator(settings.model, asker.tokenizer, options) as engine:
        share = engine.share
        first = Launch.from_env().rank % settings.tensor_parallel == 0
        mine = {name: places[share.index :: share.engines] for name, places in wanted.items()}
        told = progress(sum(map(len, mine.values())))
        with Store(settings.out, share.index) if first else nullcontext() as store:
            for task in tasks:
                draw(task, engine, reward, sampling, store, mine[task.name], told)


def _cache_gb(settings: Settings) -> float:
    """What the weights leave of an accelerator's memory, less a tenth; a quarter of a rank's on CPU."""
    if not device.on_cuda():
        return device.free_gb() / 4
    weights = sum(file.stat().st_size for file in settings.model.glob("*.safetensors")) / 2**30
    left = 0.9 * device.free_gb() - weights / settings.tensor_parallel
    if left <= 0:
        raise UserError(
            f"{settings.model} has {weights:.0f} GiB of weights, which leave nothing of a GPU's memory with "
            f"tensor_parallel {settings.tensor_parallel}: let more ranks form an engine"
        )
    return left


def _conclude(settings: Settings, tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    there = read_answers(settings.out)
    results = {task.name: figures(answers(task, there), GRADERS[task.grader]) for task in tasks}
    write_json(settings.out / "results.json", {"model": str(settings.model), "benchmarks": results})
    return results


def _noted(settings: Settings, asker: Asker, tasks: Sequence[Task], sampling: Sampling) -> dict[str, Any]:
    """Whatever changes an answer, so that answers of different settings are never mixed.

    Not the number of samples, questions or benchmarks: more can be asked for later.
    """
    return {
        "weights": fingerprint(settings.model),
        "template": asker.name,
        "instruction": not settings.bare,
        "temperature": sampling.temperature,
        "top-p": sampling.top_p,
        "max-tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "dtype": settings.dtype,
    }
