"""Evidence (e-values) of comparisons that holds however often one looks; length control, Cohen's kappa. Pure.

Outcomes lie in [0, 1]: a win is 1, a tie 1/2, a loss 0. They are bet on (Waudby-Smith and Ramdas 2024, "Estimating
means of bounded random variables by betting", JRSS B): who stakes a share f of a capital of 1 on each outcome x, at
odds that are fair if the mean is m, holds the product of 1 - f + f x / m. If the mean is at most m, that capital is not
expected to grow, so it ever reaches 1 / alpha with a chance of at most alpha (Ville 1939). What it holds is called an
e-value.

Of the paper's ways to bet this is a mixture of constant bets (its "hgKelly"), not the predictable plug-in. So the
capital depends only on how often each outcome came, not on the order: a judgement that is taken back leaves no trace,
and against a mean of 1/2 a tie changes nothing. Departures: the shares lie closer together near 0 and are weighed by
Beta(4, 8), because candidates are seldom far from 1/2; smaller shares than most of these could show nothing within the
few hundred prompts that there are. Intervals are not intersected over time, which is allowed and a little tighter, but
depends on the order and may leave nothing when opinions drift.

Outcomes that judges' verdicts correct (`annotation.metrics.evidence`) reach beyond [0, 1] by a weight w and vary less:
they are bet on as (x + w) / (1 + 2 w), with a share that is larger as their spread is smaller. Weight and spread of
each are fixed before it is seen, so the bets stay fair; what corrects it, and so the capital, depends on the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from annotation.metrics.agreement import RESAMPLES, SEED, percentiles
from annotation.metrics.intervals_and_bias import Array, Estimate, share_of

ROOTS: Array = (np.arange(24) + 0.5) / 24
BETS: Array = ROOTS**2
# Of the density f³ (1 - f)⁷ of Beta(4, 8); each bet stands for 2 u du of it.
BELIEFS: Array = ROOTS * BETS**3 * (1 - BETS) ** 7
LOG_WEIGHTS: Array = np.log(BELIEFS / BELIEFS.sum())
TINY = 1e-9
HALVINGS = 20


# ------------------------------------------------------------------------------------------------------------ betting
@dataclass(frozen=True)
class Stakes:
    """The different outcomes that were bet on, and how often each had come after each outcome."""

    values_V: Array
    weights_V: Array
    """How far each could have lain outside of [0, 1]."""
    spreads_V: Array
    """The variance that was expected of each, as a part of that of an outcome that nothing corrects."""
    counts_NV: Array

    @classmethod
    def of(cls, outcomes: ArrayLike, weights: ArrayLike = 0.0, spreads: ArrayLike = 1.0) -> Stakes:
        """Outcomes in the order in which they came."""
        given = np.asarray(outcomes, dtype=np.float64).reshape(-1)
        rows_N3 = np.stack(np.broadcast_arrays(given, np.asarray(weights), np.asarray(spreads)), axis=-1)
        inside = (given >= -rows_N3[:, 1]) & (given <= 1 + rows_N3[:, 1])
        assert np.all(inside), "outcomes lie in [0, 1], or beyond it by their weight"
        kinds_V3, places_N = np.unique(rows_N3, axis=0, return_inverse=True)
        counts_NV: Array = np.cumsum(np.eye(len(kinds_V3))[places_N.reshape(-1)], axis=0)
        values_V, weights_V, spreads_V = kinds_V3.T
        return cls(values_V, weights_V, spreads_V, counts_NV)

    @property
    def mirrored(self) -> Stakes:
        """The same, seen from the other side."""
        return replace(self, values_V=1 - self.values_V)

    @property
    def last(self) -> Stakes:
        """All outcomes, and no course of them."""
        return replace(self, counts_NV=self.counts_NV[-1:])


def running_interval(stakes: Stakes, alpha: float = 0.05) -> Array:
    """The interval of the mean after each outcome, (N, 2): all of them hold it together with a chance of 1 - alpha.

    The hedged capital process: half of alpha is bet on the mean being more, half on its being less. The lower end is
    over m where the capital that bets against a mean of at most m has grown to 2 / alpha or more.
    """
    low_N, less_N = (lower_limits(side, alpha / 2) for side in (stakes, stakes.mirrored))
    return np.stack([low_N, 1 - less_N], axis=1)


def anytime_mean(stakes: Stakes, alpha: float = 0.05) -> Estimate | None:
    """The mean with the last of its running intervals; None without outcomes."""
    count = len(stakes.counts_NV)
    if not count:
        return None
    low, high = running_interval(stakes.last, alpha)[0].tolist()
    return Estimate(float(stakes.counts_NV[-1] @ stakes.values_V) / count, low, high, count)


def growth(stakes: Stakes, mean: ArrayLike) -> Array:
    """The logarithm of what each bet makes of 1 at each outcome, (…, V, K), at odds that are fair for the mean, (…)."""
    room_V = 1 + 2 * stakes.weights_V
    shares_VK = np.minimum(BETS * (room_V / stakes.spreads_V)[:, None], BETS[-1])
    means = np.asarray(mean)[..., None]
    grown: Array = np.log1p(((stakes.values_V - means) / (means + stakes.weights_V))[..., None] * shares_VK)
    return grown


def log_sums(logs_NK: Array) -> Array:
    """The logarithm of the sum of each row's exponentials, (N,)."""
    largest_N = logs_NK.max(axis=-1)
    summed: Array = largest_N + np.log(np.exp(logs_NK - largest_N[..., None]).sum(axis=-1))
    return summed


def log_capitals(stakes: Stakes, mean: float = 0.5) -> Array:
    """The logarithm of the e-value against "the mean is at most `mean`" after each outcome, (N,)."""
    return log_sums(LOG_WEIGHTS + stakes.counts_NV @ growth(stakes, mean))


def lower_limits(stakes: Stakes, alpha: float) -> Array:
    """The greatest mean that the capital has grown to 1 / alpha against after each outcome, (N,).

    By halving, because the capital falls as the mean rises, and to the safe side.
    """
    low, high = np.zeros(len(stakes.counts_NV)), np.ones(len(stakes.counts_NV))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        logs = (stakes.counts_NV[:, None, :] @ growth(stakes, middle))[:, 0, :]
        refuted = log_sums(LOG_WEIGHTS + logs) >= -log(alpha)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


# Wins that are imagined beside those seen, and as many losses.
IMAGINED = 3.0
MOST_MORE = 100_000


def more_needed(stakes: Stakes, alpha: float = 0.05) -> int | None:
    """About how many more outcomes it takes until the e-value against "at most 1/2" is 1 / alpha; 0 once it is.

    As if each one to come were the mean of those seen and of 3 imagined wins and 3 losses, so that three wins of three
    do not promise much. It is an estimate: by then two of three such candidates are there. None where the mean is not
    above 1/2, or so little that it would take more than 100,000.
    """
    imagined = Stakes.of([0.0, 1.0])
    seen_V = stakes.counts_NV[-1] if len(stakes.counts_NV) else np.zeros(0)
    grown_VK, known_VK = growth(stakes, 0.5), growth(imagined, 0.5)
    total = seen_V.sum() + 2 * IMAGINED
    ahead = float(seen_V @ stakes.values_V + IMAGINED) / total
    start_K = LOG_WEIGHTS + seen_V @ grown_VK
    step_K = (seen_V @ grown_VK + IMAGINED * known_VK.sum(axis=0)) / total

    def reached(more: int) -> bool:
        return bool(log_sums(start_K + more * step_K) >= -log(alpha))

    if reached(0):
        return 0
    if ahead <= 0.5 + TINY or not reached(MOST_MORE):
        return None
    # The logarithm of the capital is convex in their number: once it is over the line it stays there.
    low, high = 0, MOST_MORE
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


# ----------------------------------------------------------------------------------------------------- length control
# Half of this times the squared coefficients is taken off the log-likelihood: next to nothing, but finite where the
# outcomes can be told from the lengths alone. Ten comparisons at 1/2 hold 250 times as much information.
RIDGE = 0.01
FEWEST_CONTROLLED = 10
MOST_STEPS, LONGEST_STEP, CLOSE = 100, 2.0, 1e-8


def length_controlled(
    outcomes: Sequence[float],
    lengths: Sequence[float],
    other_lengths: Sequence[float],
    clusters: Sequence[int] | None = None,
    level: float = 0.95,
) -> Estimate | None:
    """The win rate if both answers were of the same length (Dubois et al. 2024, "Length-Controlled AlpacaEval").

    Logistic regression of the outcome on a constant and tanh(difference / standard deviation of the differences); the
    win rate is that at a difference of 0. Left out is the paper's term for how hard an instruction is: it is learnt
    from many models' outcomes on the same instructions, and here are two. Interval of this `level`: percentile
    bootstrap over `clusters` (the prompts; by default each comparison is its own), of which `n` counts those; Wilson's
    95% where all outcomes are the same, because then so is every resample.
    None with fewer than 10 clusters, and where all differences are the same but 0, which tells nothing about 0.
    """
    won = np.asarray(outcomes, dtype=np.float64)
    differences = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    names, places_N = np.unique(np.arange(len(won)) if clusters is None else clusters, return_inverse=True)
    if len(names) < FEWEST_CONTROLLED or (np.ptp(differences) == 0 and differences[0] != 0):
        return None
    if np.ptp(won) == 0:
        return share_of(float(won[0]) * len(names), len(names))
    scale = float(differences.std()) or 1.0
    features = np.stack([np.ones(len(won)), np.tanh(differences / scale)])
    shares = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(SEED).multinomial(len(names), shares, size=RESAMPLES)[:, places_N]
    constants = logistic_fits(features, won, np.vstack([np.ones(len(won)), drawn]))[:, 0]
    rates: Array = 1 / (1 + np.exp(-constants))
    return Estimate(float(rates[0]), *percentiles(rates[1:], level), len(names))


def logistic_fits(features_FN: Array, outcomes_N: Array, weights_RN: Array) -> Array:
    """The coefficients of a logistic regression with RIDGE for each row of weights, (R, F), by Newton's method."""
    values = np.zeros((len(weights_RN), len(features_FN)))
    penalty = RIDGE * np.eye(len(features_FN))
    for _ in range(MOST_STEPS):
        chances_RN = 1 / (1 + np.exp(-(values @ features_FN)))
        gradient = (weights_RN * (outcomes_N - chances_RN)) @ features_FN.T - RIDGE * values
        spread_RN = weights_RN * chances_RN * (1 - chances_RN)
        information = np.einsum("fn,rn,gn->rfg", features_FN, spread_RN, features_FN, optimize=True) + penalty
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        # The likelihood is concave, but from afar a full step can overshoot.
        largest = np.abs(step).max(axis=1, keepdims=True)
        values += step * np.minimum(1.0, LONGEST_STEP / np.maximum(largest, TINY))
        if float(largest.max()) < CLOSE:
            break
    return values


# ---------------------------------------------------------------------------------------------------------- agreement
def kappas(tables: Any) -> Array:
    """Cohen's kappa of contingency tables (the last two axes); not a number where only one label was given."""
    counts = tables.sum(axis=(-2, -1))
    observed = np.trace(tables, axis1=-2, axis2=-1) / counts
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / counts**2
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)
    return found
