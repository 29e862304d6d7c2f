"""Prompts that annotators ask themselves: what becomes of them until their answers can be judged."""

from __future__ import annotations

from annotation.claims.stored_claims import UNSEEN
from annotation.database import Database
from annotation.records import now, seconds_between
from annotation.translation import N_, _


def prompts_in_answer(db: Database, annotator_id: int) -> int:
    """How many prompts of this annotator's own are still to be answered or being answered, and not in hand yet."""
    return int(
        db.value(
            f"""SELECT count(*) FROM comparison c WHERE c.asked_by = :annotator AND c.purpose = 'preference'
                  AND c.state IN ('asked', 'writing') AND {UNSEEN}""",
            {"annotator": annotator_id},
        )
    )


UNANSWERED_MINUTES = 30
UNANSWERED = {
    "refused": N_(
        "Your prompt could not be answered: the model can't take it, perhaps because it is too long. "
        "Write it in another way."
    ),
    "failed": N_("Your prompt could not be answered: the writing of its answers broke off. Ask it again."),
    "dropped": N_(
        "Your prompt could not be answered: the answers came out the same or empty. Write it in another way."
    ),
}


def why_unanswered(db: Database, annotator_id: int) -> str:
    """Why the prompt that this annotator asked last, not long ago, can't be judged; empty without such a reason."""
    last = db.row(
        """SELECT c.state, c.created, EXISTS (SELECT 1 FROM comparison_response r WHERE r.comparison_id = c.id) AS begun
           FROM comparison c WHERE c.asked_by = ? AND c.purpose = 'preference' ORDER BY c.id DESC LIMIT 1""",
        (annotator_id,),
    )
    if last is None or seconds_between(last["created"], now()) > 60 * UNANSWERED_MINUTES:
        return ""
    refused = last["state"] == "failed" and not last["begun"]
    return _(UNANSWERED.get("refused" if refused else last["state"], ""))
