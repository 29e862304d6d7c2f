"""Intervals and diversity against published and hand-worked numbers."""

from __future__ import annotations

import math

import pytest

from annotation.analysis import distinct_n, wilson_interval, word_ngrams


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_the_published_ones(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_the_ends_of_the_interval_are_where_the_score_test_gives_up() -> None:
    """Wilson's definition: |share - p| = 1.96 standard errors under p, at both ends."""
    for end in wilson_interval(7, 10):
        assert abs(0.7 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 10), rel=1e-6)


def test_the_interval_is_symmetric_stays_within_bounds_and_takes_halves() -> None:
    low, high = wilson_interval(3, 12)
    assert wilson_interval(9, 12) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(5, 5)[1] == 1.0
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(4, 10)[0] < wilson_interval(4.5, 10)[0] < wilson_interval(5, 10)[0]


def test_distinct_n_worked_out_by_hand() -> None:
    # Words: the cat the dog | the cat, three different of six. Pairs: the-cat cat-the the-dog | the-cat, three of four.
    texts = ["The cat the dog", "the  CAT"]
    assert distinct_n(texts, 1) == pytest.approx(3 / 6)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)
    assert distinct_n(texts, 3) == 1.0


def test_pairs_of_words_never_reach_from_one_text_into_the_next() -> None:
    assert word_ngrams("a b c", 2) == [("a", "b"), ("b", "c")]
    assert distinct_n(["a", "b"], 2) == 0.0
    assert distinct_n([], 1) == 0.0
    assert word_ngrams("a b", 3) == []
