"""What waits for people, and what is no stock although nobody has judged it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annotation.claims import backlog, handing_out, judging, own_prompts
from annotation.database import Database
from annotation.records import Annotator
from annotation.store import project_store, stock_counts
from annotation.web import access
from tests.annotation.claims.people import begin, in_hand
from tests.conftest import act, seed_comparisons

pytestmark = pytest.mark.slow


def test_a_skipped_comparison_is_no_stock(db: Database, ann: Annotator) -> None:
    """Its one annotator never gets it again: counted as stock it would keep new answers from being drawn."""
    seed_comparisons(db, 3)
    for _ in range(3):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    assert handing_out.claim_next(db, ann.id) is None
    assert stock_counts.stock_sizes(db, 1) == {"train": 0, "held-out": 0}


def test_what_waits_for_people_is_all_that_some_are_still_to_judge(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    """Also what is in somebody's hands, until as many as shall have judged it."""
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    seed_comparisons(db, 2)
    assert backlog.waiting_for_people(db) == {2: 2}
    first = in_hand(db, ann)
    judging.judge(db, ann.id, first.nonce, act("tie"))
    assert in_hand(db, bob).comparison_id == first.comparison_id, "what is begun goes first"
    assert backlog.waiting_for_people(db) == {2: 2}
    assert (backlog.waiting_for(db, ann.id).count, backlog.waiting_for_others(db, ann.id)) == (1, 2)
    judging.judge(db, bob.id, in_hand(db, bob).nonce, act("tie"))
    assert backlog.waiting_for_people(db) == {2: 1}
    assert backlog.waiting_for_others(db, ann.id) == 1


def test_an_own_prompt_that_nobody_comes_back_to_is_no_stock(db: Database, ann: Annotator, bob: Annotator) -> None:
    """Nobody else gets it before its asker: counted as stock, it would keep everybody waiting for answers."""
    begin(db, ("One way.", "Another."), own_prompts.ask(db, ann.id, [{"role": "user", "content": "My own question?"}]))
    db.write("UPDATE comparison SET state = 'ready', model_id = 1")
    assert handing_out.claim_next(db, bob.id) is None
    assert backlog.waiting_for_others(db, bob.id) == 1
    access.add_account(db, "eve", "admin", "eve's password")
    access.deactivate(db, "ann")
    assert backlog.waiting_for_others(db, bob.id) == 0, "eve would not get it either"
    assert stock_counts.stock_sizes(db, 1) == {"train": 0, "held-out": 0}
    assert stock_counts.waiting_elsewhere(db, 2) == 0
