"""How comparisons are handed out: the share of held-out prompts and the order in which answers are shown. Pure."""

from __future__ import annotations

import random

# One comparison in six is on a held-out prompt: these measure every later adapter and are never trained on.
HELD_OUT_SHARE = 1 / 6


def draw_order(size: int, source: random.Random) -> tuple[int, ...]:
    """A uniformly drawn order in which to show `size` answers."""
    order = list(range(size))
    source.shuffle(order)
    return tuple(order)
