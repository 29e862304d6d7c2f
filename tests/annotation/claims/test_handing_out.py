"""Claims on a real file: the same one again, never two of one comparison, back when their time is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from annotation.claims import changing, handing_out, judging
from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.store import comparison_store, project_store, prompt_store
from annotation.web import access
from tests.annotation.claims.people import (
    begin,
    in_hand,
    judge_all,
    judgements,
    let_claims_expire,
    run_threads,
    set_project,
)
from tests.conftest import act, judgement_count, make_response, seed_comparisons, shown_texts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


def test_asking_again_gives_the_same_comparison_in_the_same_order(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 5)
    first = in_hand(db, ann)
    assert [in_hand(db, ann) for _ in range(5)] == [first] * 5


def test_two_annotators_never_hold_the_same_comparison(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 1)
    in_hand(db, ann)
    assert handing_out.claim_next(db, bob.id) is None


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
        judging.judge(db, ann.id, old.nonce, act("tie"))
    judging.judge(db, bob.id, new.nonce, act("tie"))
    assert [row["annotator_id"] for row in judgements(db)] == [bob.id]


@pytest.mark.parametrize(("minutes", "freed"), [(60 * 24 * 365, True), (5, False)])
def test_nobody_holds_a_comparison_until_a_time_to_which_the_clock_was_wrongly_set(
    db: Database, ann: Annotator, bob: Annotator, minutes: int, freed: bool
) -> None:
    """Set back by a year, it does; by what a clock is put right by now and then, hers stays hers."""
    seed_comparisons(db, 1)
    old = in_hand(db, ann)
    created, expires = (
        (datetime.now(UTC) + timedelta(minutes=minutes + more)).isoformat(timespec="microseconds") for more in (0, 20)
    )
    db.write("UPDATE claim SET created = ?, expires = ?", (created, expires))
    new = handing_out.claim_next(db, bob.id)
    assert (new is not None) is freed
    if freed:
        with pytest.raises(UserError, match="The time for this comparison ran out"):
            judging.judge(db, ann.id, old.nonce, act("tie"))


def test_a_claim_of_someone_else_can_not_be_judged(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 2)
    for nonce in (in_hand(db, ann).nonce, "made up", ""):
        with pytest.raises(UserError, match="not in your hands"):
            judging.judge(db, bob.id, nonce, act("tie"))
    assert judgements(db) == []


def test_a_skip_gives_the_comparison_to_others_only(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 1)
    skipped = in_hand(db, ann)
    judging.judge(db, ann.id, skipped.nonce, act("skip"))
    assert handing_out.claim_next(db, ann.id) is None
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
        while (claim := handing_out.claim_next(db, annotator.id)) is not None:
            made = judging.judge(db, annotator.id, claim.nonce, act("left-clearly"))
            seen.append((claim.comparison_id, annotator.name, made))
        db.close()

    run_threads(work, 8)
    rows = judgements(db)
    assert len(rows) == 60
    assert len({row["comparison_id"] for row in rows}) == 60
    assert {made for _, _, made in seen} == {row["id"] for row in rows}
    assert {name for _, name, _ in seen} == {"ann", "bob"}


def test_the_count_of_takers_follows_every_change_of_a_claim(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)

    def taken() -> int:
        return int(db.value("SELECT taken FROM comparison"))

    claim = in_hand(db, ann)
    assert taken() == 1
    let_claims_expire(db)
    handing_out.release_unfit(db)
    assert taken() == 0
    claim = in_hand(db, ann)
    judging.judge(db, ann.id, claim.nonce, act("skip"))
    assert taken() == 0
    changing.undo(db, ann.id, "")
    assert taken() == 1


def test_the_guidelines_that_were_shown_last_are_recorded(db: Database, ann: Annotator) -> None:
    """Claimed before there were any, shown again under the first, judged, and changed under the second."""
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    project_store.write_guidelines(db, "Be kind.", "owner")
    in_hand(db, ann)
    made = judging.judge(db, ann.id, claim.nonce, act("tie"))
    project_store.write_guidelines(db, "Be brief.", "owner")
    changing.revise(db, ann.id, made, act("left-much"))
    assert [row["guidelines_version"] for row in judgements(db)] == [1, 2]


def test_what_settles_is_a_judgement_beside_the_slots(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, overlap=2)
    (made,) = seed_comparisons(db, 1)
    judge_all(db, ann, "left-much")
    judge_all(db, bob, "left-much")
    judge = access.add_account(db, "judge", "admin", "the judge's word")
    claim = handing_out.take_to_settle(db, judge.id, made)
    assert claim.purpose == "settle"
    judging.judge(db, judge.id, claim.nonce, act("right-much"))
    assert [row["purpose"] for row in judgements(db)] == ["own", "own", "settle"]
    assert db.value("SELECT taken FROM comparison") == 2
    with pytest.raises(UserError, match="Nobody has judged"):
        handing_out.take_to_settle(db, judge.id, 999)


def test_answers_can_be_watched_and_be_skipped_but_not_judged_before_their_end(db: Database, ann: Annotator) -> None:
    made, ids = begin(db)
    claim = in_hand(db, ann)
    assert [answer.state for answer in claim.answers] == ["writing", "writing"]
    comparison_store.update_answers(db, {ids[0]: "It is", ids[1]: "Well,"})
    assert sorted(shown_texts(in_hand(db, ann))) == ["It is", "Well,"]
    with pytest.raises(UserError, match="still being written"):
        judging.judge(db, ann.id, claim.nonce, act("left-much"))
    (prompt,) = prompt_store.prompts(db, "train")
    ends = {ids[0]: make_response(prompt, "It is so."), ids[1]: make_response(prompt, "Well, no.")}
    assert comparison_store.finish_answers(db, made, ends) == "ready"
    judging.judge(db, ann.id, claim.nonce, act("left-much"))
    assert [response.text for response in next(current_judgements(db)).responses] == ["It is so.", "Well, no."]
    begin(db)
    skipped = judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    assert db.value("SELECT outcome FROM judgement WHERE id = ?", (skipped,)) == "skip"


def test_answers_that_failed_or_came_out_the_same_can_not_be_judged(db: Database, ann: Annotator) -> None:
    failed, _ = begin(db)
    claim = in_hand(db, ann)
    assert comparison_store.fail_answers(db) == 1
    with pytest.raises(UserError, match="could not be written"):
        judging.judge(db, ann.id, claim.nonce, act("left-much"))
    same, ids = begin(db)
    claim = in_hand(db, ann)
    assert claim.comparison_id == same
    prompt = prompt_store.prompts(db, "train")[-1]
    assert (
        comparison_store.finish_answers(db, same, {entry: make_response(prompt, "Same.") for entry in ids}) == "dropped"
    )
    with pytest.raises(UserError, match="came out the same"):
        judging.judge(db, ann.id, claim.nonce, act("left-much"))
    assert handing_out.claim_next(db, ann.id) is None
    assert judgements(db) == []
    assert failed != same
