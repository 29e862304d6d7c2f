"""Comparisons of two policies' answers: whom they wait for, skips and flags, and what comes of what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from annotation.claims import backlog, changing, handing_out, judging
from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.store import comparison_store, policy_comparisons, project_store
from annotation.web import access
from annotation.workbench import annotator_groups, bulk_changes, exclusions
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import ComparisonFilter
from rlhf.evaluation import pair_outcomes
from rlhf.models import registry
from tests.conftest import act, make_response, seed_prompts

pytestmark = pytest.mark.slow


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


def duel(db: Database, texts: Sequence[tuple[str, str]]) -> int:
    """A candidate (id 2) and the base have answered as many held-out prompts; returns the comparisons made."""
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.2))
    for prompt, pair in zip(seed_prompts(db, len(texts), "held-out"), texts, strict=True):
        for model_id, text in zip((2, 1), pair, strict=True):
            comparison_store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "check")
    return policy_comparisons.compare_policies(db, 2, 1)


def test_people_compare_a_candidate_blind_and_the_outcome_is_seen_from_its_side(db: Database, ann: Annotator) -> None:
    assert duel(db, [("longer new text", "old"), ("new", "old one")]) == 2
    sides = set()
    for word in ("left-much", "tie"):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        sides.add(claim.shown_order)
        judging.judge(db, ann.id, claim.nonce, act(word))
        judged = claim.shown_order
        if word == "left-much":
            expected = 1.0 if judged[0] == 0 else 0.0
    assert [one.outcome for one in pair_outcomes.outcomes(db, 2, 1)] == [expected, 0.5]
    lengths = {(one.length, one.other_length) for one in pair_outcomes.outcomes(db, 2, 1)}
    assert lengths == {(15, 3), (3, 7)}
    other = pair_outcomes.outcomes(db, 1, 2)
    assert [one.outcome for one in other] == [1 - expected, 0.5], (
        "from the other side it is the same the other way round"
    )
    assert {(one.length, one.other_length) for one in other} == {(3, 15), (7, 3)}


def test_what_was_drawn_for_people_and_skipped_is_bet_on_as_a_tie_for_good(db: Database, ann: Annotator) -> None:
    """Where a draw left others to judges: what is skipped may be what judges like, and these others hold it too."""
    duel(db, [("new", "old"), ("new one", "old one"), ("new two", "old two"), ("new three", "old three")])
    first, second, third, fourth = (row["id"] for row in db.rows("SELECT id FROM comparison ORDER BY id"))
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET people_chance = 0.5")
        connection.execute("UPDATE comparison SET people_drawn = 0 WHERE id = ?", (second,))  # given all the same
        connection.execute("UPDATE comparison SET people_chance = 1 WHERE id = ?", (third,))
    for word in ("skip", "skip", "skip", "left-much"):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act(word))
    skipped, judged = pair_outcomes.outcomes(db, 2, 1)
    assert (skipped.comparison_id, skipped.first, skipped.outcome, skipped.skipped) == (first, 0.5, 0.5, True)
    assert (judged.comparison_id, judged.skipped) == (fourth, False)
    # An earlier version gave it to others then.
    eve = access.add_account(db, "eve", "annotator", "eve's password")
    db.connection.execute("UPDATE comparison SET people_chance = 1")
    claim = handing_out.claim_next(db, eve.id)
    assert claim is not None
    assert claim.comparison_id == first
    judging.judge(db, eve.id, claim.nonce, act("left-much" if claim.shown_order[0] == 0 else "right-much"))
    db.connection.execute("UPDATE comparison SET people_chance = 0.5 WHERE id != ?", (third,))
    after = pair_outcomes.outcomes(db, 2, 1)
    assert after == [replace(skipped, outcome=1.0, skipped=False), judged], "only what is shown has changed"
    later = pair_outcomes.outcomes(db, 2, 1, skips=False)
    assert [(one.comparison_id, one.first) for one in later] == [(fourth, judged.first), (first, 1.0)]


def test_a_skip_is_no_verdict_unless_it_flags_and_one_taken_back_is_nothing(db: Database, ann: Annotator) -> None:
    duel(db, [("new", "old")])
    db.connection.execute("UPDATE comparison SET people_chance = 0.5")
    claim = handing_out.claim_next(db, ann.id)
    for flag in (None, "harmful"):
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("skip", flag=flag))
        (alone,) = pair_outcomes.outcomes(db, 2, 1)
        assert (alone.first, alone.skipped) == (0.5, flag is None)
        changing.undo(db, ann.id, "")
        assert pair_outcomes.outcomes(db, 2, 1) == []
        claim = handing_out.held_claim(db, ann.id)


@pytest.mark.parametrize(("chance", "flag"), [(0.5, None), (1.0, "harmful")])
def test_nobody_else_is_given_what_is_skipped_for_good(
    db: Database, ann: Annotator, chance: float, flag: str | None
) -> None:
    """What they said could not count: the bets hold a tie. Whoever takes the skip back gets it again."""
    duel(db, [("new", "old")])
    db.connection.execute("UPDATE comparison SET people_chance = ?", (chance,))
    bob, eve = (access.add_account(db, name, "admin", f"{name}'s password") for name in ("bob", "eve"))
    for one in (ann, bob):
        annotator_groups.set_groups(db, one.id, ("team",))
    asked = BulkRequest("assign", ComparisonFilter(), "group:team")
    bulk_changes.make(db, asked, eve, 1)

    def open_now() -> tuple[int, ...]:
        waits = [backlog.waiting_for(db, one.id).count for one in (bob, eve)]
        return pair_outcomes.open_to_people(db, 2, 1), *waits, sum(backlog.waiting_for_people(db).values())

    assert open_now() == (1, 1, 0, 1), "it is their group's"
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("skip", flag=flag))
    assert open_now() == (0, 0, 0, 0)
    assert [handing_out.claim_next(db, one.id) for one in (ann, bob, eve)] == [None] * 3
    for whom in ("group:team", "person:eve"):
        assert bulk_changes.plan(db, replace(asked, whom=whom), eve).changed == 0
    policy_comparisons.withdraw_candidate(db, 2)
    policies = [registry.by_revision(db, revision) for revision in ("dpo-1", "base")]
    assert pair_outcomes.could_be_asked(db, *policies) == policy_comparisons.ask_people_of_candidate(db, 2, 1) == 0
    db.connection.execute("UPDATE comparison SET asks = 'people'")
    changing.undo(db, ann.id, "")
    with db.transaction() as connection:
        connection.execute("UPDATE claim SET expires = '2020' WHERE state = 'held'")
        handing_out.release_unfit(db)
    assert open_now() == (1, 1, 0, 1)
    assert handing_out.claim_next(db, bob.id) is not None


def test_skips_of_who_is_left_out_keep_nothing_from_others(db: Database, ann: Annotator) -> None:
    """They bet on nothing. Nor do they get any of a candidate: what they said of it would not count."""
    duel(db, [("new", "old"), ("new one", "old one")])
    db.connection.execute("UPDATE comparison SET people_chance = 0.5")
    bob = access.add_account(db, "bob", "annotator", "bob's password")
    claim = handing_out.claim_next(db, bob.id)
    assert claim is not None
    judging.judge(db, bob.id, claim.nonce, act("skip"))

    def open_now() -> tuple[int, ...]:
        waits = [backlog.waiting_for(db, one.id).count for one in (ann, bob)]
        others = backlog.waiting_for_others(db, ann.id)
        return pair_outcomes.open_to_people(db, 2, 1), *waits, others, sum(backlog.waiting_for_people(db).values())

    assert open_now() == (1, 1, 1, 1, 1)
    exclusions.leave_out(db, "bob", "skips everything", "ann")
    assert open_now() == (2, 2, 0, 0, 2)
    assert handing_out.claim_next(db, bob.id) is None
    bulk_changes.make(db, BulkRequest("assign", ComparisonFilter(ids=(claim.comparison_id,)), "person:ann"), ann, 1)
    assert open_now() == (2, 2, 0, 0, 2)
    exclusions.take_back(db, "bob", "a mistake", "ann")
    assert open_now() == (1, 1, 1, 1, 1)
    with db.transaction() as connection:  # by an earlier version
        connection.execute("UPDATE bulk_change_comparison SET state = 'stands'")
    assert open_now()[:3] == (1, 1, 1)
    exclusions.leave_out(db, "bob", "skips everything", "ann")
    db.connection.execute("UPDATE annotator SET active = 0 WHERE name = 'ann'")
    assert pair_outcomes.open_to_people(db, 2, 1) == 1, "nobody else is there for what he skipped"
    db.connection.execute("UPDATE comparison SET people_chance = 1, assigned = 0")
    assert backlog.waiting_for(db, bob.id).count == 0
    assert handing_out.claim_next(db, bob.id) is None


@pytest.mark.parametrize("chance", [0.5, 1.0])
def test_what_somebody_holds_or_is_assigned_who_is_left_out_is_others_at_once(
    db: Database, ann: Annotator, chance: float
) -> None:
    duel(db, [("new", "old"), ("new one", "old one")])
    db.connection.execute("UPDATE comparison SET people_chance = ?", (chance,))
    bob = access.add_account(db, "bob", "annotator", "bob's password")
    held = handing_out.claim_next(db, bob.id)
    assert held is not None
    other = db.value("SELECT id FROM comparison WHERE id != ?", (held.comparison_id,))
    to_bob = BulkRequest("assign", ComparisonFilter(ids=(other,)), "person:bob")
    bulk_changes.make(db, to_bob, ann, 1)
    assert handing_out.claim_next(db, ann.id) is None
    exclusions.leave_out(db, "bob", "clicks without reading", "ann")
    for _ in range(2):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("tie"))
    assert len(pair_outcomes.outcomes(db, 2, 1)) == 2
    with pytest.raises(UserError, match=r"^The time for this comparison ran out\. Nothing was recorded\.$"):
        judging.judge(db, bob.id, held.nonce, act("tie"))
    assert bulk_changes.plan(db, to_bob, ann).changed == 0, "what they said of it would not count"


def test_a_flag_of_who_is_left_out_keeps_nothing_from_others(db: Database, ann: Annotator) -> None:
    """Somebody else's plain skip of what people get whole closes it no more for that."""
    duel(db, [("new", "old")])
    bob = access.add_account(db, "bob", "annotator", "bob's password")
    access.add_account(db, "carl", "annotator", "carl's password")
    for one, said in ((bob, {**act("skip"), "flag": "broken"}), (ann, act("skip"))):
        claim = handing_out.claim_next(db, one.id)
        assert claim is not None
        judging.judge(db, one.id, claim.nonce, said)
        if one is bob:
            exclusions.leave_out(db, "bob", "flags everything", "ann")
        assert pair_outcomes.open_to_people(db, 2, 1) == 1
    exclusions.take_back(db, "bob", "a mistake", "ann")
    assert pair_outcomes.open_to_people(db, 2, 1) == 0


@pytest.mark.parametrize(("chance", "drawn"), [(1.0, 1), (None, None), (None, 1), (0.5, None)])
def test_what_one_person_skipped_of_a_check_that_people_get_whole_is_open_to_the_others(
    db: Database, ann: Annotator, chance: float | None, drawn: int | None
) -> None:
    """So it is with what an earlier version made, which noted no chance, or no draw."""
    duel(db, [("new", "old")])
    db.connection.execute("UPDATE comparison SET people_chance = ?, people_drawn = ?", (chance, drawn))
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("skip"))
    assert pair_outcomes.outcomes(db, 2, 1) == []
    eve = access.add_account(db, "eve", "admin", "eve's password")
    assert pair_outcomes.open_to_people(db, 2, 1) == backlog.waiting_for(db, eve.id).count == 1
    assert handing_out.claim_next(db, eve.id) is not None


def test_what_was_left_to_judges_was_so_from_when_its_check_was_made(db: Database, ann: Annotator) -> None:
    duel(db, [("new", "old"), ("new one", "old one")])
    db.connection.execute("UPDATE comparison SET people_chance = 0.5")
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    said = judging.judge(db, ann.id, claim.nonce, act("tie"))
    for prompt in seed_prompts(db, 2, "held-out")[-2:]:
        for model_id in (2, 1):
            comparison_store.add_response(
                db, make_response(prompt, f"{model_id} later", model_id, seed=prompt.id), "check"
            )
    policy_comparisons.compare_policies(db, 2, 1)
    db.connection.execute("UPDATE comparison SET people_chance = 0.5, people_drawn = 0")
    assert [one.since for one in pair_outcomes.left_to_judges(db, 2, 1)] == [0, 0, said, said]


def test_the_first_that_was_said_stays_what_is_bet_on(db: Database, ann: Annotator) -> None:
    """A flag that ranks nothing is a tie; who ranks it later, or settles it, changes what is shown alone."""
    duel(db, [("new", "old"), ("new one", "old one")])
    eve = access.add_account(db, "eve", "admin", "eve's password")
    for word, flag in (("skip", "harmful"), ("left-much", None)):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act(word, flag=flag))
    before = {one.comparison_id: one for one in pair_outcomes.outcomes(db, 2, 1)}
    flagged, ranked = before.values()
    assert (flagged.first, flagged.outcome) == (0.5, 0.5)
    for found in (flagged, ranked):
        claim = handing_out.take_to_settle(db, eve.id, found.comparison_id)
        loses = "right-much" if claim.shown_order[0] == 0 else "left-much"
        judging.judge(db, eve.id, claim.nonce, act(loses))
    after = {one.comparison_id: one for one in pair_outcomes.outcomes(db, 2, 1)}
    assert [(one.first, one.at) for one in after.values()] == [(one.first, one.at) for one in before.values()]
    assert [one.outcome for one in after.values()] == [0.0, 0.0]
