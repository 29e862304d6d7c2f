"""A judgement is taken back or changed: a row more, and never one less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from annotation.claims.assignments import GIVEN_TO, follow_act
from annotation.claims.choosing import free_slot, shown_again
from annotation.claims.handing_out import held_claim, insert_claim, read_claim
from annotation.claims.judged_counts import quota_reached
from annotation.claims.judging import insert_judgement, parse_for, same_or_refused
from annotation.claims.own_judgements import latest_judgement, order_under, whole_act_of
from annotation.claims.stored_claims import (
    StoredClaim,
    StoredJudgement,
    claim_judged,
    current_judgement,
    of_claim,
    read_found,
    read_row,
)
from annotation.database import Database
from annotation.records import ONLY_ADMINS, Act, Claim, UserError, now
from annotation.store import project_store
from annotation.translation import N_, _

CHANGED_SINCE = N_("This judgement has been changed or taken back since. Look at your list again.")


def undo(db: Database, annotator_id: int, shown_nonce: str) -> Claim:
    """Take back this annotator's latest judgement: a superseding row says so, and the comparison is in hand again.

    `shown_nonce` is what the person sees while asking (empty: the waiting card); a repeated request finds another
    comparison in hand and undoes nothing more. Raises UserError then, when there is nothing to undo, or when others
    have the comparison by now (after a skip).
    """
    with db.transaction() as connection:
        in_hand = held_claim(db, annotator_id)
        if shown_nonce != (in_hand.nonce if in_hand else ""):
            raise UserError(_("This page showed an older comparison. Nothing was undone now; here is where you are."))
        last = latest_judgement(db, annotator_id)
        if last is None:
            raise UserError(_("There is no judgement of yours to undo."))
        claim = claim_judged(db, last)
        refuse_settling(db, claim)
        refuse_changing_on(db, claim)
        if claim.state == "skipped":
            refuse_skipped(db, claim)
        connection.execute("UPDATE claim SET state = 'released' WHERE id = ?", (claim.id,))
        row = {"claim_id": last.claim_id, **of_claim(last), "outcome": "undone", "seconds": 0}
        db.insert("judgement", {**row, "supersedes": last.id, "created": now()})
        connection.execute(
            "UPDATE claim SET state = 'released' WHERE annotator_id = ? AND state = 'held'", (annotator_id,)
        )
        insert_claim(db, project_store.project(db), annotator_id, shown_again(db, claim))
        follow_act(db, annotator_id, claim.comparison_id)
    held = held_claim(db, annotator_id)
    assert held is not None
    return held


def reopen(db: Database, annotator_id: int, judgement_id: int) -> tuple[Claim, dict[str, Any]]:
    """An own current judgement to look at and change: the comparison as it was shown, and what was done with it.

    Raises UserError if it is no current judgement of this annotator.
    """
    made = own_judgement(db, annotator_id, judgement_id)
    return read_claim(db, claim_judged(db, made)), whole_act_of(db, made)


def own_judgement(db: Database, annotator_id: int, judgement_id: int) -> StoredJudgement:
    """An own current judgement. Raises UserError if there is none."""
    row = db.row(
        "SELECT * FROM current_judgement WHERE id = ? AND annotator_id = ? AND claim_id IS NOT NULL",
        (judgement_id, annotator_id),
    )
    if row is None:
        raise UserError(_(CHANGED_SINCE))
    return read_row(StoredJudgement, row)


def revise(db: Database, annotator_id: int, judgement_id: int, value: Any, nonce: str = "") -> int:
    """Replace an own current judgement by a superseding one and return its id.

    With a `nonce`, the answers are those in the places in which that hand-out showed them; without, in which they were
    when they were judged. The same request again returns the judgement that it made. Raises JudgementConflict if it has
    been replaced by something else, UserError if it has been taken back or if the new one does not fit the comparison.
    """
    with db.transaction() as connection:
        row = db.row(
            """SELECT k.* FROM judgement j JOIN claim k ON k.id = j.claim_id WHERE j.id = ? AND j.annotator_id = ?""",
            (judgement_id, annotator_id),
        )
        claim = read_found(StoredClaim, row)
        made = None if claim is None else current_judgement(db, claim)
        if claim is None or made is None:
            raise UserError(_(CHANGED_SINCE))
        order = claim.shown_order
        seen = order_under(db, annotator_id, nonce) if nonce else order
        if seen is None or sorted(seen) != sorted(order) or (not nonce and made.shown_order != order):
            raise UserError(_(CHANGED_SINCE))
        if made.id != judgement_id:
            return same_or_refused(db, made, value, seen)
        refuse_settling(db, claim)
        refuse_changing_on(db, claim)
        act = reordered(parse_for(db, claim, value), seen, order)
        state = "skipped" if act.outcome == "skip" else "judged"
        if state == "judged" and claim.state == "skipped":
            refuse_skipped(db, claim)
            slot = free_slot(db, claim.comparison_id) if claim.purpose == "own" else None
            connection.execute("UPDATE claim SET slot = ? WHERE id = ?", (slot, claim.id))
        connection.execute("UPDATE claim SET state = ? WHERE id = ?", (state, claim.id))
        todays = project_store.guidelines(db).version or None  # which the page shows
        claim = replace(claim, guidelines_version=todays)
        revised = insert_judgement(db, claim, act, made.seconds, supersedes=judgement_id)
        follow_act(db, annotator_id, claim.comparison_id)
        return revised


def reordered(act: Act, seen: Sequence[int], order: Sequence[int]) -> Act:
    """What was done with answers that were seen in one order, in the terms of a screen that shows them in another."""
    ranks = None if act.ranks is None else tuple(act.ranks[seen.index(position)] for position in order)
    edit = None if act.edit is None else replace(act.edit, place=order.index(seen[act.edit.place]))
    return replace(act, ranks=ranks, edit=edit)


def refuse_skipped(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where what was skipped is not to be judged by this person any more."""
    if claim.purpose != "settle" and quota_reached(db, claim.annotator_id):
        raise UserError(_("You have judged all that you were asked for; your skip stays."))
    if claim.purpose != "own":
        return
    taken = db.value("SELECT taken FROM comparison WHERE id = ?", (claim.comparison_id,))
    if claim.assigned_by is None and taken >= project_store.project(db).overlap:
        raise UserError(_("Others have judged the comparison you skipped; your skip stays."))
    if db.value(
        f"""SELECT 1 FROM bulk_change_comparison i JOIN bulk_change x ON x.id = i.change_id
           WHERE i.comparison_id = ? AND i.state = 'stands' AND x.kind = 'assign' AND x.created > ?
             AND ? NOT IN (SELECT annotator_id FROM ({GIVEN_TO}) WHERE annotator_id NOT NULL)""",
        (claim.comparison_id, claim.created, claim.annotator_id),
    ):
        raise UserError(_("The comparison you skipped is assigned to others by now; your skip stays."))


# Far more than anybody needs. Each change is a row for ever, and for each skip the model writes another comparison.
MOST_ROWS = 100


def refuse_changing_on(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where somebody has judged a comparison, changed and taken back what they said, for ever."""
    rows = db.value(
        "SELECT count(*) FROM judgement WHERE annotator_id = ? AND comparison_id = ?",
        (claim.annotator_id, claim.comparison_id),
    )
    if rows >= MOST_ROWS:
        raise UserError(_("This judgement has been changed and taken back so often that it stays as it is now."))


def refuse_settling(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where what stands for everybody would be changed by somebody who is no admin any more."""
    if claim.purpose == "settle" and not db.value(
        "SELECT 1 FROM annotator WHERE id = ? AND role = 'admin'", (claim.annotator_id,)
    ):
        raise UserError(_(ONLY_ADMINS))
