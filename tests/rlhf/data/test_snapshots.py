"""The counts of frozen data, whichever version stored them."""

from __future__ import annotations

import pytest

from annotation import claims
from annotation.database import Database
from annotation.web import access
from rlhf.data import snapshots
from rlhf.data.snapshots import SnapshotCounts
from tests.conftest import act, seed_comparisons


def test_counts_are_read_as_they_were_stored() -> None:
    counts = SnapshotCounts(train=3, held_out=0, left_out={"tie": 2})
    assert SnapshotCounts.of(counts.to_json()) == counts
    assert counts.to_json() == '{"train": 3, "held-out": 0, "left_out": {"tie": 2}}', "as every version stores them"


def test_what_an_earlier_version_did_not_count_is_not_known() -> None:
    assert SnapshotCounts.of('{"train": 3}') == SnapshotCounts(train=3)
    assert SnapshotCounts.of("{}") == SnapshotCounts.of(None) == SnapshotCounts()


@pytest.mark.parametrize("change", ["purpose = 'gold'", "purpose = 're-ask'", "early = 1", "flag = 'broken'"])
def test_edited_answers_are_learned_where_their_judgement_counts(db: Database, change: str) -> None:
    """As in the export: not those of judgements that measure, or early ones, nor where anybody flagged."""
    seed_comparisons(db, 2)
    ann = access.add_account(db, "ann", "annotator", "a long enough password")
    for text in ("Mended.", "Mended too."):
        claim = claims.claim_next(db, ann.id)
        assert claim is not None
        claims.judge(db, ann.id, claim.nonce, act("left-much", edit={"place": 0, "text": text}))
    assert [row.text for row in snapshots.demonstration_rows(db)] == ["Mended.", "Mended too."]
    with db.transaction() as connection:
        connection.execute("DROP TRIGGER judgement_no_update")  # as another moment would have stored it
        connection.execute(f"UPDATE judgement SET {change} WHERE id = 2")
    assert [row.text for row in snapshots.demonstration_rows(db)] == ["Mended."]
