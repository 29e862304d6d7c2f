"""Intervals, diversity, biases and annotators' figures against published and hand-worked numbers."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from annotation.metrics.intervals_and_bias import (
    AnnotatorFigures,
    annotator_figures,
    best_of,
    chosen,
    clustered_share,
    distinct_n,
    distinct_ratio,
    hasty_judgements,
    length_biases,
    overlapping,
    position_biases,
    share_of,
    wilson_interval,
    word_ngrams,
)
from tests.votes import FIRST, SECOND, TIE, vote


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


# -------------------------------------------------------------------------------------------------------- intervals
def test_a_share_of_nothing_is_none() -> None:
    assert share_of(0, 0) is None
    assert clustered_share([]) is None
    assert clustered_share([(0, 0)]) is None


def test_clusters_of_one_are_independent_trials() -> None:
    """With a design effect of n / (n - 1), which the sample variance brings with it."""
    found = clustered_share([(1, 1)] * 30 + [(0, 1)] * 10)
    assert found is not None
    assert (found.value, found.n) == (0.75, 40)
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.75 * 39, 39))


def test_clusters_that_say_the_same_three_times_count_once() -> None:
    single = clustered_share([(1, 1)] * 30 + [(0, 1)] * 10)
    triple = clustered_share([(3, 3)] * 30 + [(0, 3)] * 10)
    assert single is not None
    assert triple is not None
    assert (triple.low, triple.high) == pytest.approx((single.low, single.high))


def test_clusters_never_narrow_an_interval() -> None:
    """Each cluster exactly half and half: less spread than independent trials, which may be an accident."""
    found = clustered_share([(1, 2)] * 20)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(wilson_interval(20, 40))
    unanimous = clustered_share([(3, 3)] * 20)
    assert unanimous is not None
    assert (unanimous.low, unanimous.high) == pytest.approx(wilson_interval(20, 20))


def test_the_clustered_interval_covers_the_truth_where_wilsons_does_not() -> None:
    """Three annotators follow the same difficulty of a comparison: their judgements are no three trials."""
    source = random.Random(3)
    covered = {"clustered": 0, "plain": 0}
    for _ in range(300):
        chances = [source.betavariate(0.6, 0.4) for _ in range(60)]
        clusters = [(sum(source.random() < chance for _ in range(3)), 3) for chance in chances]
        found = clustered_share(clusters)
        assert found is not None
        low, high = wilson_interval(sum(successes for successes, _ in clusters), 180)
        covered["clustered"] += found.low <= 0.6 <= found.high
        covered["plain"] += low <= 0.6 <= high
    assert covered["clustered"] >= 0.92 * 300
    assert covered["plain"] < 0.88 * 300


# ------------------------------------------------------------------------------------------------------- judgements
def test_the_best_is_one_answer_or_several_tied() -> None:
    assert best_of((2, 1, 3)) == (1,)
    assert best_of((1, 2, 1)) == (0, 2)
    assert chosen(vote(1, "a", (2, 1, 3))) == 1
    assert chosen(vote(1, "a", (1, 2, 1))) is None
    assert chosen(vote(1, "a", None)) is None


def test_only_independent_rankings_of_complete_answers_overlap() -> None:
    votes = [
        vote(1, "a", FIRST),
        vote(1, "b", SECOND),
        vote(1, "c", FIRST, purpose="settle"),
        vote(2, "a", FIRST),
        vote(2, "b", FIRST, early=True),
        vote(3, "a", FIRST, purpose="gold"),
        vote(3, "b", FIRST, purpose="gold"),
        vote(4, "a", FIRST),
        vote(4, "b", None),
        vote(5, "a", FIRST),
        vote(5, "a", SECOND, purpose="re-ask"),
        vote(6, "import-1", TIE, purpose="import"),
        vote(6, "import-2", TIE, purpose="import"),
    ]
    assert [[(v.comparison_id, v.annotator) for v in group] for group in overlapping(votes)] == [
        [(1, "a"), (1, "b")],
        [(6, "import-1"), (6, "import-2")],
    ]


# ----------------------------------------------------------------------------------------------------------- biases
def test_position_bias_by_hand() -> None:
    votes = [
        vote(1, "a", FIRST, shown_order=(0, 1)),  # left
        vote(2, "a", FIRST, shown_order=(1, 0)),  # right
        vote(3, "a", SECOND, shown_order=(1, 0)),  # left
        vote(4, "a", SECOND, shown_order=(1, 0), purpose="gold"),  # left: seen blind like any other
        vote(5, "a", TIE),
        vote(6, "a", None),
        vote(7, "x", FIRST, purpose="import"),  # whoever imported it was shown nothing
        vote(8, "a", FIRST, early=True),
        vote(9, "a", (2, 1, 3), shown_order=(1, 0, 2)),  # the first of three
        vote(10, "a", (2, 1, 3, 4), shown_order=(0, 1, 2, 3)),  # not the first of four
    ]
    two, more = position_biases(votes)
    assert (two.share.value, two.share.n, two.fair) == (0.75, 4, 0.5)
    assert (more.share.value, more.share.n, more.fair) == (0.5, 2, fmean([1 / 3, 1 / 4]))
    assert position_biases([vote(5, "a", TIE)]) == []


def test_length_bias_by_hand() -> None:
    votes = [
        vote(1, "a", FIRST, lengths=(9, 3)),  # the longer
        vote(1, "b", SECOND, lengths=(9, 3)),
        vote(2, "a", FIRST, lengths=(3, 9)),
        vote(3, "a", FIRST, lengths=(5, 5)),  # equal
        vote(4, "a", FIRST, lengths=(9, 3), purpose="gold"),  # measures the annotator, does not train
        vote(5, "a", SECOND, lengths=(3, 9), purpose="import"),  # the longer
        vote(6, "a", (2, 1, 3), lengths=(5, 7, 6)),  # the longest
        vote(7, "a", (2, 1, 3), lengths=(5, 7, 7)),  # two longest
    ]
    two, more = length_biases(votes)
    assert (two.share.value, two.share.n, two.fair) == (0.5, 4, 0.5)
    assert (more.share.value, more.share.n) == (1.0, 1)


# ------------------------------------------------------------------------------------------------------- annotators
def figures_of(name: str, *votes: object, **known: object) -> AnnotatorFigures:
    found = annotator_figures(list(votes), **known)  # type: ignore[arg-type]
    return next(one for one in found if one.name == name)


def test_gold_counts_the_best_answer_and_half_of_a_tie_with_it() -> None:
    known = {1: (0,), 2: (0,), 3: (2,), 4: (2,), 5: (0,)}
    one = figures_of(
        "a",
        vote(1, "a", FIRST, purpose="gold"),  # right
        vote(2, "a", TIE, purpose="gold"),  # half
        vote(3, "a", (2, 3, 1), purpose="gold"),  # right whatever the rest
        vote(4, "a", (1, 1, 1), purpose="gold"),  # one of three
        vote(5, "a", None, purpose="gold"),  # says nothing about the order
        vote(6, "a", FIRST, purpose="gold"),  # no longer gold: nothing to compare with
        vote(1, "b", SECOND, purpose="gold"),
        known=known,
    )
    assert one.gold is not None
    assert (one.gold.value, one.gold.n) == (pytest.approx((1 + 0.5 + 1 + 1 / 3) / 4), 4)
    assert one.judgements == 6
    assert one.undecided is None


def test_consistency_compares_with_the_first_time() -> None:
    one = figures_of(
        "a",
        vote(1, "a", FIRST, purpose="re-ask", first_ranking=FIRST),
        vote(2, "a", FIRST, purpose="re-ask", first_ranking=SECOND),
        vote(3, "a", TIE, purpose="re-ask", first_ranking=SECOND),  # half
        vote(4, "a", (1, 2, 3), purpose="re-ask", first_ranking=(1, 3, 2)),  # the same best
        vote(5, "a", None, purpose="re-ask", first_ranking=FIRST),  # no ranking
        known={},
    )
    assert one.consistency is not None
    assert (one.consistency.value, one.consistency.n) == (2.5 / 4, 4)
    assert (one.consistency.low, one.consistency.high) == wilson_interval(2.5, 4)


def test_places_ties_and_times_of_an_annotator() -> None:
    one = figures_of(
        "a",
        vote(1, "a", FIRST, shown_order=(0, 1), seconds=2.0),
        vote(2, "a", FIRST, shown_order=(1, 0), seconds=10.0),
        vote(3, "a", TIE, seconds=4.0),
        vote(4, "a", None),
        vote(5, "a", FIRST, purpose="re-ask", first_ranking=FIRST, shown_order=(1, 0)),
        known={},
    )
    assert one.judgements == 5
    assert one.first_place is not None
    assert (one.first_place.value, one.first_place.n, one.fair) == (pytest.approx(1 / 3), 3, 0.5)
    assert one.undecided is not None
    assert (one.undecided.value, one.undecided.n) == (0.5, 4)
    assert one.seconds == 4.0


def test_an_annotators_places_are_those_of_the_overall_bias() -> None:
    """What was imported was not shown in drawn places, and what was judged early was not complete."""
    votes = [
        vote(1, "a", FIRST, shown_order=(0, 1)),  # left
        vote(2, "a", FIRST, shown_order=(1, 0)),  # right
        vote(3, "a", SECOND, shown_order=(0, 1)),  # right
        vote(4, "a", FIRST, purpose="import"),
        vote(5, "a", FIRST, early=True),
        vote(6, "a", (1, 2, 3), purpose="import"),  # would change what is fair
    ]
    one, (overall,) = figures_of("a", *votes, known={}), position_biases(votes)
    assert one.first_place is not None
    assert (one.first_place.value, one.first_place.n, one.fair) == (pytest.approx(1 / 3), 3, 0.5)
    assert (overall.share.value, overall.share.n, overall.fair) == (one.first_place.value, 3, one.fair)


def test_agreement_with_others_by_hand() -> None:
    votes = [
        *(vote(1, name, FIRST) for name in "abc"),  # a: both agree
        vote(2, "a", FIRST),
        vote(2, "b", SECOND),  # none agrees
        vote(3, "a", TIE),
        vote(3, "c", TIE),  # a tie is an answer
        vote(4, "a", FIRST),
    ]
    one = figures_of("a", *votes, known={})
    assert one.agreement is not None
    assert (one.agreement.value, one.agreement.n) == (3 / 4, 3)
    without_b = figures_of("a", *votes, known={}, trusted={"a", "c"})
    assert without_b.agreement is not None
    assert (without_b.agreement.value, without_b.agreement.n) == (1.0, 2)
    # Somebody who is left out is still compared with the others.
    b = figures_of("b", *votes, known={}, trusted={"a", "c"})
    assert b.agreement is not None
    assert (b.agreement.value, b.agreement.n) == (2 / 3, 2)


def test_only_what_is_far_below_both_medians_is_too_fast() -> None:
    source = random.Random(1)
    careful = [vote(n, "careful", FIRST, seconds=source.lognormvariate(2.3, 0.4)) for n in range(100)]
    slow = [vote(n, "slow", FIRST, seconds=source.lognormvariate(3.3, 0.4)) for n in range(100)]
    assert hasty_judgements([*careful, *slow]) == {"careful": 0, "slow": 0}
    clicks = [vote(n, "careful", FIRST, seconds=0.3) for n in range(100, 107)]
    assert hasty_judgements([*careful, *slow, *clicks]) == {"careful": 7, "slow": 0}
    # Faster than everybody, but always so: no outlier of their own, the median tells.
    quick = [vote(n, "quick", FIRST, seconds=source.lognormvariate(-1.2, 0.2)) for n in range(30)]
    assert hasty_judgements([*careful, *slow, *quick])["quick"] == 0
    # Constant times have no spread; a trifle below them is no outlier.
    constant = [vote(n, "constant", FIRST, seconds=10.0) for n in range(20)]
    assert hasty_judgements([*constant, vote(99, "constant", FIRST, seconds=9.0)]) == {"constant": 0}
    few = [vote(n, "few", FIRST, seconds=10.0) for n in range(8)]
    assert hasty_judgements([*few, vote(99, "few", FIRST, seconds=0.01)]) == {"few": 0}


def test_distinct_words_are_compared_at_equal_lengths() -> None:
    """Answers that go on as they began are longer, and for that alone less distinct."""
    short = ["the cat sat on the mat", "a dog ran after the cat"]
    long = [f"{text} and {text}" for text in short]
    assert distinct_n(long, 2) < distinct_n(short, 2)
    assert distinct_ratio(long, short, 2) == distinct_ratio(short, long, 2) == 1.0
    assert distinct_ratio(["a a a a"], ["a b c"], 2) == pytest.approx(1 / 2)
    assert distinct_ratio(["word"], ["two words"], 2) is None
