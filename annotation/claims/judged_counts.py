"""How many comparisons people have judged, and how many they shall judge: their quota."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from annotation.database import Database
from annotation.records import MAXIMUM_MINUTES

# Of a claim `k`: that it was judged after `since`, and at the soonest handed out at `earliest`, by which it is found.
JUDGED_SINCE = """k.state = 'judged' AND k.created >= :earliest AND (:since = '' OR (SELECT j.created FROM judgement j
    WHERE j.claim_id = k.id AND j.supersedes IS NULL) >= :since)"""


def judged_since(since: str) -> dict[str, str]:
    """The values of JUDGED_SINCE: nothing stays in hand for longer than the most minutes that a project can give."""
    earliest = (datetime.fromisoformat(since) - timedelta(minutes=MAXIMUM_MINUTES)).isoformat() if since else ""
    return {"since": since, "earliest": earliest}


def judged_by(db: Database, annotator_id: int, since: str = "") -> int:
    """How many comparisons this annotator has judged (skips aside) after `since`."""
    asked = {"annotator": annotator_id, **judged_since(since)}
    return int(db.value(f"SELECT count(*) FROM claim k WHERE annotator_id = :annotator AND {JUDGED_SINCE}", asked))


@dataclass(frozen=True)
class JudgedByOne:
    name: str
    count: int
    latest: str
    """When they last judged, changed or skipped one."""


def judged_by_each(db: Database, since: str) -> list[JudgedByOne]:
    """Who has judged how many comparisons (skips aside) after `since`; most first."""
    rows = db.rows(
        f"""SELECT a.name, count(*) AS count, (SELECT j.created FROM judgement j WHERE j.annotator_id = a.id
               ORDER BY j.id DESC LIMIT 1) AS latest
           FROM claim k JOIN annotator a ON a.id = k.annotator_id
           WHERE {JUDGED_SINCE} GROUP BY a.id ORDER BY count DESC, a.name""",
        judged_since(since),
    )
    return [JudgedByOne(**row) for row in rows]


def judged_by_judges(db: Database, since: str) -> int:
    """How many comparisons AI judges have judged after `since`, each counted once for every judge."""
    return int(
        db.value(
            """SELECT count(*) FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id
               WHERE a.kind = 'ai' AND j.created >= :since AND j.id > coalesce(
                   (SELECT id FROM judgement WHERE created < :since ORDER BY id DESC LIMIT 1), 0)""",
            {"since": since},
        )
    )


def judged_by_all(db: Database) -> int:
    """How many comparisons have been judged, each counted once for every annotator."""
    return int(db.value("SELECT count(*) FROM claim WHERE state = 'judged'"))


def quota_of(db: Database, annotator_id: int) -> int | None:
    """How many comparisons an annotator shall judge in all; None for no end."""
    quota = db.value("SELECT quota FROM annotator WHERE id = ?", (annotator_id,))
    return None if quota is None else int(quota)


def quota_reached(db: Database, annotator_id: int) -> bool:
    quota = quota_of(db, annotator_id)
    return quota is not None and judged_by(db, annotator_id) >= quota


# Who has judged as many comparisons as they shall: they get no more.
REACHED_QUOTA = """SELECT id FROM annotator q WHERE q.quota <=
    (SELECT count(*) FROM claim k WHERE k.annotator_id = q.id AND k.state = 'judged')"""
