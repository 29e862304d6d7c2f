"""What annotators do, and what is asked of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from annotation.claims import handing_out, judging, own_prompts
from annotation.database import Database
from annotation.records import Annotator, Claim, now
from annotation.store import comparison_store, project_store
from tests.conftest import act, make_response, seed_prompts


def in_hand(db: Database, annotator: Annotator) -> Claim:
    claim = handing_out.claim_next(db, annotator.id)
    assert claim is not None
    return claim


def judgements(db: Database) -> list[dict[str, object]]:
    return db.rows("SELECT * FROM judgement ORDER BY id")


def judge_all(db: Database, annotator: Annotator, word: str = "tie") -> list[int]:
    """Judge whatever there is for an annotator, which is written to its end by then; the comparisons in order."""
    served = []
    while (claim := handing_out.claim_next(db, annotator.id)) is not None:
        served.append(claim.comparison_id)
        db.write("UPDATE response SET state = 'done' WHERE state = 'writing'")
        judging.judge(db, annotator.id, claim.nonce, act(word))
    return served


def people(db: Database, *names: str, role: str = "annotator") -> dict[str, int]:
    """Accounts by name, without a password: hashing takes its time."""
    with db.transaction() as connection:
        for name in names:
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    return {name: db.value("SELECT id FROM annotator WHERE name = ?", (name,)) for name in names}


def judge(db: Database, annotator_id: int, word: str, **extras: Any) -> Claim:
    """Judge the next comparison with one word."""
    claim = handing_out.claim_next(db, annotator_id)
    assert claim is not None
    judging.judge(db, annotator_id, claim.nonce, act(word, **extras))
    return claim


def prefer(db: Database, annotator_id: int, position: int, degree: str = "clearly", **extras: Any) -> Claim:
    """Judge the next comparison for the answer at a position, wherever it is shown."""
    claim = handing_out.claim_next(db, annotator_id)
    assert claim is not None
    side = "left" if claim.shown_order[0] == position else "right"
    judging.judge(db, annotator_id, claim.nonce, act(f"{side}-{degree}", **extras))
    return claim


def set_project(db: Database, **changes: Any) -> None:
    project_store.set_project(db, replace(project_store.project(db), **changes))


def make_gold(db: Database, comparison_id: int) -> None:
    db.write("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id = ?", (comparison_id,))


def let_claims_expire(db: Database) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    db.write("UPDATE claim SET expires = ? WHERE state = 'held'", (past,))


def run_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def begin(db: Database, texts: tuple[str, str] = ("", ""), asked: int | None = None) -> tuple[int, list[int]]:
    prompt = seed_prompts(db, 1)[-1] if asked is None else own_prompts.asked(db)[0][1]
    return comparison_store.begin_answers(db, [make_response(prompt, text) for text in texts], asked)
