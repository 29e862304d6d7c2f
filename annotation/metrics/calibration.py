"""Calibration: how often people prefer what a model or a judge favours, and the temperature that makes it so. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Annotated

import numpy as np

from annotation.metrics.intervals_and_bias import Estimate, Share, wilson_interval
from annotation.validation import StoredAs

# Lower ends of the bins: the chance that is given to the answer that is favoured.
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9)
# Log-temperatures that are tried, from 1/100 to 100; a step is half a percent, far below what any data tell apart.
LOG_TEMPERATURES = np.linspace(-np.log(100), np.log(100), 1843)


@dataclass(frozen=True)
class PairMargin:
    """A pair by what its better answer has more than its worse one; those of a comparison share what that weighs."""

    score: float
    length: float
    weight: float
    stands_for: float = 1.0
    """What its comparison weighs: more than 1 where a draw gave it to people and not others like it."""


def credit(difference: float) -> float:
    """1 for a pair that is told rightly, 0 for the other way round, and a half for no difference."""
    return 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0


def weighted_share(credits: Sequence[tuple[float, float]]) -> Share:
    """The mean of (credit, weight) with Wilson's 95% interval; the sum of weights is the number of trials.

    A comparison of several pairs is one trial, whose credit may lie between 0 and 1. That varies at most as much as a
    trial that is right or wrong, so the interval is not too short.
    """
    trials = sum(weight for _, weight in credits)
    right = sum(value * weight for value, weight in credits)
    low, high = wilson_interval(min(right, trials), trials)
    return Share(right / trials if trials else None, low, high, round(trials))


@dataclass(frozen=True)
class Bin(Estimate):
    """How often people prefer the answer that it favours, of pairs of which it is about as sure."""

    start: Annotated[float, StoredAs("from")]
    end: Annotated[float, StoredAs("to")]
    predicted: float
    """The mean chance that it gives to that answer."""
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """How sure it is against how often it is right."""

    bins: tuple[Bin, ...]
    error: float
    """The expected calibration error (Naeini et al. 2015): the mean distance of both over the bins, by weight."""
    surplus: float
    """By how much it is surer than it is right."""

    @property
    def pairs(self) -> int:
        """How many pairs it rests on."""
        return sum(one.pairs for one in self.bins)


def calibration(pairs: Sequence[PairMargin]) -> Calibration:
    """How often the answer that is favoured is the one that people prefer, by the chance that it is given.

    That chance is sigmoid(|difference of scores|) (Bradley and Terry 1952), from 1/2 on.
    """
    total = sum(pair.weight for pair in pairs)
    bins, error, surplus = [], 0.0, 0.0
    for number, (low, members) in enumerate(zip(CONFIDENCES, by_confidence(pairs), strict=True)):
        if not members:
            continue
        weight = sum(pair.weight for pair in members)
        predicted = sum(confidence(pair) * pair.weight for pair in members) / weight
        worth = weight / sum(pair.weight * pair.stands_for for pair in members)  # of each unit of weight (Kish 1965)
        observed = weighted_share([(credit(pair.score), pair.weight * worth) for pair in members]).estimate
        assert observed is not None
        high = (*CONFIDENCES, 1.0)[number + 1]
        bins.append(Bin(**asdict(observed), start=low, end=high, predicted=predicted, pairs=len(members)))
        error += abs(observed.value - predicted) * weight / total
        surplus += (predicted - observed.value) * weight / total
    return Calibration(tuple(bins), error, surplus)


def fitted_temperature(pairs: Sequence[PairMargin]) -> float:
    """The temperature T by which sigmoid(difference of scores / T) says best how often people prefer an answer.

    Maximum likelihood over comparisons, as Guo et al. 2017 ("On Calibration of Modern Neural Networks", section 4.2),
    with a standard normal prior on log T: without it a few pairs that are all told rightly would give 0, and a model
    that is no better than a coin infinity.
    """
    margins, weights = (np.array([getattr(pair, name) for pair in pairs]) for name in ("score", "weight"))

    def loss(log_temperature: float) -> float:
        surprise = np.logaddexp(0.0, -margins * np.exp(-log_temperature))
        return float(weights @ surprise + log_temperature**2 / 2)

    return float(np.exp(min(LOG_TEMPERATURES.tolist(), key=loss)))


def confidence(pair: PairMargin) -> float:
    """The chance that is given to the answer that is favoured."""
    return 1 / (1 + exp(-min(abs(pair.score), 700.0)))


def by_confidence(pairs: Iterable[PairMargin]) -> list[list[PairMargin]]:
    bins: list[list[PairMargin]] = [[] for _ in CONFIDENCES]
    for pair in pairs:
        bins[bisect_right(CONFIDENCES, confidence(pair)) - 1].append(pair)
    return bins
