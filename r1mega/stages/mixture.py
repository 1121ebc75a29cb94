"""From a `[data]` section of tasks to the tasks themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path

from r1mega.config.sections import FILE_TASKS, Data, TaskShare
from r1mega.data.prompts import PromptSource, Share
from r1mega.data.tasks import Countdown, FileTask, Logic, Task, ToySums, toy_countdown, toy_logic
from r1mega.data.templates import fill, template
from r1mega.data.tokenizers import Tokenizer

_GENERATED: Mapping[str, Callable[[str, TaskShare], Task]] = {
    "sums": lambda name, share: ToySums(levels=_terms(share), name=name),
    "countdown": lambda name, _: Countdown(name=name),
    "toy_countdown": lambda name, _: toy_countdown(name=name),
    "logic": lambda name, _: Logic(name=name),
    "toy_logic": lambda name, _: toy_logic(name=name),
}


def prompt_source(data: Data, tokenizer: Tokenizer, seed: int) -> PromptSource:
    """The mixture, at its beginning. Raises UserError for a file that cannot be read."""
    return PromptSource(shares(data), tokenizer, seed=seed, max_tokens=data.max_prompt)


def shares(data: Data) -> list[Share]:
    return [
        Share(_task(name, share, data), share.weight, share.template)
        for name, share in (data.tasks or {}).items()
    ]


def texts(data: Data, seed: int) -> Iterator[str]:
    """Prompts with gold answers, without end: what a tokenizer is trained on where there is no model yet."""
    mixture = shares(data)
    return chain.from_iterable((_text(share, seed, k) for share in mixture) for k in count())


def _text(share: Share, seed: int, position: int) -> str:
    question = share.task.train(seed, position)
    return f"{fill(template(share.template), question.text)} {question.answer}"


def _task(name: str, share: TaskShare, data: Data) -> Task:
    if share.kind in FILE_TASKS:
        path = share.path or data.path
        assert isinstance(path, Path)  # the config has seen to it
        return FileTask(name, path, share.kind, held_out=data.held_out)
    return _GENERATED[share.kind](name, share)


def _terms(share: TaskShare) -> tuple[int, ...]:
    return tuple(int(level.removeprefix("c")) for level in share.levels)
