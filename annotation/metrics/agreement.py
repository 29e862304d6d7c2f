"""Agreement of annotators: percent agreement and Krippendorff's alpha with bootstrap intervals, and over time. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from annotation.metrics.intervals_and_bias import (
    Array,
    Estimate,
    Vote,
    best_of,
    chosen,
    clustered_share,
    opinions,
    overlapping,
    sign,
    wilson_interval,
)
from annotation.translation import N_, _

RESAMPLES = 1000
SEED = 20_240_601


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree on one question, over the comparisons that several of them have judged."""

    question: str
    """As it is marked, with a place for the size: figures are kept for readers of every language."""
    size: int
    level: Literal["nominal", "ordinal"]
    comparisons: int
    judgements: int
    percent: Estimate
    """Share of pairs of judgements that say the same."""
    alpha: Estimate | None
    """Krippendorff's alpha: 1 full agreement, 0 what chance would give; None where only one answer was ever given."""

    def asked(self) -> str:
        return _(self.question).format(size=self.size)


def agreements(votes: Iterable[Vote]) -> list[Agreement]:
    """Agreement on each question that comparisons with several annotators ask.

    The best answer: nominal, a tie for the first place being an answer of its own. How much better (two answers with
    a strength): ordinal, from -3 to 3. Rankings of more than two: the order of each two answers, nominal; the pairs
    of one comparison are resampled together. "All bad" says nothing about the order and counts nowhere here.
    """
    groups = overlapping(votes)
    found: list[Agreement] = []
    for size in sorted({len(group[0].lengths) for group in groups}):
        sized = [group for group in groups if len(group[0].lengths) == size]
        question = N_("Which of two is better, or neither") if size == 2 else N_("Which of {size} is best")
        found.extend(measure(question, size, "nominal", [best_answers(group) for group in sized]))
        if size == 2:
            strengths = [signed_strengths(group) for group in sized]
            found.extend(measure(N_("How much better, from −3 to 3"), size, "ordinal", strengths))
        else:
            rankings = [pairwise_orders(group, size) for group in sized]
            found.extend(measure(N_("Order of each two of {size}"), size, "nominal", rankings))
    return found


CodedUnit = list[Any]
# ((((value, times given), …), how many units), …)
Pattern = tuple[tuple[tuple[tuple[int, int], ...], int], ...]


def best_answers(group: Sequence[Vote]) -> list[CodedUnit]:
    """One unit: the set of answers that each annotator ranks first."""
    return [[best_of(vote.ranking) for vote in group if vote.ranking is not None]]


def signed_strengths(group: Sequence[Vote]) -> list[CodedUnit]:
    """One unit: how much better each annotator finds the first answer, below 0 where the second is better."""
    return [
        [
            sign(vote.ranking[1] - vote.ranking[0]) * vote.strength
            for vote in group
            if vote.ranking is not None and vote.strength is not None
        ]
    ]


def pairwise_orders(group: Sequence[Vote], size: int) -> list[CodedUnit]:
    """A unit for each two answers: which of them each annotator who ranked them all puts first, 0 for a tie."""
    rankings = [vote.ranking for vote in group if vote.ranking is not None and vote.kind == "rank"]
    return [[sign(r[second] - r[first]) for r in rankings] for first, second in combinations(range(size), 2)]


def measure(
    question: str, size: int, level: Literal["nominal", "ordinal"], comparisons: Sequence[Sequence[CodedUnit]]
) -> list[Agreement]:
    """Percent agreement and Krippendorff's alpha of the comparisons' units; nothing where no unit has two values."""
    pairable = [units for units in ([u for u in units if len(u) > 1] for units in comparisons) if units]
    if not pairable:
        return []
    values = sorted({value for units in pairable for unit in units for value in unit})
    place = {value: number for number, value in enumerate(values)}
    matrices = Counter(pattern_of(units, place) for units in pairable)
    patterns = np.stack([sum_of_coincidences(units, len(values)) for units in matrices])
    percent, alpha = with_intervals(patterns, np.array(list(matrices.values())), level)
    judgements = sum(max(len(unit) for unit in units) for units in pairable)
    return [
        Agreement(
            question=question,
            size=size,
            level=level,
            comparisons=len(pairable),
            judgements=judgements,
            percent=percent,
            alpha=alpha,
        )
    ]


def pattern_of(units: Iterable[CodedUnit], place: Mapping[Any, int]) -> Pattern:
    """How often each value was given in each of a comparison's units: comparisons with the same pattern are alike."""
    counts = Counter(tuple(sorted(Counter(place[value] for value in unit).items())) for unit in units)
    return tuple(sorted(counts.items()))


def sum_of_coincidences(units: Pattern, size: int) -> Array:
    """The coincidence matrix of one comparison's units.

    A unit with m values adds each ordered pair of them with weight 1 / (m - 1) (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability").
    """
    total = np.zeros((size, size))
    for counts, times in units:
        unit = np.zeros(size)
        for value, count in counts:
            unit[value] = count
        total += times * (np.outer(unit, unit) - np.diag(unit)) / (unit.sum() - 1)
    return total


def with_intervals(
    patterns: Array, occurrences: NDArray[np.int64], level: Literal["nominal", "ordinal"]
) -> tuple[Estimate, Estimate | None]:
    """Percent agreement and alpha with 95% percentile intervals over resampled comparisons (Zapf et al. 2016).

    Comparisons with the same coincidences are drawn together as a multinomial, which is the same bootstrap, only
    faster. A resample of unanimous comparisons is unanimous; there Wilson's interval on their number takes its place
    (and for alpha, as if a disagreement were as large as one by chance).
    """
    comparisons = int(occurrences.sum())
    drawn = np.random.default_rng(SEED).multinomial(comparisons, occurrences / comparisons, size=RESAMPLES)
    flat = patterns.reshape(len(patterns), -1)
    whole = (occurrences @ flat).reshape(patterns.shape[1:])
    resampled = (drawn @ flat).reshape(RESAMPLES, *patterns.shape[1:])
    if not np.any(whole - np.diag(np.diag(whole))):
        low = wilson_interval(comparisons, comparisons)[0]
        percent = Estimate(1.0, low, 1.0, comparisons)
        return percent, None if len(whole) == 1 else percent
    alpha = float(krippendorff_alpha(whole, level))
    return (
        Estimate(float(agreeing(whole)), *percentiles(agreeing(resampled)), comparisons),
        None if np.isnan(alpha) else Estimate(alpha, *percentiles(krippendorff_alpha(resampled, level)), comparisons),
    )


def percentiles(values: Array, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of a bootstrap's values; resamples in which the figure is undefined are left out."""
    low, high = np.nanpercentile(values, (50 * (1 - level), 50 * (1 + level)))
    return float(low), float(high)


def agreeing(coincidences: Array) -> Array:
    """Percent agreement: the diagonal's share of the last two axes."""
    diagonal: Array = np.trace(coincidences, axis1=-2, axis2=-1)
    shares: Array = diagonal / coincidences.sum(axis=(-2, -1))
    return shares


def krippendorff_alpha(coincidences: Array, level: Literal["nominal", "ordinal"]) -> Array:
    """Krippendorff's alpha of coincidence matrices (the last two axes): 1 - observed / expected disagreement.

    Krippendorff 2011, sections C and D; ordinal distances follow from how often each value was given. Not a number
    where only one value was given.
    """
    given = coincidences.sum(axis=-1)
    n = given.sum(axis=-1)
    distance = ordinal_distances(given) if level == "ordinal" else 1 - np.eye(given.shape[-1])
    observed = (coincidences * distance).sum(axis=(-2, -1))
    expected = (given[..., :, None] * given[..., None, :] * distance).sum(axis=(-2, -1)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha: Array = np.where(expected > 0, 1 - observed / expected, np.nan)
    return alpha


def ordinal_distances(given: Array) -> Array:
    """Squared ordinal distances between values c and k: (n_c / 2 + all between + n_k / 2) squared."""
    middles = np.cumsum(given, axis=-1) - given / 2
    distances: Array = (middles[..., :, None] - middles[..., None, :]) ** 2
    return distances


@dataclass(frozen=True)
class Period:
    """Agreement on the best answer among comparisons judged in a stretch of time."""

    last: str
    percent: Estimate


PERIODS, FEWEST = 12, 10


def agreement_over_time(votes: Iterable[Vote]) -> list[Period]:
    """Percent agreement of up to 12 equal groups of comparisons (10 or more in each), by their last judgement."""
    groups = sorted(overlapping(votes), key=lambda group: max(vote.created for vote in group))
    count = min(PERIODS, len(groups) // FEWEST)
    edges = [len(groups) * number // count for number in range(count + 1)] if count else []
    periods = []
    for start, end in pairwise(edges):
        part = groups[start:end]
        percent = clustered_share(agreeing_judgements(group) for group in part)
        assert percent is not None
        periods.append(Period(max(vote.created for vote in part[-1]), percent))
    return periods


def agreeing_judgements(group: Sequence[Vote]) -> tuple[float, int]:
    """(how many of a comparison's judgements the others agree with, judgements): as `agreeing` weighs comparisons."""
    counts = Counter(best_of(vote.ranking) for vote in group if vote.ranking is not None)
    same = sum(count * (count - 1) for count in counts.values())
    return same / (len(group) - 1), len(group)


# ---------------------------------------------------------------------------------------------- clear and disputed
@dataclass(frozen=True)
class Dispute:
    """A comparison of which two annotators order some two answers in opposite ways."""

    comparison_id: int
    annotators: int
    disagreement: float
    """Mean distance of two annotators' orders of two answers: 1 opposite, half a tie against an order, 0 the same."""
    spread: int
    """Between the most different strengths, of 6; 0 where there are none."""


def disputes(votes: Iterable[Vote], settled: Container[int]) -> list[Dispute]:
    """Comparisons whose annotators contradict each other and that are not settled, the most disagreement first."""
    found = []
    for group in overlapping(votes):
        if group[0].comparison_id in settled:
            continue
        distances = [
            abs(one - other)
            for values in zip(*(orders(vote) for vote in group), strict=True)
            for one, other in combinations([value for value in values if value is not None], 2)
        ]
        if 2 in distances:
            strengths = [value for unit in signed_strengths(group) for value in unit]
            spread = max(strengths) - min(strengths) if strengths and len(group[0].lengths) == 2 else 0
            found.append(Dispute(group[0].comparison_id, len(group), sum(distances) / len(distances) / 2, spread))
    return sorted(found, key=lambda dispute: (-dispute.disagreement, -dispute.spread, dispute.comparison_id))


def orders(vote: Vote) -> list[int | None]:
    """Of each two answers which this vote puts first, 0 for a tie; None for two that it did not compare."""
    ranking = vote.ranking or ()
    signs = [sign(ranking[second] - ranking[first]) for first, second in combinations(range(len(ranking)), 2)]
    unranked = vote.kind == "best" and len(ranking) > 2
    return [None if unranked and value == 0 else value for value in signs]


@dataclass(frozen=True)
class ClearCase:
    """A comparison all of whose annotators chose the same best answer."""

    comparison_id: int
    best: int
    annotators: int
    strength: float | None


def clear_cases(votes: Iterable[Vote], limit: int) -> list[ClearCase]:
    """Comparisons with one best answer for all, those with the most annotators and then the greatest strength first."""
    groups: dict[int, list[Vote]] = defaultdict(list)
    for vote in opinions(votes):
        groups[vote.comparison_id].append(vote)
    found = []
    for comparison_id, group in groups.items():
        best = {chosen(vote) for vote in group}
        only = best.pop() if len(best) == 1 else None
        if only is not None:
            strengths = [vote.strength for vote in group if vote.strength is not None]
            found.append(ClearCase(comparison_id, only, len(group), fmean(strengths) if strengths else None))
    found.sort(key=lambda case: (-case.annotators, -(case.strength or 0), case.comparison_id))
    return found[:limit]
