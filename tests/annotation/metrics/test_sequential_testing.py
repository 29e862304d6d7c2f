"""Anytime-valid evidence, length control, kappa: against slow versions, closed forms, published figures."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from annotation.metrics.intervals_and_bias import wilson_interval
from annotation.metrics.sequential_testing import (
    IMAGINED,
    Stakes,
    anytime_mean,
    kappas,
    length_controlled,
    more_needed,
    running_interval,
)
from tests.e_values import evidence_for

ALPHA = 0.05


# ------------------------------------------------------------------------------------------------------------ betting
def slow_capitals(outcomes: Sequence[float], mean: float) -> list[float]:
    """A capital of 1 shared out among 24 bettors, who stake the same share each time, outcome by outcome."""
    shares = [((number + 0.5) / 24) ** 2 for number in range(24)]
    beliefs = [math.sqrt(share) * share**3 * (1 - share) ** 7 for share in shares]
    purses = [belief / sum(beliefs) for belief in beliefs]
    capitals = []
    for outcome in outcomes:
        # The stake buys outcome / mean of itself; what is not staked is kept.
        purses = [
            purse - purse * share + purse * share * outcome / mean for purse, share in zip(purses, shares, strict=True)
        ]
        capitals.append(sum(purses))
    return capitals


def stream(source: random.Random, mean: float, length: int, ties: float = 0.2) -> list[float]:
    """Wins, ties and losses with this mean."""
    return source.choices((0.0, 0.5, 1.0), (1 - mean - ties / 2, ties, mean - ties / 2), k=length)


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.8])
def test_the_e_value_is_what_a_bettor_holds_who_plays_outcome_by_outcome(mean: float) -> None:
    outcomes = [*stream(random.Random(1), 0.6, 80), 1 / 3, 2 / 3]
    assert evidence_for(outcomes, mean) == pytest.approx(slow_capitals(outcomes, mean), rel=1e-9)


@pytest.mark.parametrize(("mean", "chances"), [(0.5, (0.4, 0.2, 0.4)), (0.3, (0.6, 0.2, 0.2))])
def test_the_bet_is_fair_over_all_that_can_happen(mean: float, chances: tuple[float, float, float]) -> None:
    """A test martingale: at every time its expectation, over all 243 courses of five comparisons, is 1."""
    expected = np.zeros(5)
    for course in product(range(3), repeat=5):
        chance = math.prod(chances[outcome] for outcome in course)
        expected += chance * evidence_for([outcome / 2 for outcome in course], mean)
    assert expected == pytest.approx(np.ones(5))


def test_the_capital_is_that_of_a_beta_belief_about_the_win_rate() -> None:
    """The likelihood ratio of wins and losses, to a fair coin, where twice the win rate less 1 is Beta(4, 8)."""
    rates = (np.arange(200_000) + 0.5) / 400_000 + 0.5
    prior = (2 * rates - 1) ** 3 * (2 - 2 * rates) ** 7
    for wins, losses in ((8, 2), (40, 25), (110, 90), (530, 470)):
        log_likelihood = wins * np.log(2 * rates) + losses * np.log(2 * (1 - rates))
        expected = float((prior * np.exp(log_likelihood)).sum() / prior.sum())
        found = evidence_for([1.0] * wins + [0.0] * losses)[-1]
        assert math.log(found) == pytest.approx(math.log(expected), abs=0.05)


def test_the_order_does_not_matter_and_against_a_half_a_tie_says_nothing() -> None:
    source = random.Random(2)
    outcomes = stream(source, 0.6, 60)
    shuffled = source.sample(outcomes, len(outcomes))
    assert anytime_mean(Stakes.of(outcomes)) == anytime_mean(Stakes.of(shuffled))
    assert more_needed(Stakes.of(outcomes)) == more_needed(Stakes.of(shuffled))
    decisive = [outcome for outcome in outcomes if outcome != 0.5]
    assert evidence_for(outcomes)[-1] == pytest.approx(evidence_for(decisive)[-1], rel=1e-12)


def test_who_looks_all_the_time_is_not_fooled_more_often_than_alpha() -> None:
    """Ville's inequality; and Wilson's interval, looked at in the same way, fools more than one in eight."""
    source = random.Random(3)
    streams = [stream(source, 0.5, 300, ties=0) for _ in range(400)]
    fooled = [float(evidence_for(outcomes).max()) >= 1 / ALPHA for outcomes in streams]
    # Five in a hundred, and three standard errors of 400 streams.
    assert np.mean(fooled) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
    naive = [
        any(wilson_interval(sum(outcomes[:count]), count)[0] > 0.5 for count in range(10, 301)) for outcomes in streams
    ]
    assert np.mean(naive) > 1 / 8


def test_all_intervals_of_a_stream_hold_the_mean_together() -> None:
    source = random.Random(4)
    covered = 0
    for _ in range(300):
        intervals = running_interval(Stakes.of(stream(source, 0.65, 200)))
        covered += bool(np.all((intervals[:, 0] <= 0.65) & (intervals[:, 1] >= 0.65)))
    assert covered / 300 >= 1 - ALPHA - 3 * math.sqrt(ALPHA * (1 - ALPHA) / 300)


def test_an_interval_is_not_wider_than_looking_all_the_time_costs() -> None:
    """About twice Wilson's at 200; Hoeffding's, for one look and less still, would be 0.19 wide."""
    found = anytime_mean(Stakes.of([1.0, 0.0] * 100))
    low, high = wilson_interval(100, 200)
    assert found is not None
    assert high - low < found.high - found.low < 2 * (high - low)
    assert (found.low + found.high) / 2 == pytest.approx(0.5, abs=1e-6)


def test_an_interval_ends_where_the_evidence_does() -> None:
    outcomes = stream(random.Random(5), 0.6, 70)
    found = anytime_mean(Stakes.of(outcomes))
    assert found is not None
    assert found.value == pytest.approx(np.mean(outcomes))
    assert found.n == 70
    assert evidence_for(outcomes, found.low)[-1] >= 2 / ALPHA > evidence_for(outcomes, found.low + 1e-4)[-1]
    losses = [1 - outcome for outcome in outcomes]
    assert evidence_for(losses, 1 - found.high)[-1] >= 2 / ALPHA > evidence_for(losses, 1 - found.high + 1e-4)[-1]
    intervals = running_interval(Stakes.of(outcomes))
    assert intervals[-1] == pytest.approx([found.low, found.high], abs=1e-5)
    assert intervals[39] == pytest.approx(running_interval(Stakes.of(outcomes[:40]))[-1], abs=1e-5)


def test_wins_or_losses_only_leave_one_end_open() -> None:
    won, lost = anytime_mean(Stakes.of([1.0] * 100)), anytime_mean(Stakes.of([0.0] * 100))
    assert won is not None
    assert lost is not None
    assert won.high == 1.0
    assert 0.9 < won.low < 1.0
    assert (lost.low, lost.high) == pytest.approx((1 - won.high, 1 - won.low), abs=1e-5)
    assert anytime_mean(Stakes.of([])) is None
    assert running_interval(Stakes.of([])).shape == (0, 2)
    assert len(evidence_for([])) == 0


def test_ten_thousand_wins_are_a_finite_number() -> None:
    grown = evidence_for(np.ones(10_000))
    assert np.all(np.isfinite(grown))
    assert np.all(np.diff(grown) >= 0)
    assert evidence_for(np.zeros(10_000))[-1] < 1


def test_an_outcome_outside_of_nought_to_one_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="outcomes lie in"):
        evidence_for([0.5, 1.5])


# ------------------------------------------------------------------------------------------------- how many are needed
def test_nothing_is_promised_where_the_candidate_is_not_ahead() -> None:
    assert more_needed(Stakes.of([])) is None
    assert more_needed(Stakes.of([0.5] * 9)) is None
    assert more_needed(Stakes.of([1.0, 0.0])) is None
    assert more_needed(Stakes.of([0.0] * 5 + [1.0])) is None


def test_three_wins_of_three_promise_less_than_three_more() -> None:
    """Three more wins would not do either; nine of nine are nearly there, and ten of ten are."""
    assert evidence_for([1.0] * 9)[-1] < 1 / ALPHA <= evidence_for([1.0] * 10)[-1]
    few = more_needed(Stakes.of([1.0] * 3), ALPHA)
    assert few is not None
    assert few > 20
    assert more_needed(Stakes.of([1.0] * 9), ALPHA) == 1
    assert more_needed(Stakes.of([1.0] * 10), ALPHA) == 0
    assert more_needed(Stakes.of([1.0] * 10), 0.001) != 0


def test_about_two_of_three_such_candidates_have_shown_it_by_then() -> None:
    seen = [1.0] * 26 + [0.0] * 14
    number = more_needed(Stakes.of(seen))
    assert number is not None
    rate = (26 + IMAGINED) / (40 + 2 * IMAGINED)
    source = random.Random(6)
    shown = [
        float(evidence_for([*seen, *(float(source.random() < rate) for _ in range(number))])[40:].max()) >= 1 / ALPHA
        for _ in range(300)
    ]
    assert np.mean(shown) == pytest.approx(2 / 3, abs=0.12)


# ----------------------------------------------------------------------------------------------------- length control
def controlled(
    outcomes: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float] | None = None
) -> tuple[float, float, float]:
    found = length_controlled(outcomes, lengths, other_lengths or [0.0] * len(outcomes))
    assert found is not None
    assert found.n == len(outcomes)
    return found.value, found.low, found.high


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_two_strata_have_a_closed_form() -> None:
    """Two coefficients meet two win rates exactly: 70% of 3,000 that are longer by 50, 35% of 1,000 shorter by 10.

    The differences' standard deviation is 60 sqrt(3/4 · 1/4), and the rate at a difference of 0 lies on the line
    through both strata's log-odds.
    """
    outcomes = [1.0] * 2100 + [0.0] * 900 + [1.0] * 350 + [0.0] * 650
    lengths, others = [150.0] * 3000 + [70.0] * 1000, [100.0] * 3000 + [80.0] * 1000
    scale = 60 * math.sqrt(3 / 16)
    longer, shorter = math.tanh(50 / scale), math.tanh(-10 / scale)
    slope = (logit(0.7) - logit(0.35)) / (longer - shorter)
    expected = 1 / (1 + math.exp(-(logit(0.7) - slope * longer)))
    assert controlled(outcomes, lengths, others)[0] == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(0.447, abs=1e-3)


def test_a_candidate_that_wins_by_length_only_is_no_better_at_equal_lengths() -> None:
    """Answers are longer by 40 on average, and a judge prefers by length alone."""
    source = random.Random(7)
    differences = [source.gauss(40, 60) for _ in range(400)]
    outcomes = [float(source.random() < 1 / (1 + math.exp(-2 * math.tanh(d / 60)))) for d in differences]
    value, low, high = controlled(outcomes, differences)
    assert np.mean(outcomes) > 0.62
    assert wilson_interval(sum(outcomes), 400)[0] > 0.5
    assert low < 0.5 < high
    assert value == pytest.approx(0.5, abs=0.07)


def test_a_tie_is_half_a_win_and_half_a_loss() -> None:
    differences = [-30.0, -10.0, 5.0, 20.0, 45.0] * 8
    ties = [0.5, 1.0, 0.5, 0.0, 0.5] * 8
    doubled = [float(outcome) for tie in ties for outcome in ((0, 1) if tie == 0.5 else (tie, tie))]
    twice = [difference for difference in differences for _ in range(2)]
    # Twice the observations weigh the ridge half as much.
    assert controlled(ties, differences)[0] == pytest.approx(controlled(doubled, twice)[0], abs=1e-4)


def test_swapping_the_sides_mirrors_the_rate() -> None:
    source = random.Random(8)
    lengths, others = ([float(source.randint(10, 90)) for _ in range(60)] for _ in range(2))
    outcomes = stream(source, 0.6, 60)
    value, low, high = controlled(outcomes, lengths, others)
    mirrored = controlled([1 - outcome for outcome in outcomes], others, lengths)
    assert mirrored == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-6)


def test_without_any_difference_it_is_the_win_rate_with_a_usual_interval() -> None:
    value, low, high = controlled([1.0] * 60 + [0.0] * 40, [50.0] * 100, [50.0] * 100)
    assert value == pytest.approx(0.6, abs=1e-3)
    assert (low, high) == pytest.approx(wilson_interval(60, 100), abs=0.02)


def test_what_length_tells_alone_stays_finite() -> None:
    """The longer always wins: no finite coefficient is the most likely one, and equal lengths remain unknown."""
    differences = [-30.0, -20.0, -10.0, 10.0, 20.0, 30.0] * 5
    value, low, high = controlled([float(difference > 0) for difference in differences], differences)
    assert value == pytest.approx(0.5, abs=0.01)
    assert 0 < low < 0.4
    assert 0.6 < high < 1


def test_outcomes_that_are_all_the_same_get_wilsons_interval() -> None:
    assert controlled([1.0] * 20, [float(number) for number in range(20)]) == (1.0, *wilson_interval(20, 20))


def test_answers_to_one_prompt_stand_or_fall_together() -> None:
    """Asked again with three further seeds, the same prompts tell no more than they did."""
    source = random.Random(9)
    won, differences = stream(source, 0.6, 40), [source.gauss(0, 30) for _ in range(40)]
    once = length_controlled(won, differences, [0.0] * 40, range(40))
    again = length_controlled(won * 4, differences * 4, [0.0] * 160, [*range(40)] * 4)
    alone = length_controlled(won * 4, differences * 4, [0.0] * 160)
    assert once is not None
    assert again is not None
    assert alone is not None
    assert (again.n, alone.n) == (40, 160)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.05)
    assert alone.high - alone.low == pytest.approx((once.high - once.low) / 2, rel=0.2)
    narrower = length_controlled(won, differences, [0.0] * 40, range(40), 0.9)
    assert narrower is not None
    assert once.low < narrower.low < narrower.high < once.high


def test_too_little_to_control_for_length_is_none() -> None:
    assert length_controlled([1.0] * 9, [1.0] * 9, [0.0] * 9) is None
    # Always longer by the same: what equal lengths would do can't be told.
    assert length_controlled([1.0, 0.0] * 20, [60.0] * 40, [50.0] * 40) is None


# ---------------------------------------------------------------------------------------------------------- agreement
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Fleiss, Levin and Paik 2003, table 18.1: two raters, 100 subjects, psychotic, neurotic and organic.
        (((75, 1, 4), (5, 4, 1), (0, 0, 10)), 0.676),
        # The examples of Wikipedia's "Cohen's kappa": grant proposals; and the same agreement by other margins.
        (((20, 5), (10, 15)), 0.4),
        (((45, 15), (25, 15)), 0.1304),
        (((25, 35), (5, 35)), 0.2593),
    ],
)
def test_kappa_equals_published_ones(table: Sequence[Sequence[int]], expected: float) -> None:
    assert float(kappas(np.array(table))) == pytest.approx(expected, abs=5e-4)


def test_kappa_is_undefined_where_only_one_label_was_given() -> None:
    assert np.isnan(kappas(np.array(((5, 0), (0, 0)))))
