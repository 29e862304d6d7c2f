"""Who is left out of training, on a real file."""

from __future__ import annotations

import pytest

from annotation.database import Database
from annotation.metrics import quality
from annotation.records import UserError
from annotation.store import judgement_store
from annotation.workbench import exclusions
from tests.annotation.claims.people import people, prefer
from tests.conftest import seed_comparisons
from tests.frozen_in_memory import frozen


def test_leaving_out_is_recorded_reversible_and_deletes_nothing(db: Database) -> None:
    ids = people(db, "ann", "bob")
    seed_comparisons(db, 2)
    for name in ("ann", "bob"):
        prefer(db, ids[name], 0)
    assert len(frozen(db).rows) == 2
    exclusions.leave_out(db, "Ann", " clicks without reading ", "owner")
    assert judgement_store.excluded_annotators(db) == {"ann": "clicks without reading"}
    assert [row.annotators for row in frozen(db).rows] == [("bob",)]
    assert frozen(db).left_out["excluded"] == 1
    assert db.value("SELECT count(*) FROM judgement") == 2
    exclusions.take_back(db, "ann", "", "second")
    assert len(frozen(db).rows) == 2
    decided = [(one.what, one.annotator, one.reason, one.decided_by) for one in quality.report(db).decisions]
    assert decided == [
        ("take-back", "ann", "", "second"),
        ("leave-out", "ann", "clicks without reading", "owner"),
    ]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("nobody", "clicks", "Choose an annotator"),
        ("", "clicks", "Choose an annotator"),
        ("ann", "  ", "Give a reason"),
        ("ann", "x" * 501, "up to 500"),
        ("bob", "clicks", "left out of training already"),
    ],
)
def test_a_decision_that_can_not_be_is_refused(db: Database, name: str, reason: str, words: str) -> None:
    people(db, "ann", "bob")
    exclusions.leave_out(db, "bob", "first", "owner")
    with pytest.raises(UserError, match=words):
        exclusions.leave_out(db, name, reason, "owner")
    with pytest.raises(UserError, match="not left out"):
        exclusions.take_back(db, "ann", "", "owner")
    assert db.value("SELECT count(*) FROM exclusion") == 1
