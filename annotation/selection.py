"""Which comparison comes next and in which order its answers are shown. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from annotation.records import Split

# One judgement in six goes to held-out prompts: they measure every later adapter and are never trained on.
HELD_OUT_SHARE = 1 / 6


@dataclass(frozen=True)
class Candidate:
    """An open comparison. `fresh` means that the policy which serves now wrote it."""

    comparison_id: int
    split: Split
    fresh: bool


def choose(pool: Sequence[Candidate], judged: Mapping[str, int]) -> Candidate | None:
    """The next comparison: the split that is behind its share, then answers of the serving policy, then the oldest.

    `judged` counts the judgements so far by split. Falls back to the other split rather than let a person wait.
    """
    if not pool:
        return None
    total = sum(judged.values()) + 1
    wanted: Split = "held-out" if judged.get("held-out", 0) < int(total * HELD_OUT_SHARE) else "train"
    return min(pool, key=lambda candidate: (candidate.split != wanted, not candidate.fresh, candidate.comparison_id))


def draw_order(size: int, source: random.Random) -> tuple[int, ...]:
    """A uniformly drawn order in which to show `size` answers."""
    order = list(range(size))
    source.shuffle(order)
    return tuple(order)
