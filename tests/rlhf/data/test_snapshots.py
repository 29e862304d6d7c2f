"""The counts of frozen data, whichever version stored them."""

from __future__ import annotations

from rlhf.data.snapshots import SnapshotCounts


def test_counts_are_read_as_they_were_stored() -> None:
    counts = SnapshotCounts(train=3, held_out=0, left_out={"tie": 2})
    assert SnapshotCounts.of(counts.to_json()) == counts
    assert counts.to_json() == '{"train": 3, "held-out": 0, "left_out": {"tie": 2}}', "as every version stores them"


def test_what_an_earlier_version_did_not_count_is_not_known() -> None:
    assert SnapshotCounts.of('{"train": 3}') == SnapshotCounts(train=3)
    assert SnapshotCounts.of("{}") == SnapshotCounts.of(None) == SnapshotCounts()
