"""Where data come from: who can have judged, which policies can have answered and how, what was imported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from annotation.database import Database
from annotation.records import AnnotatorKind
from annotation.store import setting_store


@dataclass(frozen=True)
class KnownAnnotator:
    id: int
    name: str
    kind: AnnotatorKind


def annotators(db: Database) -> list[KnownAnnotator]:
    """Everybody who can have judged, oldest first."""
    return [KnownAnnotator(**row) for row in db.rows("SELECT id, name, kind FROM annotator ORDER BY id")]


@dataclass(frozen=True)
class KnownModel:
    id: int
    revision: str
    algorithm: str
    base: str
    parent_id: int | None
    created: str


def models(db: Database) -> list[KnownModel]:
    """The policies that can have written answers, oldest first."""
    rows = db.rows("SELECT id, revision, algorithm, base, parent_id, created FROM model ORDER BY id")
    return [KnownModel(**row) for row in rows]


@dataclass(frozen=True)
class FinishedImport:
    name: str
    format: str
    created: str


def imports(db: Database) -> list[FinishedImport]:
    """What was imported, oldest first."""
    return [FinishedImport(**row) for row in db.rows("SELECT name, format, created FROM import ORDER BY id")]


def imports_since(db: Database, since: str) -> int:
    """How many imports were begun after `since` and are there as a whole."""
    unfinished = setting_store.setting(db, setting_store.UNFINISHED, None)
    return int(db.value("SELECT count(*) FROM import WHERE created >= ? AND id IS NOT ?", (since, unfinished)))


def samplings(db: Database) -> Mapping[str, list[str]]:
    """In which ways each policy's answers for comparisons were drawn, as JSON, by revision."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in db.rows(
        """SELECT DISTINCT m.revision, r.sampling FROM response r JOIN model m ON m.id = r.model_id
           WHERE r.purpose = 'compare' AND r.sampling IS NOT NULL ORDER BY r.sampling"""
    ):
        found[row["revision"]].append(row["sampling"])
    return found
