"""Changes of many comparisons at once: assigned, released, settled, passed over or withdrawn, and each taken back.

Each is a row with the comparisons that it changed, in one transaction with what it changes, so that the history of a
comparison names it and an undo knows what was there before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from annotation.claims import assignments, handing_out, stored_claims
from annotation.database import Database
from annotation.records import Annotator, UserError, now
from annotation.store import project_store
from annotation.store.answer_changes import as_told_now
from annotation.translation import N_, _, ngettext
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import condition_of, prepare, terms

ChangeKind = Literal["assign", "release", "settle", "skip", "withdraw"]
CHANGE_KINDS: Final[tuple[ChangeKind, ...]] = get_args(ChangeKind)
CAN_BE_JUDGED: Final = "c.purpose = 'preference' AND c.state IN ('ready', 'writing', 'closed')"
STANDS: Final = """SELECT {} FROM bulk_change_comparison i JOIN bulk_change x ON x.id = i.change_id
    WHERE i.comparison_id = c.id AND i.state = 'stands' AND x.kind = '{}'"""
# Of a candidate people compare what was drawn for them by lot, and no other that somebody has picked.
LEFT_TO_JUDGES: Final = "(c.candidate_id IS NOT NULL AND c.asks != 'people')"
# Which comparisons each kind changes; `annotator` is whom it is for.
ELIGIBLE: Final[Mapping[ChangeKind, str]] = {
    "assign": f"""{CAN_BE_JUDGED} AND NOT {LEFT_TO_JUDGES} AND (:annotator IS NULL OR {stored_claims.UNSEEN})
        AND ({assignments.STILL_TO_JUDGE} FROM (SELECT :annotator AS annotator_id, :group AS group_name) x
            CROSS JOIN (SELECT c.id AS comparison_id) i)
        AND NOT EXISTS ({STANDS.format("1", "assign")} AND x.annotator_id IS :annotator AND x.group_name IS :group)""",
    "release": f"EXISTS ({STANDS.format('1', 'assign')})",
    "settle": f"""c.purpose = 'preference' AND c.state IN ('ready', 'closed', 'withdrawn') AND c.judged > 0
        AND NOT EXISTS ({STANDS.format("1", "settle")} AND x.annotator_id = :annotator)""",
    "skip": f"{CAN_BE_JUDGED} AND c.candidate_id IS NULL AND {stored_claims.UNSEEN}",
    "withdraw": "c.purpose = 'preference' AND c.candidate_id IS NULL AND c.state IN ('ready', 'asked')",
}
# What a change of this kind leaves out of what was chosen, and why.
LEFT_OUT: Final[Mapping[ChangeKind, str]] = {
    "assign": N_(
        "Not assigned: what they have in hand, judged, skipped or been assigned already; what is past their "
        "“Judgements in all”; gold; what only judges, or nobody, may judge; and a candidate's, where they are left out."
    ),
    "release": N_("What is assigned to nobody can't be given back."),
    "settle": N_("What nobody has judged, what is gold, and what is in your list already is not put aside."),
    "skip": N_(
        "Not skipped: what you have in hand, judged or skipped; gold; what measures a candidate; and what is not fit "
        "to be judged."
    ),
    "withdraw": N_(
        "What is gold, withdrawn or judged elsewhere already, being answered, or measures a candidate is not withdrawn."
    ),
}
BEFORE: Final[Mapping[ChangeKind, str]] = {
    "withdraw": "json_object('state', c.state, 'asks', c.asks, 'asks_why', c.asks_why)",
    "release": f"(SELECT json_group_array(i.change_id) FROM ({STANDS.format('i.change_id', 'assign')}) i)",
}


@dataclass(frozen=True)
class BulkRequest:
    """What is to be done with which comparisons. `whom`: 'person:NAME' or 'group:NAME', of an assignment."""

    kind: ChangeKind
    comparisons: ComparisonFilter
    whom: str = ""


@dataclass(frozen=True)
class Plan:
    changed: int
    left_out: int


@dataclass(frozen=True)
class Change:
    id: int
    kind: ChangeKind
    whom: str
    """The person or the group that it is for; empty where it is for nobody."""
    comparisons: int
    decided_by: str
    created: str
    undone_by: str | None
    undone_for: int | None
    """Of how many of its comparisons it was taken back; None where an earlier version did not count them."""


def check_kind(word: Any) -> ChangeKind:
    """Raises UserError for what is no kind of change."""
    if word not in CHANGE_KINDS:
        raise UserError(_("There is no such change. Reload the page."))
    return cast(ChangeKind, word)


def whom_of(db: Database, asked: BulkRequest, by: Annotator) -> dict[str, Any]:
    """The columns that say whom a change is for. Raises UserError for nobody, or a group without anybody."""
    if asked.kind != "assign":
        return {"annotator": None if asked.kind in ("release", "withdraw") else by.id, "group": None}
    sort, _colon, name = asked.whom.partition(":")
    if sort == "person":
        person = db.value("SELECT id FROM annotator WHERE name = ? AND kind = 'person' AND active", (name,))
        if person is not None:
            return {"annotator": person, "group": None}
    group = db.value(
        """SELECT g.name FROM annotator_group g JOIN annotator a ON a.id = g.annotator_id
           WHERE g.name = ? AND a.active""",
        (name,),
    )
    if sort == "group" and group is not None:
        return {"annotator": None, "group": group}
    raise UserError(_("Choose a person who can sign in, or a group with somebody in it. Nothing was changed."))


def plan(db: Database, asked: BulkRequest, by: Annotator) -> Plan:
    """How many comparisons a change would change, and how many of those chosen it would leave out."""
    condition, values = condition_of(db, asked.comparisons)
    row = db.one(
        f"""SELECT count(*) AS chosen, coalesce(sum({ELIGIBLE[asked.kind]}), 0) AS changed
            FROM comparison c WHERE {condition}""",
        {**terms(db), **whom_of(db, asked, by), **values},
    )
    return Plan(row["changed"], row["chosen"] - row["changed"])


def make(db: Database, asked: BulkRequest, by: Annotator, expected: int) -> int:
    """Make a change of as many comparisons as were confirmed; returns its id.

    Raises UserError, and changes nothing, where it would be another number by now, or none.
    """
    prepare(db, asked.comparisons)
    with db.transaction() as connection:
        whom = whom_of(db, asked, by)
        row = {"kind": asked.kind, "annotator_id": whom["annotator"], "group_name": whom["group"]}
        change_id = db.insert("bulk_change", {**row, "decided_by": by.name, "created": now()})
        condition, values = condition_of(db, asked.comparisons)
        found = connection.execute(
            f"""INSERT INTO bulk_change_comparison (change_id, comparison_id, before, state)
                SELECT :change, c.id, {BEFORE.get(asked.kind, "NULL")}, :state FROM comparison c
                WHERE ({condition}) AND {ELIGIBLE[asked.kind]}""",
            {
                **terms(db),
                **whom,
                **values,
                "change": change_id,
                "state": "stands" if asked.kind in ("assign", "settle") else None,
            },
        ).rowcount
        if not found:
            raise UserError(_("None of these comparisons can be changed so. Nothing was changed."))
        if found != expected:
            raise UserError(another_number(found, expected))
        MADE[asked.kind](db, change_id)
    return change_id


def another_number(found: int, expected: int) -> str:
    """That a change would not be of as many comparisons as was confirmed."""
    said = ngettext(
        "Meanwhile it would be {found:,} comparison, not {expected:,}. Nothing was changed; look again.",
        "Meanwhile it would be {found:,} comparisons, not {expected:,}. Nothing was changed; look again.",
        found,
    )
    return said.format(found=found, expected=expected)


OF_CHANGE: Final = "SELECT comparison_id FROM bulk_change_comparison WHERE change_id = :change"
# Of a withdrawal those that have not been given back.
REST_OF_CHANGE: Final = f"{OF_CHANGE} AND state IS NULL"


def follow(db: Database, change_id: int) -> None:
    """What is assigned now is held back for those whom it was assigned to."""
    assignments.hold_back(db, OF_CHANGE, {"change": change_id})


def release(db: Database, change_id: int) -> None:
    db.connection.execute(
        f"""UPDATE bulk_change_comparison SET state = 'released'
            WHERE state = 'stands' AND comparison_id IN ({OF_CHANGE})
              AND change_id IN (SELECT id FROM bulk_change WHERE kind = 'assign')""",
        {"change": change_id},
    )
    assignments.hold_back(db, OF_CHANGE, {"change": change_id})


def withdraw(db: Database, change_id: int) -> None:
    """Ask nobody any more. What is in somebody's hands stays there until it is judged."""
    db.connection.execute(
        f"UPDATE comparison SET state = 'withdrawn', asks = 'nobody', asks_why = NULL WHERE id IN ({OF_CHANGE})",
        {"change": change_id},
    )


def skip(db: Database, change_id: int) -> None:
    """Pass comparisons over as one does while annotating: an act in the record, and others still get them."""
    size = "(SELECT count(*) FROM comparison_response cr WHERE cr.comparison_id = i.comparison_id)"
    values = {"change": change_id, "now": now(), **handing_out.kinds_by_size(db)}
    db.connection.execute(
        f"""INSERT INTO claim (nonce, comparison_id, annotator_id, purpose, kind, slot, guidelines_version, shown_order,
                assigned_by, state, created, expires)
            SELECT lower(hex(randomblob(16))), i.comparison_id, x.annotator_id, 'own',
                iif({size} = 2, :two, :several), 0, (SELECT max(version) FROM guidelines),
                (SELECT json_group_array(position) FROM (SELECT position FROM comparison_response cr
                    WHERE cr.comparison_id = i.comparison_id ORDER BY position)), x.id, 'skipped', :now, :now
            FROM bulk_change_comparison i JOIN bulk_change x ON x.id = i.change_id WHERE x.id = :change""",
        values,
    )
    db.connection.execute(
        """INSERT INTO judgement (claim_id, comparison_id, annotator_id, purpose, kind, outcome, shown_order,
               guidelines_version, seconds, created)
           SELECT id, comparison_id, annotator_id, purpose, kind, 'skip', shown_order, guidelines_version, 0, :now
           FROM claim WHERE assigned_by = :change ORDER BY id""",
        values,
    )
    assignments.follow_assignments(db)


MADE: Final[Mapping[ChangeKind, Callable[[Database, int], None]]] = {
    "assign": follow,
    "release": release,
    "settle": follow,
    "skip": skip,
    "withdraw": withdraw,
}


# ------------------------------------------------------------------------------------------------------- taking back
def undo(db: Database, change_id: int, by: str) -> tuple[Change, int]:
    """Take a change back as far as nothing else has come of it: what was judged meanwhile stays judged.

    Returns the change, and of how many of its comparisons it was taken back; it is not undone while it can be taken
    back of more later. Raises UserError where there is no such change, or it was taken back, or can't be while policies
    are told otherwise whether to think.
    """
    with db.transaction() as connection:
        made = change(db, change_id)
        if made is None or made.undone_by is not None:
            raise UserError(_("This was taken back already. Nothing was changed now."))
        # Of a withdrawal whose first part an earlier version gave back nobody knows how many that were.
        given_back = f"{OF_CHANGE} AND state = 'released' LIMIT 1"
        unknown = made.kind == "withdraw" and made.undone_for is None and db.value(given_back, {"change": change_id})
        count = UNDONE[made.kind](db, change_id)
        if not unknown:
            connection.execute(
                "UPDATE bulk_change SET undone_for = coalesce(undone_for, 0) + ? WHERE id = ?", (count, change_id)
            )
        if made.kind != "withdraw" or not db.value(f"{REST_OF_CHANGE} LIMIT 1", {"change": change_id}):
            connection.execute("UPDATE bulk_change SET undone_by = ?, undone = ? WHERE id = ?", (by, now(), change_id))
    found = change(db, change_id)
    assert found is not None
    return found, count


def undo_assigning(db: Database, change_id: int) -> int:
    """Nobody has it from this change any more."""
    count = db.connection.execute(
        "UPDATE bulk_change_comparison SET state = 'released' WHERE change_id = ? AND state = 'stands'", (change_id,)
    ).rowcount
    assignments.hold_back(db, OF_CHANGE, {"change": change_id})
    return count


def undo_releasing(db: Database, change_id: int) -> int:
    again = db.connection.execute(
        """UPDATE bulk_change_comparison AS i SET state = 'stands' WHERE state = 'released'
             AND change_id IN (SELECT id FROM bulk_change WHERE kind = 'assign' AND undone IS NULL)
             AND EXISTS (SELECT 1 FROM bulk_change_comparison b, json_each(b.before) was
                 WHERE b.change_id = :change AND b.comparison_id = i.comparison_id AND was.value = i.change_id)
           RETURNING comparison_id""",
        {"change": change_id},
    ).fetchall()
    assignments.follow_assignments(db)  # some may have been judged meanwhile
    ids = json.dumps([row[0] for row in again])
    return int(
        db.value("SELECT count(*) FROM comparison WHERE assigned AND id IN (SELECT value FROM json_each(?))", (ids,))
    )


def undo_withdrawing(db: Database, change_id: int) -> int:
    """Those that are still withdrawn are handed out as before, to whoever judges by now; gold, once it is none again.

    Answers of the other kind stay withdrawn, where policies have been told since to think or not to; these can be given
    back later.
    """
    answers = f"""SELECT 1 FROM comparison_response cr JOIN response r ON r.id = cr.response_id
        WHERE cr.comparison_id = {{}} AND r.model_id NOT NULL AND NOT {as_told_now(db, "response", "r")}"""
    was = "FROM bulk_change_comparison i WHERE i.change_id = :change AND i.comparison_id ="
    withdrawn = f"""id IN ({REST_OF_CHANGE}) AND 'withdrawn' = iif(purpose != 'gold', state, (SELECT previous_state
        FROM gold_decision d WHERE d.comparison_id = comparison.id AND d.action = 'make' ORDER BY d.id DESC LIMIT 1))"""
    count = db.connection.execute(
        f"""UPDATE comparison SET (state, asks, asks_why) = (
                SELECT iif(purpose = 'gold', comparison.state, json_extract(before, '$.state')),
                    json_extract(before, '$.asks'), json_extract(before, '$.asks_why') {was} comparison.id)
            WHERE {withdrawn} AND NOT EXISTS ({answers.format("comparison.id")})""",
        {"change": change_id},
    ).rowcount
    if not count and db.value(f"SELECT 1 FROM comparison WHERE {withdrawn}", {"change": change_id}):
        raise UserError(
            _(
                "Policies answer otherwise by now, so these answers stay withdrawn. If only thinking was switched on "
                "or off, switch it back first. Nothing was changed now."
            )
        )
    db.connection.execute(
        f"""UPDATE gold_decision AS d
            SET previous_state = (SELECT json_extract(before, '$.state') {was} d.comparison_id)
            WHERE action = 'make' AND previous_state = 'withdrawn' AND comparison_id IN ({REST_OF_CHANGE})
              AND NOT EXISTS ({answers.format("d.comparison_id")})""",
        {"change": change_id},
    )
    project_store.hand_to_judging(db, REST_OF_CHANGE, {"change": change_id})
    db.connection.execute(
        f"""UPDATE bulk_change_comparison SET state = 'released' WHERE change_id = :change
            AND comparison_id NOT IN (SELECT id FROM comparison WHERE {withdrawn})""",
        {"change": change_id},
    )
    return count


def undo_skipping(db: Database, change_id: int) -> int:
    """The skips that still stand are taken back, each by a row of its own, as every judgement is."""
    count = db.connection.execute(
        """INSERT INTO judgement (claim_id, comparison_id, annotator_id, purpose, kind, outcome, shown_order, seconds,
               supersedes, created)
           SELECT j.claim_id, j.comparison_id, j.annotator_id, j.purpose, j.kind, 'undone', j.shown_order, 0, j.id, :now
           FROM current_judgement j JOIN claim k ON k.id = j.claim_id
           WHERE k.assigned_by = :change AND j.outcome = 'skip' ORDER BY j.id""",
        {"change": change_id, "now": now()},
    ).rowcount
    db.connection.execute(
        "UPDATE claim SET state = 'released' WHERE assigned_by = ? AND state = 'skipped'", (change_id,)
    )
    assignments.follow_assignments(db)
    return count


# Each says of how many comparisons.
UNDONE: Final[Mapping[ChangeKind, Callable[[Database, int], int]]] = {
    "assign": undo_assigning,
    "release": undo_releasing,
    "settle": undo_assigning,
    "skip": undo_skipping,
    "withdraw": undo_withdrawing,
}


CHANGES: Final = """SELECT x.id, x.kind, coalesce(a.name, x.group_name, '') AS whom, x.decided_by, x.created,
        x.undone_by, x.undone_for,
        (SELECT count(*) FROM bulk_change_comparison i WHERE i.change_id = x.id) AS comparisons
    FROM bulk_change x LEFT JOIN annotator a ON a.id = x.annotator_id WHERE {} ORDER BY x.id DESC LIMIT {}"""


def change(db: Database, change_id: int) -> Change | None:
    row = db.row(CHANGES.format("x.id = ?", 1), (change_id,))
    return None if row is None else Change(**row)


def changes(db: Database, limit: int = 20) -> list[Change]:
    """The latest changes, newest first."""
    return [Change(**row) for row in db.rows(CHANGES.format("1", limit))]
