"""Which comparison comes next: whose answers, how often, gold and re-asks in between, by what chance."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest

from annotation.claims import changing, choosing, handing_out, judging
from annotation.database import Database
from annotation.records import Annotator
from annotation.store import comparison_store, project_store
from annotation.web import access
from rlhf.models import decision_store, registry
from tests.annotation.claims.people import begin, in_hand, judge_all, make_gold, run_threads, set_project
from tests.conftest import act, judgement_count, make_response, seed_comparisons, seed_prompts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


def test_the_serving_policys_comparisons_take_turns_with_imported_ones_and_older_policies_come_last(
    db: Database, ann: Annotator
) -> None:
    older = seed_comparisons(db, 2)
    imported = seed_comparisons(db, 12)
    db.write("UPDATE comparison SET model_id = NULL WHERE id >= ?", (imported[0],))
    registry.add(db, revision="it-1", algorithm="dpo", base="b", parent_id=1, job_id=make_job(db), path="p", sha256="0")
    decision_store.promote(db, "it-1", "test")
    fresh = seed_comparisons(db, 12, model_id=2)
    source, served = random.Random(4), []
    while (claim := handing_out.claim_next(db, ann.id, source)) is not None:
        served.append(claim.comparison_id)
        judging.judge(db, ann.id, claim.nonce, act("tie"))
    assert served[-2:] == older
    first = served[:12]
    assert [entry for entry in first if entry in fresh] == fresh[: sum(entry in fresh for entry in first)]
    assert 2 <= sum(entry in imported for entry in first) <= 10


def make_job(db: Database) -> int:
    with db.transaction() as connection:
        return int(
            connection.execute(
                "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', '{}', 'finished', '', '')"
            ).lastrowid
        )


def test_comparisons_come_in_the_order_in_which_they_were_made(db: Database, ann: Annotator) -> None:
    """So the splits keep the share that the answering worker gave them."""
    made = [*seed_comparisons(db, 2, "train"), *seed_comparisons(db, 1, "held-out"), *seed_comparisons(db, 2, "train")]
    served = []
    for _ in made:
        claim = in_hand(db, ann)
        served.append(claim.comparison_id)
        judging.judge(db, ann.id, claim.nonce, act("tie"))
    assert served == made


def test_a_finished_comparison_goes_before_one_being_written(db: Database, ann: Annotator) -> None:
    written, _ = begin(db)
    (ready,) = seed_comparisons(db, 1)
    assert judge_all(db, ann) == [ready, written]


# --------------------------------------------------------------------------------------------------- many annotators
def test_overlap_is_exact_and_nobody_judges_a_comparison_twice(db: Database) -> None:
    """Five people in ten threads, three wanted for each comparison."""
    set_project(db, overlap=3)
    made = seed_comparisons(db, 40)
    people = [access.add_account(db, f"person-{number}", "annotator", "a long password") for number in range(5)]
    turns = iter(people * 2)

    def work() -> None:
        judge_all(db, next(turns))
        db.close()

    run_threads(work, 10)
    rows = db.rows(
        "SELECT comparison_id, count(*) AS n, count(DISTINCT annotator_id) AS people FROM judgement GROUP BY 1"
    )
    assert [(row["comparison_id"], row["n"], row["people"]) for row in rows] == [(entry, 3, 3) for entry in made]
    assert {row["taken"] for row in db.rows("SELECT taken FROM comparison")} == {3}
    assert db.value("SELECT count(*) FROM claim WHERE state = 'held'") == 0


def test_begun_comparisons_are_finished_first(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, overlap=2)
    made = seed_comparisons(db, 3)
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    assert judge_all(db, bob) == made
    assert judge_all(db, ann) == made[2:]


def test_a_larger_overlap_opens_comparisons_again_and_a_smaller_one_closes_them(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 2)
    judge_all(db, ann)
    assert handing_out.claim_next(db, bob.id) is None
    set_project(db, overlap=2)
    assert len(judge_all(db, bob)) == 2
    set_project(db, overlap=1)
    assert handing_out.claim_next(db, access.add_account(db, "eve", "annotator", "eve's password").id) is None


def test_prompts_are_judged_evenly(db: Database, ann: Annotator) -> None:
    """A prompt with three comparisons waits while others have had fewer judgements."""
    prompts = seed_prompts(db, 2)
    for number in range(3):
        comparison_store.add_comparison(db, [make_response(prompts[0], f"{place} {number}") for place in "AB"])
    comparison_store.add_comparison(db, [make_response(prompts[1], place) for place in "AB"])
    served = judge_all(db, ann)
    of_prompt = {row["id"]: row["prompt_id"] for row in db.rows("SELECT id, prompt_id FROM comparison")}
    assert [of_prompt[entry] for entry in served[:2]] == [prompts[0].id, prompts[1].id]


def test_many_comparisons_of_few_prompts_are_spread_over_the_prompts(db: Database, ann: Annotator) -> None:
    """As an import of several comparisons a prompt makes them: in the file's order, a prompt's side by side."""
    for prompt in seed_prompts(db, 20):
        for number in range(8):
            comparison_store.add_comparison(db, [make_response(prompt, f"{place} {number}") for place in "AB"])
    for _ in range(20):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    judged = db.value("SELECT count(DISTINCT prompt_id) FROM comparison WHERE taken")
    assert judged == 20


# -------------------------------------------------------------------------------------------------- gold and re-asks
def test_gold_is_shown_to_everybody_once_and_fills_no_slot(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, gold_share=0.5)
    (gold,) = seed_comparisons(db, 1)
    make_gold(db, gold)
    seed_comparisons(db, 30)
    for person, seed in ((ann, 1), (bob, 2)):
        source = random.Random(seed)
        for _ in range(12):
            claim = handing_out.claim_next(db, person.id, source)
            assert claim is not None
            judging.judge(db, person.id, claim.nonce, act("left-much"))
    rows = db.rows("SELECT annotator_id, comparison_id FROM judgement WHERE purpose = 'gold'")
    assert sorted((row["annotator_id"], row["comparison_id"]) for row in rows) == [(ann.id, gold), (bob.id, gold)]
    assert db.value("SELECT taken FROM comparison WHERE id = ?", (gold,)) == 0
    assert judgement_count(db) == 22


def test_a_re_ask_shows_an_own_earlier_comparison_in_the_opposite_order(db: Database, ann: Annotator) -> None:
    set_project(db, re_ask_share=0.5)
    seed_comparisons(db, 40)
    source = random.Random(3)
    for _ in range(40):
        claim = handing_out.claim_next(db, ann.id, source)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    again = db.rows(
        """SELECT j.shown_order, e.shown_order AS earlier, j.comparison_id, e.comparison_id AS same, e.id AS first,
               (SELECT count(*) FROM judgement b WHERE b.id > e.id AND b.id < j.id) AS between_them
           FROM judgement j JOIN judgement e ON e.id = j.re_ask_of WHERE j.purpose = 're-ask'"""
    )
    assert len(again) > 5
    assert all(row["comparison_id"] == row["same"] for row in again)
    assert all(json.loads(row["shown_order"]) == json.loads(row["earlier"])[::-1] for row in again)
    assert all(row["between_them"] >= 10 for row in again)
    assert len({row["first"] for row in again}) == len(again)
    # Measuring does not count as collecting, and does not take the place of the first judgement.
    assert judgement_count(db) == 40 - len(again)


def test_a_comparison_is_asked_again_once_even_if_its_judgement_was_changed(db: Database, ann: Annotator) -> None:
    set_project(db, re_ask_share=0.5)
    seed_comparisons(db, 60)
    source = random.Random(6)
    for number in range(60):
        claim = handing_out.claim_next(db, ann.id, source)
        assert claim is not None
        made = judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
        if claim.purpose == "own" and number % 2:
            changing.revise(db, ann.id, made, act("right-clearly"))
    shown = db.rows("SELECT comparison_id, count(*) AS n FROM claim GROUP BY comparison_id ORDER BY n DESC")
    assert shown[0]["n"] == 2


def test_the_chance_of_what_is_shown_is_that_with_which_it_is_drawn(db: Database, ann: Annotator) -> None:
    """800 draws from the same rows: each comparison as often as its chance says, within five standard deviations."""
    seed_comparisons(db, 12)
    judge_all(db, ann)  # of which one can be asked again by now
    seed_comparisons(db, 3)
    imported = comparison_store.add_comparison(db, [make_response(seed_prompts(db, 1)[-1], place) for place in "AB"])
    gold = comparison_store.add_comparison(db, [make_response(seed_prompts(db, 1)[-1], place) for place in "AB"])
    measuring = comparison_store.add_comparison(db, [make_response(seed_prompts(db, 1)[-1], place) for place in "AB"])
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET model_id = NULL WHERE id = ?", (imported,))
        connection.execute("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id = ?", (gold,))
        connection.execute("UPDATE comparison SET candidate_id = 1, against_id = 1 WHERE id = ?", (measuring,))
    set_project(db, gold_share=0.1, re_ask_share=0.2, candidate_share=0.3)
    source, project = random.Random(11), project_store.project(db)
    drawn = [choosing.choose(db, ann.id, project, source) for _ in range(800)]
    counts = Counter((one.comparison_id, one.purpose, one.chance) for one in drawn if one is not None)
    assert sorted(chance for _, _, chance in counts) == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.3])
    assert sum(chance for _, _, chance in counts) == pytest.approx(1)
    for (_comparison, _purpose, chance), count in counts.items():
        assert abs(count - 800 * chance) < 5 * math.sqrt(800 * chance * (1 - chance))
    held = in_hand(db, ann)
    kept = db.value("SELECT chance FROM claim WHERE nonce = ?", (held.nonce,))
    assert (held.comparison_id, kept) in {(comparison_id, chance) for comparison_id, _, chance in counts}
    judging.judge(db, ann.id, held.nonce, act("tie"))
    assert [one.shown_chance for one in current_judgements(db) if one.purpose == held.purpose][-1] == kept


def test_whoever_has_nothing_else_to_judge_is_not_measured_however_often_the_page_asks(
    db: Database, ann: Annotator
) -> None:
    """Or of what an annotator sees much more than the share would be gold and re-asks."""
    set_project(db, gold_share=0.2, re_ask_share=0.2)
    seed_comparisons(db, 16)
    judge_all(db, ann)
    make_gold(db, *seed_comparisons(db, 1))
    assert [handing_out.claim_next(db, ann.id, random.Random(seed)) for seed in range(40)] == [None] * 40
    seed_comparisons(db, 1)
    assert handing_out.claim_next(db, ann.id, random.Random(1)) is not None


def test_without_gold_and_earlier_comparisons_the_shares_change_nothing(db: Database, ann: Annotator) -> None:
    set_project(db, gold_share=0.25, re_ask_share=0.25)
    made = seed_comparisons(db, 5)
    assert judge_all(db, ann) == made
