"""The evidence after each outcome, written out: what the intervals of `sequential_testing` must agree with."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from annotation.metrics.intervals_and_bias import Array
from annotation.metrics.sequential_testing import Stakes, log_capitals

LARGEST_LOG = 690.0


def evidence_for(outcomes: ArrayLike, null: float = 0.5) -> Array:
    """The e-value against "the mean is at most `null`" (between 0 and 1) after each outcome, (N,); up to e^690."""
    capital: Array = np.exp(np.minimum(log_capitals(Stakes.of(outcomes), null), LARGEST_LOG))
    return capital
