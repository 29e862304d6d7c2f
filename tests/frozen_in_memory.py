"""Training data made of judgements in memory, for tests that look at every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from annotation.database import Database
from annotation.exports.frozen_rows import PreferenceRow, line_of
from annotation.exports.preference_rows import PreferenceRows
from annotation.records import Judgement
from annotation.store import judgement_store


@dataclass(frozen=True)
class Frozen:
    """What came of freezing judgements."""

    rows: tuple[PreferenceRow, ...]
    left_out: Mapping[str, int]
    counts: Mapping[str, int]
    last_judgement_id: int

    @property
    def content(self) -> bytes:
        """The file that it would be."""
        return b"".join(line_of(row) for row in self.rows)


def current_judgements(db: Database) -> Iterator[Judgement]:
    """Current judgements, oldest first."""
    groups = judgement_store.judged_comparisons(db)
    yield from sorted((judgement for group in groups for judgement in group), key=lambda judgement: judgement.id)


def freeze(judged: Iterable[Judgement], max_length: int, **options: Any) -> Frozen:
    """All rows of these judgements, with the counts."""
    freezing = PreferenceRows(by_comparison(judged), max_length, **options)
    rows = tuple(freezing)
    return Frozen(rows, dict(freezing.left_out), dict(freezing.counts), freezing.last_judgement_id)


def by_comparison(judged: Iterable[Judgement]) -> list[list[Judgement]]:
    """Judgements grouped by comparison, in the order of each comparison's first."""
    groups: dict[int, list[Judgement]] = {}
    for judgement in judged:
        groups.setdefault(judgement.comparison_id, []).append(judgement)
    return list(groups.values())


def frozen(db: Database, **options: Any) -> Frozen:
    """What training would get."""
    return freeze(current_judgements(db), 512, excluded=judgement_store.excluded_annotators(db), **options)
