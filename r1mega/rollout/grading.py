"""Grading while answers are still being written: a few threads, and scores in the order of the answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from r1mega.types import Completion, Prompt, Reward, Score


class Grading:
    """Consumes answers as they come, in any order; gives exactly one score for each place.

    Most rules take microseconds; those that do not wait for a worker process or a sandbox, so threads are
    enough. One a core: a sandbox keeps a core busy. Leaving the `with` early drops what has not begun.
    """

    def __init__(self, reward: Reward, prompts: Sequence[Prompt], threads: int | None = None) -> None:
        self._reward, self._prompts = reward, prompts
        self._threads = ThreadPoolExecutor(threads or cores(), thread_name_prefix="grading")
        self._asked: dict[tuple[int, int], Future[Score]] = {}

    def seen(self, p: int, k: int, completion: Completion) -> Future[Score]:
        """Take answer k to prompt p; see `types.Seen`."""
        assert (p, k) not in self._asked, f"answer {k} to prompt {p} came twice"
        future = self._threads.submit(self._reward, self._prompts[p], completion)
        self._asked[p, k] = future
        return future

    def scores(self) -> list[list[Score]]:
        """Of each prompt's answers, in order; waits for all. Batches are settled later, see `collect`."""
        scores: list[list[Score]] = [[] for _ in self._prompts]
        for p, k in sorted(self._asked):
            assert k == len(scores[p]), f"answer {len(scores[p])} to prompt {p} is missing"
            scores[p].append(self._asked[p, k].result())
        return scores

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=True)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
