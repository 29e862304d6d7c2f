"""Settling on a real file: what is settled first, by whom, and what then stands."""

from __future__ import annotations

import pytest

from annotation.claims import changing, handing_out, judging
from annotation.database import Database
from annotation.metrics import quality
from annotation.records import Annotator, UserError
from annotation.web import access
from annotation.workbench import annotator_groups, exclusions, settling
from tests.annotation.claims.people import judge, people, prefer, set_project
from tests.conftest import act, seed_comparisons
from tests.frozen_in_memory import frozen


@pytest.fixture
def owner(db: Database) -> Annotator:
    people(db, "owner", role="admin")
    return access.authorise(db, "owner", "admin")


def contradict(db: Database, degrees: tuple[str, ...]) -> tuple[dict[str, int], list[int]]:
    """Two annotators who contradict each other on each comparison, to these degrees."""
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    numbers = seed_comparisons(db, len(degrees))
    for degree in degrees:
        prefer(db, ids["ann"], 0, degree)
        prefer(db, ids["bob"], 1, degree)
    return ids, numbers


def test_the_most_disputed_is_settled_first_and_stands(db: Database, owner: Annotator) -> None:
    _, numbers = contradict(db, ("slightly", "much", "clearly"))
    seed_comparisons(db, 1)
    pool = handing_out.claim_next(db, owner.id)
    assert pool is not None
    assert [dispute.comparison_id for dispute in quality.report(db).disputes] == [numbers[1], numbers[2], numbers[0]]
    claim = settling.settle_next(db, owner.id)
    assert (claim.comparison_id, claim.purpose) == (numbers[1], "settle")
    assert db.value("SELECT state FROM claim WHERE nonce = ?", (pool.nonce,)) == "released"
    assert settling.settle_next(db, owner.id) == claim  # pressed twice
    assert prefer(db, owner.id, 1, "slightly").nonce == claim.nonce
    figures = quality.report(db)
    assert [dispute.comparison_id for dispute in figures.disputes] == [numbers[2], numbers[0]]
    row = next(row for row in frozen(db).rows if row.comparison == numbers[1])
    assert (row.annotators, row.chosen.text[:8]) == (("owner",), "Answer B")
    assert db.value("SELECT count(*) FROM current_judgement WHERE comparison_id = ?", (numbers[1],)) == 3


def test_what_is_settled_comes_again_in_the_order_in_which_it_was_shown(db: Database, owner: Annotator) -> None:
    """Or whoever settles could draw until they have it as they like."""
    _, (number,) = contradict(db, ("much",))
    seed_comparisons(db, 8)
    for _judgement in range(8):
        prefer(db, owner.id, 0)
    orders = set()
    for _press in range(8):
        claim = settling.settle_next(db, owner.id)
        assert claim.comparison_id == number
        orders.add(claim.shown_order)
        changing.undo(db, owner.id, claim.nonce)
    assert len(orders) == 1


def test_settling_goes_on_past_what_was_passed_over_or_is_in_others_hands(db: Database, owner: Annotator) -> None:
    _, numbers = contradict(db, ("much", "clearly", "slightly"))
    (second,) = people(db, "second", role="admin").values()
    assert settling.settle_next(db, second).comparison_id == numbers[0]
    first = settling.settle_next(db, owner.id)
    assert first.comparison_id == numbers[1]
    judging.judge(db, owner.id, first.nonce, act("skip"))
    assert prefer(db, owner.id, 0) if settling.settle_next(db, owner.id).comparison_id == numbers[2] else False
    with pytest.raises(UserError, match=r"2 comparisons wait to be settled: other admins have them in hand, or you"):
        settling.settle_next(db, owner.id)
    judge(db, second, "tie")
    assert settling.settle_next(db, second).comparison_id == numbers[1]


def test_what_was_passed_over_is_settled_after_all_whatever_was_asked_of_the_admin(
    db: Database, owner: Annotator
) -> None:
    _, numbers = contradict(db, ("much",))
    seed_comparisons(db, 1)
    prefer(db, owner.id, 0)
    annotator_groups.set_quota(db, owner.id, 1)
    judging.judge(db, owner.id, settling.settle_next(db, owner.id).nonce, act("skip"))
    assert changing.undo(db, owner.id, "").comparison_id == numbers[0]


def test_where_nobody_contradicts_anybody_nothing_is_to_be_settled(db: Database, owner: Annotator) -> None:
    with pytest.raises(UserError, match="annotators contradict each other nowhere"):
        settling.settle_next(db, owner.id)


def test_what_somebody_left_out_settled_waits_again(db: Database, owner: Annotator) -> None:
    _, numbers = contradict(db, ("much",))
    (second,) = people(db, "second", role="admin").values()
    settling.settle_next(db, second)
    prefer(db, second, 0)
    assert quality.report(db).disputes == ()
    exclusions.leave_out(db, "second", "was never asked to", "owner")
    assert settling.settle_next(db, owner.id).comparison_id == numbers[0]
