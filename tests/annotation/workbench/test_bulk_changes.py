"""Bulk changes: who gets what is assigned, what is left out, and that each can be taken back."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import pytest

from annotation.claims import backlog, changing, choosing, handing_out, judged_counts, judging, own_judgements
from annotation.copies import copy_reasons
from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.store import project_store, stock_counts
from annotation.tabs.comparisons import comparison_card, comparison_table, words
from annotation.translation import _, language_of, speaking
from annotation.web import access
from annotation.workbench import annotator_groups, bulk_changes
from annotation.workbench.bulk_changes import BulkRequest, ChangeKind
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_history import history
from annotation.workbench.comparison_list import list_page
from annotation.workbench.gold import make_gold, release_gold, retire_gold
from rlhf.models import registry
from tests.conftest import act, seed_comparisons


@pytest.fixture
def people(db: Database) -> dict[str, Annotator]:
    roles = {"ann": "annotator", "bob": "annotator", "cat": "annotator", "eve": "admin"}
    return {name: access.add_account(db, name, role, "long enough words") for name, role in roles.items()}


def change(db: Database, by: Annotator, kind: ChangeKind, ids: list[int], whom: str = "") -> int:
    asked = BulkRequest(kind, ComparisonFilter(ids=tuple(ids)), whom)
    return bulk_changes.make(db, asked, by, bulk_changes.plan(db, asked, by).changed)


def judge_all(db: Database, annotator: Annotator, word: str = "tie", most: int = 99) -> list[int]:
    served: list[int] = []
    while len(served) < most and (claim := handing_out.claim_next(db, annotator.id)) is not None:
        served.append(claim.comparison_id)
        judging.judge(db, annotator.id, claim.nonce, act(word))
    return served


def statuses(db: Database) -> list[str]:
    return [row.status for row in list_page(db, ComparisonFilter(), "oldest").rows]


def test_what_is_assigned_to_a_person_comes_first_and_to_nobody_else(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 6)
    change(db, people["eve"], "assign", ids[4:], "person:ann")
    assert judge_all(db, people["bob"]) == ids[:4]
    assert judge_all(db, people["ann"]) == ids[4:]
    rows = db.rows("SELECT chance, assigned_by FROM claim WHERE annotator_id = ?", (people["ann"].id,))
    assert {(row["chance"], row["assigned_by"]) for row in rows} == {(None, 1)}


def test_the_assigned_stay_theirs_when_they_expire_and_when_an_act_is_undone(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 1)
    change(db, people["eve"], "assign", ids, "person:ann")
    held = handing_out.claim_next(db, people["ann"].id)
    assert held is not None
    db.write("UPDATE claim SET expires = '2020' WHERE state = 'held'")
    assert judge_all(db, people["bob"]) == []
    assert judge_all(db, people["ann"], most=1) == ids
    assert statuses(db) == ["judged"]
    changing.undo(db, people["ann"].id, "")
    assert judge_all(db, people["bob"]) == []
    again = handing_out.claim_next(db, people["ann"].id)
    assert again is not None
    judging.judge(db, people["ann"].id, again.nonce, act("skip"))
    assert judge_all(db, people["bob"]) == ids, "who is asked may pass, and then it is everybody's"


def test_a_second_opinion_can_be_assigned_on_what_has_its_full_number(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 2)
    assert judge_all(db, people["bob"]) == ids
    asked = BulkRequest("assign", ComparisonFilter(), "person:bob")
    assert bulk_changes.plan(db, asked, people["eve"]) == bulk_changes.Plan(0, 2), "judged by them already"
    change(db, people["eve"], "assign", ids, "person:ann")
    assert judge_all(db, people["ann"], most=1) == ids[:1]
    undone = changing.undo(db, people["ann"].id, "")
    assert undone.comparison_id == ids[0], "though another has judged it"
    judging.judge(db, people["ann"].id, undone.nonce, act("tie"))
    assert judge_all(db, people["ann"]) == ids[1:]


def test_what_a_draw_left_to_judges_is_assigned_to_nobody(db: Database, people: dict[str, Annotator]) -> None:
    """Which comparisons of a candidate people get is drawn; picked ones would say something else of it."""
    _drawn, left = seed_comparisons(db, 2)
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET candidate_id = 1, against_id = 1")
        connection.execute("UPDATE comparison SET asks = 'nobody' WHERE id = ?", (left,))
    asked = BulkRequest("assign", ComparisonFilter(), "person:bob")
    assert bulk_changes.plan(db, asked, people["eve"]) == bulk_changes.Plan(1, 1)


def test_a_group_shares_what_is_assigned_up_to_the_number_of_annotators(
    db: Database, people: dict[str, Annotator]
) -> None:
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    ids = seed_comparisons(db, 2)
    for name in ("ann", "bob"):
        annotator_groups.set_groups(db, people[name].id, ("Medics",))
    annotator_groups.set_groups(db, people["eve"].id, ("medics", "others"))
    assert annotator_groups.groups_of_each(db)[people["eve"].id] == ("Medics", "others"), "one spelling"
    change(db, people["eve"], "assign", ids, "group:medics")
    assert judge_all(db, people["cat"]) == []
    assert judge_all(db, people["ann"]) == ids
    assert judge_all(db, people["bob"]) == ids
    assert (judge_all(db, people["eve"]), judge_all(db, people["cat"])) == ([], [])
    assert statuses(db) == ["judged", "judged"]


def test_an_assignment_to_somebody_who_leaves_goes_back_to_all(db: Database, people: dict[str, Annotator]) -> None:
    ids = seed_comparisons(db, 2)
    annotator_groups.set_groups(db, people["bob"].id, ("crowd",))
    change(db, people["eve"], "assign", ids[:1], "person:ann")
    change(db, people["eve"], "assign", ids[1:], "group:crowd")
    assert judge_all(db, people["cat"]) == []
    access.deactivate(db, "ann")
    assert judge_all(db, people["cat"]) == ids[:1]
    annotator_groups.set_groups(db, people["bob"].id, ())
    assert judge_all(db, people["cat"]) == ids[1:]
    with pytest.raises(UserError, match="a person who can sign in, or a group"):
        change(db, people["eve"], "assign", ids, "group:crowd")
    with pytest.raises(UserError, match="a person who can sign in, or a group"):
        change(db, people["eve"], "assign", ids, "person:ann")


def test_an_assigned_stock_does_not_keep_the_model_from_writing_for_the_others(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 3)
    change(db, people["eve"], "assign", ids, "person:ann")
    assert stock_counts.stock_sizes(db, 1)["train"] == 0
    change(db, people["eve"], "release", ids[:1])
    assert stock_counts.stock_sizes(db, 1)["train"] == 1


def test_releasing_and_its_undo(db: Database, people: dict[str, Annotator]) -> None:
    ids = seed_comparisons(db, 2)
    change(db, people["eve"], "assign", ids, "person:ann")
    released = change(db, people["eve"], "release", ids)
    assert statuses(db) == ["open", "open"]
    assert bulk_changes.undo(db, released, "eve")[1] == 2
    assert statuses(db) == ["assigned", "assigned"]
    bulk_changes.undo(db, 1, "eve")
    assert statuses(db) == ["open", "open"]
    with pytest.raises(UserError, match="taken back already"):
        bulk_changes.undo(db, released, "eve")


def test_what_is_put_aside_to_settle_comes_blind_one_after_the_other(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 3)
    judge_all(db, people["bob"], most=2)
    asked = BulkRequest("settle", ComparisonFilter())
    assert bulk_changes.plan(db, asked, people["eve"]) == bulk_changes.Plan(2, 1)
    made = bulk_changes.make(db, asked, people["eve"], 2)
    assert judge_all(db, people["ann"], most=1) == ids[2:], "nobody else is kept from anything"
    assert judge_all(db, people["eve"]) == ids[:2]
    assert {row["purpose"] for row in db.rows("SELECT purpose FROM judgement WHERE annotator_id = 5 - 1")} == {"settle"}
    assert statuses(db) == ["settled", "settled", "judged"]
    undone = bulk_changes.undo(db, made, "eve")
    assert statuses(db) == ["settled", "settled", "judged"], "what was judged stays"
    assert undone[1] == 0
    assert "Taken back for 0 of them; the rest was given back before, judged or changed" in comparison_table.taken_back(
        *undone
    )


def test_who_is_no_admin_any_more_settles_nothing(db: Database, people: dict[str, Annotator]) -> None:
    """Neither what is in hand, nor what is still in the list; and what they settled stays as it is."""
    ids, eve = seed_comparisons(db, 3), people["eve"]
    judge_all(db, people["ann"])
    change(db, eve, "settle", ids)
    judge_all(db, eve, most=1)
    settled = db.value("SELECT id FROM judgement WHERE purpose = 'settle'")
    held = handing_out.claim_next(db, eve.id)
    assert held is not None
    access.add_account(db, "fay", "admin", "long enough words")
    access.set_role(db, "eve", "annotator")
    assert (handing_out.claim_next(db, eve.id), backlog.waiting_for(db, eve.id).count) == (None, 0)
    with pytest.raises(UserError):
        judging.judge(db, eve.id, held.nonce, act("tie"))
    with pytest.raises(UserError, match="Only an admin"):
        changing.revise(db, eve.id, settled, act("left-clearly"))
    with pytest.raises(UserError, match="Only an admin"):
        changing.undo(db, eve.id, "")
    assert statuses(db) == ["settled", "judged", "judged"]
    access.set_role(db, "eve", "admin")
    assert judge_all(db, eve) == ids[1:]


def test_skips_are_acts_in_the_record_and_can_be_taken_back(db: Database, people: dict[str, Annotator]) -> None:
    ids = seed_comparisons(db, 3)
    made = change(db, people["ann"], "skip", ids[:2])
    assert judge_all(db, people["ann"]) == ids[2:]
    rows = db.rows("SELECT outcome, shown_order, kind FROM judgement ORDER BY id")
    assert rows[0] == {"outcome": "skip", "shown_order": "[0,1]", "kind": "pair"}
    assert len(own_judgements.latest(db, people["ann"].id)) == 1, "the change is taken back as one"
    assert judge_all(db, people["ann"], most=1) == []
    undone = bulk_changes.undo(db, made, "ann")
    assert "Taken back. Skipped: 2 comparisons." in comparison_table.taken_back(*undone)
    assert judge_all(db, people["ann"]) == ids[:2]


def test_what_measures_a_candidate_is_not_skipped_by_the_score(db: Database, people: dict[str, Annotator]) -> None:
    """Each would be bet on as a tie, though nobody has looked at it."""
    ids = seed_comparisons(db, 2)
    db.connection.execute("UPDATE comparison SET candidate_id = 1, against_id = 1 WHERE id = ?", (ids[1],))
    asked = BulkRequest("skip", ComparisonFilter())
    assert bulk_changes.plan(db, asked, people["eve"]) == bulk_changes.Plan(1, 1)
    assert "measures a candidate" in words.left_out("skip", 1)


def test_an_undo_after_a_bulk_skip_takes_the_last_own_judgement_back(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 4)
    ann = people["ann"].id
    change(db, people["ann"], "skip", ids[3:])
    with pytest.raises(UserError, match="no judgement of yours"):
        changing.undo(db, ann, "")
    assert judge_all(db, people["ann"], most=1) == ids[:1]
    change(db, people["ann"], "skip", ids[1:2])
    last = own_judgements.latest_act(db, ann)
    assert last is not None
    assert last["outcome"] == "ranked"
    assert changing.undo(db, ann, "").comparison_id == ids[0]
    assert own_judgements.latest(db, ann) == []
    assert judge_all(db, people["ann"]) == [ids[0], ids[2]]


def test_skipping_what_is_assigned_gives_it_to_all_and_its_undo_takes_it_back(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 1)
    change(db, people["eve"], "assign", ids, "person:ann")
    made = change(db, people["ann"], "skip", ids)
    assert statuses(db) == ["open"]
    bulk_changes.undo(db, made, "ann")
    assert statuses(db) == ["assigned"]
    released = change(db, people["eve"], "release", ids)
    assert judge_all(db, people["ann"]) == ids
    undone = bulk_changes.undo(db, released, "eve")
    assert statuses(db) == ["judged"], "there is nothing more to hold back"
    assert undone[1] == 0


def test_nobody_is_asked_about_what_is_withdrawn_and_an_undo_gives_it_back(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 4)
    held = handing_out.claim_next(db, people["bob"].id)
    assert held is not None
    made = change(db, people["eve"], "withdraw", ids[:3])
    assert judge_all(db, people["ann"]) == ids[3:]
    judging.judge(db, people["bob"].id, held.nonce, act("tie"))  # what was in hand is not lost
    assert statuses(db) == ["withdrawn"] * 3 + ["judged"]
    assert stock_counts.stock_sizes(db, 1)["train"] == 0
    assert bulk_changes.undo(db, made, "eve")[1] == 3
    assert judge_all(db, people["ann"]) == ids[1:3]


def test_a_change_of_another_number_than_was_confirmed_is_refused_whole(
    db: Database, people: dict[str, Annotator]
) -> None:
    seed_comparisons(db, 2)
    asked = BulkRequest("withdraw", ComparisonFilter(status=("open",)))
    seed_comparisons(db, 1)
    with pytest.raises(UserError, match="it would be 3 comparisons, not 2"):
        bulk_changes.make(db, asked, people["eve"], 2)
    assert (statuses(db), bulk_changes.changes(db)) == (["open"] * 3, [])
    with pytest.raises(UserError, match="None of these"):
        bulk_changes.make(db, BulkRequest("release", ComparisonFilter()), people["eve"], 0)


def test_nothing_more_is_handed_out_once_the_quota_is_reached(db: Database, people: dict[str, Annotator]) -> None:
    ids = seed_comparisons(db, 4)
    change(db, people["eve"], "assign", ids[3:], "person:ann")
    annotator_groups.set_quota(db, people["ann"].id, 2)
    assert judge_all(db, people["ann"]) == [ids[3], ids[0]]
    undone = changing.undo(db, people["ann"].id, "")
    judging.judge(db, people["ann"].id, undone.nonce, act("tie"))
    assert handing_out.claim_next(db, people["ann"].id) is None
    annotator_groups.set_quota(db, people["ann"].id, None)
    assert judge_all(db, people["ann"]) == ids[1:3]


def test_a_skip_that_becomes_a_judgement_counts_for_the_quota_too(db: Database, people: dict[str, Annotator]) -> None:
    seed_comparisons(db, 3)
    ann = people["ann"].id
    annotator_groups.set_quota(db, ann, 2)
    held = handing_out.claim_next(db, ann)
    assert held is not None
    skipped = judging.judge(db, ann, held.nonce, act("skip"))
    assert len(judge_all(db, people["ann"])) == 2
    with pytest.raises(UserError, match="judged all that you were asked for"):
        changing.revise(db, ann, skipped, act("tie"))
    assert judged_counts.judged_by(db, ann) == 2
    annotator_groups.set_quota(db, ann, 3)
    changing.revise(db, ann, skipped, act("tie"))
    assert judged_counts.judged_by(db, ann) == 3


def test_what_somebody_skipped_and_their_group_is_given_can_be_judged(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids, ann = seed_comparisons(db, 1), people["ann"].id
    for name in ("ann", "bob"):
        annotator_groups.set_groups(db, people[name].id, ("team",))
    held = handing_out.claim_next(db, ann)
    assert held is not None
    skipped = judging.judge(db, ann, held.nonce, act("skip"))
    change(db, people["eve"], "assign", ids, "group:team")
    changing.revise(db, ann, skipped, act("tie"))
    assert judged_counts.judged_by(db, ann) == 1


@pytest.mark.parametrize("before", ["", "person:ann"])
def test_what_somebody_skipped_that_is_assigned_to_others_since_is_theirs(
    db: Database, people: dict[str, Annotator], before: str
) -> None:
    ids, ann = seed_comparisons(db, 1), people["ann"].id
    if before:
        change(db, people["eve"], "assign", ids, before)
    held = handing_out.claim_next(db, ann)
    assert held is not None
    skipped = judging.judge(db, ann, held.nonce, act("skip"))
    made = change(db, people["eve"], "assign", ids, "person:bob")
    with pytest.raises(UserError, match="assigned to others by now"):
        changing.undo(db, ann, "")
    with pytest.raises(UserError, match="assigned to others by now"):
        changing.revise(db, ann, skipped, act("tie"))
    bulk_changes.undo(db, made, "eve")
    changing.revise(db, ann, skipped, act("tie"))


@pytest.mark.parametrize("revised", [False, True])
def test_a_skip_of_what_was_assigned_to_two_is_taken_back_like_any_other(
    db: Database, people: dict[str, Annotator], revised: bool
) -> None:
    ids, ann = seed_comparisons(db, 1), people["ann"].id
    for name in ("ann", "bob"):
        change(db, people["eve"], "assign", ids, f"person:{name}")
    held = handing_out.claim_next(db, ann)
    assert held is not None
    skipped = judging.judge(db, ann, held.nonce, act("skip"))
    if revised:
        changing.revise(db, ann, skipped, act("tie"))
    else:
        assert changing.undo(db, ann, "").comparison_id == ids[0]
        assert judge_all(db, people["ann"]) == ids
    assert judged_counts.judged_by(db, ann) == 1
    assert judge_all(db, people["bob"]) == ids


def test_gold_and_re_asks_go_on_while_somebody_works_on_what_is_assigned(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 30)
    project_store.set_project(db, replace(project_store.project(db), gold_share=0.5))
    db.write("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id > ?", (ids[19],))
    change(db, people["eve"], "assign", ids[:20], "person:ann")
    judge_all(db, people["ann"], most=16)
    rows = db.rows("SELECT purpose, chance FROM claim WHERE annotator_id = ?", (people["ann"].id,))
    assert {(row["purpose"], row["chance"]) for row in rows} == {("gold", 0.5), ("own", None)}


def test_what_is_withdrawn_is_not_handed_to_whom_it_is_assigned_until_it_is_given_back(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 3)
    change(db, people["eve"], "assign", ids[:2], "person:ann")
    made = change(db, people["eve"], "withdraw", ids[:1])
    assert judge_all(db, people["ann"]) == ids[1:]
    bulk_changes.undo(db, made, "eve")
    assert judge_all(db, people["bob"]) == []
    assert judge_all(db, people["ann"]) == ids[:1]


def test_answers_of_the_other_kind_stay_withdrawn_until_policies_think_so_again(
    db: Database, people: dict[str, Annotator]
) -> None:
    made = change(db, people["eve"], "withdraw", seed_comparisons(db, 2))
    registry.set_thinking(db, "template")
    with pytest.raises(UserError, match="Policies answer otherwise by now"):
        bulk_changes.undo(db, made, "eve")
    assert judge_all(db, people["ann"]) == []
    registry.set_thinking(db, "off")
    assert bulk_changes.undo(db, made, "eve")[1] == 2
    assert len(judge_all(db, people["ann"])) == 2


@pytest.mark.parametrize("earlier", [False, True])
def test_what_an_undo_could_not_give_back_is_given_back_by_another(
    db: Database, people: dict[str, Annotator], earlier: bool
) -> None:
    """An `earlier` version gave a part back and did not say how much."""
    ids = seed_comparisons(db, 1)
    registry.set_thinking(db, "template")
    ids += seed_comparisons(db, 1)
    db.write("UPDATE comparison SET state = 'ready', asks = 'people' WHERE id = ?", (ids[0],))
    made = change(db, people["eve"], "withdraw", ids)
    mark = copy_reasons.state_mark(db)
    found, count = bulk_changes.undo(db, made, "eve")
    assert (found.undone_by, count) == (None, 1)
    assert copy_reasons.state_mark(db) != mark
    given_back, still = (comparison_card.decided(history(db, number)) for number in reversed(ids))
    assert "given back" in given_back
    assert "given back" not in still
    assert "stays withdrawn while the model answers in another way" in comparison_table.taken_back(found, count)
    listed = comparison_table.changes_table([found])
    assert 'data-act="undo"' in listed
    assert "undone for 1 of 2" in listed
    if earlier:
        db.connection.execute("UPDATE bulk_change SET undone_for = NULL")
    again = change(db, people["eve"], "withdraw", ids[1:])
    registry.set_thinking(db, "off")
    found, count = bulk_changes.undo(db, made, "eve")
    assert (found.undone_by, count, found.undone_for) == ("eve", 1, None if earlier else 2)
    assert "undone for" not in comparison_table.changes_table([found])
    assert "the rest was given back before, judged or changed" in comparison_table.taken_back(found, count)
    assert judge_all(db, people["ann"]) == ids[:1], "what another change has withdrawn since stays so"
    with pytest.raises(UserError, match="taken back already"):
        bulk_changes.undo(db, made, "eve")
    registry.set_thinking(db, "template")
    assert bulk_changes.undo(db, again, "eve")[1] == 1


def test_gold_of_what_was_withdrawn_and_given_back_is_handed_out_once_it_is_no_gold_any_more(
    db: Database, people: dict[str, Annotator]
) -> None:
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    ids = seed_comparisons(db, 2)
    judge_all(db, people["bob"], "left-clearly")
    made = change(db, people["eve"], "withdraw", ids)
    for number in ids:
        make_gold(db, number, None, "eve")
    retire_gold(db, ids[0], "eve")
    assert bulk_changes.undo(db, made, "eve")[1] == 2
    states = [row["state"] for row in db.rows("SELECT state FROM comparison ORDER BY id")]
    assert states == ["closed", "ready"], "gold stays as it is"
    release_gold(db, ids[1], "eve")
    assert judge_all(db, people["ann"]) == ids[1:]


def test_nobody_is_asked_again_about_what_is_withdrawn(
    db: Database, people: dict[str, Annotator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotation.selection.RE_ASK_AFTER", 0)
    ids = seed_comparisons(db, 1)
    assert judge_all(db, people["ann"]) == ids
    asked = choosing.choose_re_ask(db, people["ann"].id)
    assert asked is not None
    made = change(db, people["eve"], "withdraw", ids)
    assert choosing.choose_re_ask(db, people["ann"].id) is None
    bulk_changes.undo(db, made, "eve")
    assert choosing.choose_re_ask(db, people["ann"].id) == asked


def test_an_assignment_that_was_taken_back_stays_so_when_somebody_returns_or_undoes(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 2)
    made = change(db, people["eve"], "assign", ids[:1], "person:ann")
    access.deactivate(db, "ann")
    bulk_changes.undo(db, made, "eve")
    access.activate(db, "ann")
    assert statuses(db) == ["open", "open"]
    made = change(db, people["eve"], "assign", ids[1:], "person:bob")
    assert judge_all(db, people["bob"], most=1) == ids[1:]
    bulk_changes.undo(db, made, "eve")
    changing.undo(db, people["bob"].id, "")
    assert judge_all(db, people["cat"]) == ids[:1], "bob has the other in hand"
    db.write("UPDATE claim SET expires = '2020' WHERE state = 'held'")
    assert judge_all(db, people["cat"]) == ids[1:]


def test_what_a_group_can_add_nothing_to_is_not_assigned_to_it(db: Database, people: dict[str, Annotator]) -> None:
    ids = seed_comparisons(db, 4)
    for name in ("ann", "bob"):
        annotator_groups.set_groups(db, people[name].id, ("medics",))
    assert judge_all(db, people["ann"], most=1) == ids[:1]
    change(db, people["bob"], "skip", ids[1:2])
    change(db, people["ann"], "skip", ids[1:2])
    assert judge_all(db, people["cat"], most=1) == ids[1:2]
    asked = BulkRequest("assign", ComparisonFilter(), "group:medics")
    assert bulk_changes.plan(db, asked, people["eve"]) == bulk_changes.Plan(2, 2), "judged or skipped by them"
    change(db, people["eve"], "assign", ids, "group:medics")
    assert statuses(db) == ["judged", "judged", "assigned", "assigned"]


def test_what_is_assigned_to_somebody_whose_quota_is_reached_goes_to_all_until_it_is_raised(
    db: Database, people: dict[str, Annotator]
) -> None:
    ids = seed_comparisons(db, 5)
    annotator_groups.set_quota(db, people["ann"].id, 2)
    change(db, people["eve"], "assign", ids, "person:ann")
    assert judge_all(db, people["bob"]) == []
    assert judge_all(db, people["ann"]) == ids[:2]
    assert judge_all(db, people["bob"], most=1) == ids[2:3]
    asked = BulkRequest("assign", ComparisonFilter(), "person:ann")
    assert bulk_changes.plan(db, asked, people["eve"]).changed == 0, "they would never get it"
    annotator_groups.set_quota(db, people["ann"].id, 3)
    assert statuses(db)[3:] == ["assigned"] * 2
    annotator_groups.set_quota(db, people["ann"].id, 1)
    assert statuses(db)[3:] == ["open"] * 2
    changing.undo(db, people["ann"].id, "")
    assert judge_all(db, people["cat"], most=1) == [ids[3]], "one judged is what was wanted"
    annotator_groups.set_quota(db, people["ann"].id, 2)
    assert statuses(db)[4:] == ["assigned"]


def test_undoing_below_the_quota_takes_the_assigned_up_again(db: Database, people: dict[str, Annotator]) -> None:
    ids = seed_comparisons(db, 2)
    annotator_groups.set_quota(db, people["ann"].id, 1)
    change(db, people["eve"], "assign", ids, "person:ann")
    assert judge_all(db, people["ann"]) == ids[:1]
    assert statuses(db) == ["judged", "open"]
    undone = changing.undo(db, people["ann"].id, "")
    assert statuses(db) == ["in-hand", "assigned"]
    judging.judge(db, people["ann"].id, undone.nonce, act("skip"))
    skipped = own_judgements.latest(db, people["ann"].id)[0].made.id
    assert statuses(db) == ["open", "assigned"]
    changing.revise(db, people["ann"].id, skipped, act("tie"))
    assert statuses(db) == ["judged", "open"]


Mode = Literal["people", "ai", "mixed"]
MODES: list[tuple[Mode, Mode, str, float | None, int | None]] = [
    ("ai", "people", "people", 1.0, 1),
    ("people", "ai", "judges", None, None),
    ("ai", "ai", "judges", None, None),
]


@pytest.mark.parametrize(("before", "after", "asks", "chance", "drawn"), MODES)
def test_what_was_withdrawn_comes_back_to_whoever_is_asked_by_now(
    db: Database, people: dict[str, Annotator], before: Mode, after: Mode, asks: str,
    chance: float | None, drawn: int | None,
) -> None:  # fmt: skip
    project_store.set_feedback(db, replace(project_store.feedback(db), mode=before))
    ids = seed_comparisons(db, 1)
    made = change(db, people["eve"], "withdraw", ids)
    project_store.set_feedback(db, replace(project_store.feedback(db), mode=after))
    assert statuses(db) == ["withdrawn"]
    bulk_changes.undo(db, made, "eve")
    assert db.rows("SELECT state, asks, people_chance, people_drawn FROM comparison") == [
        {"state": "ready", "asks": asks, "people_chance": chance, "people_drawn": drawn}
    ]


SEVERAL = re.compile(r"\b(them|they|these|each|sie|diese|jeden)\b", re.IGNORECASE)


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("kind", bulk_changes.CHANGE_KINDS)
def test_what_a_change_means_is_said_of_one_as_of_several(kind: ChangeKind, language: str) -> None:
    with speaking(language_of(language)):
        assert not SEVERAL.search(_(words.MEANINGS[kind]))


@pytest.mark.parametrize("kind", ["assign", "skip"])
def test_what_somebody_has_in_hand_is_left_out_and_that_is_said(
    db: Database, people: dict[str, Annotator], kind: ChangeKind
) -> None:
    seed_comparisons(db, 1)
    assert handing_out.claim_next(db, people["eve"].id) is not None
    plan = bulk_changes.plan(db, BulkRequest(kind, ComparisonFilter(), "person:eve"), people["eve"])
    assert (plan.changed, plan.left_out) == (0, 1)
    assert "have in hand" in words.left_out(kind, plan.left_out)
