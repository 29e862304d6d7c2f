"""What is known of an AI judge: its agreement with people, calibration, position and length bias. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import log
from statistics import fmean

import numpy as np

from annotation.metrics.agreement import RESAMPLES, SEED, percentiles
from annotation.metrics.calibration import Calibration, PairMargin, calibration
from annotation.metrics.intervals_and_bias import Array, Estimate, Ranking, sign, wilson_interval
from annotation.metrics.sequential_testing import kappas
from annotation.records import Kind
from rlhf.judges.verdicts import Choice, ResponsePair, combine

# What a judgement may say of answers (a, b): b is better, they are tied, a is better.
ORDERS = (-1, 0, 1)
# 1 for the same order, 1/2 where one of two judgements is a tie, 0 for opposite orders.
CREDITS: Array = 1 - np.abs(np.subtract.outer(ORDERS, ORDERS)) / 2
# A chance of 0 or 1, which floating-point numbers make of what is very likely, has no finite log-odds.
SUREST = 1e-9


# --------------------------------------------------------------------------------------------------- what is compared
@dataclass(frozen=True)
class PersonRanking:
    """How a person ranked the answers, by position; of a 'best' judgement only its first is told from the others."""

    name: str
    ranking: Ranking
    kind: Kind = "rank"

    def order(self, pair: ResponsePair) -> int | None:
        """1 if the first of two answers is better, -1 if the second, 0 for a tie; None where they were not compared."""
        found = order(self.ranking, pair)
        return None if self.kind == "best" and len(self.ranking) > 2 and found == 0 else found


@dataclass(frozen=True)
class JudgedComparison:
    comparison_id: int
    judged: Ranking
    people: tuple[PersonRanking, ...]
    chances: Mapping[ResponsePair, float]
    """The judge's probability that answer a is better than b, for a < b, both orders together; empty without any."""
    lengths: tuple[int, ...]
    """Of the answers, in characters."""
    picked: bool = False
    """Whether people were asked because judges contradicted themselves or each other or were unsure."""
    people_chance: float | None = None
    """By which a draw gave it to people; 1 without a draw, None where nobody noted it."""

    @property
    def weight(self) -> float:
        """How many comparisons it stands for, those among them that the draw did not give to people."""
        return 1 / (self.people_chance or 1.0)

    @property
    def pairs(self) -> list[ResponsePair]:
        return list(combinations(range(len(self.judged)), 2))


@dataclass(frozen=True)
class VerdictPair:
    """What a judge said of two answers in both orders."""

    comparison_id: int
    forward: Choice
    backward: Choice


def order(ranking: Ranking, pair: ResponsePair) -> int:
    """1 if the first of two answers is ranked better, -1 if the second is, 0 for a tie."""
    return sign(ranking[pair[1]] - ranking[pair[0]])


# ------------------------------------------------------------------------------------------------------------ figures
@dataclass(frozen=True)
class PairAgreement:
    """How far two sides agree on the order of two answers; n counts comparisons, however many each stands for."""

    share: Estimate
    """The mean credit: 1 for the same order, 1/2 where one of both is a tie, 0 for opposite orders."""
    kappa: Estimate | None
    """Cohen's kappa of first, tie and second; None where it is not defined or nothing tells its spread."""
    worth: float
    """As many comparisons that all weigh the same tell as much (Kish 1965)."""


@dataclass(frozen=True)
class Trust:
    """What is known of a judge; None for figures that nothing tells."""

    with_people: PairAgreement | None
    each_other: PairAgreement | None
    """People with each other, on those of these comparisons that several have judged."""
    calibration: Calibration | None
    flips: Estimate | None
    """Share of pairs on which it contradicts itself when the answers change places."""
    first_place: Estimate | None
    """Share of its verdicts, ties apart, for the answer shown first."""
    longer: Estimate | None
    """Share of pairs in which it prefers the longer answer, where it and somebody prefer one and lengths differ."""
    longer_people: Estimate | None
    """The same of people, on the same pairs."""
    picked: int
    """Comparisons that people were asked about because judges could not label them."""
    drawn: int
    """Those that people got by lot and not for certain."""


def trust(cases: Sequence[JudgedComparison], verdicts: Iterable[VerdictPair] = ()) -> Trust:
    """How far a judge can be trusted, from what people have judged too, and from all its verdicts in both orders."""
    longer, weights = [longer_chosen(case) for case in cases], [case.weight for case in cases]
    flips, firsts = by_place(verdicts)
    return Trust(
        with_people=agreement((case.weight, judge_trials(case)) for case in cases),
        each_other=agreement((case.weight, people_trials(case)) for case in cases),
        calibration=judges_calibration(cases),
        flips=one_say(flips),
        first_place=one_say(firsts),
        longer=one_say([judge for judge, _ in longer], weights),
        longer_people=one_say([people for _, people in longer], weights),
        picked=sum(case.picked for case in cases),
        drawn=sum(case.weight > 1 for case in cases),
    )


def agreement_alone(cases: Iterable[JudgedComparison]) -> PairAgreement | None:
    """A judge's agreement with people on such comparisons as it labels without them; None without any.

    Those that judges could not label are people's, and its ties are no labels. What is left is all alike, whatever
    share of it people got, so each counts once.
    """
    return agreement((1.0, [trial for trial in judge_trials(case) if trial[0]]) for case in cases if not case.picked)


def one_say(groups: Sequence[Sequence[float]], weights: Sequence[float] = ()) -> Estimate | None:
    """The mean over comparisons of the mean of each, with Wilson's interval on their number; None without any.

    With weights, on as many as they are worth. What lies between 0 and 1 varies at most as much as what is either, so
    the interval is not too short, however many pairs and people a comparison has. A bootstrap would end at 1 after
    three comparisons that all agree.
    """
    said = [
        (fmean(group), weight) for group, weight in zip(groups, weights or [1.0] * len(groups), strict=True) if group
    ]
    if not said:
        return None
    value, worth = weighted_mean(said)
    return Estimate(value, *wilson_interval(value * worth, worth), len(said))


def weighted_mean(said: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of (value, weight), and as many of them that all weigh the same tell as much (Kish 1965)."""
    total = sum(weight for _, weight in said)
    mean = sum(value * weight for value, weight in said) / total
    return mean, total**2 / sum(weight**2 for _, weight in said)


Trial = tuple[int, int]


def judge_trials(case: JudgedComparison) -> list[Trial]:
    """(the judge's order, a person's) for each person and each two answers that the person compared."""
    return [
        (order(case.judged, pair), said)
        for pair in case.pairs
        for person in case.people
        if (said := person.order(pair)) is not None
    ]


def people_trials(case: JudgedComparison) -> list[Trial]:
    """(a person's order, another's), counted both ways because neither of them comes first."""
    trials: list[Trial] = []
    for pair in case.pairs:
        said = [found for person in case.people if (found := person.order(pair)) is not None]
        trials += permutations(said, 2)
    return trials


def agreement(cases: Iterable[tuple[float, Sequence[Trial]]]) -> PairAgreement | None:
    """Agreement over the trials of each comparison, which has this weight; None without any.

    The interval is that of as many comparisons as they are worth.
    """
    met = [(weight, contingency(trials)) for weight, trials in cases if trials]
    if not met:
        return None
    weights, tables = np.array([weight for weight, _ in met]), np.stack([table for _, table in met])
    tables /= tables.sum(axis=(1, 2), keepdims=True)
    value, worth = weighted_mean(list(zip((tables * CREDITS).sum(axis=(1, 2)).tolist(), weights.tolist(), strict=True)))
    share = Estimate(value, *wilson_interval(value * worth, worth), len(met))
    return PairAgreement(share, kappa(tables, weights, worth), worth)


def contingency(trials: Sequence[Trial]) -> Array:
    found: Array = np.zeros((len(ORDERS), len(ORDERS)))
    for one, other in trials:
        found[ORDERS.index(one), ORDERS.index(other)] += 1
    return found


def kappa(tables: Array, weights: Array, worth: float) -> Estimate | None:
    """Cohen's kappa of comparisons' contingency tables together, with a percentile bootstrap over comparisons.

    Comparisons with the same table are drawn together as a multinomial, which is the same bootstrap, only faster.
    Where all agree, every resample does; there the lower end of Wilson's interval for their share takes its place.
    None where only one order was ever given, and where all tables are the same, which tells no spread.
    """
    count, weighted = len(tables), tables * weights[:, None, None]
    whole = weighted.sum(axis=0)
    if np.count_nonzero(whole.sum(axis=0) + whole.sum(axis=1)) < 2:
        return None
    if not np.any(whole - np.diag(np.diag(whole))):
        return Estimate(1.0, wilson_interval(worth, worth)[0], 1.0, count)
    if np.all(tables == tables[0]):
        return None
    patterns, times = np.unique(weighted.reshape(count, -1), axis=0, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(count, times / count, size=RESAMPLES)
    return Estimate(float(kappas(whole)), *percentiles(kappas((drawn @ patterns).reshape(-1, *whole.shape))), count)


def judges_calibration(cases: Iterable[JudgedComparison]) -> Calibration | None:
    """How often people prefer the answer that the judge finds likelier to be better, by that likelihood.

    Where a person prefers one of two answers; all such trials of a comparison weigh together what it stands for. None
    without chances.
    """
    margins: list[PairMargin] = []
    for case in cases:
        odds = [
            preferred * log_odds(case.chances[pair])
            for pair in case.pairs
            for person in case.people
            if pair in case.chances and (preferred := person.order(pair))
        ]
        margins += [PairMargin(score, 0.0, case.weight / len(odds), case.weight) for score in odds]
    return calibration(margins) if margins else None


def log_odds(chance: float) -> float:
    """The difference of Bradley–Terry scores that gives this chance."""
    kept = min(max(chance, SUREST), 1 - SUREST)
    return log(kept / (1 - kept))


def by_place(verdicts: Iterable[VerdictPair]) -> tuple[list[list[float]], list[list[float]]]:
    """For each comparison: which of its pairs were flipped, and which of its single verdicts named the first shown."""
    flips: dict[int, list[float]] = defaultdict(list)
    firsts: dict[int, list[float]] = defaultdict(list)
    for said in verdicts:
        flips[said.comparison_id].append(float(combine(said.forward, said.backward).flipped))
        firsts[said.comparison_id] += [
            float(choice == "first") for choice in (said.forward, said.backward) if choice != "tie"
        ]
    return list(flips.values()), list(firsts.values())


def longer_chosen(case: JudgedComparison) -> tuple[list[float], list[float]]:
    """Whether the judge, and on the same pairs people, preferred the longer answer; ties and equal lengths apart."""
    judge, people = [], []
    for pair in case.pairs:
        longer, judged = sign(case.lengths[pair[0]] - case.lengths[pair[1]]), order(case.judged, pair)
        said = [preferred for person in case.people if (preferred := person.order(pair))]
        if longer and judged and said:
            judge.append(float(judged == longer))
            people.append(fmean(preferred == longer for preferred in said))
    return judge, people


# -------------------------------------------------------------------------------------------------------------- basis
@dataclass(frozen=True)
class TrustBasis:
    """Which of a judge's verdicts its figures rest on."""

    version: int | None
    """Of the rubric that it goes by; None for a reward model, which goes by none."""
    left_out: int
    """Verdicts by other versions, or on other weights."""
    model: str = ""
    """The revision that judges, where it was trained here."""
    frozen: str = ""
    """When the last data were frozen that it was trained on."""
    seen: int = 0
    """Comparisons that do not count, because those data may hold them."""
