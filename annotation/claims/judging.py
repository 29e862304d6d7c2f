"""A judgement is made: recorded once on the claim that it is on, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from annotation.claims.assignments import follow_act
from annotation.claims.handing_out import UNFIT, held_claim, read_claim
from annotation.claims.own_judgements import whole_act_of
from annotation.claims.sent_acts import parse_act
from annotation.claims.stored_claims import (
    MADE_IN_HAND,
    PASSED_OVER,
    StoredClaim,
    StoredJudgement,
    claim_under,
    current_judgement,
    of_claim,
)
from annotation.database import Database
from annotation.records import Act, UserError, now, seconds_between
from annotation.store import project_store
from annotation.translation import N_, _

JUDGED = N_("You have judged this comparison already, and that judgement stands. Nothing was recorded now.")
RUN_OUT = N_("The time for this comparison ran out. Nothing was recorded.")
TAKEN_UP = N_("You have taken up another comparison meanwhile. Of the one before nothing was recorded.")
HERE_AGAIN = N_("The time for this comparison ran out. It is yours again; its answers may have changed places.")


class JudgementConflict(UserError):
    """A judgement was refused because another one stands for the comparison: the current one with id `stands`."""

    def __init__(self, stands: int) -> None:
        super().__init__(_(JUDGED))
        self.stands = stands


def judge(db: Database, annotator_id: int, nonce: str, value: Any) -> int:
    """Record a judgement (as `parse_act` reads it) on the comparison shown under `nonce`, once; returns its id.

    The same request again (double click, retry) returns the judgement that stands, unchanged. Raises JudgementConflict
    where that says something else (a second tab, a change since), and UserError when nothing was recorded and nothing
    stands: an unknown nonce, another person's claim, one undone, expired or unfit.
    """
    with db.transaction() as connection:
        claim = claim_under(db, annotator_id, nonce)
        if claim is None:
            raise UserError(_("This comparison is not in your hands. Nothing was recorded; here is your next one."))
        stands = current_judgement(db, claim)
        if stands is not None:
            return same_or_refused(db, stands, value, claim.shown_order)
        if claim.state != "held" or claim.expires <= now():
            raise UserError(why_closed(db, claim))
        act = parse_for(db, claim, value)
        if act.outcome == "skip" and act.flag is None:
            refuse_skipping_on(db, claim)
        connection.execute(
            "UPDATE claim SET state = ? WHERE id = ?", ("skipped" if act.outcome == "skip" else "judged", claim.id)
        )
        taken = seconds_between(claim.created, now())
        made = insert_judgement(db, claim, act, taken if taken >= 0 else None)  # nobody knows: the clock was set back
        follow_act(db, annotator_id, claim.comparison_id)
        return made


def same_or_refused(db: Database, stands: StoredJudgement, value: Any, order: Sequence[int]) -> int:
    """The id of a judgement that stands, if what was sent says the same of answers shown in an order (by the time that
    a comparison is shown again they may have changed places). Raises JudgementConflict if not."""
    stored = whole_act_of(db, stands, order)
    try:
        # By the reasons known then: the project's may have changed since.
        sent = parse_act(value, stands.kind, len(stands.shown_order), stored["tags"])
    except UserError:
        raise JudgementConflict(stands.id) from None
    if sent != parse_act(stored, stands.kind, len(stands.shown_order), stored["tags"]):
        raise JudgementConflict(stands.id)
    return int(stands.id)


def why_closed(db: Database, claim: StoredClaim) -> str:
    """Why a claim that is not in hand any more, and for which no judgement stands, can't be judged."""
    if db.value("SELECT count(*) FROM judgement WHERE claim_id = ?", (claim.id,)):
        return _("You took this judgement back. Nothing was recorded; judge what is shown now.")
    gone = TAKEN_UP if gave_way(db, claim) or claim.expires > now() else RUN_OUT
    return _(UNFIT.get(read_claim(db, claim).comparison_state, gone))


def gave_way(db: Database, claim: StoredClaim) -> bool:
    """Whether its annotator took up another comparison while there was still time for this one."""
    return bool(
        db.value(
            f"""SELECT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = ? AND k.id > ? AND k.created < ?
                 AND NOT {PASSED_OVER})""",
            (claim.annotator_id, claim.id, claim.expires),
        )
    )


def why_gone(db: Database, annotator_id: int, nonce: str) -> str:
    """Why a comparison that was in this annotator's hands is there no more, unjudged; empty without such a reason."""
    claim = claim_under(db, annotator_id, nonce)
    if claim is None or claim.state not in ("held", "released") or current_judgement(db, claim) is not None:
        return ""
    if claim.state == "held" and claim.expires > now():
        return ""
    why, in_hand = why_closed(db, claim), held_claim(db, annotator_id)
    again = in_hand is not None and in_hand.comparison_id == claim.comparison_id
    return _(HERE_AGAIN) if again and why == _(RUN_OUT) else why


def parse_for(db: Database, claim: StoredClaim, value: Any) -> Act:
    """What the browser sent about a claim's comparison. Raises UserError if it does not fit, or can't be judged."""
    shown = read_claim(db, claim)
    if shown.comparison_state in UNFIT:
        raise UserError(_(UNFIT[shown.comparison_state]))
    act = parse_act(value, shown.kind, len(shown.answers), [tag.label for tag in project_store.project(db).tags])
    states = {answer.state for answer in shown.answers}
    if "failed" in states and act.outcome != "skip":
        raise UserError(_(UNFIT["failed"]))
    if "writing" in states and act.outcome != "skip":
        raise UserError(_("Answers are still being written: judge them when all have come."))
    return act


def insert_judgement(
    db: Database, claim: StoredClaim, act: Act, seconds: float | None, supersedes: int | None = None
) -> int:
    """Write a judgement on a claim, and the answer if it edits one, inside the caller's transaction; returns its id."""
    refuse_writing_on(db, claim, act)
    refuse_flagging_on(db, claim, act)
    ranking = act.ranking(claim.shown_order)
    edited = None if act.edit is None else insert_edit(db, claim, claim.shown_order[act.edit.place], act.edit.text)
    return db.insert(
        "judgement",
        {
            "claim_id": claim.id,
            **of_claim(claim),
            "guidelines_version": claim.guidelines_version,
            "outcome": act.outcome,
            "ranking": None if ranking is None else json.dumps(ranking),
            "strength": act.strength,
            "tags": json.dumps(act.tags, ensure_ascii=False),
            "note": act.note,
            "flag": act.flag,
            "edited_response_id": edited,
            "seconds": seconds,
            "supersedes": supersedes,
            "created": now(),
        },
    )


def insert_edit(db: Database, claim: StoredClaim, position: int, text: str) -> int:
    """Store a person's edited version of the answer at a position; returns its id."""
    original = db.one(
        """SELECT r.id, r.prompt_id, r.text FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? AND cr.position = ?""",
        (claim.comparison_id, position),
    )
    if original["text"].strip() == text:
        raise UserError(_("The edited answer is the same as before. Change it, or judge without an edit."))
    by = {"origin": "person", "annotator_id": claim.annotator_id, "edited_from": original["id"], "created": now()}
    return db.insert("response", {"prompt_id": original["prompt_id"], "purpose": "demonstrate", "text": text, **by})


# Far more than anybody types. Each edit is an answer for ever, and searched for by its words.
MOST_WRITTEN = 2_000_000


def refuse_writing_on(db: Database, claim: StoredClaim, act: Act) -> None:
    """Raises UserError where somebody's notes and edits of a day have more characters than anybody types."""
    more = len(act.note) + (0 if act.edit is None else len(act.edit.text))
    if not more:
        return
    written = db.value(
        """SELECT coalesce(sum(length(j.note) + coalesce(length(r.text), 0)), 0) FROM judgement j
           LEFT JOIN response r ON r.id = j.edited_response_id WHERE j.annotator_id = ? AND j.created > ?""",
        (claim.annotator_id, a_day_ago()),
    )
    if written + more > MOST_WRITTEN:
        said = _(
            "You have written {written:,} characters of notes and edits within a day, and {most:,} are the most. "
            "Judge without, or wait until a day has passed."
        )
        raise UserError(said.format(written=written, most=MOST_WRITTEN))


def a_day_ago() -> str:
    return (datetime.fromisoformat(now()) - timedelta(days=1)).isoformat(timespec="microseconds")


# Far more than anybody finds. What one person flags, however they judge it, nobody's training learns from.
MOST_FLAGGED = 1_000


def refuse_flagging_on(db: Database, claim: StoredClaim, act: Act) -> None:
    """Raises UserError where somebody flags more within a day than anybody finds."""
    if act.flag is None:
        return
    flagged = db.value(
        "SELECT count(*) FROM judgement WHERE annotator_id = ? AND flag NOT NULL AND created > ?",
        (claim.annotator_id, a_day_ago()),
    )
    if flagged >= MOST_FLAGGED:
        said = _(
            "You have set {most:,} flags within a day, and more are not taken. Judge without one, or wait until a "
            "day has passed."
        )
        raise UserError(said.format(most=MOST_FLAGGED))


# Of those without a flag.
MOST_SKIPS = 200
FAILED_ANSWER = """EXISTS (SELECT 1 FROM comparison_response cr JOIN response r ON r.id = cr.response_id
    WHERE cr.comparison_id = {} AND r.state = 'failed')"""


def refuse_skipping_on(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where somebody has only skipped for a day what could be judged, and has not said why."""
    if db.value(f"SELECT {FAILED_ANSWER.format('?')}", (claim.comparison_id,)):
        return
    skips = db.value(
        f"""SELECT count(*) FROM judgement j WHERE annotator_id = :annotator AND outcome = 'skip' AND {MADE_IN_HAND}
             AND flag IS NULL AND created > :since
             AND NOT {FAILED_ANSWER.format("j.comparison_id")}
             AND id > coalesce((SELECT max(id) FROM judgement
                 WHERE annotator_id = :annotator AND outcome IN ('ranked', 'all-bad')), 0)""",
        {"annotator": claim.annotator_id, "since": a_day_ago()},
    )
    if skips >= MOST_SKIPS:
        said = _(
            "You have skipped {most} comparisons within a day and judged none since. Judge this one, or wait until "
            "a day has passed."
        )
        raise UserError(said.format(most=MOST_SKIPS))
