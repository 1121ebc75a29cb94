"""From a `[data]` section of tasks to the tasks themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path

from r1mega.config.sections import FILE_TASKS, Data, TaskShare
from r1mega.data.chat import ChatTemplate
from r1mega.data.prompts import PromptSource, Share
from r1mega.data.tasks import (
    Countdown,
    FileTask,
    Logic,
    Task,
    ToyCode,
    ToyGeneral,
    ToySums,
    toy_countdown,
    toy_logic,
)
from r1mega.data.templates import fill, template
from r1mega.data.tokenizers import Tokenizer

_GENERATED: Mapping[str, Callable[[str, TaskShare], Task]] = {
    "sums": lambda name, share: ToySums(levels=_terms(share), name=name),
    "countdown": lambda name, _: Countdown(name=name),
    "toy_countdown": lambda name, _: toy_countdown(name=name),
    "logic": lambda name, _: Logic(name=name),
    "toy_logic": lambda name, _: toy_logic(name=name),
    "toy_code": lambda name, _: ToyCode(name=name),
    "toy_general": lambda name, _: ToyGeneral(name=name),
}


def prompt_source(
    data: Data, tokenizer: Tokenizer, seed: int, chat: ChatTemplate | None = None
) -> PromptSource:
    """The mixture, at its beginning. chat: what the template "chat" stands for.

    Raises UserError for a file that cannot be read.
    """
    return PromptSource(shares(data), tokenizer, seed=seed, max_tokens=data.max_prompt, chat=chat)


def templates(tasks: Mapping[str, TaskShare]) -> list[str]:
    """Of all tasks of a mixture."""
    return [task.template for task in tasks.values()]


def shares(data: Data) -> list[Share]:
    return shares_of(data.tasks or {}, data.path, data.held_out)


def shares_of(tasks: Mapping[str, TaskShare], path: Path | None, held_out: float) -> list[Share]:
    """path: the file of those that name none. held_out: the fraction of a file that is not trained on."""
    return [
        Share(_task(name, share, path, held_out), share.weight, share.template)
        for name, share in tasks.items()
    ]


def texts(data: Data, seed: int) -> Iterator[str]:
    """Prompts with gold answers, without end: what a tokenizer is trained on where there is no model yet."""
    mixture = shares(data)
    return chain.from_iterable((_text(share, seed, k) for share in mixture) for k in count())


def _text(share: Share, seed: int, position: int) -> str:
    question = share.task.train(seed, position)
    return f"{fill(template(share.template), question.text)} {question.answer}"


def _task(name: str, share: TaskShare, path: Path | None, held_out: float) -> Task:
    if share.kind in FILE_TASKS:
        file = share.path or path
        assert isinstance(file, Path)  # the config has seen to it
        return FileTask(name, file, share.kind, held_out=held_out)
    return _GENERATED[share.kind](name, share)


def _terms(share: TaskShare) -> tuple[int, ...]:
    return tuple(int(level.removeprefix("c")) for level in share.levels)
