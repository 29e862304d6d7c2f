"""Comparisons in people's hands: handed out as claims, held, and taken out of hands again."""

from __future__ import annotations

import json
import random
import secrets
from datetime import UTC, datetime, timedelta

from annotation import selection
from annotation.claims.choosing import ChosenComparison, choose, order_again
from annotation.claims.stored_claims import StoredClaim, read_row
from annotation.database import Database
from annotation.records import Claim, Project, ShownAnswer, UserError, now
from annotation.store import project_store
from annotation.store.policy_comparisons import WOULD_NOT_COUNT
from annotation.translation import N_, _

UNFIT = {
    "failed": N_(
        "An answer could not be written to its end, so this comparison can't be judged. Here is your next one."
    ),
    "dropped": N_("The answers came out the same or empty, so there is nothing to compare. Here is your next one."),
}


def claim_next(db: Database, annotator_id: int, source: random.Random | None = None) -> Claim | None:
    """The comparison this annotator holds, or a new one from the pool; None when there is none for this annotator.

    Asking again (a reload, a second tab) gives the same comparison in the same order until it is judged, expires, or
    turns out unfit to be judged.
    """
    held = held_claim(db, annotator_id)
    if held is not None and held.comparison_state not in UNFIT:
        show_todays_guidelines(db, held)
        return held
    source = source or secrets.SystemRandom()
    with db.transaction():
        release_unfit(db)
        held = held_claim(db, annotator_id)
        if held is not None:
            return held
        project = project_store.project(db)
        chosen = choose(db, annotator_id, project, source)
        if chosen is None:
            return None
        insert_claim(db, project, annotator_id, chosen)
    return held_claim(db, annotator_id)


def insert_claim(db: Database, project: Project, annotator_id: int, chosen: ChosenComparison) -> None:
    """Put a comparison into an annotator's hands, inside the caller's transaction."""
    created = datetime.now(UTC)
    db.insert(
        "claim",
        {
            "nonce": secrets.token_urlsafe(16),
            "comparison_id": chosen.comparison_id,
            "annotator_id": annotator_id,
            "purpose": chosen.purpose,
            "kind": selection.kind_of(project, len(chosen.order)),
            "slot": chosen.slot,
            "re_ask_of": chosen.re_ask_of,
            "guidelines_version": db.value("SELECT max(version) FROM guidelines"),
            "shown_order": json.dumps(list(chosen.order)),
            "chance": chosen.chance,
            "assigned_by": chosen.assigned_by,
            "state": "held",
            "created": created.isoformat(timespec="microseconds"),
            "expires": (created + timedelta(minutes=project.claim_minutes)).isoformat(timespec="microseconds"),
        },
    )


def held_claim(db: Database, annotator_id: int) -> Claim | None:
    """The unexpired comparison in this annotator's hands, if any."""
    row = db.row("SELECT * FROM claim WHERE annotator_id = ? AND state = 'held' AND expires > ?", (annotator_id, now()))
    return None if row is None else read_claim(db, read_row(StoredClaim, row))


def read_claim(db: Database, claim: StoredClaim) -> Claim:
    """A claim with the conversation and the answers."""
    answers = db.rows(
        """SELECT r.text, r.state, p.messages, c.state AS comparison_state FROM comparison c
           JOIN comparison_response cr ON cr.comparison_id = c.id JOIN response r ON r.id = cr.response_id
           JOIN prompt p ON p.id = c.prompt_id WHERE c.id = ? ORDER BY cr.position""",
        (claim.comparison_id,),
    )
    return Claim(
        nonce=claim.nonce,
        comparison_id=claim.comparison_id,
        annotator_id=claim.annotator_id,
        purpose=claim.purpose,
        kind=claim.kind,
        guidelines_version=claim.guidelines_version,
        shown_order=claim.shown_order,
        messages=tuple(json.loads(answers[0]["messages"])),
        answers=tuple(ShownAnswer(answer["text"], answer["state"]) for answer in answers),
        comparison_state=answers[0]["comparison_state"],
    )


def show_todays_guidelines(db: Database, claim: Claim) -> None:
    """A comparison in hand is judged under the guidelines that the page shows now, not those of when it was claimed."""
    latest = project_store.guidelines(db).version or None
    if claim.guidelines_version != latest:
        db.write("UPDATE claim SET guidelines_version = ? WHERE nonce = ? AND state = 'held'", (latest, claim.nonce))


def release_unfit(db: Database) -> None:
    """Take comparisons out of hands whose time is over, whose account is shut out, of whom a word would not count, or
    that can't be judged any more; and those handed out at a time to come: the clock was set back since."""
    with db.transaction() as connection:
        time_to_judge = timedelta(minutes=project_store.project(db).claim_minutes)
        connection.execute(
            f"""UPDATE claim SET expires = ? WHERE state = 'held' AND (
                    annotator_id IN (SELECT id FROM annotator WHERE NOT active) OR created > ?
                    OR slot NOT NULL AND EXISTS (SELECT 1 FROM comparison c WHERE c.id = claim.comparison_id
                        AND {WOULD_NOT_COUNT.format("claim.annotator_id")}))""",
            (now(), (datetime.now(UTC) + time_to_judge).isoformat(timespec="microseconds")),
        )
        connection.execute("UPDATE claim SET state = 'released' WHERE state = 'held' AND expires <= ?", (now(),))
        connection.execute(
            """UPDATE claim SET state = 'released' WHERE state = 'held' AND EXISTS (
                   SELECT 1 FROM comparison c WHERE c.id = claim.comparison_id AND c.purpose = 'preference'
                     AND c.state IN ('failed', 'dropped'))"""
        )


def take_to_settle(db: Database, annotator_id: int, comparison_id: int) -> Claim:
    """Put a comparison whose annotators disagree into this person's hands, blind; what they hold goes back to the pool.

    Their judgement then stands for the comparison. Raises UserError if nobody has judged it.
    """
    with db.transaction() as connection:
        judged = db.value("SELECT count(*) FROM current_judgement WHERE comparison_id = ?", (comparison_id,))
        if not judged:
            said = _("Nobody has judged comparison {comparison_id}, so there is nothing to settle.")
            raise UserError(said.format(comparison_id=comparison_id))
        connection.execute(
            "UPDATE claim SET state = 'released' WHERE annotator_id = ? AND state = 'held'", (annotator_id,)
        )
        order = order_again(db, annotator_id, comparison_id, secrets.SystemRandom())
        insert_claim(db, project_store.project(db), annotator_id, ChosenComparison(comparison_id, "settle", order))
    held = held_claim(db, annotator_id)
    assert held is not None
    return held


def kinds_by_size(db: Database) -> dict[str, str]:
    project = project_store.project(db)
    return {"two": selection.kind_of(project, 2), "several": selection.kind_of(project, 3)}
