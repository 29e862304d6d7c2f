"""What preferences decide, against a count of all orders."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.metrics.rankings import bits, decided

PAIRS = [(first, second) for first in range(4) for second in range(4) if first != second]
RANKING = {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def keeps(order: tuple[int, ...], pairs: frozenset[tuple[int, int]]) -> bool:
    """Whether the better one of each pair comes first."""
    return all(order.index(better) < order.index(worse) for better, worse in pairs)


@pytest.mark.parametrize(
    ("size", "pairs", "number"),
    [
        (2, {(0, 1)}, 2),
        (4, {(0, 1), (0, 2), (0, 3)}, 4),  # the best of four
        (4, RANKING, 24),
        (4, {(0, 2), (0, 3), (1, 2), (1, 3)}, 6),  # two good ones, two bad ones
        (3, {(0, 2), (1, 2)}, 3),  # the worst of three
        (4, set(), 1),  # all tied, all bad
    ],
)
def test_bits_worked_out_by_hand(size: int, pairs: set[tuple[int, int]], number: int) -> None:
    assert bits(size, pairs) == pytest.approx(math.log2(number))


@given(st.sets(st.sampled_from(PAIRS)))
def test_what_is_decided_holds_in_some_order_and_bits_count_the_orders(said: set[tuple[int, int]]) -> None:
    found = decided(said)
    agreeing = [order for order in permutations(range(4)) if keeps(order, found)]
    assert agreeing
    assert bits(4, found) == pytest.approx(math.log2(24 / len(agreeing)))
    if any(keeps(order, frozenset(said)) for order in permutations(range(4))):
        assert found == said


def test_a_circle_decides_nothing_among_its_answers_and_all_about_the_others() -> None:
    circle = {(0, 1), (1, 2), (2, 0)}
    below = {(place, 3) for place in range(3)}
    assert decided(circle | below) == below
    assert decided(circle) == set()


def test_the_largest_comparison_is_counted_at_once() -> None:
    """Eight answers and two edited ones."""
    assert bits(10, combinations(range(10), 2)) == pytest.approx(math.log2(math.factorial(10)))
