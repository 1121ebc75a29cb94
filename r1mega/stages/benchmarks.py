"""What a stage's model can do, measured when it is done: a line of the table that grows as in the paper."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from r1mega.config.benchmarks import Benchmarks
from r1mega.config.identity import paths
from r1mega.config.schema import RunConfig
from r1mega.config.section import digest
from r1mega.data.chat import ChatTemplate
from r1mega.data.prompts import PromptSource
from r1mega.data.templates import CHAT
from r1mega.data.tokenizers import Tokenizer
from r1mega.evaluation.harness import Task
from r1mega.evaluation.run import Settings, evaluate
from r1mega.evaluation.view import counting
from r1mega.files import fingerprint, read_json
from r1mega.logs import say
from r1mega.parallel import on_leader
from r1mega.stages.base import Context
from r1mega.stages.mixture import shares_of, templates

PROMPTS, SAMPLES = 256, 4
"""Of a task that is no benchmark of the paper's."""
LONGEST_PROMPT = 1 << 20


def measure(ctx: Context) -> dict[str, Any]:
    """The figures of the stage's model, drawn where they are not there yet; {} where none are wanted.

    Killed, it goes on with the answers that are missing. All ranks together.
    """
    section = ctx.config.benchmarks
    if ctx.config.makes != "model" or not section.any:
        return {}
    found = on_leader(lambda: known(ctx.run, ctx.name))
    if found:
        return found
    say(f"{ctx.name}: measuring {', '.join([*section.names, *section.tasks])}")
    settings = Settings(
        model=ctx.model,
        out=_folder(ctx.room, section),
        benchmarks=dict.fromkeys(section.names),
        data=str(section.data) if section.data else None,
        samples=section.samples,
        limit=section.prompts,
        template=section.template,
        temperature=section.temperature,
        top_p=section.top_p,
        max_tokens=section.max_tokens,
        seed=ctx.run.seed,
        dtype=ctx.config.model.dtype,
        tensor_parallel=section.tensor_parallel,
        max_sequences=section.max_sequences,
        kv_cache_gb=section.kv_cache_gb,
        sandbox=section.sandbox,
    )
    evaluate(settings, counting, lambda tokenizer: _tasks(section, tokenizer, ctx.model))
    return on_leader(lambda: known(ctx.run, ctx.name))


def known(config: RunConfig, name: str) -> dict[str, Any]:
    """Benchmark -> its figures, where the stage has been measured as its config says; else {}."""
    section = config.stages[name].benchmarks
    if not section.any:
        return {}
    results = read_json(_folder(config.stage_dir(name), section) / "results.json")
    return dict(results["benchmarks"]) if results else {}


def _folder(room: Path, section: Benchmarks) -> Path:
    """One for each way of measuring, files included, so that answers of different ways never mix."""
    files = [f"{key} {fingerprint(path)}" for key, path in paths(section) if path.exists()]
    mark = hashlib.sha256("\n".join([digest(section, ()), *files]).encode()).hexdigest()
    return room / "benchmarks" / mark[:12]


def _tasks(section: Benchmarks, tokenizer: Tokenizer, folder: Path) -> list[Task]:
    found = []
    chat = ChatTemplate(folder) if CHAT in templates(section.tasks) else None
    for share in shares_of(section.tasks, None, section.held_out):
        source = PromptSource([share], tokenizer, seed=0, max_tokens=LONGEST_PROMPT, chat=chat)
        prompts = source.held_out(section.prompts or PROMPTS)
        found.append(Task(share.task.name, prompts, section.samples or SAMPLES, share.task.grader))
    return found
