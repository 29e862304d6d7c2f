"""What an annotator has judged, as the page shows it: the latest ones, and what each says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from annotation.claims.stored_claims import (
    MADE_IN_HAND,
    StoredJudgement,
    claim_under,
    current_judgement,
    read_found,
    read_row,
)
from annotation.database import Database


def latest_judgement(db: Database, annotator_id: int) -> StoredJudgement | None:
    """This annotator's latest current judgement: the one that `undo` takes back."""
    row = db.row(
        f"SELECT * FROM current_judgement j WHERE annotator_id = ? AND {MADE_IN_HAND} ORDER BY id DESC LIMIT 1",
        (annotator_id,),
    )
    return read_found(StoredJudgement, row)


def latest_act(db: Database, annotator_id: int) -> dict[str, Any] | None:
    """What this annotator's latest current judgement says, as `stored_act` has it."""
    last = latest_judgement(db, annotator_id)
    return None if last is None else judgement_view(db, last)


def stored_act(db: Database, judgement_id: int, order: Sequence[int] | None = None) -> dict[str, Any]:
    """What a judgement says in the terms of the screen, read from its row: `parse_act`'s fields, id, kind and size.

    The screen is the one that showed the answers in `order`; by default the one on which it was judged.
    """
    row = db.one("SELECT * FROM judgement WHERE id = ?", (judgement_id,))
    return judgement_view(db, read_row(StoredJudgement, row), order)


def order_under(db: Database, annotator_id: int, nonce: str) -> tuple[int, ...] | None:
    """The order in which answers were shown to this annotator under a nonce; None without such a hand-out."""
    claim = claim_under(db, annotator_id, nonce)
    return None if claim is None else claim.shown_order


def judged_meanwhile(db: Database, annotator_id: int, nonce: str) -> dict[str, Any] | None:
    """What stands for a comparison that was shown to this annotator and is not in hand any more; None for nothing."""
    claim = claim_under(db, annotator_id, nonce)
    stands = None if claim is None else current_judgement(db, claim)
    return None if stands is None or claim is None else judgement_view(db, stands, claim.shown_order)


def judgement_view(db: Database, made: StoredJudgement, order: Sequence[int] | None = None) -> dict[str, Any]:
    """A judgement as the page words it, for answers shown in `order`."""
    return {**told(made), **whole_act_of(db, made, order)}


def told(made: StoredJudgement) -> dict[str, Any]:
    """What the page is told of a judgement beside what was done."""
    return {"id": made.id, "kind": made.kind, "size": len(made.shown_order)}


def whole_act_of(db: Database, made: StoredJudgement, order: Sequence[int] | None = None) -> dict[str, Any]:
    """What was done, in the terms of the screen, with the edit: as `parse_act` reads it."""
    order = order or made.shown_order
    act = made.act(order)
    if made.edited_response_id is None:
        return act
    edited = db.one(
        """SELECT e.text, cr.position FROM response e JOIN comparison_response cr ON cr.response_id = e.edited_from
           WHERE e.id = ? AND cr.comparison_id = ?""",
        (made.edited_response_id, made.comparison_id),
    )
    return {**act, "edit": {"place": order.index(edited["position"]), "text": edited["text"]}}


@dataclass(frozen=True)
class OwnJudgement:
    """A judgement as its annotator finds it again."""

    made: StoredJudgement
    created: str
    changed: bool
    """Whether it takes the place of an earlier one."""
    prompt: str
    """What its last turn says."""
    edited: str | None
    """The text of an answer that was edited along with it."""


def latest(db: Database, annotator_id: int, before: int | None = None, limit: int = 50) -> list[OwnJudgement]:
    """This annotator's latest current judgements, newest first: those before one, where its id is given."""
    rows = db.rows(
        f"""SELECT j.*, e.text AS edited, p.messages FROM current_judgement j
           JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
           LEFT JOIN response e ON e.id = j.edited_response_id
           WHERE j.annotator_id = :annotator AND {MADE_IN_HAND} AND (:before IS NULL OR j.id < :before)
           ORDER BY j.id DESC LIMIT :limit""",
        {"annotator": annotator_id, "before": before, "limit": limit},
    )
    return [
        OwnJudgement(
            made=read_row(StoredJudgement, row),
            created=row["created"],
            changed=row["supersedes"] is not None,
            prompt=json.loads(row["messages"])[-1]["content"],
            edited=row["edited"],
        )
        for row in rows
    ]
