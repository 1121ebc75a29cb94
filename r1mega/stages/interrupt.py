"""Ctrl-C and SIGTERM ask a stage to stop at the end of its step; the same one again stops at once.

One of each is one request: where Slurm ends a job, it sends SIGTERM to every process, and the launcher, which
has got it too, asks its ranks with SIGINT.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from r1mega.logs import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While open, the first signal of each kind only sets `asked`; the next one has its usual effect."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers nowhere else
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        else:
            self._before = {}
        return self

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, self._before.pop(signal.Signals(number)))
        if not self.asked:
            say("stopping after this step; once more to stop at once")
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
