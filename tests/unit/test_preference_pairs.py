"""How judgments become pairs, worked out by hand."""

from __future__ import annotations

from random import Random

import pytest

from r1mega.data.preferences.pairs import chosen_first, matched, mean_verdict, orders, verdict


def test_orders_are_half_each_way_and_random() -> None:
    found = [orders(f"q/{i}", 4) for i in range(600)]
    assert all(sum(one) == 2 for one in found)
    assert {tuple(one) for one in found} == {
        (a, b, c, d)
        for a in (False, True) for b in (False, True) for c in (False, True) for d in (False, True)
        if a + b + c + d == 2
    }  # fmt: skip
    assert orders("q/1", 4) == orders("q/1", 4)
    assert {sum(orders(f"q/{i}", 3)) for i in range(50)} == {1, 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[A>>B]]", 3), ("so: [[A>B]].", 1), ("[[A=B]]", 0), ("[[B=A]]", 0), ("[[B>A]]", -1),
        ("[[B >> A]]", -3),
        ("[[A>B]] no, [[B>A]]", -1), ("A>B", None), ("[[C>A]]", None), ("", None),
    ],
)  # fmt: skip
def test_reading_a_verdict(text: str, value: float | None) -> None:
    assert verdict(text) == value


def test_the_mean_is_of_the_first_answer() -> None:
    # In the order shown; the second and third saw the answers changed over.
    judgments = ["[[A>>B]]", "[[B>A]]", "[[A=B]]", "[[A>B]]"]
    assert mean_verdict(judgments, [False, True, True, False]) == (3 + 1 + 0 + 1) / 4
    assert mean_verdict(["[[A>>B]]"] * 4, [False, True, True, False]) == 0  # it likes the place
    assert mean_verdict(["[[A>B]]", "?", "[[A>B]]", "?"], [False] * 4) is None
    assert mean_verdict(["[[A>B]]", "[[A>>B]]", "[[A>B]]", "?"], [False] * 4) == pytest.approx(5 / 3)


def test_only_clear_ones_are_kept() -> None:
    assert [chosen_first(score, 1.0) for score in (1.5, 1.0, 0.2, -1.0, -1.25)] == [
        True,
        None,
        None,
        None,
        False,
    ]


def test_lengths_by_hand() -> None:
    #          +1      +2       -3       +3       0       -100     -1
    lengths = [(5, 4), (10, 8), (7, 10), (13, 10), (4, 4), (1, 101), (6, 7)]
    assert matched(lengths) == [0, 1, 2, 4, 6]


def test_matched_lengths_tell_nothing() -> None:
    """A judge that nearly always prefers the longer one: afterwards neither side is longer, nor by more."""
    rng = Random(0)
    lengths = []
    for _ in range(20_000):
        a, b = sorted((rng.randint(1, 500), rng.randint(1, 500)))
        lengths.append((b, a) if rng.random() < 0.8 else (a, b))
    kept = [lengths[i] for i in matched(lengths)]
    ahead, behind = sum(a > b for a, b in kept), sum(a < b for a, b in kept)
    assert ahead == behind and len(kept) > 0.35 * len(lengths)
    mean_chosen, mean_rejected = (sum(pair[i] for pair in kept) / len(kept) for i in (0, 1))
    assert abs(mean_chosen - mean_rejected) < 0.02 * mean_chosen
