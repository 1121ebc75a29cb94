"""What a person sees while a stage runs: a live line in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeGuard

LINE_SECONDS = 5.0
WINDOW = 50  # steps over which the pace is taken

FORMATS: dict[str, str] = {
    "reward": "reward {:.3f}",
    "kept": "kept {:.1%}",
    "accuracy": "accuracy {:.3f}",
    "format": "format {:.3f}",
    "held_out_accuracy": "held-out {:.3f}",
    "length": "length {:.1f}",
    "kl": "KL {:.4f}",
    "mismatch_max": "mismatch {:.1e}",
    "loss": "loss {:.4f}",
    "held_out_loss": "held-out {:.4f}",
    "grad_norm": "grad {:.3f}",
    "lr": "lr {:.2e}",
    "tokens_per_second": "{:,.0f} tok/s",
}
HELD_OUT = ("held_out_loss", "held_out_accuracy")


class View(Protocol):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def make_view(title: str, total: int, start: int, every: int) -> View:
    """The view that fits the output. total: the stage's steps. start: steps done before. every: log.every."""
    from rich.console import Console

    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(title, total, start)
    return PlainView(title, total, every)


class Pace:
    """Seconds a step, from the last WINDOW steps seen; pauses for evaluation count, they will come again."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._seen: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def eta(self, step: int) -> float | None:
        """Note that `step` is done; seconds until the last one is, None before two steps are seen."""
        self._seen.append((step, self._clock()))
        first, since = self._seen[0]
        if step == first:
            return None
        return (self._seen[-1][1] - since) / (step - first) * (self._total - step)


def summary(metrics: Mapping[str, Any]) -> str:
    return "  ".join(
        form.format(metrics[name]) for name, form in FORMATS.items() if is_number(metrics.get(name))
    )


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def clock_time(seconds: float | None) -> str:
    """62 -> 1:02, 3661 -> 1:01:01."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class PlainView:
    """Lines for a file or a pipe: the first step, the last, each evaluation, and what log.every asks for."""

    def __init__(
        self, title: str, total: int, every: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._total, self._every = title, total, every
        self._clock = clock
        self._pace = Pace(total, clock)
        self._last_line: float | None = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        eta = self._pace.eta(step)
        if self._is_due(step, metrics):
            self._last_line = self._clock()
            left = "" if step >= self._total else f"  ETA {clock_time(eta)}"
            print(f"{self._title}  {step}/{self._total}  {summary(metrics)}{left}", flush=True)

    def _is_due(self, step: int, metrics: Mapping[str, Any]) -> bool:
        if self._last_line is None or step >= self._total or any(name in metrics for name in HELD_OUT):
            return True
        if self._every:
            return step % self._every == 0
        return self._clock() - self._last_line >= LINE_SECONDS

    def close(self) -> None:
        sys.stdout.flush()


class LiveView:
    """A progress bar with the numbers of the last step under it; the last held-out loss stays in sight."""

    def __init__(self, title: str, total: int, start: int) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.text import Text

        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("ETA {task.fields[eta]}"),
            TextColumn("[dim]{task.fields[phase]}"),
            expand=True,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, eta="-:--", phase="")
        self._numbers = Text("starting", style="cyan")
        self._pace = Pace(total)
        self._held_out: dict[str, Any] = {}
        # Two frames a second: on two cores a busier picture costs training time.
        self._live = Live(Group(self._bar, self._numbers), refresh_per_second=2)
        self._live.start()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._held_out |= {name: metrics[name] for name in HELD_OUT if name in metrics}
        self._bar.update(self._task, completed=step, eta=clock_time(self._pace.eta(step)))
        self._numbers.plain = summary({**self._held_out, **metrics})

    def phase(self, name: str) -> None:
        self._bar.update(self._task, phase=name)

    def close(self) -> None:
        self._live.stop()
