"""Judgements on a real file: exactly once, never on the wrong pair, never lost, append-only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from annotation.claims import changing, judging
from annotation.database import Database
from annotation.records import Annotator, Claim, UserError
from annotation.sqlite import sqlite3
from annotation.store import comparison_store, project_store
from tests.annotation.claims.people import in_hand, judgements, run_threads, set_project
from tests.conftest import act, make_response, seed_comparisons, seed_prompts, shown_texts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


def test_nobody_skips_for_ever(db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model writes another comparison for each. What can't be judged can always be skipped."""
    monkeypatch.setattr(judging, "MOST_SKIPS", 3)
    seed_comparisons(db, 9)

    def fail(claim: Claim) -> None:
        db.write(
            """UPDATE response SET state = 'failed' WHERE id IN
                 (SELECT response_id FROM comparison_response WHERE comparison_id = ?)""",
            (claim.comparison_id,),
        )

    failing = in_hand(db, ann)
    fail(failing)
    judging.judge(db, ann.id, failing.nonce, act("skip"))
    for _ in range(3):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match=r"skipped 3 comparisons within a day .* until a day has passed"):
        judging.judge(db, ann.id, claim.nonce, act("skip"))
    judging.judge(db, ann.id, claim.nonce, act("tie"))
    for _ in range(3):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    failing = in_hand(db, ann)
    fail(failing)
    judging.judge(db, ann.id, failing.nonce, act("skip"))


def test_who_says_what_is_wrong_or_comes_back_the_next_day_skips_on(
    db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MOST_SKIPS", 2)
    seed_comparisons(db, 9)
    for _ in range(3):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip", flag="broken"))
    for _ in range(2):
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip"))
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("skip", flag="broken"))
    nonce = in_hand(db, ann).nonce
    with pytest.raises(UserError, match="skipped 2 comparisons"):
        judging.judge(db, ann.id, nonce, act("skip"))
    a_day_later = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="microseconds")
    db.write("UPDATE claim SET expires = '2099'")
    monkeypatch.setattr(judging, "now", lambda: a_day_later)
    judging.judge(db, ann.id, nonce, act("skip"))


def test_nobody_flags_for_ever(db: Database, ann: Annotator, bob: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one person flags, however they judge it, is left out of training for everybody."""
    monkeypatch.setattr(judging, "MOST_SKIPS", 2)
    monkeypatch.setattr(judging, "MOST_FLAGGED", 5)
    seed_comparisons(db, 9)
    made = [
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act(word, flag=flag))
        for word, flag in (("skip", "harmful"), ("tie", "broken"), ("left-much", "personal-data"), ("left-much", None))
    ]
    changing.undo(db, ann.id, "")
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("all-bad", flag="broken"))
    made[2] = changing.revise(db, ann.id, made[2], act("skip", flag="broken"))
    nonce = in_hand(db, ann).nonce
    said = r"set 5 flags within a day.* until a day has passed"
    for word in ("skip", "tie", "left-much", "all-bad"):
        with pytest.raises(UserError, match=said):
            judging.judge(db, ann.id, nonce, act(word, flag="broken"))
        with pytest.raises(UserError, match=said):
            changing.revise(db, ann.id, made[1], act(word, flag="broken"))
    judging.judge(db, bob.id, in_hand(db, bob).nonce, act("tie", flag="broken"))
    changing.revise(db, ann.id, made[1], act("tie"))
    judging.judge(db, ann.id, nonce, act("skip"))
    nonce = in_hand(db, ann).nonce
    a_day_later = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="microseconds")
    db.write("UPDATE claim SET expires = '2099'")
    monkeypatch.setattr(judging, "now", lambda: a_day_later)
    judging.judge(db, ann.id, nonce, act("tie", flag="broken"))


def test_nobody_fills_the_disk_with_notes_and_edits(
    db: Database, ann: Annotator, bob: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MOST_WRITTEN", 100)
    seed_comparisons(db, 4)
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("left-much", note="n" * 10))
    second = judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie", edit={"place": 0, "text": "e" * 40}))
    third = changing.revise(db, ann.id, second, act("tie", edit={"place": 0, "text": "f" * 50}))
    said = r"written 100 characters of notes and edits within a day, .* until a day has passed"
    for more in ({"note": "n"}, {"edit": {"place": 0, "text": "f"}}):
        with pytest.raises(UserError, match=said):
            changing.revise(db, ann.id, third, act("tie", **more))
        with pytest.raises(UserError, match=said):
            judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie", **more))
    assert db.value("SELECT count(*) FROM response WHERE origin = 'person'") == 2
    judging.judge(db, bob.id, in_hand(db, bob).nonce, act("tie", note="n"))
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    a_day_later = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="microseconds")
    monkeypatch.setattr(judging, "now", lambda: a_day_later)
    changing.revise(db, ann.id, third, act("tie", note="n"))


@pytest.mark.parametrize("word", ["left-much", "right-slightly"])
def test_the_answer_that_was_seen_as_better_wins(db: Database, ann: Annotator, word: str) -> None:
    seed_comparisons(db, 20)
    for _ in range(20):
        claim = in_hand(db, ann)
        judging.judge(db, ann.id, claim.nonce, act(word))
        judged = list(current_judgements(db))[-1]
        assert judged.ranking is not None
        winner = judged.responses[judged.ranking.index(1)].text
        assert winner == shown_texts(claim)[0 if word.startswith("left") else 1]
    orders = {row["shown_order"] for row in judgements(db)}
    assert orders == {"[0, 1]", "[1, 0]"}


def test_nobody_has_judged_in_less_than_no_time(db: Database, ann: Annotator) -> None:
    """Where the clock was set back while somebody judged."""
    seed_comparisons(db, 1)
    nonce = in_hand(db, ann).nonce
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="microseconds")
    db.write("UPDATE claim SET created = ?, expires = '9'", (in_an_hour,))
    made = judging.judge(db, ann.id, nonce, act("left-clearly"))
    assert db.row("SELECT seconds FROM judgement WHERE id = ?", (made,)) == {"seconds": None}


def test_the_same_request_again_returns_the_first_judgement(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 2)
    nonce = in_hand(db, ann).nonce
    first = judging.judge(db, ann.id, nonce, act("left-clearly"))
    assert judging.judge(db, ann.id, nonce, act("left-clearly")) == first
    for word in ("right-clearly", "skip"):
        with pytest.raises(judging.JudgementConflict, match="already") as refused:
            judging.judge(db, ann.id, nonce, act(word))
        assert refused.value.stands == first
    assert len(judgements(db)) == 1
    assert in_hand(db, ann).nonce != nonce


def test_what_is_no_judgement_records_nothing(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match="'outcome' must be one of ranked, all-bad, skip"):
        judging.judge(db, ann.id, claim.nonce, {"outcome": "both"})
    assert judgements(db) == []
    assert in_hand(db, ann) == claim


def test_a_burst_of_the_same_press_is_one_judgement(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 3)
    nonce = in_hand(db, ann).nonce
    made: list[int] = []

    def press() -> None:
        made.append(judging.judge(db, ann.id, nonce, act("tie")))
        db.close()

    run_threads(press, 12)
    assert len(made) == 12
    assert len(set(made)) == len(judgements(db)) == 1


def test_judgements_are_append_only(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("tie"))
    for statement in ("UPDATE judgement SET outcome = 'skip'", "DELETE FROM judgement"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"), db.transaction() as connection:
            connection.execute(statement)
    assert [row["outcome"] for row in judgements(db)] == ["ranked"]


def test_what_was_judged_comes_out_with_all_that_training_needs(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    judging.judge(db, ann.id, in_hand(db, ann).nonce, act("all-bad"))
    judged = list(current_judgements(db))
    assert [(entry.outcome, entry.ranking, entry.strength, entry.annotator) for entry in judged] == [
        ("all-bad", None, None, "ann")
    ]
    assert [response.text[:8] for response in judged[0].responses] == ["Answer A", "Answer B"]


# --------------------------------------------------------------------------------------- rankings, reasons and edits
def seed_ranking(db: Database, size: int = 4) -> int:
    (prompt,) = seed_prompts(db, 1)[-1:]
    made = comparison_store.add_comparison(
        db, [make_response(prompt, f"answer {place}") for place in range(size)], size
    )
    assert made is not None
    return made


def test_a_ranking_is_recorded_by_position(db: Database, ann: Annotator) -> None:
    set_project(db, kind="rank", answers=4)
    seed_ranking(db)
    claim = in_hand(db, ann)
    assert claim.kind == "rank"
    judging.judge(db, ann.id, claim.nonce, {"outcome": "ranked", "ranks": [2, 1, 4, 2]})
    (judged,) = current_judgements(db)
    assert judged.ranking is not None
    by_text = {response.text: rank for response, rank in zip(judged.responses, judged.ranking, strict=True)}
    assert [by_text[text] for text in shown_texts(claim)] == [2, 1, 3, 2]
    assert (judged.kind, judged.strength) == ("rank", None)


def test_what_goes_along_with_a_verdict_is_kept(db: Database, ann: Annotator) -> None:
    project_store.write_guidelines(db, "Be kind.", "owner")
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    project_store.write_guidelines(db, "Be brief.", "owner")
    sent = act(
        "right-much",
        tags=["clear", "accurate"],
        note=" well put ",
        flag="harmful",
        edit={"place": 1, "text": "Better."},
    )
    judging.judge(db, ann.id, claim.nonce, sent)
    (judged,) = current_judgements(db)
    assert (judged.tags, judged.note, judged.flag) == (("accurate", "clear"), "well put", "harmful")
    assert judged.guidelines_version == 1
    assert judged.edited is not None
    assert (judged.edited.text, judged.edited.origin) == ("Better.", "person")
    best = judged.responses[claim.shown_order[1]]
    assert judged.edited.edited_from == best.id


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (act("left-much", tags=["no such reason"]), "Reload the page"),
        (act("left-much", flag="ugly"), "'flag' must be one of harmful, personal-data, broken, not 'ugly'"),
        (act("left-much", note="x" * 5000), "A note can have"),
        (act("left-much", edit={"place": 1, "text": "Better."}), "Edit the answer that you find best"),
        (act("tie", edit={"place": 5, "text": "Better."}), "Edit the answer that you find best"),
        (act("tie", edit={"place": 1}), "'edit.text' is missing"),
        (act("tie", why="so"), "no field 'why'"),
        (act("all-bad", edit={"place": 0, "text": "Better."}), "Edit the answer that you find best"),
        ({"outcome": "ranked", "ranks": [1, 2, 3], "strength": 1}, "one whole number"),
        ({"outcome": "ranked", "ranks": [1, True], "strength": 1}, r"'ranks\.1' must be of type int, not True"),
        ({"outcome": "ranked", "ranks": [1, 0], "strength": 1}, r"'ranks\.1' must be above zero"),
        ({"outcome": "ranked", "ranks": [1, 1], "strength": 2}, "strength"),
        ({"outcome": "ranked", "ranks": [1, 2], "strength": 0}, "strength"),
        ({"outcome": "ranked", "ranks": [1, 2]}, "strength"),
        ("left", "has these fields: outcome, ranks, "),
        ({"outcome": "undone"}, "must be one of ranked, all-bad, skip, not 'undone'"),
        (None, "has these fields: outcome, ranks, "),
    ],
)
def test_a_judgement_that_does_not_fit_is_refused_whole(db: Database, ann: Annotator, sent: Any, message: str) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match=message):
        judging.judge(db, ann.id, claim.nonce, sent)
    assert judgements(db) == []
    assert db.value("SELECT count(*) FROM response WHERE origin = 'person'") == 0
    assert in_hand(db, ann) == claim


def test_an_edit_that_changes_nothing_is_refused(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match="same as before"):
        judging.judge(db, ann.id, claim.nonce, act("left-much", edit={"place": 0, "text": shown_texts(claim)[0]}))
    assert judgements(db) == []
