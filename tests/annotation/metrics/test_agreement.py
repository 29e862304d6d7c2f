"""Agreement against Krippendorff's published example, the `krippendorff` package, and a slow bootstrap."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any, Literal

import krippendorff
import numpy as np
import pytest

from annotation.metrics.agreement import Agreement, agreement_over_time, agreements, clear_cases, disputes, measure
from annotation.metrics.intervals_and_bias import Vote, wilson_interval
from tests.votes import FIRST, SECOND, TIE, vote

Level = Literal["nominal", "ordinal"]
GAP = None
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
PUBLISHED = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, GAP, GAP, GAP),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, GAP, 3),
    (GAP, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, GAP),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, GAP),
)


def only(found: list[Agreement]) -> Agreement:
    assert len(found) == 1
    return found[0]


def alpha_of(units: list[list[Any]], level: Level) -> float:
    found = only(measure("?", 2, level, [[unit] for unit in units])).alpha
    assert found is not None
    return found.value


def peers_alpha(units: list[list[Any]], level: Level) -> float:
    """The same by the `krippendorff` package, from counts of values."""
    values = sorted({value for unit in units for value in unit})
    counts = np.array([[unit.count(value) for value in values] for unit in units])
    return float(krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement=level))


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_equals_the_published_one(level: Level, alpha: float) -> None:
    units = [[value for value in column if value is not GAP] for column in zip(*PUBLISHED, strict=True)]
    assert alpha_of(units, level) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_equals_the_packages(level: Level, seed: int) -> None:
    source = random.Random(seed)
    units = []
    for _ in range(60):
        middle = source.randint(-3, 3)
        unit = [max(-3, min(3, middle + source.choice((-2, -1, 0, 0, 0, 1, 2)))) for _ in range(source.randint(1, 4))]
        units.append(unit)
    assert alpha_of(units, level) == pytest.approx(peers_alpha(units, level), abs=1e-9)


def test_two_annotators_by_hand() -> None:
    """Ten units with 8 times a and 12 times b, two of them disagreements."""
    units = [["a", "a"]] * 3 + [["b", "b"]] * 5 + [["a", "b"]] * 1 + [["b", "a"]] * 1
    # Observed disagreement 4 of 20 coincidences; expected (8·12 + 12·8) / (20·19).
    assert alpha_of(units, "nominal") == pytest.approx(1 - (4 / 20) / (2 * 8 * 12 / (20 * 19)))
    percent = only(measure("?", 2, "nominal", [[unit] for unit in units])).percent
    assert (percent.value, percent.n) == (0.8, 10)


# ------------------------------------------------------------------------------------------------------- intervals
def slow_bootstrap(comparisons: list[list[list[Any]]], level: Level, seed: int) -> tuple[float, float]:
    """Comparisons drawn one by one, alpha of each resample by the package."""
    source = random.Random(seed)
    alphas = []
    for _ in range(600):
        drawn = [unit for _ in comparisons for unit in source.choice(comparisons) if len(unit) > 1]
        alphas.append(peers_alpha(drawn, level))
    alphas.sort()
    return alphas[15], alphas[584]


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_the_interval_equals_that_of_a_slow_bootstrap_over_comparisons(level: Level) -> None:
    source = random.Random(5)
    comparisons = []
    for _ in range(80):
        # Three units of one comparison that go together: resampling units instead would be too narrow.
        truth, muddled = source.randint(0, 2), source.random() < 0.4
        units = [[source.randint(0, 2) if muddled else truth for _ in range(3)] for _ in range(3)]
        comparisons.append(units)
    found = only(measure("?", 2, level, comparisons))
    assert found.alpha is not None
    low, high = slow_bootstrap(comparisons, level, seed=11)
    assert (found.alpha.low, found.alpha.high) == pytest.approx((low, high), abs=0.025)
    assert found.alpha.low < found.alpha.value < found.alpha.high
    assert (found.comparisons, found.percent.n, found.judgements) == (80, 80, 240)
    assert measure("?", 2, level, comparisons) == [found]  # seeded


def test_unanimous_annotators_have_an_honest_interval() -> None:
    found = only(measure("?", 2, "nominal", [[["a", "a"]], [["b", "b"]]] * 6))
    assert found.alpha is not None
    assert (found.percent.value, found.percent.low) == (1.0, wilson_interval(12, 12)[0])
    assert (found.alpha.value, found.alpha.low) == (1.0, wilson_interval(12, 12)[0])


def test_alpha_is_undefined_where_only_one_answer_was_given() -> None:
    assert only(measure("?", 2, "nominal", [[["a", "a"]]] * 12)).alpha is None
    assert measure("?", 2, "nominal", [[["a"]], [[]]]) == []


# ------------------------------------------------------------------------------------------------ from judgements
def by_question(votes: list[Vote]) -> dict[str, Agreement]:
    return {found.question: found for found in agreements(votes)}


def test_two_answers_are_measured_by_verdict_and_by_strength() -> None:
    votes = [
        *(vote(n, "a", FIRST, strength=3) for n in range(10)),
        *(vote(n, "b", FIRST, strength=2) for n in range(8)),
        vote(8, "b", TIE, strength=0),
        vote(9, "b", SECOND, strength=1),
        vote(9, "c", None),  # all bad: neither
    ]
    found = by_question(votes)
    assert list(found) == ["Which of two is better, or neither", "How much better, from −3 to 3"]
    verdict, strength = found.values()
    assert verdict.percent.value == 0.8
    assert (verdict.level, strength.level) == ("nominal", "ordinal")
    assert strength.percent.value == 0.0
    assert strength.alpha is not None
    units = [[3, 2]] * 8 + [[3, 0], [3, -1]]
    assert strength.alpha.value == pytest.approx(peers_alpha(units, "ordinal"))
    assert (verdict.comparisons, verdict.judgements) == (10, 20)


def test_judgements_without_a_strength_are_not_asked_how_strong() -> None:
    assert list(by_question([vote(1, "a", FIRST), vote(1, "b", SECOND)])) == ["Which of two is better, or neither"]


def test_rankings_are_measured_by_the_best_and_by_the_order_of_each_two() -> None:
    rankings = {"a": (1, 2, 3), "b": (1, 3, 2), "c": (2, 1, 3)}
    votes = [vote(n, name, rankings[name]) for n in range(12) for name in "abc"]
    best, order = agreements(votes)
    assert (best.question, best.size) == ("Which of {size} is best", 3)
    assert best.percent.value == pytest.approx(1 / 3)
    # Of the three pairs of annotators: a-b agree on two of three orders, a-c on two, b-c on one.
    assert order.percent.value == pytest.approx((2 + 2 + 1) / 9)
    units = [
        [(r[j] > r[i]) - (r[j] < r[i]) for r in rankings.values()] for i, j in combinations(range(3), 2)
    ] * 12  # fmt: skip
    assert order.alpha is not None
    assert order.alpha.value == pytest.approx(peers_alpha(units, "nominal"))
    # All comparisons are alike, so a resample of comparisons is always the same; a resample of units is not.
    assert order.alpha.low == pytest.approx(order.alpha.high)
    assert order.comparisons == 12


def test_best_of_several_is_no_order_of_the_others() -> None:
    votes = [vote(n, name, (1, 2, 2), kind="best") for n in range(3) for name in "ab"]
    assert [found.question for found in agreements(votes)] == ["Which of {size} is best"]


def test_agreement_over_time_goes_by_the_last_judgement() -> None:
    votes = []
    for n in range(40):
        day = f"2026-11-{1 + n // 2:02}T10:00:00.000000+00:00"
        votes += [vote(40 - n, "a", FIRST), vote(40 - n, "b", FIRST if n < 20 else SECOND, created=day)]
    periods = agreement_over_time(votes)
    assert [period.percent.value for period in periods] == [1.0, 1.0, 0.0, 0.0]
    assert [period.percent.n for period in periods] == [10] * 4
    assert (periods[0].last[:10], periods[3].last[:10]) == ("2026-11-05", "2026-11-20")
    assert agreement_over_time(votes[:18]) == []


# ------------------------------------------------------------------------------------------------ clear and disputed
def test_disputes_come_with_the_most_disagreement_first() -> None:
    votes = [
        *(vote(1, name, FIRST) for name in "abc"),  # all agree
        vote(2, "a", FIRST),
        vote(2, "b", TIE),  # a tie contradicts nobody
        vote(3, "a", FIRST, strength=1),
        vote(3, "b", SECOND, strength=1),
        vote(4, "a", FIRST, strength=3),
        vote(4, "b", SECOND, strength=3),  # opposite and stronger
        vote(5, "a", FIRST),
        vote(5, "b", FIRST),
        vote(5, "c", SECOND),  # one of three
        vote(6, "a", (1, 2, 3)),
        vote(6, "b", (1, 3, 2)),  # agree on the best only
        vote(7, "a", (1, 2, 2), kind="best"),
        vote(7, "b", (2, 1, 2), kind="best"),
        vote(8, "a", FIRST),
        vote(8, "b", SECOND),
    ]
    found = disputes(votes, settled={8})
    assert [entry.comparison_id for entry in found] == [4, 3, 7, 5, 6]
    assert [entry.disagreement for entry in found] == pytest.approx([1, 1, 1, 2 / 3, 1 / 3])
    assert [entry.spread for entry in found] == [6, 2, 0, 0, 0]


def test_clear_cases_are_those_that_all_find_clear() -> None:
    votes = [
        *(vote(1, name, FIRST, strength=1) for name in "ab"),
        *(vote(2, name, SECOND, strength=3) for name in "ab"),
        *(vote(3, name, FIRST, strength=2) for name in "abc"),
        vote(4, "a", FIRST),
        vote(4, "b", SECOND),
        vote(5, "a", FIRST),
        vote(5, "b", TIE),
        vote(6, "a", SECOND, strength=3),
    ]
    assert [(case.comparison_id, case.best, case.annotators) for case in clear_cases(votes, 10)] == [
        (3, 0, 3),
        (2, 1, 2),
        (1, 0, 2),
        (6, 1, 1),
    ]
    assert len(clear_cases(votes, 2)) == 2
