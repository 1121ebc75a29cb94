"""The nouns that every room shares. Nothing here imports anything heavy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class UserError(ValueError):
    """Something the user gave is wrong: says what was given, what is allowed and what to do.

    The command line prints its text as one plain message without a traceback and exits with 2.
    """


class Interrupted(Exception):
    """Someone asked the run to stop, and it did so in order.

    Its text says what is kept and how to go on. The command line prints it as the last line and exits with 130.
    """


@dataclass(frozen=True)
class Sample:
    """One training sequence, tokenised.

    tokens: int32 [T], the sequence with its stop token.
    mask:   uint8 [T], 1 where predicting this token counts in the loss. The stop token counts; a prompt does
            not; the first token never does, since nothing precedes it.
    """

    tokens: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)
