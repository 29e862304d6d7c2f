"""Figures about answers, judgements and annotators: intervals, diversity, biases, gold, consistency, speed. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import log, sqrt
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotation.records import Kind, Outcome, Purpose, counted_up
from annotation.translation import N_

Z_95 = 1.959963984540054
Array = NDArray[np.float64]
Ranking = tuple[int, ...]


# -------------------------------------------------------------------------------------------------------- intervals
def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927); (0, 1) without trials. A tie may count as half a success."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Share:
    """A share that is stored with its 95% interval; None where too little was there to tell it from `n` trials."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """None and 0 of early versions, which stored no interval."""

    @property
    def estimate(self) -> Estimate | None:
        if self.value is None or self.low is None or self.high is None:
            return None
        return Estimate(self.value, self.low, self.high, self.n)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def share_of(successes: float, trials: int) -> Estimate | None:
    """A share of independent trials with Wilson's interval; None without trials."""
    if trials == 0:
        return None
    return Estimate(successes / trials, *wilson_interval(successes, trials), trials)


def clustered_share(clusters: Iterable[tuple[float, float]]) -> Estimate | None:
    """A share of trials that come in clusters of (successes, trials), such as the judgements on one comparison.

    Wilson's interval with the trials divided by the design effect (Rao and Scott 1992), which is never taken to be
    under 1; where it can't be told (a share of 0 or 1), each cluster counts as one trial. n counts the clusters.
    """
    table = np.array([cluster for cluster in clusters if cluster[1]], dtype=np.float64).reshape(-1, 2)
    count = len(table)
    if count == 0:
        return None
    successes, trials = table.sum(axis=0)
    share = successes / trials
    spread = share * (1 - share)
    if count == 1 or spread <= 0:
        effective = float(count)
    else:
        residuals = table[:, 0] - share * table[:, 1]
        variance = count / (count - 1) * float(residuals @ residuals) / trials**2
        effective = trials / max(1.0, variance * trials / spread)
    return Estimate(float(share), *wilson_interval(float(share * effective), float(effective)), count)


# -------------------------------------------------------------------------------------------------------- diversity
def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different n-grams of words among all n-grams of the texts together (Li et al. 2016); 0 without any."""
    grams = [gram for text in texts for gram in word_ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_ratio(texts: Sequence[str], others: Sequence[str], n: int) -> float | None:
    """Distinct-n of texts over that of others to the same prompts, of the first words of both, as many of each.

    The more words, the fewer of them are new: uncut, longer answers would seem to repeat themselves. None where no pair
    is long enough for n words.
    """
    cut = [first_words(*pair) for pair in zip(texts, others, strict=True)]
    own, other = (distinct_n([pair[side] for pair in cut], n) for side in (0, 1))
    return own / other if other else None


def first_words(text: str, other: str) -> tuple[str, str]:
    words, others = text.split(), other.split()
    count = min(len(words), len(others))
    return " ".join(words[:count]), " ".join(others[:count])


def word_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


# ------------------------------------------------------------------------------------------------------- judgements
@dataclass(frozen=True, slots=True)
class Vote:
    """A current judgement as the figures need it: answers only as their lengths and policies, by position."""

    id: int
    comparison_id: int
    annotator: str
    purpose: Purpose
    kind: Kind
    outcome: Outcome
    ranking: Ranking | None
    strength: int | None
    shown_order: tuple[int, ...]
    seconds: float | None
    early: bool
    created: str
    first_ranking: Ranking | None
    """Of a re-ask: the ranking that was given the first time."""
    lengths: tuple[int, ...]
    revisions: tuple[str | None, ...]
    by_heads: bool = False
    """Whether heads chose its answers, because they disagree on them: no random comparison."""


@lru_cache(maxsize=4096)
def best_of(ranking: Ranking) -> tuple[int, ...]:
    """The positions ranked first: one, or several that are tied."""
    return tuple(position for position, rank in enumerate(ranking) if rank == 1)


def sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)


def chosen(vote: Vote) -> int | None:
    """The position of the answer ranked first alone; None after a tie for the first place, or without a ranking."""
    best = () if vote.ranking is None else best_of(vote.ranking)
    return best[0] if len(best) == 1 else None


OPINIONS: tuple[Purpose, ...] = ("own", "import")


def opinions(votes: Iterable[Vote]) -> list[Vote]:
    """Rankings that annotators gave independently of each other, once the answers were complete.

    Not those of gold comparisons and of comparisons to settle: the first were picked because they are clear, the
    second because people disagree on them, so both would tell nothing about the rest.
    """
    return [vote for vote in votes if vote.purpose in OPINIONS and vote.ranking is not None and not vote.early]


def overlapping(votes: Iterable[Vote]) -> list[list[Vote]]:
    """The opinions on each comparison that several annotators have judged, in the order of the comparisons' ids."""
    groups: dict[int, dict[str, Vote]] = defaultdict(dict)
    for vote in opinions(votes):
        groups[vote.comparison_id][vote.annotator] = vote
    return [list(groups[key].values()) for key in sorted(groups) if len(groups[key]) > 1]


# ----------------------------------------------------------------------------------------------------------- biases
@dataclass(frozen=True)
class Bias:
    """How often a choice fell on a marked answer, and how often it would without any bias."""

    name: str
    """As it is marked: figures are kept for readers of every language."""
    share: Estimate
    fair: float


def position_biases(votes: Iterable[Vote]) -> list[Bias]:
    """Share of decisive choices of the answer shown on the left (two) or first (more), against 1 / K."""
    names = (N_("Chose the left of two"), N_("Chose the first shown of several"))
    return biases(choices_by_place(votes), lambda vote: vote.shown_order[0], names)


def choices_by_place(votes: Iterable[Vote]) -> list[Vote]:
    """Choices of one answer among complete ones in drawn places: not imported ones, whose answers were not shown here,
    and no early ones, made before all answers were there."""
    return [vote for vote in votes if vote.purpose != "import" and not vote.early and chosen(vote) is not None]


def length_biases(votes: Iterable[Vote]) -> list[Bias]:
    """Share of decisive choices of the longer (two) or longest (more) answer in characters, against 1 / K.

    Measuring judgements (gold, re-asks) and equal lengths are left out.
    """
    trained = [vote for vote in votes if vote.purpose not in ("gold", "re-ask")]
    return biases(trained, longest, (N_("Chose the longer of two"), N_("Chose the longest of several")))


def longest(vote: Vote) -> int | None:
    top = max(vote.lengths)
    return vote.lengths.index(top) if vote.lengths.count(top) == 1 else None


def biases(votes: Iterable[Vote], marked: Any, names: tuple[str, str]) -> list[Bias]:
    """The bias towards the marked answer among two, and among more; clustered by comparison."""
    clusters: tuple[dict[int, list[float]], ...] = ({}, {})
    chances: tuple[list[float], ...] = ([], [])
    for vote in votes:
        choice, target = chosen(vote), marked(vote)
        if choice is None or target is None or vote.early:
            continue
        several = len(vote.lengths) > 2
        counted = clusters[several].setdefault(vote.comparison_id, [0.0, 0.0])
        counted[0] += choice == target
        counted[1] += 1
        chances[several].append(1 / len(vote.lengths))
    found = []
    for name, parts, chance in zip(names, clusters, chances, strict=True):
        share = clustered_share((successes, trials) for successes, trials in parts.values())
        if share is not None:
            found.append(Bias(name, Estimate(share.value, share.low, share.high, len(chance)), fmean(chance)))
    return found


# ------------------------------------------------------------------------------------------------------- annotators
@dataclass(frozen=True)
class AnnotatorFigures:
    """What one annotator's judgements say about them; None where there is nothing to tell."""

    name: str
    judgements: int
    """All that stand, what measures them too."""
    gold: Estimate | None
    """Share of comparisons with a known answer that were judged right; a tie with the known answer in it counts half
    (its share of the tie)."""
    consistency: Estimate | None
    """Share of comparisons asked again that were judged the same; a tie once and a preference once counts half."""
    first_place: Estimate | None
    """Share of decisive choices of what was shown on the left, or first."""
    fair: float
    """What that share would be without any bias: 1 / 2, or the mean of 1 / K."""
    seconds: float | None
    """The median time to a judgement."""
    hasty: int
    """Judgements far faster than both the annotator's own median and everybody's."""
    undecided: Estimate | None
    """Share of ties for the first place and of "all bad"."""
    agreement: Estimate | None
    """Share of others' judgements on the same comparisons that name the same best answer."""


def annotator_figures(
    votes: Sequence[Vote], known: Mapping[int, Sequence[int]], trusted: Iterable[str] | None = None
) -> list[AnnotatorFigures]:
    """Figures of everybody who judged, by name. `known` gives the best answers of gold comparisons.

    Agreement is with `trusted` annotators only (all by default), and on comparisons whose answers no heads chose.
    """
    by_name: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_name[vote.annotator].append(vote)
    agreeing_with = agreement_with_others([vote for vote in votes if not vote.by_heads], trusted)
    hasty = hasty_judgements(votes)
    names = sorted(by_name, key=counted_up)
    return [one_annotator(name, by_name[name], known, hasty[name], agreeing_with.get(name)) for name in names]


def one_annotator(
    name: str, votes: Sequence[Vote], known: Mapping[int, Sequence[int]], hasty: int, agreement: Estimate | None
) -> AnnotatorFigures:
    gold = [gold_credit(vote, known) for vote in votes if vote.purpose == "gold"]
    right = [credit for credit in gold if credit is not None]
    again = [
        overlap_of(vote.ranking, vote.first_ranking)
        for vote in votes
        if vote.purpose == "re-ask" and vote.ranking is not None and vote.first_ranking is not None
    ]
    own = [vote for vote in votes if vote.purpose not in ("gold", "re-ask")]
    decisive = choices_by_place(votes)
    seconds = [vote.seconds for vote in votes if vote.seconds is not None]
    return AnnotatorFigures(
        name=name,
        judgements=len(votes),
        gold=share_of(sum(right), len(right)),
        consistency=share_of(sum(again), len(again)),
        first_place=share_of(sum(chosen(vote) == vote.shown_order[0] for vote in decisive), len(decisive)),
        fair=fmean(1 / len(vote.shown_order) for vote in decisive) if decisive else 0.5,
        seconds=median(seconds) if seconds else None,
        hasty=hasty,
        undecided=share_of(sum(chosen(vote) is None for vote in own), len(own)),
        agreement=agreement,
    )


def gold_credit(vote: Vote, known: Mapping[int, Sequence[int]]) -> float | None:
    """1 for the known best answer, 0 for another, and for a tie the known answers' share of it; None if unknown."""
    if vote.ranking is None or vote.comparison_id not in known:
        return None
    best = best_of(vote.ranking)
    return len(set(best) & set(known[vote.comparison_id])) / len(best)


def overlap_of(ranking: Ranking, other: Ranking) -> float:
    """How far two rankings name the same best answers: 1 the same, 0 others, a tie with one of them between."""
    first, second = set(best_of(ranking)), set(best_of(other))
    return len(first & second) / len(first | second)


def agreement_with_others(votes: Iterable[Vote], trusted: Iterable[str] | None = None) -> dict[str, Estimate]:
    """For each annotator the share of (trusted) others' opinions on the same comparisons with the same best answer."""
    among = None if trusted is None else set(trusted)
    clusters: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for group in overlapping(votes):
        counted = [vote for vote in group if among is None or vote.annotator in among]
        counts = Counter(best_of(vote.ranking) for vote in counted if vote.ranking is not None)
        for vote in group:
            assert vote.ranking is not None
            mine = among is None or vote.annotator in among
            others = len(counted) - mine
            if others:
                clusters[vote.annotator].append((counts[best_of(vote.ranking)] - mine, others))
    found = {name: clustered_share(parts) for name, parts in clusters.items()}
    return {name: share for name, share in found.items() if share is not None}


# Robust standard deviations, of the logarithm of seconds; Iglewicz and Hoaglin 1993 call more than that an outlier.
FAR = 3.5
MAD_TO_DEVIATION = 1.4826
SMALLEST_DEVIATION = 0.2  # times that hardly differ make no outliers of trifles
FEWEST_TIMES = 10


def hasty_judgements(votes: Iterable[Vote]) -> Counter[str]:
    """How many judgements of each annotator are far faster than both their own median and everybody's.

    Far: by more than 3.5 robust standard deviations (1.4826 median absolute deviations) of the logarithm of seconds.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        if vote.seconds is not None:
            times[vote.annotator].append(log(max(vote.seconds, 1e-3)))
    limit = lower_limit([time for own in times.values() for time in own])
    found: Counter[str] = Counter()
    for name, own in times.items():
        both = min(limit, lower_limit(own))
        found[name] = sum(time < both for time in own)
    return found


def lower_limit(times: Sequence[float]) -> float:
    """Below this a log time is an outlier among those; minus infinity among few."""
    if len(times) < FEWEST_TIMES:
        return -np.inf
    middle = median(times)
    deviation = MAD_TO_DEVIATION * median(abs(time - middle) for time in times)
    return float(middle - FAR * max(deviation, SMALLEST_DEVIATION))
