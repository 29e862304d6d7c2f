"""Which comparisons a bulk change gives to whom, to judge or to settle, and for how long that stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annotation.claims.judged_counts import REACHED_QUOTA, judged_by, quota_of
from annotation.claims.stored_claims import UNSEEN
from annotation.database import Database
from annotation.store import project_store
from annotation.store.policy_comparisons import SKIPPED_FOR_GOOD, WOULD_NOT_COUNT

# The annotators to whom a bulk change `x` gives comparisons, by name or as those of a group.
GIVEN_TO = "SELECT x.annotator_id UNION ALL SELECT annotator_id FROM annotator_group WHERE name = x.group_name"

# CROSS: in this order, from the few that stand.
STANDING = f"""FROM bulk_change x
    CROSS JOIN bulk_change_comparison i ON i.change_id = x.id AND i.state = 'stands'
    CROSS JOIN comparison c ON c.id = i.comparison_id
    WHERE x.kind = :kind AND :annotator IN ({GIVEN_TO}) AND c.purpose = 'preference'
      AND (:kind = 'assign' OR (SELECT role FROM annotator WHERE id = :annotator) = 'admin')
      AND c.state IN ('ready', 'writing', 'closed', 'withdrawn')
      AND (:kind = 'settle' OR c.state != 'withdrawn' AND NOT {SKIPPED_FOR_GOOD} AND {UNSEEN}
        AND NOT {WOULD_NOT_COUNT.format(":annotator")} AND (
          x.group_name IS NULL OR c.taken < :overlap OR NOT EXISTS (SELECT 1 FROM claim k
              JOIN annotator_group g ON g.annotator_id = k.annotator_id
              WHERE g.name = x.group_name AND k.comparison_id = c.id AND k.state IN ('held', 'judged'))))"""


def standing_assignment(db: Database, annotator_id: int, kind: str, overlap: int) -> tuple[int, int] | None:
    """What an annotator is to judge ('assign') or to settle ('settle') first: the comparison, and the bulk change.

    Nobody judges anew what they have judged or skipped. A group's goes to as many of it as a comparison has annotators,
    and to one at least, whoever else has judged it; a person's to that person in any case.
    """
    row = db.row(
        f"SELECT i.comparison_id, i.change_id {STANDING} ORDER BY x.id, i.comparison_id LIMIT 1",
        {"annotator": annotator_id, "kind": kind, "overlap": overlap},
    )
    return None if row is None else (int(row["comparison_id"]), int(row["change_id"]))


def given_to(db: Database, annotator_id: int, overlap: int) -> int:
    """How many comparisons an annotator is still to judge or to settle because they were assigned."""
    return sum(
        int(
            db.value(
                f"SELECT count(DISTINCT i.comparison_id) {STANDING}",
                {"annotator": annotator_id, "kind": kind, "overlap": overlap},
            )
        )
        for kind in ("assign", "settle")
    )


# Of comparison `i.comparison_id` in the assignment `x`: that somebody is still to judge it under it.
STILL_TO_JUDGE = f"""SELECT EXISTS (SELECT 1 FROM annotator a WHERE a.active AND a.id IN ({GIVEN_TO})
        AND a.id NOT IN ({REACHED_QUOTA})
        AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = a.id AND k.comparison_id = i.comparison_id
            AND k.state IN ('judged', 'skipped'))
        AND NOT EXISTS (SELECT 1 FROM comparison c
            WHERE c.id = i.comparison_id AND {WOULD_NOT_COUNT.format("a.id")}))
    AND NOT (x.group_name IS NOT NULL
        AND (SELECT count(*) FROM claim k WHERE k.comparison_id = i.comparison_id AND k.state = 'judged'
            AND k.slot IS NOT NULL) >= :overlap
        AND EXISTS (SELECT 1 FROM claim k JOIN annotator_group g ON g.annotator_id = k.annotator_id
            WHERE g.name = x.group_name AND k.comparison_id = i.comparison_id AND k.state = 'judged'))
    AND NOT EXISTS (SELECT 1 FROM comparison c WHERE c.id = i.comparison_id AND {SKIPPED_FOR_GOOD})"""
SETTLED = """SELECT EXISTS (SELECT 1 FROM claim k WHERE k.assigned_by = x.id AND k.comparison_id = i.comparison_id
    AND k.state IN ('judged', 'skipped'))"""


def follow_assignments(db: Database, comparison_id: int | None = None) -> None:
    """Note which assignments of a comparison, or of all, still stand, inside the caller's transaction.

    One ends when everybody whom it names has judged or skipped the comparison, can't sign in any more, or has reached
    their quota, would not count, or when somebody skips it for good. While one stands nobody else gets the comparison.
    What was taken back never stands again.
    """
    if (
        comparison_id
        and db.row("SELECT 1 FROM bulk_change_comparison WHERE comparison_id = ?", (comparison_id,)) is None
    ):
        return
    mine = "comparison_id = :comparison" if comparison_id else "1"
    db.connection.execute(
        f"""UPDATE bulk_change_comparison AS i SET state = (SELECT iif(
                CASE x.kind WHEN 'settle' THEN NOT ({SETTLED}) ELSE ({STILL_TO_JUDGE}) END, 'stands', 'done')
            FROM bulk_change x WHERE x.id = i.change_id) WHERE state IN ('stands', 'done') AND {mine}
              AND change_id IN (SELECT id FROM bulk_change WHERE undone IS NULL)""",
        {"overlap": project_store.project(db).overlap, "comparison": comparison_id},
    )
    among = f"SELECT comparison_id FROM bulk_change_comparison WHERE state IS NOT NULL AND {mine}"
    hold_back(db, among, {"comparison": comparison_id})


def follow_act(db: Database, annotator_id: int, comparison_id: int) -> None:
    """Note what a judgement, or its undo, does to assignments: to all, where it may be the one that ends a quota."""
    quota = quota_of(db, annotator_id)
    at_its_end = quota is not None and judged_by(db, annotator_id) in (quota - 1, quota)
    follow_assignments(db, None if at_its_end else comparison_id)


def hold_back(db: Database, among: str, values: Mapping[str, Any]) -> None:
    """Keep those of the comparisons `among` for whom they are assigned to whose assignment stands, and no others.

    Inside the caller's transaction.
    """
    db.connection.execute(
        f"""UPDATE comparison SET assigned = NOT assigned
            WHERE id IN ({among}) AND assigned != EXISTS (SELECT 1 FROM bulk_change_comparison i
                JOIN bulk_change x ON x.id = i.change_id
                WHERE i.comparison_id = comparison.id AND i.state = 'stands' AND x.kind = 'assign')""",
        dict(values),
    )
