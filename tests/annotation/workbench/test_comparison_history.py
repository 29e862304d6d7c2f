"""The page of one comparison: everything that became of it, in rows, and as a page that is safe to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation.claims import changing, handing_out, judging, own_judgements
from annotation.database import Database
from annotation.exports.frozen_rows import DemonstrationRow, FrozenAnswer, PreferenceRow, line_of
from annotation.metrics.intervals_and_bias import annotator_figures
from annotation.metrics.quality import votes
from annotation.records import UserError, now
from annotation.store import comparison_store, project_store
from annotation.tabs.comparisons import comparison_card, comparison_table, statistics_card
from annotation.tabs.comparisons.comparison_table import ListPlace
from annotation.web import access
from annotation.workbench import bulk_changes, own_agreement
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_history import history, used_by
from annotation.workbench.comparison_list import choices, list_page
from annotation.workbench.data_statistics import statistics
from annotation.workbench.gold import retire_gold
from tests.conftest import act, make_response, seed_comparisons, seed_prompts

EVIL = "<img src=x onerror=alert(1)>"


def lived(db: Database) -> int:
    """A comparison that was judged, changed, taken back, judged again, settled, assigned and withdrawn."""
    ann = access.add_account(db, "ann", "admin", "long enough words")
    prompt = seed_prompts(db, 1)[0]
    comparison = comparison_store.add_comparison(
        db, [make_response(prompt, EVIL), make_response(prompt, "plain")], chance=0.25
    )
    assert comparison is not None
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    first = judging.judge(db, ann.id, claim.nonce, act("left-much", note=EVIL, flag="broken", tags=["clear"]))
    changing.revise(db, ann.id, first, act("tie"))
    again = changing.undo(db, ann.id, "")
    judging.judge(db, ann.id, again.nonce, act("right-slightly", edit={"place": 1, "text": "better"}))
    settling = handing_out.take_to_settle(db, ann.id, comparison)
    judging.judge(db, ann.id, settling.nonce, act("all-bad"))
    for kind, whom in (("withdraw", ""), ("release", "")):
        asked = BulkRequest(bulk_changes.check_kind(kind), ComparisonFilter(ids=(comparison,)), whom)
        if bulk_changes.plan(db, asked, ann).changed:
            bulk_changes.make(db, asked, ann, 1)
    bulk_changes.undo(db, 1, "ann")
    return comparison


def test_the_history_has_every_act_in_order(db: Database) -> None:
    comparison = lived(db)
    found = history(db, comparison)
    assert [(one.outcome, one.stands) for one in found.judgements] == [
        ("ranked", False), ("ranked", False), ("undone", False), ("ranked", True), ("all-bad", True),
    ]  # fmt: skip
    assert [one.purpose for one in found.hand_outs] == ["own", "own", "settle"]
    assert [(one.kind, one.undone_by) for one in found.acts] == [("withdraw", "ann")]
    assert (found.formed_chance, found.people_chance, found.asks) == (0.25, 1.0, "people")
    assert found.judgements[3].edited == "better"
    with pytest.raises(UserError, match="There is no comparison 999"):
        history(db, 999)


def test_the_pages_are_inert_and_say_what_happened(db: Database, data_dir: Path) -> None:
    comparison = lived(db)
    known = choices(db)
    card = comparison_card.card_of(history(db, comparison), used_by(db, data_dir, comparison), known)
    page = list_page(db, ComparisonFilter())
    table = comparison_table.table_of(page, ListPlace(), known)
    figures = statistics_card.card_of(statistics(db, ComparisonFilter()), ListPlace())
    assert "<img" not in card + table + figures
    assert "By annotator" in figures  # imports and AI judges are among them
    assert "&lt;img" in card
    for sentence in ("changed since", "taken back", "takes the one before back", "25%", "Edited: better", "all bad"):
        assert sentence in card
    assert card.count("<td>no: ann has settled it</td>") == 1, "only what settles it counts, of all that stands"
    assert card.count("<td>yes</td>") == 1
    assert f'value="{comparison}"' in table
    assert f'href="/data/comparisons/{comparison}"' in table


def test_who_is_asked_now_is_who_can_get_it(db: Database) -> None:
    """Not people, once as many have judged it as are to, or where it can't be judged."""
    ann = access.add_account(db, "ann", "admin", "long enough words")
    access.add_account(db, "bob", "annotator", "long enough words")
    judged, waiting, failed, gold = seed_comparisons(db, 4)
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-much"))

    def asked_now(number: int) -> str:
        return comparison_card.asked_now(history(db, number))

    assert asked_now(judged).startswith("nobody else: it has been judged by as many")
    assert asked_now(waiting) == "people"
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET state = 'failed' WHERE id = ?", (failed,))
        connection.execute("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id = ?", (gold,))
    assert asked_now(failed) == "nobody"
    assert asked_now(gold) == "now and then people who have not seen it"
    retire_gold(db, gold, "ann")
    assert asked_now(gold) == "nobody: it is retired"
    assigned = BulkRequest("assign", ComparisonFilter(ids=(waiting,)), "person:bob")
    bulk_changes.make(db, assigned, ann, 1)
    assert asked_now(waiting) == "bob"
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    assert asked_now(judged) == "people"


def test_what_was_not_judged_in_time_is_in_nobodys_hands(db: Database) -> None:
    """Nobody has asked for another comparison since, so that its row still says that it is held."""
    ann = access.add_account(db, "ann", "admin", "long enough words")
    (number,) = seed_comparisons(db, 1)
    handing_out.claim_next(db, ann.id)
    assert "in hand" in comparison_card.given(history(db, number))
    db.write("UPDATE claim SET expires = '2020'")
    given = comparison_card.given(history(db, number))
    assert "in hand" not in given
    assert "went back unjudged" in given


@pytest.mark.parametrize("word", ["left-much", "skip"])
def test_what_was_judged_and_taken_back_did_not_go_back_unjudged(db: Database, word: str) -> None:
    ann = access.add_account(db, "ann", "admin", "long enough words")
    (number,) = seed_comparisons(db, 1)
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act(word))
    changing.undo(db, ann.id, "")
    given = comparison_card.given(history(db, number))
    assert "taken back" in given
    assert "in hand" in given, "it is once more"
    assert "unjudged" not in given


def test_a_header_sorts_and_pressed_again_turns_round() -> None:
    assert comparison_table.header("Number", "newest", ListPlace()).address == "/data/comparisons?sort=oldest"
    turned = comparison_table.header("Number", "newest", ListPlace(sort="oldest", page=3))
    assert (turned.address, turned.words) == ("/data/comparisons", "Number ▲")
    other = comparison_table.header("Last judged", "latest", ListPlace(ComparisonFilter(q="a b")))
    assert (other.address, other.words) == ("/data/comparisons?q=a+b&sort=latest", "Last judged")


def test_only_what_waits_for_more_is_counted_out_of_how_many_there_are_to_be(db: Database) -> None:
    """What was imported with its verdict is closed: it never gets the number that a project asks of others."""
    ann = access.add_account(db, "ann", "annotator", "long enough words")
    access.add_account(db, "bob", "annotator", "long enough words")
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    seed_comparisons(db, 3)
    for _time in range(2):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("tie"))
    db.write("UPDATE comparison SET state = 'closed' WHERE id = ?", (claim.comparison_id,))
    shown = [str(comparison_table.row_of(one)[3]).split("\n")[0] for one in list_page(db, ComparisonFilter()).rows]
    assert sorted(shown) == ["0 / 2", "1", "1 / 2"]


def test_jobs_that_used_it_are_found_in_the_frozen_data(db: Database, data_dir: Path) -> None:
    comparison = lived(db)
    edit = db.value("SELECT edited_response_id FROM judgement WHERE edited_response_id NOT NULL")
    turn = ({"role": "user", "content": f'say "comparison": {comparison}, please'},)
    sides = {"chosen": FrozenAnswer(1, "a"), "rejected": FrozenAnswer(2, "b")}
    other = PreferenceRow("train", turn, comparison=comparison * 10 + 1, prompt_id=1, **sides)
    files = {
        "own": [other, replace(other, comparison=comparison)],
        "another": [other],
        "edited": [DemonstrationRow(split="train", messages=turn, text="better", origin="person", response=edit)],
    }
    (data_dir / "snapshots").mkdir()
    for name, rows in files.items():
        (data_dir / "snapshots" / name).write_bytes(b"".join(map(line_of, rows)))
        row = {"sha256": name, "path": f"snapshots/{name}", "rows": 1, "counts": "{}", "last_judgement_id": 9}
        db.insert("snapshot", {**row, "created": now()})
    db.insert("snapshot", {**row, "sha256": "gone", "path": "snapshots/gone", "created": now()})
    job = {"kind": "dpo", "status": "finished", "requested_by": "ann", "created": now()}
    db.insert("job", {**job, "spec": json.dumps({"snapshot": "own"})})
    found = used_by(db, data_dir, comparison)
    assert {(one.snapshot, one.job) for one in found} == {("own", 1), ("edited", None)}
    shown = comparison_card.learnt(found)
    assert '<a href="/runs/1">job 1: finished</a>' in shown
    db.write("UPDATE job SET status = 'failed'")
    assert "job 1: failed" in comparison_card.learnt(used_by(db, data_dir, comparison))


def test_statistics_are_of_what_is_filtered(db: Database) -> None:
    ann = access.add_account(db, "ann", "annotator", "long enough words")
    ids = seed_comparisons(db, 5)
    for word in ("tie", "left-much", "all-bad", "skip"):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act(word))
    everything = statistics(db, ComparisonFilter())
    assert (everything.comparisons, everything.judgements, everything.ties, everything.all_bad) == (5, 3, 1, 1)
    assert dict(everything.by_status) == {"judged": 3, "open": 2}
    assert [(one.name, one.judgements, one.skips) for one in everything.people] == [("ann", 3, 1)]
    assert sum(number for _edge, number in everything.lengths) == 10
    assert [(one.writer, one.answers) for one in everything.writers] == [("base", 10)]
    some = statistics(db, ComparisonFilter(ids=tuple(ids[:1])))
    assert (some.comparisons, some.judgements, dict(some.by_day)) == (1, 1, {now()[:10]: 1})


def test_the_time_that_somebody_takes_is_the_median_on_both_pages(db: Database) -> None:
    """Skips aside: statistics and quality say one thing of it."""
    ann = access.add_account(db, "ann", "annotator", "long enough words")
    seed_comparisons(db, 5)
    for word in ("tie", "tie", "tie", "tie", "skip"):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act(word))
    db.connection.execute("DROP TRIGGER judgement_no_update")
    for number, seconds in enumerate((4.0, 2.0, 700.0, 3.0, 50.0), 1):
        db.connection.execute("UPDATE judgement SET seconds = ? WHERE id = ?", (seconds, number))
    everything = statistics(db, ComparisonFilter())
    assert [one.seconds for one in everything.people] == [3.5]
    assert [one.seconds for one in annotator_figures(votes(db), {})] == [3.5]
    shown = statistics_card.card_of(everything, ListPlace())
    assert "Median time" in shown
    assert "3.5 s" in shown


def test_ones_own_agreement_is_with_others_on_opinions_alone(db: Database) -> None:
    """And on the first ones, ten at a time: who judges anew to match others finds out nothing and gains nothing."""
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    people = [access.add_account(db, name, "annotator", "long enough words") for name in ("ann", "bob")]
    seed_comparisons(db, 12)
    for annotator in people:
        for turn in range(12):
            claim = handing_out.claim_next(db, annotator.id)
            assert claim is not None
            best = 0 if annotator is people[0] or turn else 1  # they differ on the first
            judging.judge(db, annotator.id, claim.nonce, verdict(best, claim.shown_order))
            if annotator is people[1]:
                found = own_agreement.own_agreement(db, annotator.id)
                assert (found.shared, found.same) == ((0, 0) if turn < 9 else (10, 9))
    first = own_judgements.latest(db, people[1].id)[-1].made
    changing.revise(db, people[1].id, first.id, verdict(0, first.shown_order))
    found = own_agreement.own_agreement(db, people[1].id)
    assert (found.shared, found.same) == (10, 9)


def verdict(best: int, shown_order: Sequence[int]) -> dict[str, Any]:
    """That the answer at this position is much better than the other."""
    return act("left-much" if shown_order[0] == best else "right-much")
