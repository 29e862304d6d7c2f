"""Where data come from: who can have judged, which policies can have answered and how, what was imported."""

from __future__ import annotations

from typing import Any

from annotation.database import Database
from annotation.store import setting_store


def annotators(db: Database) -> list[dict[str, Any]]:
    """Everybody who can have judged: id, name and kind, oldest first."""
    return db.rows("SELECT id, name, kind FROM annotator ORDER BY id")


def models(db: Database) -> list[dict[str, Any]]:
    """The policies that can have written answers, oldest first."""
    return db.rows("SELECT id, revision, algorithm, base, parent_id, created FROM model ORDER BY id")


def imports(db: Database) -> list[dict[str, Any]]:
    """What was imported: name, format and created, oldest first."""
    return db.rows("SELECT name, format, created FROM import ORDER BY id")


def imports_since(db: Database, since: str) -> int:
    """How many imports were begun after `since` and are there as a whole."""
    unfinished = setting_store.setting(db, setting_store.UNFINISHED, None)
    return int(db.value("SELECT count(*) FROM import WHERE created >= ? AND id IS NOT ?", (since, unfinished)))


def sampling_counts(db: Database) -> list[dict[str, Any]]:
    """How each policy's answers for comparisons were drawn: revision, sampling (JSON) and the number of answers."""
    return db.rows(
        """SELECT m.revision, r.sampling, count(*) AS answers FROM response r JOIN model m ON m.id = r.model_id
           WHERE r.purpose = 'compare' AND r.sampling IS NOT NULL GROUP BY m.id, r.sampling ORDER BY m.id, r.sampling"""
    )
