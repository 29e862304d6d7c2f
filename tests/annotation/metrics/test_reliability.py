"""Reliability: known annotators are recovered, and a slow independent implementation finds the same."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pytest

from annotation.metrics.aggregation import UNKNOWN_RELIABILITY
from annotation.metrics.reliability import (
    GRID,
    Ballot,
    KnownAnswer,
    Reliability,
    ReliabilityEvidence,
    Repeat,
    chance_of_best,
    chance_of_same,
    estimate,
    evidence_of,
    log_repeats,
    weighted_best,
)
from tests.votes import FIRST, SECOND, TIE, vote

PEOPLE = {"ann": 0.9, "bob": 0.8, "carla": 0.7, "dimitri": 0.6}


@dataclass(frozen=True)
class Study:
    """How annotators are simulated."""

    comparisons: int = 300
    overlap: int = 3
    size: int = 2
    gold: int = 0
    repeats: int = 0
    systematic: float = 0.0
    """Share of comparisons asked again that are answered the same whatever happens."""


def simulate(people: Mapping[str, float], study: Study, seed: int) -> ReliabilityEvidence:
    """Annotators who choose the best of `size` as often as their reliability says, independently of each other."""
    source = random.Random(seed)

    def choose(name: str, truth: int) -> int:
        right, others = people[name], study.size - 1
        if source.random() < right / (right + others * (1 - right)):
            return truth
        return source.choice([answer for answer in range(study.size) if answer != truth])

    ballots = []
    for comparison in range(study.comparisons):
        truth = source.randrange(study.size)
        names = source.sample(sorted(people), study.overlap)
        ballots += [Ballot(comparison, name, choose(name, truth), study.size) for name in names]
    known = [KnownAnswer(name, choose(name, 0) == 0, study.size) for name in people for _ in range(study.gold)]
    repeats = [
        Repeat(name, source.random() < study.systematic or choose(name, 0) == choose(name, 0), study.size)
        for name in people
        for _ in range(study.repeats)
    ]
    return ReliabilityEvidence(tuple(ballots), tuple(known), tuple(repeats))


# ---------------------------------------------------------------------------------------------------------- recovery
@pytest.mark.parametrize(
    "study",
    [
        Study(),
        Study(size=4, comparisons=200),
        Study(comparisons=100, gold=40),
        Study(comparisons=150, gold=10, repeats=30),
        Study(comparisons=150, gold=10, repeats=30, systematic=0.5),
    ],
)
def test_known_reliabilities_are_recovered_with_honest_intervals(study: Study) -> None:
    errors, covered = [], []
    for seed in range(25):
        found = estimate(simulate(PEOPLE, study, seed))
        errors += [found[name].estimate - right for name, right in PEOPLE.items()]
        covered += [found[name].low <= right <= found[name].high for name, right in PEOPLE.items()]
    assert abs(fmean(errors)) < 0.02
    assert math.sqrt(fmean(error**2 for error in errors)) < 0.065
    assert fmean(covered) >= 0.89


@pytest.mark.parametrize("seed", range(5))
def test_an_annotator_who_answers_the_opposite_is_found_below_all_others(seed: int) -> None:
    found = estimate(simulate({**PEOPLE, "eve": 0.2}, Study(comparisons=400), seed))
    assert min(found, key=lambda name: found[name].estimate) == "eve"
    assert found["eve"].high < 0.5
    assert found["ann"].estimate > found["dimitri"].estimate


def test_without_evidence_the_prior_is_what_is_known() -> None:
    alone = tuple(Ballot(number, "ann", 0, 2) for number in range(50))
    found = estimate(ReliabilityEvidence(alone, (), ()), annotators=["bob"])
    assert set(found) == {"ann", "bob"}
    for one in found.values():
        assert one.estimate == pytest.approx(UNKNOWN_RELIABILITY, abs=1e-4)
        assert one.low < 0.45
        assert one.high > 0.9
        assert (one.overlap, one.known, one.repeats) == (0, 0, 0)
    assert estimate(ReliabilityEvidence((), (), ())) == {}


def test_the_evidence_is_counted() -> None:
    ballots = (Ballot(1, "a", 0, 2), Ballot(1, "b", 0, 2), Ballot(2, "a", 0, 2), Ballot(3, "b", 0, 2))
    known = (KnownAnswer("a", True, 2), KnownAnswer("a", False, 2))
    found = estimate(ReliabilityEvidence(ballots, known, (Repeat("b", True, 2),)))
    assert (found["a"].overlap, found["a"].known, found["a"].repeats) == (1, 2, 0)
    assert (found["b"].overlap, found["b"].known, found["b"].repeats) == (1, 0, 1)


def test_known_answers_alone_by_hand() -> None:
    """30 of 40 right beside a prior of 7.3 of 10: 37.3 of 50, with the variance of a log-odds of 50."""
    found = estimate(
        ReliabilityEvidence((), (*[KnownAnswer("a", True, 2)] * 30, *[KnownAnswer("a", False, 2)] * 10), ())
    )["a"]
    right = 37.3 / 50
    assert found.estimate == pytest.approx(right, abs=1e-4)
    half = 1.959964 / math.sqrt(50 * right * (1 - right))
    middle = math.log(right / (1 - right))
    assert found.low == pytest.approx(1 / (1 + math.exp(-middle + half)), abs=2e-3)
    assert found.high == pytest.approx(1 / (1 + math.exp(-middle - half)), abs=2e-3)


# ------------------------------------------------------------------------------------------- slow and independent
Odds = dict[str, float]


def log_posterior(evidence: ReliabilityEvidence, odds: Odds) -> float:
    """Plain Python: the truth of each comparison is summed out answer by answer."""
    total = 0.0
    for one in odds.values():
        right = 1 / (1 + math.exp(-one))
        total += 10 * (UNKNOWN_RELIABILITY * math.log(right) + (1 - UNKNOWN_RELIABILITY) * math.log(1 - right))
    groups: dict[int, list[Ballot]] = {}
    for ballot in evidence.ballots:
        groups.setdefault(ballot.comparison, []).append(ballot)
    for group in groups.values():
        size = group[0].size
        chance = 0.0
        for truth in range(size):
            chance += math.prod(chance_of_choice(odds[b.annotator], size, b.choice == truth) for b in group) / size
        total += math.log(chance)
    for known in evidence.known:
        best = chance_of_choice(odds[known.annotator], known.size, True)
        total += math.log(best if known.right else 1 - best)
    for name, own in by_name(evidence.repeats).items():
        total += math.log(chance_of_repeats(own, odds[name]))
    return total


def chance_of_choice(odds: float, size: int, right: bool) -> float:
    weight = math.exp(odds)
    return (weight if right else 1.0) / (weight + size - 1)


def chance_of_repeats(own: Sequence[Repeat], odds: float) -> float:
    """The average over the share of comparisons answered the same whatever happens, by Simpson's rule."""

    def given(share: float) -> float:
        product = 1.0
        for repeat in own:
            best = chance_of_choice(odds, repeat.size, True)
            same = share + (1 - share) * (best**2 + (1 - best) ** 2 / (repeat.size - 1))
            product *= same if repeat.same else 1 - same
        return product

    steps = 200
    weights = [1 if n in (0, steps) else 4 if n % 2 else 2 for n in range(steps + 1)]
    return sum(w * given(n / steps) for n, w in enumerate(weights)) / (3 * steps)


def by_name(repeats: Sequence[Repeat]) -> dict[str, list[Repeat]]:
    groups: dict[str, list[Repeat]] = {}
    for repeat in repeats:
        groups.setdefault(repeat.annotator, []).append(repeat)
    return groups


def top_of(curve: Callable[[float], float], low: float, high: float) -> float:
    """Golden section search."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-6:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if curve(left) < curve(right):
            low = left
        else:
            high = right
    return (low + high) / 2


def slow_estimate(evidence: ReliabilityEvidence, names: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """One annotator after the other is moved to the top, until nothing moves; the interval from second differences."""
    odds = dict.fromkeys(names, math.log(UNKNOWN_RELIABILITY / (1 - UNKNOWN_RELIABILITY)))
    for _ in range(100):
        before = dict(odds)
        for name in names:
            odds[name] = top_of(lambda value, name=name: log_posterior(evidence, {**odds, name: value}), -6, 6)
        if max(abs(odds[name] - before[name]) for name in names) < 1e-4:
            break
    step = 1e-2
    curvature = np.zeros((len(names), len(names)))
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            for sign_one in (1, -1):
                for sign_other in (1, -1):
                    moved = dict(odds)
                    moved[one] += sign_one * step
                    moved[other] += sign_other * step
                    curvature[row, column] -= sign_one * sign_other * log_posterior(evidence, moved) / (4 * step**2)
    deviations = np.sqrt(np.diag(np.linalg.inv(curvature)))

    def logistic(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    return {
        name: (logistic(odds[name]), logistic(odds[name] - 1.96 * d), logistic(odds[name] + 1.96 * d))
        for name, d in zip(names, deviations, strict=True)
    }


@pytest.mark.parametrize(
    ("study", "seed"),
    [
        (Study(comparisons=40, overlap=2), 1),
        (Study(comparisons=25, overlap=3, gold=6, repeats=8), 2),
        (Study(comparisons=25, overlap=3, size=3, gold=5, repeats=6, systematic=0.3), 3),
    ],
)
def test_a_slow_implementation_finds_the_same(study: Study, seed: int) -> None:
    people = {"ann": 0.9, "bob": 0.75, "carla": 0.6}
    evidence = simulate(people, study, seed)
    expected = slow_estimate(evidence, sorted(people))
    found = estimate(evidence)
    for name, (middle, low, high) in expected.items():
        assert found[name].estimate == pytest.approx(middle, abs=2e-3)
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=6e-3)


# --------------------------------------------------------------------------------------------------------- the model
def test_choosing_among_several_follows_from_choosing_between_two() -> None:
    odds = np.array([0.0, math.log(4)])
    assert chance_of_best(odds, 2) == pytest.approx([0.5, 0.8])
    assert chance_of_best(odds, 4) == pytest.approx([0.25, 4 / 7])
    assert chance_of_same(odds, 2) == pytest.approx([0.5, 0.8**2 + 0.2**2])
    assert chance_of_same(odds, 4) == pytest.approx([0.25, (4 / 7) ** 2 + 3 * (1 / 7) ** 2])


def test_inconsistency_counts_in_full_and_consistency_for_little() -> None:
    """Somebody who never contradicts themself may be wrong every time; one who always does can't be right."""
    sure = log_repeats([Repeat("a", True, 2)] * 30, GRID)
    torn = log_repeats([*[Repeat("a", True, 2)] * 15, *[Repeat("a", False, 2)] * 15], GRID)
    coin, good = np.abs(GRID).argmin(), np.abs(GRID - math.log(9)).argmin()
    # Thirty independent trials would speak for 90% against a coin by 30 log(0.82 / 0.5) = 14.8.
    assert 0 < sure[good] - sure[coin] < 2
    assert torn[coin] - torn[good] > 5
    assert sure == pytest.approx(sure[::-1])  # right or wrong: consistency can't tell


def test_re_asks_move_the_estimate_down_more_than_up() -> None:
    def after(same: int, different: int) -> float:
        repeats = (*[Repeat("a", True, 2)] * same, *[Repeat("a", False, 2)] * different)
        return estimate(ReliabilityEvidence((), (), repeats))["a"].estimate

    assert UNKNOWN_RELIABILITY < after(20, 0) < UNKNOWN_RELIABILITY + 0.07
    assert after(10, 10) < UNKNOWN_RELIABILITY - 0.08


# ------------------------------------------------------------------------------------------------ people not believed
def colluders(seed: int) -> tuple[ReliabilityEvidence, dict[str, float]]:
    """Two who copy a coin from each other, among three honest people who see the same comparisons."""
    source = random.Random(seed)
    honest = {"ann": 0.8, "bob": 0.75, "carla": 0.7}
    ballots = []
    for comparison in range(300):
        coin = source.randrange(2)
        ballots += [Ballot(comparison, name, coin, 2) for name in ("xeno", "yuri")]
        ballots += [Ballot(comparison, name, int(source.random() > right), 2) for name, right in honest.items()]
    return ReliabilityEvidence(tuple(ballots), (), ()), honest


def test_people_who_are_not_believed_are_measured_but_do_not_measure_others() -> None:
    evidence, honest = colluders(3)
    believed, fooled = estimate(evidence, distrusted=["xeno", "yuri", "nobody"]), estimate(evidence)
    assert fooled["xeno"].estimate > 0.9  # each confirms the other
    assert believed["xeno"].high < 0.6
    assert believed["xeno"].overlap == 300
    without = ReliabilityEvidence(tuple(b for b in evidence.ballots if b.annotator in honest), (), ())
    alone = estimate(without)
    for name, right in honest.items():
        assert believed[name] == alone[name]
        assert believed[name].low <= right <= believed[name].high
    assert "nobody" not in believed


# --------------------------------------------------------------------------------------------------- from judgements
def test_what_counts_as_evidence() -> None:
    votes = [
        vote(1, "a", FIRST),
        vote(1, "b", SECOND),
        vote(1, "b", FIRST, purpose="settle"),  # in place of b's own
        vote(2, "a", TIE),
        vote(3, "a", None),
        vote(4, "a", FIRST, early=True),
        vote(5, "a", FIRST),  # made before comparison 5 became gold
        vote(5, "b", SECOND, purpose="gold"),
        vote(6, "b", FIRST, purpose="gold"),  # not gold any more
        vote(7, "b", TIE, purpose="gold"),
        vote(8, "a", (2, 1, 3), purpose="re-ask", first_ranking=(3, 1, 2)),
        vote(9, "a", FIRST, purpose="re-ask", first_ranking=SECOND),
        vote(10, "a", FIRST, purpose="re-ask", first_ranking=TIE),
        vote(11, "import-1", (1, 2, 3), purpose="import"),
        vote(13, "a", FIRST, by_heads=True),  # chosen because it is hard to say
    ]
    found = evidence_of(votes, {5: (0,), 7: (0,), 12: (0, 1)})
    assert found.ballots == (
        Ballot(1, "a", 0, 2),
        Ballot(1, "b", 0, 2),
        Ballot(5, "a", 0, 2),
        Ballot(11, "import-1", 0, 3),
    )
    assert found.known == (KnownAnswer("b", False, 2),)
    assert found.repeats == (Repeat("a", True, 3), Repeat("a", False, 2))


def test_the_best_answer_by_weight() -> None:
    votes = [vote(1, "a", FIRST), vote(1, "b", SECOND), vote(1, "c", SECOND)]
    assert weighted_best(votes) == 1
    assert weighted_best(votes, {"a": 0.95, "b": 0.6, "c": 0.6}) == 0
    assert weighted_best(votes[:2]) is None
    assert weighted_best([vote(1, "a", TIE), vote(1, "b", None)]) is None
    assert weighted_best(votes, {"a": 0.5, "b": 0.3, "c": 0.5}) is None  # nobody better than a coin
    settled = [*votes, vote(1, "owner", FIRST, purpose="settle")]
    assert weighted_best(settled) == 0
    assert weighted_best([*votes[:1], vote(1, "b", SECOND, purpose="gold"), vote(1, "c", SECOND, early=True)]) == 0


def test_a_record_of_reliability_is_plain() -> None:
    """It goes into JSON and onto pages."""
    found = estimate(ReliabilityEvidence((), (KnownAnswer("a", True, 2),), ()))["a"]
    assert isinstance(found, Reliability)
    assert {type(value) for value in (found.estimate, found.low, found.high)} == {float}
    assert {type(value) for value in (found.overlap, found.known, found.repeats)} == {int}
