"""Evidence from comparisons that holds however often one looks; length control, Cohen's kappa. Pure.

Outcomes lie in [0, 1]: a win is 1, a tie 1/2, a loss 0. They are bet on (Waudby-Smith and Ramdas 2024, "Estimating
means of bounded random variables by betting", JRSS B): who stakes a share f of a capital of 1 on each outcome x, at
odds that are fair if the mean is m, holds the product of 1 - f + f x / m. If the mean is at most m, that capital is not
expected to grow, so it ever reaches 1 / alpha with a chance of at most alpha (Ville 1939). What it holds is called an
e-value.

Of the paper's ways to bet this is a mixture of constant bets (its "hgKelly"), not the predictable plug-in. So the
capital depends only on how often each outcome came, not on the order: a judgement that is taken back leaves no trace,
and against a mean of 1/2 a tie changes nothing. Departures: the shares lie closer together near 0 and are weighed like
a Beta(4, 4) belief about the win rate, because candidates are seldom far from 1/2. Intervals are not intersected over
time, which is allowed and a little tighter, but depends on the order and may leave nothing when opinions drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from annotation.metrics.agreement import RESAMPLES, SEED, percentiles
from annotation.metrics.intervals_and_bias import Array, Estimate, share_of

ROOTS: Array = (np.arange(24) + 0.5) / 24
BETS: Array = ROOTS**2
# Of the density (1 - f²)³ of f = 2q - 1, where q is Beta(4, 4) above 1/2; each bet stands for 2 u du of it.
LOG_WEIGHTS: Array = np.log(ROOTS * (1 - BETS**2) ** 3) - log(float(np.sum(ROOTS * (1 - BETS**2) ** 3)))
TINY = 1e-9
HALVINGS = 20


# ------------------------------------------------------------------------------------------------------------ betting
def running_interval(outcomes: ArrayLike, alpha: float = 0.05) -> Array:
    """The interval of the mean after each outcome, (N, 2): all of them hold it together with a chance of 1 - alpha.

    The hedged capital process: half of alpha is bet on the mean being more, half on its being less. The lower end is
    over m where the capital that bets against a mean of at most m has grown to 2 / alpha or more.
    """
    values, counts_NV = tallies(outcomes)
    return both_limits(counts_NV, values, alpha)


def anytime_mean(outcomes: ArrayLike, alpha: float = 0.05) -> Estimate | None:
    """The mean with the last of its running intervals; None without outcomes."""
    values, counts_NV = tallies(outcomes)
    if not len(counts_NV):
        return None
    low, high = both_limits(counts_NV[-1:], values, alpha)[0].tolist()
    return Estimate(float(counts_NV[-1] @ values) / len(counts_NV), low, high, len(counts_NV))


def tallies(outcomes: ArrayLike) -> tuple[Array, Array]:
    """The different outcomes, (V,), and how often each has come after each outcome, (N, V)."""
    given = np.asarray(outcomes, dtype=np.float64).reshape(-1)
    assert np.all((given >= 0) & (given <= 1)), "outcomes lie in [0, 1]"
    values, places = np.unique(given, return_inverse=True)
    counts: Array = np.cumsum(np.eye(len(values))[places], axis=0)
    return values, counts


def growth(values: Array, mean: ArrayLike) -> Array:
    """The logarithm of what each bet makes of 1 at each outcome, (…, V, K), at odds that are fair for the mean, (…)."""
    grown: Array = np.log1p((values / np.asarray(mean)[..., None] - 1)[..., None] * BETS)
    return grown


def log_sums(logs_NK: Array) -> Array:
    """The logarithm of the sum of each row's exponentials, (N,)."""
    largest_N = logs_NK.max(axis=-1)
    summed: Array = largest_N + np.log(np.exp(logs_NK - largest_N[..., None]).sum(axis=-1))
    return summed


def both_limits(counts_NV: Array, values: Array, alpha: float) -> Array:
    """For each row of counts the interval of the mean, (N, 2), with half of alpha on either side."""
    sides_2NV = np.stack([np.broadcast_to(values, counts_NV.shape), np.broadcast_to(1 - values, counts_NV.shape)])
    low, less = lower_limits(np.stack([counts_NV, counts_NV]), sides_2NV, alpha / 2)
    return np.stack([low, 1 - less], axis=1)


def lower_limits(counts: Array, values: Array, alpha: float) -> Array:
    """The greatest mean that the capital has grown to 1 / alpha against, (…), of counts (…, V): it falls as that rises.

    By halving, and to the safe side. The mean of the outcomes is itself never refuted.
    """
    totals = np.maximum(counts.sum(axis=-1), 1)
    low, high = np.zeros(totals.shape), np.maximum((counts * values).sum(axis=-1) / totals, TINY)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        logs = (counts[..., None, :] @ growth(values, middle))[..., 0, :]
        refuted = log_sums(LOG_WEIGHTS + logs) >= -log(alpha)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


# Wins that are imagined beside those seen, and as many losses: as in the Beta(4, 4) of the bets.
IMAGINED = 3.0
MOST_MORE = 100_000


def more_needed(outcomes: ArrayLike, alpha: float = 0.05) -> int | None:
    """About how many more outcomes it takes until the e-value against "at most 1/2" is 1 / alpha; 0 once it is.

    As if each one to come were the mean of those seen and of 3 imagined wins and 3 losses, so that three wins of three
    do not promise much. It is an estimate: by then two of three such candidates are there. None where the mean is not
    above 1/2, or so little that it would take more than 100,000.
    """
    values, counts_NV = tallies([0.0, 1.0, *np.asarray(outcomes, dtype=np.float64).reshape(-1)])
    extremes = np.isin(values, (0.0, 1.0)).astype(np.float64)
    seen = counts_NV[-1] - extremes
    expected = seen + extremes * IMAGINED
    expected /= expected.sum()
    grown_VK = growth(values, 0.5)
    start_K, step_K = LOG_WEIGHTS + seen @ grown_VK, expected @ grown_VK

    def reached(more: int) -> bool:
        return bool(log_sums(start_K + more * step_K) >= -log(alpha))

    if reached(0):
        return 0
    if expected @ values <= 0.5 + TINY or not reached(MOST_MORE):
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
    outcomes: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float]
) -> Estimate | None:
    """The win rate if both answers were of the same length (Dubois et al. 2024, "Length-Controlled AlpacaEval").

    Logistic regression of the outcome on a constant and tanh(difference / standard deviation of the differences); the
    win rate is that at a difference of 0. Left out is the paper's term for how hard an instruction is: it is learnt
    from many models' outcomes on the same instructions, and here are two. Interval: percentile bootstrap over
    comparisons; Wilson's where all outcomes are the same, because then so is every resample.
    None with fewer than 10 comparisons, and where all differences are the same but 0, which tells nothing about 0.
    """
    won = np.asarray(outcomes, dtype=np.float64)
    differences = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    if len(won) < FEWEST_CONTROLLED or (np.ptp(differences) == 0 and differences[0] != 0):
        return None
    if np.ptp(won) == 0:
        return share_of(float(won.sum()), len(won))
    scale = float(differences.std()) or 1.0
    features = np.stack([np.ones(len(won)), np.tanh(differences / scale)])
    drawn = np.random.default_rng(SEED).multinomial(len(won), np.full(len(won), 1 / len(won)), size=RESAMPLES)
    constants = logistic_fits(features, won, np.vstack([np.ones(len(won)), drawn]))[:, 0]
    rates: Array = 1 / (1 + np.exp(-constants))
    return Estimate(float(rates[0]), *percentiles(rates[1:]), len(won))


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
