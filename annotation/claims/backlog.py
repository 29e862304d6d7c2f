"""What waits for people: how much, for whom, and why somebody is given nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from annotation.claims.assignments import given_to
from annotation.claims.judged_counts import REACHED_QUOTA, quota_reached
from annotation.claims.stored_claims import UNSEEN
from annotation.database import Database
from annotation.store import project_store
from annotation.store.policy_comparisons import SKIPPED_FOR_GOOD, WOULD_NOT_COUNT
from annotation.translation import N_, _, ngettext

# Of a comparison `c`: that people may still be given it; parameters as `asked_of` has them.
TO_HAND_OUT = f"""(c.purpose = 'preference' AND c.state IN ('ready', 'writing') AND c.asks = 'people'
    AND c.taken < iif(c.candidate_id IS NULL, :overlap, :measured) AND NOT {SKIPPED_FOR_GOOD})"""
# That it waits for people: it is to be handed out, is in somebody's hands, or is assigned.
WAITS_FOR_PEOPLE = f"""({TO_HAND_OUT} OR c.purpose = 'preference' AND (c.assigned = 1
    OR c.id IN (SELECT comparison_id FROM claim WHERE state = 'held' AND slot IS NOT NULL)))"""


def asked_of(db: Database) -> dict[str, int]:
    """How many annotators a comparison has, and one of a candidate."""
    project = project_store.project(db)
    return {"overlap": project.overlap, "measured": int(project.candidate_share > 0)}


def waiting_for_people(db: Database) -> dict[int, int]:
    """How many comparisons wait for people, by their number of answers."""
    rows = db.rows(
        f"""SELECT size, count(*) AS n FROM (SELECT (SELECT count(*) FROM comparison_response cr
               WHERE cr.comparison_id = c.id) AS size FROM comparison c WHERE {WAITS_FOR_PEOPLE})
           GROUP BY size ORDER BY size""",
        asked_of(db),
    )
    return {row["size"]: row["n"] for row in rows}


@dataclass(frozen=True)
class Waiting:
    """How many of the comparisons that wait for people one annotator would be given, or is to settle.

    Gold and re-asks come in between, and count in hand only.
    """

    count: int
    """All of them, what is in hand included."""
    of_candidates: Mapping[int, int]
    """Those that measure a candidate, by its number."""


def waiting_for(db: Database, annotator_id: int) -> Waiting:
    """What waits for this annotator: neither what they have judged, nor what is first somebody else's to judge."""
    if quota_reached(db, annotator_id):
        return Waiting(0, {})
    asked = asked_of(db)
    rows = db.rows(
        f"""SELECT c.candidate_id, count(*) AS n FROM comparison c
            WHERE {TO_HAND_OUT} AND c.assigned = 0 AND ({UNSEEN}) AND NOT {WOULD_NOT_COUNT.format(":annotator")}
              AND (c.asked_by IS NULL OR c.taken > 0 OR c.asked_by = :annotator)
            GROUP BY c.candidate_id""",
        {"annotator": annotator_id, **asked},
    )
    of_candidates = {row["candidate_id"]: row["n"] for row in rows if row["candidate_id"] is not None}
    in_hand = db.row(
        """SELECT c.candidate_id FROM claim k JOIN comparison c ON c.id = k.comparison_id
           WHERE k.annotator_id = ? AND k.state = 'held'
             AND (k.purpose != 'settle' OR k.assigned_by IS NULL)""",
        (annotator_id,),
    )
    count = sum(row["n"] for row in rows) + given_to(db, annotator_id, asked["overlap"])
    if in_hand is not None and in_hand["candidate_id"] is not None:
        of_candidates[in_hand["candidate_id"]] = of_candidates.get(in_hand["candidate_id"], 0) + 1
    return Waiting(count + (in_hand is not None), of_candidates)


# More than so many are not counted for a sentence.
MOST_COUNTED = 100


def waiting_for_others(db: Database, annotator_id: int) -> int:
    """How many of them wait for somebody else who can sign in, and has not skipped them; not counted on for ever."""
    return int(
        db.value(
            f"""SELECT count(*) FROM (SELECT 1 FROM comparison c WHERE {WAITS_FOR_PEOPLE}
                  AND EXISTS (SELECT 1 FROM annotator a WHERE a.active AND a.kind = 'person' AND a.id != :annotator
                      AND (c.asked_by IS NULL OR c.taken > 0 OR c.asked_by = a.id) AND a.id NOT IN ({REACHED_QUOTA})
                      AND NOT {WOULD_NOT_COUNT.format("a.id")}
                      AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = a.id AND k.comparison_id = c.id
                          AND k.state IN ('judged', 'skipped')))
                LIMIT {MOST_COUNTED + 1})""",
            {"annotator": annotator_id, **asked_of(db)},
        )
    )


BY_JUDGES = {
    "people": "",
    "ai": N_("AI judges judge the comparisons. What takes a person appears here by itself."),
    "mixed": N_("AI judges judge the comparisons; you are asked where they can't label one."),
}


def why_none(db: Database, annotator_id: int) -> str:
    """Who judges what this annotator, who has nothing in hand, is not given; empty where nobody does."""
    by_judges, count = _(BY_JUDGES[project_store.feedback(db).mode]), waiting_for_others(db, annotator_id)
    if by_judges or not count:
        return by_judges
    if count > MOST_COUNTED:
        said = _("There is nothing more for you to judge; others are still to judge more than {count} comparisons.")
        return said.format(count=MOST_COUNTED)
    return ngettext(
        "There is nothing more for you to judge; others are still to judge {count} comparison.",
        "There is nothing more for you to judge; others are still to judge {count} comparisons.",
        count,
    ).format(count=count)


def gold_comparisons(db: Database) -> int:
    return int(db.value("SELECT count(*) FROM comparison WHERE purpose = 'gold' AND state = 'ready'"))
