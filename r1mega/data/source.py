"""Which samples come next: a split into train and held-out, and endless shuffled batches with a cursor.

Pure bookkeeping over indices; the same on every rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from r1mega.types import UserError


def split(size: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted int64 indices (train, held out) of `size` rows; a fraction above 0 holds out at least one.

    The same arguments give the same split. Raises UserError for a fraction outside [0, 1) and where no row
    would be left to train on.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"a held-out fraction of {fraction} is not possible: give 0 or more and less than 1")
    held_out = max(1, round(size * fraction)) if fraction else 0
    if held_out >= size:
        raise UserError(
            f"too little data: {size} rows, of which {held_out} would be held out and none left to train on. "
            f"Give more rows or a smaller held-out fraction than {fraction}"
        )
    order = np.random.default_rng((seed, size)).permutation(size)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


class Source:
    """Endless batches of `batch_size` of the indices 0 ... size-1, shuffled anew each epoch by (seed, epoch).

    Every index comes once an epoch. A batch may hold the end of one epoch and the beginning of the next, so
    that none is lost; such a batch may hold an index twice. Raises UserError for a batch larger than the
    data.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if not 1 <= batch_size <= size:
            raise UserError(f"a batch of {batch_size} from {size} rows: allowed is 1 up to all rows")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._cursor = 0
        self._order = self._shuffled()

    def next(self) -> np.ndarray:
        """int64 [batch_size]"""
        end = self._cursor + self.batch_size
        batch = self._order[self._cursor : end]
        if end < self.size:
            self._cursor = end
            return batch
        self.epoch, self._cursor = self.epoch + 1, end - self.size
        self._order = self._shuffled()
        return np.concatenate([batch, self._order[: self._cursor]])

    def state(self) -> dict[str, int]:
        """Where the next batch begins, for `load_state`; plain JSON."""
        return {"size": self.size, "seed": self.seed, "epoch": self.epoch, "cursor": self._cursor}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which `state` was taken; the batch size may be another one.

        Raises UserError for the state of another data set or seed.
        """
        if missing := self.state().keys() - state.keys():
            raise UserError(f"the saved data position {state} has no {', '.join(sorted(missing))}")
        for name in ("size", "seed"):
            if state[name] != getattr(self, name):
                raise UserError(
                    f"the saved data position is for {name} {state[name]}, this run has {name} "
                    f"{getattr(self, name)}: continue with the data and seed it began with, or start anew"
                )
        if not (state["epoch"] >= 0 and 0 <= state["cursor"] < self.size):
            raise UserError(f"the saved data position {state} is not one of {self.size} rows")
        self.epoch, self._cursor = state["epoch"], state["cursor"]
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
