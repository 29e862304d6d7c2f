"""Judgements taken back and changed: one at a time, and nothing is deleted."""

from __future__ import annotations

import random
from typing import Any

import pytest

from annotation.claims import changing, handing_out, judging, own_judgements
from annotation.database import Database
from annotation.records import Annotator, Claim, UserError, now
from tests.annotation.claims.people import in_hand, judge_all, judgements, make_gold, set_project
from tests.conftest import act, judgement_count, seed_comparisons, shown_texts

pytestmark = pytest.mark.slow


def test_nobody_changes_a_judgement_for_ever(db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "MOST_ROWS", 5)
    seed_comparisons(db, 2)
    last = judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    for word in ("left-much", "right-much", "left-much"):
        last = changing.revise(db, ann.id, last, act(word))
    changing.undo(db, ann.id, "")
    assert len(judgements(db)) == 5
    last = judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    with pytest.raises(UserError, match="changed and taken back so often that it stays"):
        changing.revise(db, ann.id, last, act("left-much"))
    with pytest.raises(UserError, match="changed and taken back so often that it stays"):
        changing.undo(db, ann.id, "")


def test_undo_brings_the_comparison_back_as_it_was_shown(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 2)
    first = in_hand(db, ann)
    judging.judge(db, ann.id, first.nonce, act("left-clearly"))
    again = changing.undo(db, ann.id, in_hand(db, ann).nonce)
    assert (again.comparison_id, shown_texts(again)) == (first.comparison_id, shown_texts(first))
    assert judgement_count(db, ann) == 0
    judging.judge(db, ann.id, again.nonce, act("right-clearly"))
    assert [row["outcome"] for row in judgements(db)] == ["ranked", "undone", "ranked"]
    assert judgement_count(db, ann) == 1


def test_what_one_has_judged_is_taken_back_however_many_are_asked_by_now(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    set_project(db, overlap=2)
    seed_comparisons(db, 1)
    for who in (ann, bob):
        judging.judge(db, who.id, in_hand(db, who).nonce, act("left-clearly"))
    set_project(db, overlap=1)
    again = changing.undo(db, ann.id, "")
    judging.judge(db, ann.id, again.nonce, act("right-clearly"))
    assert (judgement_count(db, ann), judgement_count(db, bob)) == (1, 1)


def test_a_repeated_undo_takes_back_one_judgement_only(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 3)
    for _ in range(2):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    shown = in_hand(db, ann).nonce
    changing.undo(db, ann.id, shown)
    with pytest.raises(UserError, match="Nothing was undone"):
        changing.undo(db, ann.id, shown)
    assert judgement_count(db, ann) == 1


def test_no_undo_draws_anew_what_comes_next(db: Database, ann: Annotator) -> None:
    """What is rare and comes again and again would be gold."""
    gold, _first, *_others = seed_comparisons(db, 30)
    make_gold(db, gold)
    set_project(db, gold_share=0.3, re_ask_share=0.3)
    source = random.Random(4)
    for _ in range(12):
        claim = handing_out.claim_next(db, ann.id, source)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("tie"))
    second_gold, *_others = seed_comparisons(db, 1)
    make_gold(db, second_gold)
    seen = set()
    for step in range(16):
        before = handing_out.claim_next(db, ann.id, source)
        assert before is not None
        judging.judge(db, ann.id, before.nonce, act("tie"))
        following = handing_out.claim_next(db, ann.id, source)
        assert following is not None
        seen.add(following.purpose)
        for _ in range(3):
            again = changing.undo(db, ann.id, in_hand(db, ann).nonce)
            assert (again.comparison_id, again.purpose) == (before.comparison_id, before.purpose)
            judging.judge(db, ann.id, again.nonce, act("skip" if step % 2 else "tie"))
            found = handing_out.claim_next(db, ann.id, source)
            assert found is not None
            assert as_handed_out(db, found) == as_handed_out(db, following)
    assert seen == {"own", "gold", "re-ask"}


def as_handed_out(db: Database, claim: Claim) -> dict[str, Any]:
    """Of what is in hand, what was drawn."""
    return db.one(
        "SELECT comparison_id, purpose, shown_order, chance, re_ask_of, slot FROM claim WHERE nonce = ?", (claim.nonce,)
    )


@pytest.mark.parametrize("kind", ["own prompts", "settling"])
def test_what_comes_before_all_others_comes_again_in_the_same_order_after_an_undo(
    db: Database, ann: Annotator, bob: Annotator, kind: str
) -> None:
    made = seed_comparisons(db, 3)
    if kind == "own prompts":
        db.write("UPDATE comparison SET asked_by = ?", (ann.id,))
    else:
        db.write("UPDATE annotator SET role = 'admin' WHERE id = ?", (ann.id,))
        terms = {"kind": "settle", "annotator_id": ann.id, "decided_by": "ann", "created": now()}
        change = db.insert("bulk_change", terms)
        for number in made:
            db.insert("bulk_change_comparison", {"change_id": change, "comparison_id": number, "state": "stands"})
    source = random.Random(1)
    before = handing_out.claim_next(db, ann.id, source)
    assert before is not None
    judging.judge(db, ann.id, before.nonce, act("tie"))
    following = handing_out.claim_next(db, ann.id, source)
    assert following is not None
    for _ in range(8):
        again = changing.undo(db, ann.id, in_hand(db, ann).nonce)
        judging.judge(db, ann.id, again.nonce, act("tie"))
        found = handing_out.claim_next(db, ann.id, source)
        assert found is not None
        assert as_handed_out(db, found) == as_handed_out(db, following)
    # As of all others: the time for it has run out.
    db.write("UPDATE claim SET expires = '2000'")
    orders = set()
    for _ in range(8):
        found = handing_out.claim_next(db, ann.id, source)
        assert found is not None
        assert found.comparison_id == following.comparison_id
        orders.add(as_handed_out(db, found)["shown_order"])
        db.write("UPDATE claim SET expires = '2000'")
    assert len(orders) == 2


def test_undone_one_after_another_they_come_again_in_their_turn(db: Database, ann: Annotator) -> None:
    made = seed_comparisons(db, 5)
    for _ in range(3):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    for _ in range(3):
        changing.undo(db, ann.id, in_hand(db, ann).nonce)
    assert judge_all(db, ann) == made


def test_what_an_undo_put_back_is_not_kept_from_others_nor_given_against_the_rules(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    first, second, third, fourth = seed_comparisons(db, 4)
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    again = changing.undo(db, ann.id, in_hand(db, ann).nonce)
    assert in_hand(db, bob).comparison_id == second
    judging.judge(db, ann.id, again.nonce, act("tie"))
    assert in_hand(db, ann).comparison_id == third, "bob has the second by now"
    again = changing.undo(db, ann.id, in_hand(db, ann).nonce)
    db.write("UPDATE comparison SET state = 'withdrawn' WHERE id = ?", (third,))
    judging.judge(db, ann.id, again.nonce, act("tie"))
    assert in_hand(db, ann).comparison_id == fourth
    again = changing.undo(db, ann.id, in_hand(db, ann).nonce)
    db.write("UPDATE annotator SET quota = 1 WHERE id = ?", (ann.id,))
    judging.judge(db, ann.id, again.nonce, act("tie"))
    assert handing_out.claim_next(db, ann.id) is None, "one was asked for"
    assert first == again.comparison_id


def test_undo_from_the_waiting_card(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    judging.judge(db, ann.id, claim.nonce, act("tie"))
    assert handing_out.claim_next(db, ann.id) is None
    assert changing.undo(db, ann.id, "").comparison_id == claim.comparison_id


def test_a_press_on_what_was_taken_back_is_refused(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    judging.judge(db, ann.id, claim.nonce, act("tie"))
    changing.undo(db, ann.id, "")
    with pytest.raises(UserError, match="took this judgement back"):
        judging.judge(db, ann.id, claim.nonce, act("tie"))
    assert judgement_count(db) == 0


def test_nothing_to_undo_and_a_skip_that_someone_took(db: Database, ann: Annotator, bob: Annotator) -> None:
    with pytest.raises(UserError, match="no judgement of yours"):
        changing.undo(db, ann.id, "")
    seed_comparisons(db, 1)
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    in_hand(db, bob)
    with pytest.raises(UserError, match="your skip stays"):
        changing.undo(db, ann.id, "")
    assert [row["outcome"] for row in judgements(db)] == ["skip"]


def test_a_change_supersedes_and_nothing_is_deleted(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 3)
    first = judging.judge(db, ann.id, in_hand(db, ann).nonce, act("left-much", note="first thought"))
    judge_all(db, ann)
    shown, done = changing.reopen(db, ann.id, first)
    assert (done["outcome"], done["ranks"], done["strength"], done["note"]) == ("ranked", [1, 2], 3, "first thought")
    second = changing.revise(db, ann.id, first, act("right-slightly", edit={"place": 1, "text": "Mended."}))
    assert [row["id"] for row in judgements(db)][-1] == second
    assert judgement_count(db, ann) == 3
    _, again = changing.reopen(db, ann.id, second)
    assert again["ranks"] == [2, 1]
    assert again["edit"] == {"place": 1, "text": "Mended."}
    assert shown_texts(shown) == shown_texts(changing.reopen(db, ann.id, second)[0])
    with pytest.raises(UserError, match="changed or taken back"):
        changing.revise(db, bob.id, second, act("tie"))
    with pytest.raises(judging.JudgementConflict) as refused:
        changing.revise(db, ann.id, first, act("tie"))
    assert refused.value.stands == second
    assert own_judgements.latest(db, ann.id)[0].made.id == second


def test_changing_a_skip_into_a_verdict_takes_a_slot_only_if_one_is_free(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 1)
    skipped = judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    claim = in_hand(db, bob)
    with pytest.raises(UserError, match="your skip stays"):
        changing.revise(db, ann.id, skipped, act("tie"))
    judging.judge(db, bob.id, claim.nonce, act("skip"))
    changing.revise(db, ann.id, skipped, act("tie"))
    assert db.value("SELECT taken FROM comparison") == 1
