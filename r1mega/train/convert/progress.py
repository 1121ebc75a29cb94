"""How far a conversion is. The functions of this package are given a display and know no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Told of so many more bytes done."""

Display = Callable[[str, int], AbstractContextManager[Advance]]
"""(title, bytes to do) -> a context that shows them being done."""


@contextmanager
def silent(title: str, total: int) -> Iterator[Advance]:
    yield lambda done: None


@contextmanager
def bar(title: str, total: int) -> Iterator[Advance]:
    """A bar on stderr with bytes, speed and time left; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)
