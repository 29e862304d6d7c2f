"""Comparisons of two policies on a real file: once, and before people by lot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.records import Annotator
from annotation.store import comparison_store, policy_comparisons, project_store
from tests.conftest import act, make_response, seed_prompts, shown_texts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


def test_what_two_policies_answered_in_a_check_is_compared_once(db: Database, ann: Annotator) -> None:
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompts = seed_prompts(db, 4, "held-out")
    texts = [("base one", "dpo one"), ("base two", "dpo two"), ("the same", "the same"), ("base four", " ")]
    for prompt, pair in zip(prompts, texts, strict=True):
        for model_id, text in enumerate(pair, 1):
            comparison_store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "check")
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.5))
    assert policy_comparisons.compare_policies(db, 2, 1) == 2
    assert policy_comparisons.compare_policies(db, 2, 1) == policy_comparisons.compare_policies(db, 1, 2) == 0
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    assert sorted(shown_texts(claim)) in (["base one", "dpo one"], ["base two", "dpo two"])  # in no telling order
    judging.judge(db, ann.id, claim.nonce, act("left-much"))
    judged = next(current_judgements(db))
    assert (judged.split, {response.revision for response in judged.responses}) == ("held-out", {"base", "dpo-1"})


def test_people_get_a_share_of_a_check_drawn_by_lot_until_all_is_asked_of_them(db: Database) -> None:
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompts = seed_prompts(db, 300, "held-out")
    for prompt in prompts:
        for model_id in (1, 2):
            comparison_store.add_response(
                db, make_response(prompt, f"by {model_id}", model_id, seed=prompt.id), "check"
            )
    on = [prompt.id for prompt in prompts[:200]]
    assert policy_comparisons.compare_policies(db, 2, 1, "people", on, 0.25) == 300
    rows = db.rows("SELECT * FROM comparison ORDER BY prompt_id")
    assert [row["people_chance"] for row in rows] == [0.25] * 200 + [0.0] * 100
    assert all((row["asks"] == "people") == row["people_drawn"] for row in rows)
    assert abs(sum(row["people_drawn"] for row in rows) - 50) < 5 * math.sqrt(200 * 0.25 * 0.75)
    drawn = [row["people_drawn"] for row in rows]
    assert policy_comparisons.ask_people_of_candidate(db, 2, 1, on) == 200 - sum(drawn)
    after = db.rows("SELECT * FROM comparison ORDER BY prompt_id")
    assert [row["asks"] for row in after] == ["people"] * 200 + ["nobody"] * 100
    assert [(row["people_chance"], row["people_drawn"]) for row in after] == [
        (row["people_chance"], row["people_drawn"]) for row in rows
    ], "what was drawn stays known"
    assert policy_comparisons.ask_people_of_candidate(db, 2, 1) == 100
    after = db.rows("SELECT * FROM comparison ORDER BY prompt_id")
    assert {(row["people_chance"], row["people_drawn"]) for row in after[200:]} == {(1.0, 1)}
