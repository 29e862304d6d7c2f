"""What annotators contradict each other on, settled by an admin."""

from __future__ import annotations

from annotation.claims import handing_out
from annotation.database import Database
from annotation.metrics import quality
from annotation.records import Claim, UserError, now
from annotation.translation import _, ngettext


def settle_next(db: Database, annotator_id: int) -> Claim:
    """Put the comparison with the most disagreement into this person's hands, blind, to settle it for all.

    Not one that another person is settling or that this person has passed over. Raises UserError if there is none.
    """
    held = handing_out.held_claim(db, annotator_id)
    if held is not None and held.purpose == "settle":
        return held
    disputed = quality.report(db).disputes
    with db.transaction():
        rows = db.rows(
            """SELECT comparison_id FROM claim WHERE purpose = 'settle'
               AND (state = 'held' AND expires > :now OR state = 'skipped' AND annotator_id = :annotator)""",
            {"now": now(), "annotator": annotator_id},
        )
        busy = {row["comparison_id"] for row in rows}
        waiting = [dispute.comparison_id for dispute in disputed if dispute.comparison_id not in busy]
        if not waiting:
            raise UserError(nothing_to_settle(len(disputed)))
        return handing_out.take_to_settle(db, annotator_id, waiting[0])


def nothing_to_settle(disputed: int) -> str:
    """Why nobody is given one of so many comparisons to settle."""
    if not disputed:
        return _("No comparison waits to be settled: annotators contradict each other nowhere.")
    return ngettext(
        "{count} comparison waits to be settled: another admin has it in hand, or you have passed it over.",
        "{count} comparisons wait to be settled: other admins have them in hand, or you have passed them over.",
        disputed,
    ).format(count=disputed)
