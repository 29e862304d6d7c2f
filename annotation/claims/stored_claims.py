"""Rows of `claim` and `judgement` as records: how they are found, and what queries say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from annotation.database import Database
from annotation.records import ClaimState, Flag, Kind, Outcome, Purpose


@dataclass(frozen=True)
class StoredClaim:
    """A row of `claim`: a comparison as it was put into an annotator's hands."""

    id: int
    nonce: str
    comparison_id: int
    annotator_id: int
    purpose: Purpose
    kind: Kind
    re_ask_of: int | None
    guidelines_version: int | None
    shown_order: tuple[int, ...]
    chance: float | None
    assigned_by: int | None
    state: ClaimState
    created: str
    expires: str


@dataclass(frozen=True)
class StoredJudgement:
    """A row of `judgement`; `ranking` is by the answers' positions."""

    id: int
    claim_id: int | None
    comparison_id: int
    annotator_id: int
    purpose: Purpose
    kind: Kind
    re_ask_of: int | None
    shown_order: tuple[int, ...]
    outcome: Outcome
    ranking: tuple[int, ...] | None
    strength: int | None
    tags: tuple[str, ...]
    note: str
    flag: Flag | None
    edited_response_id: int | None
    seconds: float | None

    def act(self, order: Sequence[int] | None = None) -> dict[str, Any]:
        """What was done, in the terms of the screen: as `parse_act` reads it, except for the edit's text."""
        order = order or self.shown_order
        return {
            "outcome": self.outcome,
            "ranks": None if self.ranking is None else [self.ranking[position] for position in order],
            "strength": self.strength,
            "tags": list(self.tags),
            "note": self.note,
            "flag": self.flag,
        }


Stored = TypeVar("Stored", StoredClaim, StoredJudgement)


def read_row(kind: type[Stored], row: Mapping[str, Any]) -> Stored:
    values = {entry.name: row[entry.name] for entry in fields(kind)}
    lists = {name: tuple(json.loads(values[name])) for name in ("shown_order", "ranking", "tags") if values.get(name)}
    return kind(**values | lists)


def read_found(kind: type[Stored], row: Mapping[str, Any] | None) -> Stored | None:
    """The same of a row that may not be there."""
    return None if row is None else read_row(kind, row)


def claim_under(db: Database, annotator_id: int, nonce: str) -> StoredClaim | None:
    row = db.row("SELECT * FROM claim WHERE nonce = ? AND annotator_id = ?", (nonce, annotator_id))
    return read_found(StoredClaim, row)


def claim_judged(db: Database, judgement: StoredJudgement) -> StoredClaim:
    """The claim that a person's judgement is on."""
    return read_row(StoredClaim, db.one("SELECT * FROM claim WHERE id = ?", (judgement.claim_id,)))


def current_judgement(db: Database, claim: StoredClaim) -> StoredJudgement | None:
    """The judgement that stands for what a claim asked: made on it, or on a later one of the same comparison
    (after an undo, or when the time had run out)."""
    row = db.row(
        """SELECT * FROM current_judgement WHERE annotator_id = :annotator_id AND comparison_id = :comparison_id
             AND purpose = :purpose AND re_ask_of IS :re_ask_of AND claim_id >= :id
           ORDER BY claim_id = :id DESC, id DESC LIMIT 1""",
        vars(claim),
    )
    return read_found(StoredJudgement, row)


def of_claim(row: StoredClaim | StoredJudgement) -> dict[str, Any]:
    """What a judgement takes over from the claim that it is on, and the row that takes it back from the judgement."""
    names = ("comparison_id", "annotator_id", "purpose", "kind", "re_ask_of")
    return {**{name: getattr(row, name) for name in names}, "shown_order": json.dumps(row.shown_order)}


# Not held, judged or skipped by this annotator before, in whatever role.
UNSEEN = """NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = :annotator AND k.comparison_id = c.id
    AND k.state IN ('held', 'judged', 'skipped'))"""

# Of a claim `k`: that a bulk change passed its comparison over, so that it never was in anybody's hands.
PASSED_OVER = "EXISTS (SELECT 1 FROM bulk_change x WHERE x.id = k.assigned_by AND x.kind = 'skip')"
# Of a judgement `j`: that its annotator made it, one by one; what a bulk change passed over, that change takes back.
MADE_IN_HAND = f"""j.claim_id NOT NULL AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.id = j.claim_id
    AND {PASSED_OVER})"""
