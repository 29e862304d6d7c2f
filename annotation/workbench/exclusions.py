"""Who is left out of training, decided by an admin; nothing is deleted."""

from __future__ import annotations

from annotation.claims import assignments, handing_out
from annotation.database import Database
from annotation.records import UserError, now
from annotation.store.judgement_store import excluded_annotators
from annotation.translation import _, joined

MAXIMUM_REASON = 500


def leave_out(db: Database, name: str, reason: str, decided_by: str) -> None:
    """Leave an annotator's judgements out of training from now on; nothing is deleted.

    Raises UserError for an unknown annotator, without a reason, or if they are left out already.
    """
    if not reason.strip():
        raise UserError(_("Give a reason: it is kept with the decision, and others will want to know it."))
    decide_on(db, name, True, reason, decided_by)


def take_back(db: Database, name: str, reason: str, decided_by: str) -> None:
    """Train on an annotator's judgements again. Raises UserError for an unknown one, or one who is not left out."""
    decide_on(db, name, False, reason, decided_by)


def decide_on(db: Database, name: str, excluded: bool, reason: str, decided_by: str) -> None:
    if len(reason) > MAXIMUM_REASON:
        told = _("A reason can have up to {maximum_reason} characters. Shorten it; nothing was changed.")
        raise UserError(told.format(maximum_reason=MAXIMUM_REASON))
    with db.transaction():
        row = db.row("SELECT id, name FROM annotator WHERE name = ?", (name,))
        if row is None:
            raise UserError(_("Choose an annotator from the list. Nothing was changed."))
        if excluded == (row["name"] in excluded_annotators(db)):
            out, there = _("{name} is left out of training already."), _("{name} is not left out of training.")
            said = (out if excluded else there).format(name=row["name"])
            raise UserError(joined(said, _("Nothing was changed.")))
        decided = {"annotator_id": row["id"], "excluded": int(excluded), "reason": reason.strip()}
        db.insert("exclusion", {**decided, "decided_by": decided_by, "created": now()})
        assignments.follow_assignments(db)  # of what they have skipped, or are to judge in vain
        handing_out.release_unfit(db)  # of which others are to have what they hold
