"""95% intervals for figures that vary with the seed of a training and with what it is tested on, by bootstrap.

A test item that one training gets wrong the next one often gets wrong too, so trainings × items are not as many
observations as there are cells. The pigeonhole bootstrap (Owen 2007, "The pigeonhole bootstrap") draws rows and columns
anew, each with replacement, and takes the mean over the cells that they cross in; it is conservative. Three seeds say
little about seeds, whatever is done with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 4000


class Interval(NamedTuple):
    """A mean with its 95% interval."""

    value: float
    low: float
    high: float


def crossed(values_SI: Sequence[Sequence[float]], draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of a table of seeds × items, with its percentile interval. One seed gives an interval over items."""
    table_SI = np.asarray(values_SI, dtype=np.float64)
    source = np.random.default_rng(seed)
    seeds, items = table_SI.shape
    means = []
    for _ in range(draws):
        rows, columns = source.integers(seeds, size=seeds), source.integers(items, size=items)
        means.append(table_SI[np.ix_(rows, columns)].mean())
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(table_SI.mean()), float(low), float(high))
