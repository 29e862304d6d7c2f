"""Gold on a real file: what becomes gold, measures people and goes back; and one comparison looked at."""

from __future__ import annotations

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.metrics import quality
from annotation.records import UserError, now
from annotation.workbench import exclusions
from annotation.workbench.gold import make_gold, reinstate_gold, release_gold, retire_gold, review
from tests.annotation.claims.people import judge, people, prefer, set_project
from tests.conftest import act, seed_comparisons
from tests.frozen_in_memory import frozen


def test_a_comparison_becomes_gold_and_measures_those_who_have_not_seen_it(db: Database) -> None:
    ids = people(db, "ann", "bob")
    (number, *_) = seed_comparisons(db, 1)
    prefer(db, ids["ann"], 1)
    assert make_gold(db, number, None, "owner") == 1
    set_project(db, gold_share=1.0)
    assert handing_out.claim_next(db, ids["ann"]) is None
    assert prefer(db, ids["bob"], 0).purpose == "gold"
    figures = quality.report(db)
    assert [(gold.comparison_id, gold.best, gold.retired, gold.made_by) for gold in figures.golds] == [
        (number, (1,), False, "owner")
    ]
    assert figures.golds[0].right is not None
    assert (figures.golds[0].right.value, figures.golds[0].right.n) == (0.0, 1)
    assert figures.gold_accuracy is not None
    assert figures.gold_accuracy.value == 0.0
    # Ann's own judgement is still trained on; bob's only measures him.
    assert [row.annotators for row in frozen(db).rows] == [("ann",)]
    assert frozen(db).left_out["gold"] == 1
    ann, bob = figures.annotators
    assert (ann.gold, bob.judgements) == (None, 1)
    assert figures.reliabilities["bob"].estimate < figures.reliabilities["ann"].estimate


def test_gold_can_be_retired_handed_out_again_and_made_ordinary(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2, gold_share=1.0)
    (number,) = seed_comparisons(db, 1)
    prefer(db, ids["ann"], 0)
    make_gold(db, number, 1, "owner")
    retire_gold(db, number, "owner")
    assert handing_out.claim_next(db, ids["bob"]) is None
    assert quality.report(db).golds[0].retired
    with pytest.raises(UserError, match="retired already"):
        retire_gold(db, number, "owner")
    reinstate_gold(db, number, "second")
    with pytest.raises(UserError, match="handed out already"):
        reinstate_gold(db, number, "owner")
    held = handing_out.claim_next(db, ids["bob"])
    assert held is not None
    assert held.purpose == "gold"
    judging.judge(db, ids["bob"], held.nonce, act("skip"))
    release_gold(db, number, "owner")
    assert db.row("SELECT purpose, state, expected FROM comparison WHERE id = ?", (number,)) == {
        "purpose": "preference",
        "state": "ready",
        "expected": None,
    }
    (carla,) = people(db, "carla").values()
    assert prefer(db, carla, 0).purpose == "own"
    assert [(one.what, one.decided_by) for one in quality.report(db).decisions] == [
        ("release", "owner"),
        ("reinstate", "second"),
        ("retire", "owner"),
        ("make", "owner"),
    ]
    for change in (retire_gold, reinstate_gold, release_gold):
        with pytest.raises(UserError, match="Choose a gold comparison"):
            change(db, number, "owner")


def test_an_imported_comparison_can_be_gold_and_goes_back_to_being_closed(db: Database) -> None:
    (number,) = seed_comparisons(db, 1)
    with db.transaction() as connection:
        connection.execute("INSERT INTO annotator (name, role, kind, active, created) VALUES ('import-1', "
                           "'annotator', 'import', 0, '')")  # fmt: skip
        connection.execute("UPDATE comparison SET state = 'closed' WHERE id = ?", (number,))
        connection.execute(
            """INSERT INTO judgement (comparison_id, annotator_id, purpose, kind, outcome, ranking, shown_order,
                   created) VALUES (?, 1, 'import', 'pair', 'ranked', '[2, 1]', '[0, 1]', ?)""",
            (number, now()),
        )
    assert make_gold(db, number, None, "owner") == 1
    set_project(db, gold_share=1.0)
    (ann,) = people(db, "ann").values()
    assert prefer(db, ann, 1).purpose == "gold"
    release_gold(db, number, "owner")
    assert db.value("SELECT state FROM comparison WHERE id = ?", (number,)) == "closed"
    assert [count for _, count in quality.report(db).per_day] == [1]  # nobody judged the imported one here


def test_what_can_not_measure_anybody_is_refused(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    unjudged, split, flagged, tied, failed = reversed(seed_comparisons(db, 5))
    judge(db, ids["ann"], "tie")
    judge(db, ids["ann"], "tie")
    prefer(db, ids["ann"], 0, flag="harmful")
    prefer(db, ids["ann"], 0)
    for word in ("tie", "tie", "tie"):
        judge(db, ids["bob"], word)
    prefer(db, ids["bob"], 1)
    db.write("UPDATE comparison SET state = 'failed' WHERE id = ?", (failed,))
    for number, best, words in (
        (unjudged, 0, "Nobody has judged"),
        (split, None, "agree on no best answer"),
        (tied, None, "agree on no best answer"),
        (tied, 2, "has 2 answers"),
        (flagged, 0, "is flagged"),
        (failed, 0, "its answers are not complete"),
        (999, 0, "no comparison 999"),
    ):
        with pytest.raises(UserError, match=words):
            make_gold(db, number, best, "owner")
    assert db.value("SELECT count(*) FROM gold_decision") == 0
    assert make_gold(db, split, 1, "owner") == 1
    with pytest.raises(UserError, match="gold already"):
        make_gold(db, split, 0, "owner")


def test_a_case_shows_everything_that_was_said(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    (number,) = seed_comparisons(db, 1)
    prefer(db, ids["ann"], 1, "much")
    judge(db, ids["bob"], "tie")
    found = review(db, number)
    assert [(o.annotator, o.ranking, o.strength) for o in found.opinions] == [("ann", (2, 1), 3), ("bob", (1, 1), 0)]
    assert (found.consensus, len(found.answers)) == (1, 2)
    exclusions.leave_out(db, "ann", "clicks", "owner")
    assert review(db, number).consensus is None
