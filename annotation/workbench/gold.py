"""A comparison with all that was said of it, and gold: comparisons with a known answer, made and changed by admins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from annotation.database import Database
from annotation.metrics import quality
from annotation.metrics.intervals_and_bias import Vote
from annotation.metrics.reliability import weighted_best
from annotation.records import ComparisonState, Message, UserError, now
from annotation.store.judgement_store import excluded_annotators
from annotation.translation import _, joined


@dataclass(frozen=True)
class ComparisonReview:
    comparison_id: int
    state: ComparisonState
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    opinions: tuple[Vote, ...]
    consensus: int | None
    """The answer that its annotators find best, by their reliability; None where they don't agree on one."""


def review(db: Database, comparison_id: int) -> ComparisonReview:
    """Look at one comparison. Raises UserError if there is none of that number."""
    row = db.row(
        "SELECT c.state, p.messages FROM comparison c JOIN prompt p ON p.id = c.prompt_id WHERE c.id = ?",
        (comparison_id,),
    )
    if row is None:
        said = _("There is no comparison {comparison_id}. Choose one from the list, or type another number.")
        raise UserError(said.format(comparison_id=comparison_id))
    answers = db.rows(
        """SELECT r.text FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (comparison_id,),
    )
    judged, excluded = quality.votes(db, comparison_id), excluded_annotators(db)
    trusted = [vote for vote in judged if vote.annotator not in excluded]
    chances = {name: figure.estimate for name, figure in quality.reliabilities(db).items()}
    return ComparisonReview(
        comparison_id=comparison_id,
        state=row["state"],
        messages=tuple(json.loads(row["messages"])),
        answers=tuple(answer["text"] for answer in answers),
        opinions=tuple(judged),
        consensus=weighted_best(trusted, chances),
    )


def make_gold(db: Database, comparison_id: int, best: int | None, decided_by: str) -> int:
    """Make a judged comparison one with a known answer: `best` (a position), or what its annotators agree on.

    From then on it is handed out only to measure annotators who have not seen it. Judgements made before stay what
    they were and are trained on; those made from now on are not. Returns the position of the known answer.
    Raises UserError where it can't measure anybody.
    """
    found = review(db, comparison_id)  # before the transaction: its figures may take a second
    known = found.consensus if best is None else best
    with db.transaction() as connection:
        refuse_as_gold(db, found, known)
        assert known is not None
        expected = json.dumps([1 if position == known else 2 for position in range(len(found.answers))])
        connection.execute(
            "UPDATE comparison SET purpose = 'gold', state = 'ready', expected = ? WHERE id = ?",
            (expected, comparison_id),
        )
        record_gold(db, comparison_id, "make", expected, found.state, decided_by)
    return known


def refuse_as_gold(db: Database, found: ComparisonReview, known: int | None) -> None:
    """Raises UserError where a comparison can't become gold with this answer."""
    number = found.comparison_id
    if db.value("SELECT purpose FROM comparison WHERE id = ?", (number,)) == "gold":
        said = _("Comparison {number} is gold already. To change its answer, make it no longer gold first.")
        raise UserError(said.format(number=number))
    if found.state not in ("ready", "closed", "withdrawn"):
        said = _("Comparison {number} is unfit, or its answers are not complete. Choose another one.")
        raise UserError(said.format(number=number))
    if not any(opinion.ranking for opinion in found.opinions):
        said = _("Nobody has judged comparison {number} yet. Choose one that has been judged.")
        raise UserError(said.format(number=number))
    if number in quality.flagged_comparisons(db):
        said = _("Comparison {number} is flagged. Choose one that is fit to measure people.")
        raise UserError(said.format(number=number))
    if known is None:
        said = _("The annotators of comparison {number} agree on no best answer. Say which one is best.")
        raise UserError(said.format(number=number))
    if not 0 <= known < len(found.answers):
        said = _("Comparison {number} has {count} answers. Choose one of those as the best.")
        raise UserError(said.format(number=number, count=len(found.answers)))


def retire_gold(db: Database, comparison_id: int, decided_by: str) -> None:
    """Hand a gold comparison out to nobody any more; what was measured with it stays. Raises UserError if it is not."""
    change_gold(db, comparison_id, "retire", "ready", "closed", decided_by)


def reinstate_gold(db: Database, comparison_id: int, decided_by: str) -> None:
    """Hand a retired gold comparison out again. Raises UserError if it is not retired."""
    change_gold(db, comparison_id, "reinstate", "closed", "ready", decided_by)


def change_gold(db: Database, comparison_id: int, action: str, before: str, after: str, decided_by: str) -> None:
    """Move a gold comparison from one state to another, and record it."""
    with db.transaction() as connection:
        row = gold_row(db, comparison_id)
        if row["state"] != before:
            said = (
                _("Comparison {number} is handed out already.")
                if row["state"] == "ready"
                else _("Comparison {number} is retired already.")
            )
            raise UserError(joined(said.format(number=comparison_id), _("Nothing was changed.")))
        connection.execute("UPDATE comparison SET state = ? WHERE id = ?", (after, comparison_id))
        record_gold(db, comparison_id, action, row["expected"], before, decided_by)


def release_gold(db: Database, comparison_id: int, decided_by: str) -> None:
    """Make a gold comparison an ordinary one again, as it was before. Its known answer no longer measures anybody.

    Raises UserError if it is not gold.
    """
    with db.transaction() as connection:
        row = gold_row(db, comparison_id)
        before = db.value(
            """SELECT previous_state FROM gold_decision WHERE comparison_id = ? AND action = 'make'
               ORDER BY id DESC LIMIT 1""",
            (comparison_id,),
        )
        connection.execute(
            "UPDATE comparison SET purpose = 'preference', expected = NULL, state = ? WHERE id = ?",
            (before or "ready", comparison_id),
        )
        record_gold(db, comparison_id, "release", row["expected"], row["state"], decided_by)


def gold_row(db: Database, comparison_id: int) -> dict[str, Any]:
    """A gold comparison's state and known answer. Raises UserError if it is none."""
    row = db.row("SELECT state, expected FROM comparison WHERE id = ? AND purpose = 'gold'", (comparison_id,))
    if row is None:
        raise UserError(_("Choose a gold comparison from the list. Nothing was changed."))
    return row


def record_gold(db: Database, comparison_id: int, action: str, expected: str, before: str, decided_by: str) -> None:
    """Keep what was decided about a gold comparison, inside the caller's transaction."""
    decided = {"comparison_id": comparison_id, "action": action, "expected": expected, "previous_state": before}
    db.insert("gold_decision", {**decided, "decided_by": decided_by, "created": now()})
