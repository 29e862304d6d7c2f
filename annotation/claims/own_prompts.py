"""Prompts of annotators' own: asked, answered before all others, and why one can't be judged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from annotation.claims.stored_claims import UNSEEN
from annotation.database import Database
from annotation.records import Message, Prompt, UserError, now, seconds_between
from annotation.store.comparison_store import insert_comparison
from annotation.store.prompt_store import add_prompts, fingerprint_of, read_prompt
from annotation.translation import N_, _

# An annotator's own prompts are answered before everybody's, and stay to be trained on.
MOST_UNANSWERED = 3
MOST_A_DAY = 50


def ask(db: Database, annotator_id: int, messages: Sequence[Message]) -> int:
    """A prompt of an annotator's own, to be answered before all others; returns the comparison's id.

    One that waits for its answers, or with them for this annotator, is not asked twice: the answer to an earlier
    request may have been lost. Raises UserError, and keeps nothing of the prompt, where
    this annotator has MOST_UNANSWERED waiting, or has asked MOST_A_DAY in the last 24 hours.
    """
    fingerprint = fingerprint_of(messages)[0]
    with db.transaction():
        open_ones = db.rows(
            f"""SELECT c.id, c.state, p.fingerprint FROM comparison c JOIN prompt p ON p.id = c.prompt_id
                WHERE c.asked_by = :annotator AND c.purpose = 'preference'
                  AND (c.state IN ('asked', 'writing') OR c.state = 'ready' AND {UNSEEN})""",
            {"annotator": annotator_id},
        )
        same = [int(row["id"]) for row in open_ones if row["fingerprint"] == fingerprint]
        if same:
            return same[0]
        waiting = [row for row in open_ones if row["state"] != "ready"]
        if len(waiting) >= MOST_UNANSWERED:
            said = _("{count} of your prompts wait for their answers. Ask again when one is answered.")
            raise UserError(said.format(count=len(waiting)))
        since = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="microseconds")
        today = db.value("SELECT count(*) FROM comparison WHERE asked_by = ? AND created > ?", (annotator_id, since))
        if today >= MOST_A_DAY:
            said = _("You have asked {today} prompts in the last 24 hours. That is enough; ask again later.")
            raise UserError(said.format(today=today))
        add_prompts(db, [Prompt(tuple(messages), "train", "own prompt")])
        prompt_id = db.value("SELECT id FROM prompt WHERE fingerprint = ?", (fingerprint,))
        return insert_comparison(db, prompt_id, state="asked", asked_by=annotator_id, formed_chance=1.0)


def asked(db: Database) -> list[tuple[int, Prompt]]:
    """Comparisons that annotators have asked for and nobody has begun to answer: each one's first, oldest first."""
    rows = db.rows(
        """SELECT c.id AS comparison_id, p.* FROM comparison c JOIN prompt p ON p.id = c.prompt_id
           WHERE c.purpose = 'preference' AND c.state = 'asked'
           ORDER BY row_number() OVER (PARTITION BY c.asked_by ORDER BY c.id), c.id"""
    )
    return [(row["comparison_id"], read_prompt(row)) for row in rows]


def ask_again(db: Database, comparison_id: int) -> int:
    """Ask anew for what an annotator asked in this comparison, and got the same or no answers to."""
    with db.transaction():
        before = db.one("SELECT prompt_id, purpose, asked_by FROM comparison WHERE id = ?", (comparison_id,))
        return insert_comparison(db, **before, state="asked", formed_chance=1.0)


def refuse_asked(db: Database, comparison_id: int) -> None:
    """Mark a prompt that an annotator asked and that the model can't be given."""
    db.write("UPDATE comparison SET state = 'failed' WHERE id = ? AND state = 'asked'", (comparison_id,))


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
