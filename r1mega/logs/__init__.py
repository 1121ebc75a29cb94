"""What a run says and where: one `log(step, metrics)` feeds metrics.jsonl, the terminal, TensorBoard and W&B.

Only rank 0 says anything; that is decided here and nowhere else. On other ranks the same calls do nothing.

Names that are shown and plotted: loss, held_out_loss, grad_norm, lr, tokens_per_second. From `seconds` (of
the step) comes the ETA of `r1mega status`. Any other name is just recorded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from r1mega.config.sections import Log as LogSettings
from r1mega.logs.metrics import MetricsWriter, plain, read_metrics
from r1mega.logs.sinks import TensorBoardSink, WandbSink
from r1mega.logs.view import LiveView, make_view

__all__ = ["Log", "MetricsWriter", "Sink", "is_rank0", "open_log", "read_metrics", "say"]


class Sink(Protocol):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def is_rank0() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line for the person, once and not once a rank. A live view lets it pass above itself."""
    if is_rank0():
        print(text, flush=True)


class Log:
    """Hands every record to every sink. Close it, or use it in a `with`: the terminal is given back then."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """metrics: name -> number or text; whatever has `.item()` is taken as its value."""
        values = {name: plain(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.log(step, values)

    def phase(self, name: str) -> None:
        """What is going on now; shown by a live view."""
        for sink in self._sinks:
            if isinstance(sink, LiveView):
                sink.phase(name)

    def close(self) -> None:
        with ExitStack() as stack:  # each is closed, also when another one fails to
            for sink in self._sinks:
                stack.callback(sink.close)
        self._sinks = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def open_log(
    folder: Path,
    settings: LogSettings,
    *,
    title: str,
    total_steps: int,
    resume_step: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Log:
    """The sinks of one stage, on rank 0; a Log that does nothing elsewhere.

    folder: the stage's. resume_step: the last step that counts; records of later steps are dropped, at 0, a
    fresh start, all of them. config: shown beside the curves in W&B. UserError when a package is missing or
    W&B does not let us in.
    """
    if not is_rank0():
        return Log(())
    sinks: list[Sink] = [MetricsWriter(folder / "metrics.jsonl", resume_step or -1)]
    if settings.tensorboard:
        sinks.append(TensorBoardSink(folder / "tensorboard", resume_step))
    if settings.wandb_project is not None:
        sinks.append(WandbSink(folder, settings, title, config or {}))
    sinks.append(make_view(title, total_steps, resume_step, settings.every))
    return Log(sinks)
