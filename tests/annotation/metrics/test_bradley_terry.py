"""Bradley–Terry strengths against hand-worked numbers, Hunter's MM algorithm, `choix`, and simulation."""

from __future__ import annotations

import math
import random
from itertools import combinations

import numpy as np
import pytest

from annotation.metrics.bradley_terry import PairwiseResult, Strengths, bradley_terry, pairwise_results
from tests.votes import FIRST, SECOND, TIE, vote


def fought(results: list[tuple[str, str, float]]) -> list[PairwiseResult]:
    """A duel for each result, each of a comparison of its own."""
    return [PairwiseResult(number, *result) for number, result in enumerate(results)]


def values(found: Strengths) -> dict[str, float]:
    return {placed.policy: placed.estimate.value for placed in found.placed}


def test_two_policies_differ_by_the_log_odds_of_winning() -> None:
    found = bradley_terry(fought([("base", "dpo-1", 1.0)] * 10 + [("dpo-1", "base", 1.0)] * 30))
    assert values(found) == pytest.approx({"dpo-1": math.log(3), "base": 0.0})
    assert [placed.policy for placed in found.placed] == ["dpo-1", "base"]
    # The variance of a log-odds is 1 / (n p (1 - p)); with each duel a cluster the sandwich adds n / (n - 1).
    half = 1.959964 * math.sqrt(1 / (40 * 0.75 * 0.25) * 40 / 39)
    best = found.placed[0].estimate
    assert (best.low, best.high) == pytest.approx((math.log(3) - half, math.log(3) + half), abs=1e-5)
    assert (found.comparisons, best.n) == (40, 40)
    assert (found.placed[1].estimate.low, found.placed[1].estimate.high) == (0.0, 0.0)


def test_a_tie_is_half_a_win() -> None:
    ties = bradley_terry(fought([("a", "b", 0.5)] * 20 + [("a", "b", 1.0)] * 10 + [("a", "b", 0.0)] * 2))
    halves = bradley_terry(fought([("a", "b", 1.0)] * 20 + [("a", "b", 0.0)] * 12))
    assert values(ties) == pytest.approx(values(halves))
    assert ties.reference == "a"
    # Ties vary less than wins and losses: the sandwich knows.
    assert ties.placed[1].estimate.high - ties.placed[1].estimate.low < (
        halves.placed[1].estimate.high - halves.placed[1].estimate.low
    )


def mm(results: list[PairwiseResult], names: list[str], rounds: int = 20_000) -> dict[str, float]:
    """Hunter 2004, equation 3, in plain Python, relative to the first."""
    gamma = dict.fromkeys(names, 1.0)
    wins = {
        name: sum(d.score if d.first == name else 1 - d.score for d in results if name in (d.first, d.second))
        for name in names
    }
    for _ in range(rounds):
        update = {}
        for name in names:
            met = [(d.second if d.first == name else d.first) for d in results if name in (d.first, d.second)]
            update[name] = wins[name] / sum(1 / (gamma[name] + gamma[other]) for other in met)
        if max(abs(math.log(update[name] / gamma[name])) for name in names) < 1e-12:
            break
        gamma = update
    return {name: math.log(gamma[name] / gamma[names[0]]) for name in names}


@pytest.mark.parametrize("seed", range(3))
def test_newton_agrees_with_mm(seed: int) -> None:
    source = random.Random(seed)
    names = ["base", "dpo-1", "dpo-2", "dpo-3"]
    results = [(*source.sample(names, 2), source.choice((0.0, 0.5, 1.0, 1.0))) for _ in range(80)]
    found = bradley_terry(fought(results))
    assert values(found) == pytest.approx(mm(fought(results), names), abs=1e-6)


def simulate(source: random.Random, truth: dict[str, float], comparisons: int, annotators: int) -> list[PairwiseResult]:
    """Each comparison draws one winner, and its annotators mostly agree on it: judgements in clusters."""
    found = []
    for number in range(comparisons):
        first, second = source.sample(sorted(truth), 2)
        won = source.random() < 1 / (1 + math.exp(truth[second] - truth[first]))
        found += [PairwiseResult(number, first, second, float(won)) for _ in range(annotators)]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_strengths_equal_those_of_choix(seed: int) -> None:
    import choix  # which loads scipy.stats

    source = random.Random(seed)
    truth = {"a": 0.0, "b": 0.7, "c": -0.4, "d": 1.5}
    names = list(truth)
    results = []
    for _ in range(200):
        one, other = source.sample(names, 2)
        won = source.random() < 1 / (1 + math.exp(truth[other] - truth[one]))
        results.append((one, other, 1.0 if won else 0.0))
    wins = [
        (names.index(one), names.index(other)) if score else (names.index(other), names.index(one))
        for one, other, score in results
    ]
    outside = choix.opt_pairwise(len(names), wins)
    found = values(bradley_terry(fought(results), "a"))
    assert found == pytest.approx(dict(zip(names, outside - outside[0], strict=True)), abs=1e-4)


def test_intervals_cover_the_truth_though_annotators_judge_the_same_comparisons() -> None:
    truth = {"base": 0.0, "dpo-1": 0.4, "dpo-2": 1.0}
    source = random.Random(4)
    covered = [
        placed.estimate.low <= truth[placed.policy] <= placed.estimate.high
        for _ in range(150)
        for placed in bradley_terry(simulate(source, truth, 120, 3)).placed
        if placed.policy != "base"
    ]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_policy_that_only_wins_is_not_placed() -> None:
    """No finite strength is the most likely one for it (Ford 1957)."""
    pairs = [("base", "dpo-1", 1.0), ("base", "dpo-1", 0.0)] * 6
    found = bradley_terry(fought([*pairs, *[("dpo-2", "base", 1.0)] * 9, *[("dpo-3", "dpo-4", 0.5)] * 2]))
    assert values(found) == pytest.approx({"base": 0.0, "dpo-1": 0.0})
    assert found.unplaced == ("dpo-2", "dpo-3", "dpo-4")
    assert found.comparisons == 12


def test_a_circle_of_wins_connects() -> None:
    results = [(a, b, 1.0) for a, b in (("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "a"))] * 3
    found = bradley_terry(fought(results))
    assert values(found) == pytest.approx(dict.fromkeys("abcde", 0.0), abs=1e-9)


def test_too_little_is_said_to_be_too_little() -> None:
    assert bradley_terry([]) == Strengths("base", (), (), 0)
    few = bradley_terry(fought([("base", "dpo-1", 1.0), ("base", "dpo-1", 0.0)] * 4))
    assert few == Strengths("base", (), ("base", "dpo-1"), 8)
    won = bradley_terry(fought([("base", "dpo-1", 0.0)] * 30))
    assert (won.placed, won.comparisons) == ((), 30)


def test_duels_are_between_answers_of_different_policies_that_were_compared() -> None:
    sides = ("base", "dpo-1")
    three = ("base", "dpo-1", "dpo-1")
    votes = [
        vote(1, "a", FIRST, revisions=sides),
        vote(2, "a", TIE, revisions=sides),
        vote(3, "a", SECOND, revisions=sides, purpose="settle"),
        vote(4, "a", FIRST),  # one policy
        vote(5, "a", FIRST, revisions=("base", None)),  # imported
        vote(6, "a", FIRST, revisions=sides, purpose="gold"),
        vote(7, "a", FIRST, revisions=sides, early=True),
        vote(8, "a", None, revisions=sides),
        vote(9, "a", (2, 1, 3), revisions=three),
        vote(10, "a", (2, 2, 1), revisions=three, kind="best"),
        vote(11, "a", TIE, revisions=sides, kind="best"),
    ]
    assert [(d.comparison_id, d.first, d.second, d.score) for d in pairwise_results(votes)] == [
        (1, "base", "dpo-1", 1.0),
        (2, "base", "dpo-1", 0.5),
        (3, "base", "dpo-1", 0.0),
        (9, "base", "dpo-1", 0.0),
        (9, "base", "dpo-1", 1.0),
        (10, "base", "dpo-1", 0.0),  # against the chosen; not against the other that was not chosen
        (11, "base", "dpo-1", 0.5),
    ]
    assert len(list(combinations(three, 2))) == 3
