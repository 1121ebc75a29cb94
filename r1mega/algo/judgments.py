"""Judged answers as samples, and how well values agree with judgments. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from r1mega.types import Sample


def judged(token_ids: Sequence[int], label: int) -> Sample:
    """A judged answer: its tokens, and behind the last one its label, 1 (chosen, safe) or 0.

    The label is the one token that counts, so the value is read at the token before it, the stop token.
    token_ids: all that is read, the stop token included.
    """
    assert token_ids and label in (0, 1)
    mask = np.zeros(len(token_ids) + 1, np.uint8)
    mask[-1] = 1
    return Sample(np.array([*token_ids, label], np.int32), mask)


def pair_figures(values: Sequence[float], lengths: Sequence[int]) -> dict[str, float]:
    """Of pairs, chosen and rejected one behind another; lengths in tokens.

    accuracy: the share whose chosen answer is worth more; equal values count half. margin: its value less the
    other's, on average. longer: the share whose chosen answer is the longer one, which is what knowing
    nothing but the length would reach; equal lengths count half.
    """
    return {
        "accuracy": fmean(map(_ahead, values[0::2], values[1::2])),
        "margin": fmean(a - b for a, b in zip(values[0::2], values[1::2], strict=True)),
        "longer": fmean(map(_ahead, lengths[0::2], lengths[1::2])),
    }


def label_figures(values: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
    """Of single answers, each with its label, 1 or 0.

    accuracy: values on the right side of 0. most: the share of the more frequent label, which is what knowing
    nothing would reach. auc: the share of pairs of differing labels with the higher value at the label 1, as
    `auc` has it; left out where all labels are the same.
    """
    ones = fmean(labels)
    found = {
        "accuracy": fmean((value > 0) == (label == 1) for value, label in zip(values, labels, strict=True)),
        "most": max(ones, 1 - ones),
    }
    return found | ({"auc": auc(values, labels)} if 0 < ones < 1 else {})


def auc(values: Sequence[float], labels: Sequence[int]) -> float:
    """Area under the ROC curve: how often a 1 has a higher value than a 0; equal values count half."""
    low = np.sort([value for value, label in zip(values, labels, strict=True) if label == 0])
    high = np.array([value for value, label in zip(values, labels, strict=True) if label == 1])
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / (2 * len(low)))


def _ahead(chosen: float, rejected: float) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)
