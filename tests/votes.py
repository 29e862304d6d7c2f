"""Judgements as the figures take them, made in a line."""

from __future__ import annotations

from typing import Any

from annotation.metrics.intervals_and_bias import Vote


def vote(comparison_id: int, annotator: str, ranking: tuple[int, ...] | None, **changes: Any) -> Vote:
    """An own judgement; the answers are shown by position and equally long unless `changes` says otherwise."""
    size = len(ranking or (1, 2))
    values: dict[str, Any] = {
        "id": 0,
        "comparison_id": comparison_id,
        "annotator": annotator,
        "purpose": "own",
        "kind": "pair" if size == 2 else "rank",
        "outcome": "all-bad" if ranking is None else "ranked",
        "ranking": ranking,
        "strength": None,
        "shown_order": tuple(range(size)),
        "seconds": None,
        "early": False,
        "created": "2026-11-01T10:00:00.000000+00:00",
        "first_ranking": None,
        "lengths": (10,) * size,
        "revisions": ("base",) * size,
    }
    return Vote(**{**values, **changes})


FIRST, SECOND, TIE = (1, 2), (2, 1), (1, 1)
