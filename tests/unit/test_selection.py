"""The order in which answers are shown: every order equally often."""

from __future__ import annotations

import random
from collections import Counter

from annotation.selection import draw_order


def test_every_order_comes_equally_often() -> None:
    """6,000 draws of the 6 orders of 3: each within five standard deviations of 1,000."""
    source = random.Random(7)
    counts = Counter(draw_order(3, source) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values())


def test_an_order_names_every_position_once() -> None:
    assert sorted(draw_order(8, random.Random(1))) == list(range(8))
