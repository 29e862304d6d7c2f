"""Claims and judgements on a real file: exactly once, never on the wrong pair, never lost, append-only."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from annotation import claims, store
from annotation.database import Database
from annotation.records import Annotator, Claim, UserError
from annotation.sqlite import sqlite3
from annotation.web import access
from rlhf.models import registry
from tests.conftest import act, judgement_count, make_response, seed_comparisons, seed_prompts, shown_texts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


@pytest.fixture
def bob(db: Database) -> Annotator:
    return access.add_account(db, "bob", "annotator", "bob's password")


def in_hand(db: Database, annotator: Annotator) -> Claim:
    claim = claims.claim_next(db, annotator.id)
    assert claim is not None
    return claim


def judgements(db: Database) -> list[dict[str, object]]:
    return db.rows("SELECT * FROM judgement ORDER BY id")


def judge_all(db: Database, annotator: Annotator, word: str = "tie") -> list[int]:
    """Judge whatever there is for an annotator; returns the comparisons in order."""
    served = []
    while (claim := claims.claim_next(db, annotator.id)) is not None:
        served.append(claim.comparison_id)
        claims.judge(db, annotator.id, claim.nonce, act(word))
    return served


def test_nobody_changes_a_judgement_for_ever(db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MOST_ROWS", 5)
    seed_comparisons(db, 2)
    last = claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    for word in ("left-much", "right-much", "left-much"):
        last = claims.revise(db, ann.id, last, act(word))
    claims.undo(db, ann.id, "")
    assert len(judgements(db)) == 5
    last = claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    with pytest.raises(UserError, match="changed and taken back so often that it stays"):
        claims.revise(db, ann.id, last, act("left-much"))
    with pytest.raises(UserError, match="changed and taken back so often that it stays"):
        claims.undo(db, ann.id, "")


def test_nobody_skips_for_ever(db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model writes another comparison for each. What can't be judged can always be skipped."""
    monkeypatch.setattr(claims, "MOST_SKIPS", 3)
    seed_comparisons(db, 9)

    def fail(claim: Claim) -> None:
        with db.transaction() as connection:
            connection.execute(
                """UPDATE response SET state = 'failed' WHERE id IN
                     (SELECT response_id FROM comparison_response WHERE comparison_id = ?)""",
                (claim.comparison_id,),
            )

    failing = in_hand(db, ann)
    fail(failing)
    claims.judge(db, ann.id, failing.nonce, act("skip"))
    for _ in range(3):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match=r"skipped 3 comparisons within a day .* until a day has passed"):
        claims.judge(db, ann.id, claim.nonce, act("skip"))
    claims.judge(db, ann.id, claim.nonce, act("tie"))
    for _ in range(3):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    failing = in_hand(db, ann)
    fail(failing)
    claims.judge(db, ann.id, failing.nonce, act("skip"))


def test_who_says_what_is_wrong_or_comes_back_the_next_day_skips_on(
    db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "MOST_SKIPS", 2)
    seed_comparisons(db, 9)
    for _ in range(3):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip", flag="broken"))
    for _ in range(2):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip", flag="broken"))
    nonce = in_hand(db, ann).nonce
    with pytest.raises(UserError, match="skipped 2 comparisons"):
        claims.judge(db, ann.id, nonce, act("skip"))
    a_day_later = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="microseconds")
    with db.transaction() as connection:
        connection.execute("UPDATE claim SET expires = '2099'")
    monkeypatch.setattr(claims, "now", lambda: a_day_later)
    claims.judge(db, ann.id, nonce, act("skip"))


def set_project(db: Database, **changes: Any) -> None:
    store.set_project(db, replace(store.project(db), **changes))


def let_claims_expire(db: Database) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    with db.transaction() as connection:
        connection.execute("UPDATE claim SET expires = ? WHERE state = 'held'", (past,))


def run_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ------------------------------------------------------------------------------------------------------------ claims
def test_asking_again_gives_the_same_comparison_in_the_same_order(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 5)
    first = in_hand(db, ann)
    assert [in_hand(db, ann) for _ in range(5)] == [first] * 5


def test_two_annotators_never_hold_the_same_comparison(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 1)
    in_hand(db, ann)
    assert claims.claim_next(db, bob.id) is None


def test_an_expired_claim_goes_back_and_its_owner_can_not_judge_it(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 1)
    old = in_hand(db, ann)
    let_claims_expire(db)
    new = in_hand(db, bob)
    assert new.comparison_id == old.comparison_id
    assert new.nonce != old.nonce
    with pytest.raises(UserError, match="ran out"):
        claims.judge(db, ann.id, old.nonce, act("tie"))
    claims.judge(db, bob.id, new.nonce, act("tie"))
    assert [row["annotator_id"] for row in judgements(db)] == [bob.id]


def test_a_claim_of_someone_else_can_not_be_judged(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 2)
    for nonce in (in_hand(db, ann).nonce, "made up", ""):
        with pytest.raises(UserError, match="not in your hands"):
            claims.judge(db, bob.id, nonce, act("tie"))
    assert judgements(db) == []


def test_the_serving_policys_comparisons_take_turns_with_imported_ones_and_older_policies_come_last(
    db: Database, ann: Annotator
) -> None:
    older = seed_comparisons(db, 2)
    imported = seed_comparisons(db, 12)
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET model_id = NULL WHERE id >= ?", (imported[0],))
    registry.add(db, revision="it-1", algorithm="dpo", base="b", parent_id=1, job_id=make_job(db), path="p", sha256="0")
    registry.promote(db, "it-1", "test")
    fresh = seed_comparisons(db, 12, model_id=2)
    source, served = random.Random(4), []
    while (claim := claims.claim_next(db, ann.id, source)) is not None:
        served.append(claim.comparison_id)
        claims.judge(db, ann.id, claim.nonce, act("tie"))
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
        claims.judge(db, ann.id, claim.nonce, act("tie"))
    assert served == made


def test_a_skipped_comparison_is_no_stock(db: Database, ann: Annotator) -> None:
    """Its one annotator never gets it again: counted as stock it would keep new answers from being drawn."""
    seed_comparisons(db, 3)
    for _ in range(3):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    assert claims.claim_next(db, ann.id) is None
    assert store.stock_sizes(db, 1) == {"train": 0, "held-out": 0}


def test_what_waits_for_people_is_all_that_some_are_still_to_judge(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    """Also what is in somebody's hands, until as many as shall have judged it."""
    store.set_project(db, replace(store.project(db), overlap=2))
    seed_comparisons(db, 2)
    assert claims.waiting_for_people(db) == {2: 2}
    first = in_hand(db, ann)
    claims.judge(db, ann.id, first.nonce, act("tie"))
    assert in_hand(db, bob).comparison_id == first.comparison_id, "what is begun goes first"
    assert claims.waiting_for_people(db) == {2: 2}
    assert (claims.waiting_for(db, ann.id).count, claims.waiting_for_others(db, ann.id)) == (1, 2)
    claims.judge(db, bob.id, in_hand(db, bob).nonce, act("tie"))
    assert claims.waiting_for_people(db) == {2: 1}
    assert claims.waiting_for_others(db, ann.id) == 1


# -------------------------------------------------------------------------------------------------------- judgements
def test_an_own_prompt_that_nobody_comes_back_to_is_no_stock(db: Database, ann: Annotator, bob: Annotator) -> None:
    """Nobody else gets it before its asker: counted as stock, it would keep everybody waiting for answers."""
    begin(db, ("One way.", "Another."), store.ask(db, ann.id, [{"role": "user", "content": "My own question?"}]))
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET state = 'ready', model_id = 1")
    assert claims.claim_next(db, bob.id) is None
    assert claims.waiting_for_others(db, bob.id) == 1
    access.add_account(db, "eve", "admin", "eve's password")
    access.deactivate(db, "ann")
    assert claims.waiting_for_others(db, bob.id) == 0, "eve would not get it either"
    assert store.stock_sizes(db, 1) == {"train": 0, "held-out": 0}
    assert store.waiting_elsewhere(db, 2) == 0


@pytest.mark.parametrize("word", ["left-much", "right-slightly"])
def test_the_answer_that_was_seen_as_better_wins(db: Database, ann: Annotator, word: str) -> None:
    seed_comparisons(db, 20)
    for _ in range(20):
        claim = in_hand(db, ann)
        claims.judge(db, ann.id, claim.nonce, act(word))
        judged = list(current_judgements(db))[-1]
        assert judged.ranking is not None
        winner = judged.responses[judged.ranking.index(1)].text
        assert winner == shown_texts(claim)[0 if word.startswith("left") else 1]
    orders = {row["shown_order"] for row in judgements(db)}
    assert orders == {"[0, 1]", "[1, 0]"}


def test_the_same_request_again_returns_the_first_judgement(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 2)
    nonce = in_hand(db, ann).nonce
    first = claims.judge(db, ann.id, nonce, act("left-clearly"))
    assert claims.judge(db, ann.id, nonce, act("left-clearly")) == first
    for word in ("right-clearly", "skip"):
        with pytest.raises(claims.JudgementConflict, match="already") as refused:
            claims.judge(db, ann.id, nonce, act(word))
        assert refused.value.stands == first
    assert len(judgements(db)) == 1
    assert in_hand(db, ann).nonce != nonce


def test_what_is_no_judgement_records_nothing(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match="'outcome' must be one of ranked, all-bad, skip"):
        claims.judge(db, ann.id, claim.nonce, {"outcome": "both"})
    assert judgements(db) == []
    assert in_hand(db, ann) == claim


def test_a_skip_gives_the_comparison_to_others_only(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 1)
    skipped = in_hand(db, ann)
    claims.judge(db, ann.id, skipped.nonce, act("skip"))
    assert claims.claim_next(db, ann.id) is None
    assert in_hand(db, bob).comparison_id == skipped.comparison_id
    assert judgement_count(db) == 0


def test_many_threads_of_two_annotators_judge_each_comparison_once(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 60)
    seen: list[tuple[int, str, int]] = []
    turns = iter([ann, bob] * 4)

    def work() -> None:
        annotator = next(turns)
        while (claim := claims.claim_next(db, annotator.id)) is not None:
            made = claims.judge(db, annotator.id, claim.nonce, act("left-clearly"))
            seen.append((claim.comparison_id, annotator.name, made))
        db.close()

    run_threads(work, 8)
    rows = judgements(db)
    assert len(rows) == 60
    assert len({row["comparison_id"] for row in rows}) == 60
    assert {made for _, _, made in seen} == {row["id"] for row in rows}
    assert {name for _, name, _ in seen} == {"ann", "bob"}


def test_a_burst_of_the_same_press_is_one_judgement(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 3)
    nonce = in_hand(db, ann).nonce
    made: list[int] = []

    def press() -> None:
        made.append(claims.judge(db, ann.id, nonce, act("tie")))
        db.close()

    run_threads(press, 12)
    assert len(made) == 12
    assert len(set(made)) == len(judgements(db)) == 1


# ------------------------------------------------------------------------------------------------------------- undo
def test_undo_brings_the_comparison_back_as_it_was_shown(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 2)
    first = in_hand(db, ann)
    claims.judge(db, ann.id, first.nonce, act("left-clearly"))
    again = claims.undo(db, ann.id, in_hand(db, ann).nonce)
    assert (again.comparison_id, shown_texts(again)) == (first.comparison_id, shown_texts(first))
    assert judgement_count(db, ann) == 0
    claims.judge(db, ann.id, again.nonce, act("right-clearly"))
    assert [row["outcome"] for row in judgements(db)] == ["ranked", "undone", "ranked"]
    assert judgement_count(db, ann) == 1


def test_what_one_has_judged_is_taken_back_however_many_are_asked_by_now(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    set_project(db, overlap=2)
    seed_comparisons(db, 1)
    for who in (ann, bob):
        claims.judge(db, who.id, in_hand(db, who).nonce, act("left-clearly"))
    set_project(db, overlap=1)
    again = claims.undo(db, ann.id, "")
    claims.judge(db, ann.id, again.nonce, act("right-clearly"))
    assert (judgement_count(db, ann), judgement_count(db, bob)) == (1, 1)


def test_a_repeated_undo_takes_back_one_judgement_only(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 3)
    for _ in range(2):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    shown = in_hand(db, ann).nonce
    claims.undo(db, ann.id, shown)
    with pytest.raises(UserError, match="Nothing was undone"):
        claims.undo(db, ann.id, shown)
    assert judgement_count(db, ann) == 1


def test_undo_from_the_waiting_card(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    claims.judge(db, ann.id, claim.nonce, act("tie"))
    assert claims.claim_next(db, ann.id) is None
    assert claims.undo(db, ann.id, "").comparison_id == claim.comparison_id


def test_a_press_on_what_was_taken_back_is_refused(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    claims.judge(db, ann.id, claim.nonce, act("tie"))
    claims.undo(db, ann.id, "")
    with pytest.raises(UserError, match="took this judgement back"):
        claims.judge(db, ann.id, claim.nonce, act("tie"))
    assert judgement_count(db) == 0


def test_nothing_to_undo_and_a_skip_that_someone_took(db: Database, ann: Annotator, bob: Annotator) -> None:
    with pytest.raises(UserError, match="no judgement of yours"):
        claims.undo(db, ann.id, "")
    seed_comparisons(db, 1)
    claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    in_hand(db, bob)
    with pytest.raises(UserError, match="your skip stays"):
        claims.undo(db, ann.id, "")
    assert [row["outcome"] for row in judgements(db)] == ["skip"]


def test_judgements_are_append_only(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    for statement in ("UPDATE judgement SET outcome = 'skip'", "DELETE FROM judgement"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"), db.transaction() as connection:
            connection.execute(statement)
    assert [row["outcome"] for row in judgements(db)] == ["ranked"]


def test_what_was_judged_comes_out_with_all_that_training_needs(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claims.judge(db, ann.id, in_hand(db, ann).nonce, act("all-bad"))
    judged = list(current_judgements(db))
    assert [(entry.outcome, entry.ranking, entry.strength, entry.annotator) for entry in judged] == [
        ("all-bad", None, None, "ann")
    ]
    assert [response.text[:8] for response in judged[0].responses] == ["Answer A", "Answer B"]


# ------------------------------------------------------------------------------------------------- many annotators
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
    claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    assert judge_all(db, bob) == made
    assert judge_all(db, ann) == made[2:]


def test_a_larger_overlap_opens_comparisons_again_and_a_smaller_one_closes_them(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 2)
    judge_all(db, ann)
    assert claims.claim_next(db, bob.id) is None
    set_project(db, overlap=2)
    assert len(judge_all(db, bob)) == 2
    set_project(db, overlap=1)
    assert claims.claim_next(db, access.add_account(db, "eve", "annotator", "eve's password").id) is None


def test_prompts_are_judged_evenly(db: Database, ann: Annotator) -> None:
    """A prompt with three comparisons waits while others have had fewer judgements."""
    prompts = seed_prompts(db, 2)
    for number in range(3):
        store.add_comparison(db, [make_response(prompts[0], f"{place} {number}") for place in "AB"])
    store.add_comparison(db, [make_response(prompts[1], place) for place in "AB"])
    served = judge_all(db, ann)
    of_prompt = {row["id"]: row["prompt_id"] for row in db.rows("SELECT id, prompt_id FROM comparison")}
    assert [of_prompt[entry] for entry in served[:2]] == [prompts[0].id, prompts[1].id]


def test_many_comparisons_of_few_prompts_are_spread_over_the_prompts(db: Database, ann: Annotator) -> None:
    """As an import of several comparisons a prompt makes them: in the file's order, a prompt's side by side."""
    for prompt in seed_prompts(db, 20):
        for number in range(8):
            store.add_comparison(db, [make_response(prompt, f"{place} {number}") for place in "AB"])
    for _ in range(20):
        claims.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    judged = db.value("SELECT count(DISTINCT prompt_id) FROM comparison WHERE taken")
    assert judged == 20


def test_the_count_of_takers_follows_every_change_of_a_claim(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)

    def taken() -> int:
        return int(db.value("SELECT taken FROM comparison"))

    claim = in_hand(db, ann)
    assert taken() == 1
    let_claims_expire(db)
    claims.release_unfit(db)
    assert taken() == 0
    claim = in_hand(db, ann)
    claims.judge(db, ann.id, claim.nonce, act("skip"))
    assert taken() == 0
    claims.undo(db, ann.id, "")
    assert taken() == 1


# ------------------------------------------------------------------------------------------------- gold and re-asks
def make_gold(db: Database, comparison_id: int) -> None:
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id = ?", (comparison_id,))


def test_gold_is_shown_to_everybody_once_and_fills_no_slot(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, gold_share=0.5)
    (gold,) = seed_comparisons(db, 1)
    make_gold(db, gold)
    seed_comparisons(db, 30)
    for person, seed in ((ann, 1), (bob, 2)):
        source = random.Random(seed)
        for _ in range(12):
            claim = claims.claim_next(db, person.id, source)
            assert claim is not None
            claims.judge(db, person.id, claim.nonce, act("left-much"))
    rows = db.rows("SELECT annotator_id, comparison_id FROM judgement WHERE purpose = 'gold'")
    assert sorted((row["annotator_id"], row["comparison_id"]) for row in rows) == [(ann.id, gold), (bob.id, gold)]
    assert db.value("SELECT taken FROM comparison WHERE id = ?", (gold,)) == 0
    assert judgement_count(db) == 22


def test_a_re_ask_shows_an_own_earlier_comparison_in_the_opposite_order(db: Database, ann: Annotator) -> None:
    set_project(db, re_ask_share=0.5)
    seed_comparisons(db, 40)
    source = random.Random(3)
    for _ in range(40):
        claim = claims.claim_next(db, ann.id, source)
        assert claim is not None
        claims.judge(db, ann.id, claim.nonce, act("left-clearly"))
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
        claim = claims.claim_next(db, ann.id, source)
        assert claim is not None
        made = claims.judge(db, ann.id, claim.nonce, act("left-clearly"))
        if claim.purpose == "own" and number % 2:
            claims.revise(db, ann.id, made, act("right-clearly"))
    shown = db.rows("SELECT comparison_id, count(*) AS n FROM claim GROUP BY comparison_id ORDER BY n DESC")
    assert shown[0]["n"] == 2


def test_the_chance_of_what_is_shown_is_that_with_which_it_is_drawn(db: Database, ann: Annotator) -> None:
    """800 draws from the same rows: each comparison as often as its chance says, within five standard deviations."""
    seed_comparisons(db, 12)
    judge_all(db, ann)  # of which one can be asked again by now
    seed_comparisons(db, 3)
    imported = store.add_comparison(db, [make_response(seed_prompts(db, 1)[-1], place) for place in "AB"])
    gold = store.add_comparison(db, [make_response(seed_prompts(db, 1)[-1], place) for place in "AB"])
    measuring = store.add_comparison(db, [make_response(seed_prompts(db, 1)[-1], place) for place in "AB"])
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET model_id = NULL WHERE id = ?", (imported,))
        connection.execute("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id = ?", (gold,))
        connection.execute("UPDATE comparison SET candidate_id = 1, against_id = 1 WHERE id = ?", (measuring,))
    set_project(db, gold_share=0.1, re_ask_share=0.2, candidate_share=0.3)
    source, project = random.Random(11), store.project(db)
    drawn = [claims.choose(db, ann.id, project, source) for _ in range(800)]
    counts = Counter((one.comparison_id, one.purpose, one.chance) for one in drawn if one is not None)
    assert sorted(chance for _, _, chance in counts) == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.3])
    assert sum(chance for _, _, chance in counts) == pytest.approx(1)
    for (_comparison, _purpose, chance), count in counts.items():
        assert abs(count - 800 * chance) < 5 * math.sqrt(800 * chance * (1 - chance))
    held = in_hand(db, ann)
    kept = db.value("SELECT chance FROM claim WHERE nonce = ?", (held.nonce,))
    assert (held.comparison_id, kept) in {(comparison_id, chance) for comparison_id, _, chance in counts}
    claims.judge(db, ann.id, held.nonce, act("tie"))
    assert [one.shown_chance for one in current_judgements(db) if one.purpose == held.purpose][-1] == kept


def test_without_gold_and_earlier_comparisons_the_shares_change_nothing(db: Database, ann: Annotator) -> None:
    set_project(db, gold_share=0.25, re_ask_share=0.25)
    made = seed_comparisons(db, 5)
    assert judge_all(db, ann) == made


# ---------------------------------------------------------------------------------------- rankings, reasons and edits
def seed_ranking(db: Database, size: int = 4) -> int:
    (prompt,) = seed_prompts(db, 1)[-1:]
    made = store.add_comparison(db, [make_response(prompt, f"answer {place}") for place in range(size)], size)
    assert made is not None
    return made


def test_a_ranking_is_recorded_by_position(db: Database, ann: Annotator) -> None:
    set_project(db, kind="rank", answers=4)
    seed_ranking(db)
    claim = in_hand(db, ann)
    assert claim.kind == "rank"
    claims.judge(db, ann.id, claim.nonce, {"outcome": "ranked", "ranks": [2, 1, 4, 2]})
    (judged,) = current_judgements(db)
    assert judged.ranking is not None
    by_text = {response.text: rank for response, rank in zip(judged.responses, judged.ranking, strict=True)}
    assert [by_text[text] for text in shown_texts(claim)] == [2, 1, 3, 2]
    assert (judged.kind, judged.strength) == ("rank", None)


def test_the_guidelines_that_were_shown_last_are_recorded(db: Database, ann: Annotator) -> None:
    """Claimed before there were any, shown again under the first, judged, and changed under the second."""
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    store.write_guidelines(db, "Be kind.", "owner")
    in_hand(db, ann)
    made = claims.judge(db, ann.id, claim.nonce, act("tie"))
    store.write_guidelines(db, "Be brief.", "owner")
    claims.revise(db, ann.id, made, act("left-much"))
    assert [row["guidelines_version"] for row in judgements(db)] == [1, 2]


def test_what_goes_along_with_a_verdict_is_kept(db: Database, ann: Annotator) -> None:
    store.write_guidelines(db, "Be kind.", "owner")
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    store.write_guidelines(db, "Be brief.", "owner")
    sent = act(
        "right-much",
        tags=["clear", "accurate"],
        note=" well put ",
        flag="harmful",
        edit={"place": 1, "text": "Better."},
    )
    claims.judge(db, ann.id, claim.nonce, sent)
    (judged,) = current_judgements(db)
    assert (judged.tags, judged.note, judged.flag) == (("accurate", "clear"), "well put", "harmful")
    assert judged.guidelines_version == 1
    assert judged.edited is not None
    assert (judged.edited.text, judged.edited.origin) == ("Better.", "person")
    best = judged.responses[claim.shown_order[1]]
    assert judged.edited.edited_from == best.id


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (act("left-much", tags=["no such reason"]), "Reload the page"),
        (act("left-much", flag="ugly"), "'flag' must be one of harmful, personal-data, broken, not 'ugly'"),
        (act("left-much", note="x" * 5000), "A note can have"),
        (act("left-much", edit={"place": 1, "text": "Better."}), "Edit the answer that you find best"),
        (act("tie", edit={"place": 5, "text": "Better."}), "Edit the answer that you find best"),
        (act("tie", edit={"place": 1}), "'edit.text' is missing"),
        (act("tie", why="so"), "no field 'why'"),
        (act("all-bad", edit={"place": 0, "text": "Better."}), "Edit the answer that you find best"),
        ({"outcome": "ranked", "ranks": [1, 2, 3], "strength": 1}, "one whole number"),
        ({"outcome": "ranked", "ranks": [1, True], "strength": 1}, r"'ranks\.1' must be of type int, not True"),
        ({"outcome": "ranked", "ranks": [1, 0], "strength": 1}, r"'ranks\.1' must be above zero"),
        ({"outcome": "ranked", "ranks": [1, 1], "strength": 2}, "strength"),
        ({"outcome": "ranked", "ranks": [1, 2], "strength": 0}, "strength"),
        ({"outcome": "ranked", "ranks": [1, 2]}, "strength"),
        ("left", "has these fields: outcome, ranks, "),
        ({"outcome": "undone"}, "must be one of ranked, all-bad, skip, not 'undone'"),
        (None, "has these fields: outcome, ranks, "),
    ],
)
def test_a_judgement_that_does_not_fit_is_refused_whole(db: Database, ann: Annotator, sent: Any, message: str) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match=message):
        claims.judge(db, ann.id, claim.nonce, sent)
    assert judgements(db) == []
    assert db.value("SELECT count(*) FROM response WHERE origin = 'person'") == 0
    assert in_hand(db, ann) == claim


def test_an_edit_that_changes_nothing_is_refused(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match="same as before"):
        claims.judge(db, ann.id, claim.nonce, act("left-much", edit={"place": 0, "text": shown_texts(claim)[0]}))
    assert judgements(db) == []


# ---------------------------------------------------------------------------------------------- changing and settling
def test_a_change_supersedes_and_nothing_is_deleted(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 3)
    first = claims.judge(db, ann.id, in_hand(db, ann).nonce, act("left-much", note="first thought"))
    judge_all(db, ann)
    shown, done = claims.reopen(db, ann.id, first)
    assert (done["outcome"], done["ranks"], done["strength"], done["note"]) == ("ranked", [1, 2], 3, "first thought")
    second = claims.revise(db, ann.id, first, act("right-slightly", edit={"place": 1, "text": "Mended."}))
    assert [row["id"] for row in judgements(db)][-1] == second
    assert judgement_count(db, ann) == 3
    _, again = claims.reopen(db, ann.id, second)
    assert again["ranks"] == [2, 1]
    assert again["edit"] == {"place": 1, "text": "Mended."}
    assert shown_texts(shown) == shown_texts(claims.reopen(db, ann.id, second)[0])
    with pytest.raises(UserError, match="changed or taken back"):
        claims.revise(db, bob.id, second, act("tie"))
    with pytest.raises(claims.JudgementConflict) as refused:
        claims.revise(db, ann.id, first, act("tie"))
    assert refused.value.stands == second
    assert claims.latest(db, ann.id)[0]["id"] == second


def test_changing_a_skip_into_a_verdict_takes_a_slot_only_if_one_is_free(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 1)
    skipped = claims.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    claim = in_hand(db, bob)
    with pytest.raises(UserError, match="your skip stays"):
        claims.revise(db, ann.id, skipped, act("tie"))
    claims.judge(db, bob.id, claim.nonce, act("skip"))
    claims.revise(db, ann.id, skipped, act("tie"))
    assert db.value("SELECT taken FROM comparison") == 1


def test_what_settles_is_a_judgement_beside_the_slots(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, overlap=2)
    (made,) = seed_comparisons(db, 1)
    judge_all(db, ann, "left-much")
    judge_all(db, bob, "left-much")
    judge = access.add_account(db, "judge", "admin", "the judge's word")
    claim = claims.take_to_settle(db, judge.id, made)
    assert claim.purpose == "settle"
    claims.judge(db, judge.id, claim.nonce, act("right-much"))
    assert [row["purpose"] for row in judgements(db)] == ["own", "own", "settle"]
    assert db.value("SELECT taken FROM comparison") == 2
    with pytest.raises(UserError, match="Nobody has judged"):
        claims.take_to_settle(db, judge.id, 999)


# -------------------------------------------------------------------------------------------- answers being written
def begin(db: Database, texts: tuple[str, str] = ("", ""), asked: int | None = None) -> tuple[int, list[int]]:
    prompt = seed_prompts(db, 1)[-1] if asked is None else store.asked(db)[0][1]
    return store.begin_answers(db, [make_response(prompt, text) for text in texts], asked)


def test_answers_can_be_watched_and_a_judgement_before_their_end_is_recorded_as_early(
    db: Database, ann: Annotator
) -> None:
    made, ids = begin(db)
    claim = in_hand(db, ann)
    assert [answer.state for answer in claim.answers] == ["writing", "writing"]
    store.update_answers(db, {ids[0]: "It is", ids[1]: "Well,"})
    assert sorted(shown_texts(in_hand(db, ann))) == ["It is", "Well,"]
    claims.judge(db, ann.id, claim.nonce, act("left-much"))
    (judged,) = current_judgements(db)
    assert judged.early
    (prompt,) = store.prompts(db, "train")
    ends = {ids[0]: make_response(prompt, "It is so."), ids[1]: make_response(prompt, "Well, no.")}
    assert store.finish_answers(db, made, ends) == "ready"
    assert [response.text for response in next(current_judgements(db)).responses] == ["It is so.", "Well, no."]


def test_a_finished_comparison_goes_before_one_being_written(db: Database, ann: Annotator) -> None:
    written, _ = begin(db)
    (ready,) = seed_comparisons(db, 1)
    assert judge_all(db, ann) == [ready, written]


def test_answers_that_failed_or_came_out_the_same_can_not_be_judged(db: Database, ann: Annotator) -> None:
    failed, _ = begin(db)
    claim = in_hand(db, ann)
    assert store.fail_answers(db) == 1
    with pytest.raises(UserError, match="could not be written"):
        claims.judge(db, ann.id, claim.nonce, act("left-much"))
    same, ids = begin(db)
    claim = in_hand(db, ann)
    assert claim.comparison_id == same
    prompt = store.prompts(db, "train")[-1]
    assert store.finish_answers(db, same, {entry: make_response(prompt, "Same.") for entry in ids}) == "dropped"
    with pytest.raises(UserError, match="came out the same"):
        claims.judge(db, ann.id, claim.nonce, act("left-much"))
    assert claims.claim_next(db, ann.id) is None
    assert judgements(db) == []
    assert failed != same


def test_an_own_prompt_comes_first_and_others_get_it_only_then(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, overlap=2)
    seed_comparisons(db, 2)
    held = in_hand(db, ann)
    asked = store.ask(db, ann.id, [{"role": "user", "content": "My own question?"}])
    begin(db, ("One way.", "Another."), asked)
    claims.judge(db, ann.id, held.nonce, act("tie"))
    assert asked not in judge_all(db, bob)
    own = in_hand(db, ann)
    assert own.comparison_id == asked
    assert [message["content"] for message in own.messages] == ["My own question?"]
    assert judge_all(db, bob) == [asked]


def test_the_same_own_prompt_is_asked_again_once_it_is_answered(db: Database, ann: Annotator, bob: Annotator) -> None:
    messages = [{"role": "user", "content": "My own question?"}]
    first = store.ask(db, ann.id, messages)
    assert store.ask(db, ann.id, messages) == first, "it waits already"
    begin(db, ("One way.", "Another."), first)
    assert store.ask(db, ann.id, messages) == first, "it is being answered"
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET state = 'ready'")
    assert store.ask(db, ann.id, messages) != first
    assert store.ask(db, bob.id, messages) != first
    assert len(store.asked(db)) == 2
    assert len(store.prompts(db, "train")) == 1


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}?"}]


def test_an_annotator_has_few_own_prompts_waiting_however_many_requests_come_at_once(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    asked, refused = [], []
    numbers = itertools.count()

    def post() -> None:
        for _ in range(5):
            try:
                asked.append(store.ask(db, ann.id, question(next(numbers))))
            except UserError as error:
                refused.append(str(error))
        db.close()

    run_threads(post, 6)
    assert len(asked) == store.MOST_UNANSWERED
    assert len(refused) == 30 - store.MOST_UNANSWERED
    assert set(refused) == {"3 of your prompts wait for their answers. Ask again when one is answered."}
    assert len(store.prompts(db, "train")) == store.MOST_UNANSWERED, "nothing stays of what was refused"
    bobs = store.ask(db, bob.id, question(100))
    assert [entry for entry, _ in store.asked(db)] == [asked[0], bobs, *asked[1:]], "each one's first comes first"
    begin(db, ("One way.", "Another."), asked[0])
    with pytest.raises(UserError, match="wait for their answers"):
        store.ask(db, ann.id, question(101))
    store.fail_answers(db, asked[0])
    store.ask(db, ann.id, question(101))


def test_an_annotator_asks_so_many_prompts_a_day(db: Database, ann: Annotator, bob: Annotator) -> None:
    for number in range(store.MOST_A_DAY):
        store.refuse_asked(db, store.ask(db, ann.id, question(number)))
    with pytest.raises(UserError, match="asked 50 prompts in the last 24 hours"):
        store.ask(db, ann.id, question(1000))
    store.ask(db, bob.id, question(1000))
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).isoformat(timespec="microseconds")
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET created = ? WHERE id = 1", (yesterday,))
    store.ask(db, ann.id, question(1001))
