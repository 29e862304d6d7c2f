"""Bradley–Terry strengths of policies from judgements that compare their answers, with intervals. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from annotation.metrics.intervals_and_bias import Z_95, Array, Estimate, Vote, sign


@dataclass(frozen=True)
class PairwiseResult:
    """A comparison's verdict on the answers of two policies: 1 the first won, 0 the second, 0.5 a tie."""

    comparison_id: int
    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Strength:
    """A policy's Bradley–Terry strength in log-odds: x - y is the log-odds that x's answer beats y's."""

    policy: str
    estimate: Estimate


@dataclass(frozen=True)
class Strengths:
    """The policies that can be placed on one scale, relative to `reference`, and those that can't."""

    reference: str
    placed: tuple[Strength, ...]
    unplaced: tuple[str, ...]
    comparisons: int


# Comparisons between policies below which nothing is said about them.
FEWEST_COMPARED = 10
MOST_STEPS, LONGEST_STEP, CLOSE = 200, 2.0, 1e-10


def pairwise_results(votes: Iterable[Vote]) -> list[PairwiseResult]:
    """Each two answers of different policies that a judgement compared. Ties count as half a win for each."""
    found = []
    for vote in votes:
        if vote.ranking is None or vote.early or vote.purpose in ("gold", "re-ask"):
            continue
        if len(set(vote.revisions) - {None}) < 2:
            continue
        for first, second in combinations(range(len(vote.ranking)), 2):
            one, other = vote.revisions[first], vote.revisions[second]
            order = sign(vote.ranking[second] - vote.ranking[first])
            # Of a 'best of' judgement only the chosen one was compared with the others.
            compared = vote.kind != "best" or order or len(vote.ranking) == 2
            if one is not None and other is not None and one != other and compared:
                found.append(PairwiseResult(vote.comparison_id, one, other, (order + 1) / 2))
    return found


def bradley_terry(results: Sequence[PairwiseResult], reference: str = "base") -> Strengths:
    """Maximum likelihood strengths (Bradley and Terry 1952), a tie being half a win for each.

    They exist only where every policy has won against every other, directly or through others (Ford 1957): the largest
    such set is placed, the rest is not. Intervals: sandwich variance clustered by comparison, as in Chatbot Arena
    (Chiang et al. 2024, section 4); they are of the difference to `reference`, or else to the first policy placed.
    """
    names = sorted({name for result in results for name in (result.first, result.second)})
    kept = largest_connected(names, results)
    counted = [result for result in results if result.first in kept and result.second in kept]
    comparisons = len({result.comparison_id for result in counted})
    if len(kept) < 2 or comparisons < FEWEST_COMPARED:
        return Strengths(reference, (), tuple(names), len({result.comparison_id for result in results}))
    zero = reference if reference in kept else kept[0]
    # The reference first: its strength is held at 0.
    order = [zero, *(name for name in kept if name != zero)]
    values = most_likely(wins_of(order, counted))
    halves = Z_95 * np.sqrt(clustered_variances(values, order, counted))
    appearances = Counter(name for result in counted for name in (result.first, result.second))
    placed = [
        Strength(name, Estimate(float(value), float(value - half), float(value + half), appearances[name]))
        for name, value, half in zip(order, values, halves, strict=True)
    ]
    placed.sort(key=lambda strength: -strength.estimate.value)
    return Strengths(zero, tuple(placed), tuple(name for name in names if name not in kept), comparisons)


def wins_of(names: Sequence[str], results: Iterable[PairwiseResult]) -> Array:
    place = {name: number for number, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for result in results:
        wins[place[result.first], place[result.second]] += result.score
        wins[place[result.second], place[result.first]] += 1 - result.score
    return wins


def largest_connected(names: Sequence[str], results: Iterable[PairwiseResult]) -> list[str]:
    """The set of policies with the most results in which each has beaten each, directly or through others."""
    wins = wins_of(names, results)
    reached = (wins > 0) | np.eye(len(wins), dtype=bool)
    for _ in range(len(wins).bit_length()):
        reached = reached @ reached  # chains of up to twice as many wins
    sets = {tuple(np.flatnonzero(row).tolist()) for row in reached & reached.T}
    largest = max(sorted(sets), key=lambda members: float(wins[list(members)][:, list(members)].sum()), default=())
    return [names[number] for number in largest]


def chances(values: Array) -> Array:
    chance: Array = 1 / (1 + np.exp(values[None, :] - values[:, None]))
    return chance


def most_likely(wins: Array) -> Array:
    """Strengths that make the wins most likely, by Newton's method; the first is 0. `wins` must be connected."""
    values = np.zeros(len(wins))
    played = wins + wins.T
    for _ in range(MOST_STEPS):
        gradient = (wins - played * chances(values)).sum(axis=1)
        step = np.linalg.solve(information_of(played, values), gradient[1:])
        largest = float(np.abs(step).max())
        # The likelihood is concave, but from afar a full step can overshoot.
        values[1:] += step * min(1.0, LONGEST_STEP / max(largest, LONGEST_STEP))
        if largest < CLOSE:
            break
    return values


def information_of(played: Array, values: Array) -> Array:
    """Fisher information of all strengths but the first: the negative second derivative of the log-likelihood."""
    chance = chances(values)
    weights = played * chance * (1 - chance)
    information: Array = (np.diag(weights.sum(axis=1)) - weights)[1:, 1:]
    return information


def clustered_variances(values: Array, names: Sequence[str], results: Sequence[PairwiseResult]) -> Array:
    """Variances of the strengths, as differences to the first; a comparison's results count as one observation."""
    place = {name: number for number, name in enumerate(names)}
    chance = chances(values)
    scores: dict[int, Array] = defaultdict(lambda: np.zeros(len(names)))
    for result in results:
        first, second = place[result.first], place[result.second]
        surprise = result.score - chance[first, second]
        scores[result.comparison_id][first] += surprise
        scores[result.comparison_id][second] -= surprise
    table = np.array(list(scores.values()))[:, 1:]
    wins = wins_of(names, results)
    bread = np.linalg.inv(information_of(wins + wins.T, values))
    covariance = bread @ (table.T @ table) @ bread * len(table) / (len(table) - 1)
    return np.concatenate([[0.0], np.diag(covariance)])
