"""How often each annotator is right: one-coin Dawid–Skene from overlap, known answers and re-asks. Pure.

Departures from Dawid and Skene (1979): one parameter for each annotator instead of a confusion matrix; answers of K
choices by Luce's choice axiom (1959), so that comparisons of different sizes share the parameter; a Beta prior; known
answers and re-asks beside the overlap; intervals (Laplace).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from annotation.metrics.aggregation import UNKNOWN_RELIABILITY, log_odds, settling
from annotation.metrics.intervals_and_bias import Z_95, Array, Vote, best_of, chosen

# The prior: as if an unknown annotator had been right in 7.3 of 10 comparisons.
PRIOR_WEIGHT = 10.0
# The log-odds of being right that are considered, from 0.1% to 99.9%.
GRID: Array = np.arange(-6.9, 6.905, 0.01)
SYSTEMATIC: Array = (np.arange(200) + 0.5) / 200
CLOSE, MOST_ROUNDS = 1e-5, 2000
# Keeps an interval finite where the data say next to nothing.
LEAST_INFORMATION = 0.05


@dataclass(frozen=True, slots=True)
class Ballot:
    """An opinion: which of `size` answers of a comparison this annotator finds best."""

    comparison: int
    annotator: str
    choice: int
    size: int


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A choice among `size` answers of which the best is known."""

    annotator: str
    right: bool
    size: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """A choice among `size` answers that was asked twice, and whether it was the same."""

    annotator: str
    same: bool
    size: int


@dataclass(frozen=True)
class Reliability:
    """The chance that an annotator, between the better answer and another, chooses the better; with its evidence."""

    estimate: float
    low: float
    high: float
    overlap: int
    """Comparisons that others have judged as well."""
    known: int
    repeats: int
    """Comparisons judged twice."""

    @property
    def evidence(self) -> int:
        """Comparisons that say anything; with none the estimate is only what is assumed of an unknown annotator."""
        return self.overlap + self.known + self.repeats


@dataclass(frozen=True)
class ReliabilityEvidence:
    ballots: tuple[Ballot, ...]
    known: tuple[KnownAnswer, ...]
    repeats: tuple[Repeat, ...]


def evidence_of(votes: Iterable[Vote], known: Mapping[int, Sequence[int]]) -> ReliabilityEvidence:
    """What judgements tell about reliability; `known` gives the best answers of gold comparisons.

    Only choices of one best answer count: ties and "all bad" decide nothing, here as in training. Somebody who settles
    a comparison casts a ballot like the others, in place of their own earlier one. Judgements from before a comparison
    became gold are opinions, not tests: the known answer may have been taken from them. Nor does what people say of
    answers that heads chose because they disagree on them: who differs on the hardest is not less reliable.
    """
    ballots: dict[tuple[int, str], Ballot] = {}
    tests: list[KnownAnswer] = []
    repeats: list[Repeat] = []
    for vote in votes:
        choice, size = chosen(vote), len(vote.lengths)
        if choice is None or vote.early:
            continue
        if vote.purpose == "gold":
            if len(known.get(vote.comparison_id, ())) == 1:
                tests.append(KnownAnswer(vote.annotator, choice == known[vote.comparison_id][0], size))
        elif vote.purpose == "re-ask":
            first = () if vote.first_ranking is None else best_of(vote.first_ranking)
            if len(first) == 1:
                repeats.append(Repeat(vote.annotator, choice == first[0], size))
        elif not vote.by_heads:
            ballots[vote.comparison_id, vote.annotator] = Ballot(vote.comparison_id, vote.annotator, choice, size)
    return ReliabilityEvidence(tuple(ballots.values()), tuple(tests), tuple(repeats))


def weighted_best(votes: Iterable[Vote], reliability: Mapping[str, float] | None = None) -> int | None:
    """The answer of one comparison that its annotators find best, each with the log-odds of their reliability.

    What settles it stands alone. None where the weights are even, or nobody chose one.
    """
    counted = [vote for vote in votes if vote.purpose not in ("gold", "re-ask") and not vote.early]
    settled = settling(counted)
    weights: dict[int, float] = defaultdict(float)
    for vote in [settled] if settled else counted:
        choice = chosen(vote)
        if choice is not None:
            weights[choice] += log_odds(vote.annotator, reliability)
    top = max(weights.values(), default=0.0)
    best = [choice for choice, weight in weights.items() if weight == top]
    return best[0] if len(best) == 1 and top > 0 else None


# ------------------------------------------------------------------------------------------------------- the model
def chance_of_best(odds: Array, size: int) -> Array:
    """The chance of choosing the best of `size`, from the log-odds of choosing it over one other.

    Luce's choice axiom: the best has weight exp(odds), each other 1. A coin (log-odds 0) finds it with chance 1/K.
    """
    best: Array = 1 / (1 + (size - 1) * np.exp(-odds))
    return best


def chance_of_same(odds: Array, size: int) -> Array:
    """The chance of the same choice twice if errors are independent; r² + (1 - r)² for two answers."""
    best = chance_of_best(odds, size)
    same: Array = best**2 + (1 - best) ** 2 / (size - 1)
    return same


def log_prior(odds: Array) -> Array:
    """Beta prior with the mean of an unknown annotator, as a density of the log-odds: its mode is that mean."""
    right = UNKNOWN_RELIABILITY * PRIOR_WEIGHT
    density: Array = right * odds - PRIOR_WEIGHT * np.logaddexp(0.0, odds)
    return density


def log_repeats(repeats: Iterable[Repeat], odds: Array) -> Array:
    """Log-likelihood of one annotator's answers to what was asked twice.

    Somebody may be wrong in the same way both times, so consistency bounds reliability only from above: an unknown
    share of comparisons, uniform on (0, 1), is answered the same whatever happens, and the rest with the chance of
    `chance_of_same`. Averaging over the share makes inconsistency count in full and consistency for little.
    """
    counts = Counter((repeat.size, repeat.same) for repeat in repeats)
    total = np.zeros((len(odds), len(SYSTEMATIC)))
    for size in {size for size, _ in counts}:
        same = SYSTEMATIC + (1 - SYSTEMATIC) * chance_of_same(odds, size)[:, None]
        total += counts[size, True] * np.log(same) + counts[size, False] * np.log(1 - same)
    peak = total.max(axis=1)
    averaged: Array = peak + np.log(np.exp(total - peak[:, None]).mean(axis=1))
    return averaged


# ------------------------------------------------------------------------------------------------------ the ballots
@dataclass(frozen=True)
class Overlap:
    """Ballots on comparisons, as arrays with one entry a ballot; those on one comparison (item) lie together."""

    comparisons: Mapping[int, int]
    """The item of each comparison."""
    item: NDArray[np.int64]
    voter: NDArray[np.int64]
    choice: NDArray[np.int64]
    size: NDArray[np.int64]

    @property
    def items(self) -> int:
        """How many comparisons there are."""
        return int(self.item[-1]) + 1 if len(self.item) else 0

    def posterior(self, odds: Array) -> Array:
        """The chance of each answer (column) of each comparison (row) to be the best, given everybody's log-odds."""
        width = int(self.size.max(initial=2))
        cell = self.item * width + self.choice
        score = np.bincount(cell, odds[self.voter], self.items * width).reshape(self.items, width)
        sizes = np.zeros(self.items, dtype=np.int64)
        sizes[self.item] = self.size
        score = np.where(np.arange(width) < sizes[:, None], score, -np.inf)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        posterior: Array = weight / weight.sum(axis=1, keepdims=True)
        return posterior

    def chances(self, odds: Array) -> Array:
        chances: Array = self.posterior(odds)[self.item, self.choice]
        return chances


def overlap_of(ballots: Iterable[Ballot], place: Mapping[str, int], fewest: int = 2) -> Overlap:
    """The ballots of the annotators in `place` on comparisons with at least `fewest` of them."""
    groups: dict[int, list[Ballot]] = defaultdict(list)
    for ballot in ballots:
        if ballot.annotator in place:
            groups[ballot.comparison].append(ballot)
    kept = {comparison: group for comparison, group in groups.items() if len(group) >= fewest}
    rows = [(number, place[b.annotator], b.choice, b.size) for number, group in enumerate(kept.values()) for b in group]
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Overlap({comparison: number for number, comparison in enumerate(kept)}, *table.T)


# ------------------------------------------------------------------------------------------------------- estimating
def estimate(
    evidence: ReliabilityEvidence, annotators: Iterable[str] = (), distrusted: Iterable[str] = ()
) -> dict[str, Reliability]:
    """The reliability of everybody who appears, and of `annotators`, by name: the posterior's mode and 95% interval.

    `distrusted` annotators get an estimate, but their ballots say nothing about what is right.
    """
    ballots, known, repeats = evidence.ballots, evidence.known, evidence.repeats
    everyone = {*annotators, *(b.annotator for b in ballots), *(k.annotator for k in known)}
    everyone |= {repeat.annotator for repeat in repeats}
    outside = sorted(set(distrusted) & everyone)
    names = sorted(everyone - set(outside))
    place = {name: number for number, name in enumerate(names)}
    overlap = overlap_of(ballots, place)
    alone = own_evidence(names, known, repeats)
    odds = maximise(overlap, alone)
    variances = np.diag(np.linalg.inv(bounded(information(overlap, odds, alone)))) if names else odds
    shared = Counter(names[number] for number in overlap.voter)
    measured = {name: (odds[number], variances[number]) for name, number in place.items()}
    if outside:
        seen = overlap_of(ballots, place, fewest=1)
        beliefs = beliefs_in(ballots, outside, seen, seen.posterior(odds))
        measured |= observe(outside, beliefs, own_evidence(outside, known, repeats))
        shared += Counter({name: sum(len(b) for b in by_size.values()) for name, by_size in beliefs.items()})
    of_known, of_repeats = Counter(k.annotator for k in known), Counter(r.annotator for r in repeats)
    return {
        name: Reliability(*as_chances(middle, variance), shared[name], of_known[name], of_repeats[name])
        for name, (middle, variance) in measured.items()
    }


def as_chances(odds: float, variance: float) -> tuple[float, float, float]:
    """(estimate, low, high) as chances, from log-odds and their variance."""
    half = Z_95 * float(np.sqrt(variance))
    middle, low, high = (float(1 / (1 + np.exp(-end))) for end in (odds, odds - half, odds + half))
    return middle, low, high


def own_evidence(names: Sequence[str], known: Iterable[KnownAnswer], repeats: Iterable[Repeat]) -> Array:
    """For each annotator the log-posterior over GRID of all but the overlap: prior, known answers, re-asks."""
    table = np.tile(log_prior(GRID), (len(names), 1))
    place = {name: number for number, name in enumerate(names)}
    for (name, size, right), count in Counter((k.annotator, k.size, k.right) for k in known).items():
        if name in place:
            best = chance_of_best(GRID, size)
            table[place[name]] += count * np.log(best if right else 1 - best)
    asked: dict[str, list[Repeat]] = defaultdict(list)
    for repeat in repeats:
        asked[repeat.annotator].append(repeat)
    for name, own in asked.items():
        if name in place:
            table[place[name]] += log_repeats(own, GRID)
    return table


def maximise(overlap: Overlap, alone: Array) -> Array:
    """Everybody's log-odds by expectation maximisation (Dempster, Laird and Rubin 1977), from the unknown annotator.

    Expectation: the chance of each answer to be the best. Maximisation: for each annotator on a grid, which finds the
    top also where re-asks make the likelihood uneven.
    """
    count = len(alone)
    odds = np.full(count, log(UNKNOWN_RELIABILITY / (1 - UNKNOWN_RELIABILITY)))
    constant = alone.copy()
    for size in np.unique(overlap.size):
        ballots = np.bincount(overlap.voter[overlap.size == size], minlength=count)
        constant -= ballots[:, None] * np.log(np.exp(GRID) + size - 1)
    for _ in range(MOST_ROUNDS):
        right = np.bincount(overlap.voter, overlap.chances(odds), count)
        better = tops(constant + right[:, None] * GRID)
        change = float(np.abs(better - odds).max(initial=0.0))
        odds = better
        if change < CLOSE:
            break
    return odds


def tops(curves: Array) -> Array:
    """Where on GRID each row is highest, refined by the parabola through the highest point and its neighbours."""
    peak = np.clip(curves.argmax(axis=1), 1, len(GRID) - 2)
    rows = np.arange(len(curves))
    left, middle, right = (curves[rows, peak + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, (left - right) / (2 * np.where(bend < 0, bend, 1.0)), 0.0)
    found: Array = GRID[peak] + np.clip(shift, -1, 1) * (GRID[1] - GRID[0])
    return found


def information(overlap: Overlap, odds: Array, alone: Array) -> Array:
    """Negative second derivative of the log-posterior by everybody's log-odds: complete less missing (Louis 1982)."""
    count = len(odds)
    best = 1 / (1 + (overlap.size - 1) * np.exp(-odds[overlap.voter]))
    matrix: Array = np.diag(np.bincount(overlap.voter, best * (1 - best), count) + bends(alone, odds))
    chance = overlap.chances(odds)
    for gap in range(len(overlap.item)):
        here = np.flatnonzero(overlap.item[: len(overlap.item) - gap] == overlap.item[gap:])
        if not len(here):
            break
        there = here + gap
        same = overlap.choice[here] == overlap.choice[there]
        shared = np.where(same, chance[here], 0.0) - chance[here] * chance[there]
        np.subtract.at(matrix, (overlap.voter[here], overlap.voter[there]), shared)
        if gap:
            np.subtract.at(matrix, (overlap.voter[there], overlap.voter[here]), shared)
    return matrix


def bends(curves: Array, odds: Array) -> Array:
    """Negative second derivative of each row, a curve over GRID, at its own log-odds."""
    step, wide = GRID[1] - GRID[0], 10
    middle = np.clip(np.rint((odds - GRID[0]) / step).astype(np.int64), wide, len(GRID) - 1 - wide)
    rows = np.arange(len(curves))
    left, here, right = (curves[rows, middle + shift] for shift in (-wide, 0, wide))
    second: Array = (2 * here - left - right) / (wide * step) ** 2
    return second


def bounded(matrix: Array) -> Array:
    """The matrix with no information below LEAST_INFORMATION in any direction."""
    values, vectors = np.linalg.eigh(matrix)
    lifted: Array = (vectors * np.maximum(values, LEAST_INFORMATION)) @ vectors.T
    return lifted


Beliefs = Mapping[str, Mapping[int, Sequence[float]]]
SLICE = 500


def beliefs_in(ballots: Iterable[Ballot], names: Iterable[str], seen: Overlap, posterior: Array) -> Beliefs:
    """By annotator and number of answers: how far the others believe in each answer that the annotator chose."""
    found: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in names}
    for ballot in ballots:
        if ballot.annotator in found and ballot.comparison in seen.comparisons:
            belief = float(posterior[seen.comparisons[ballot.comparison], ballot.choice])
            found[ballot.annotator][ballot.size].append(belief)
    return found


def observe(names: Sequence[str], beliefs: Beliefs, curves: Array) -> dict[str, tuple[float, float]]:
    """(log-odds, variance) of annotators who are measured by what the others believe; `curves`: the rest they know."""
    for curve, name in zip(curves, names, strict=True):
        for size, chances in beliefs[name].items():
            best = chance_of_best(GRID, size)
            for start in range(0, len(chances), SLICE):  # so that a long table never lies in memory as a whole
                right = np.array(chances[start : start + SLICE])[:, None]
                curve += np.log(right * best + (1 - right) * (1 - best) / (size - 1)).sum(axis=0)
    found = tops(curves)
    variances = 1 / np.maximum(bends(curves, found), LEAST_INFORMATION)
    return {name: (float(found[number]), float(variances[number])) for number, name in enumerate(names)}
