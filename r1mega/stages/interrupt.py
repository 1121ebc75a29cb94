"""Ctrl-C and SIGTERM ask a stage to stop at the end of its step; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from r1mega.logs import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While open, the first signal only sets `asked`; the next one has its usual effect."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers nowhere else
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        else:
            self._before = {}
        return self

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        self._restore()
        say("stopping after this step; once more to stop at once")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
