"""The counts of frozen data, whichever version stored them."""

from __future__ import annotations

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.records import Feedback
from annotation.store import project_store
from annotation.web import access
from rlhf.data import label_noise, snapshots
from rlhf.data.label_noise import NoiseEvidence
from rlhf.data.snapshots import BELIEVED, SnapshotCounts
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.verdicts import Choice, Verdict
from rlhf.models import registry
from tests.conftest import act, seed_comparisons, shown_texts


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
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-much", edit={"place": 0, "text": text}))
    assert [row.text for row in snapshots.demonstration_rows(db)] == ["Mended.", "Mended too."]
    with db.transaction() as connection:
        connection.execute("DROP TRIGGER judgement_no_update")  # as another moment would have stored it
        connection.execute(f"UPDATE judgement SET {change} WHERE id = 2")
    assert [row.text for row in snapshots.demonstration_rows(db)] == ["Mended."]


def test_what_people_judged_because_a_judge_could_not_tells_nothing_of_the_labels_that_it_gives_alone(
    db: Database,
) -> None:
    """Of what it is sure of people share its view twelve times of twelve; on what it flips on, it gives no label."""
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    ann = access.add_account(db, "ann", "annotator", "a long enough password")

    def label(count: int, audit_share: float, both: tuple[Choice, Choice]) -> None:
        project_store.set_feedback(db, Feedback("mixed", audit_share))
        seed_comparisons(db, count)
        for waiting in verdict_store.to_judge(db, judge, "open", count):
            for pair, choice in zip(waiting.missing, both, strict=True):
                verdict = Verdict(choice, None, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)
                verdict_store.add_verdict(db, judge, waiting.id, pair, verdict, 0, (), None)
            verdict_store.judge_comparison(db, judge, waiting)

    label(20, 0.0, ("first", "first"))
    label(12, 1.0, ("first", "second"))
    while claim := handing_out.claim_next(db, ann.id):
        side = "left" if shown_texts(claim)[0].startswith("Answer A") else "right"
        judging.judge(db, ann.id, claim.nonce, act(f"{side}-clearly"))
    label(3, 0.0, ("first", "second"))
    rows = list(snapshots.collect(db, registry.by_revision(db, "base"), "all", 1000))
    alone = [row.flip for row in rows if row.ai]
    assert alone == [pytest.approx(1 - (12 + BELIEVED * 0.73) / (12 + BELIEVED), abs=1e-6)] * 3
    assert label_noise.evidence_about(db, ["j"]) == {"j": NoiseEvidence(12)}
