"""What pages look at: asked again only where something was committed, known to the account that asked alone."""

from __future__ import annotations

import pytest

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.web import watches
from annotation.web.watches import LONGEST_KEY, Watches

KIM, LEE = Annotator(1, "kim", "admin"), Annotator(2, "lee", "admin")


class Looked:
    """A look that counts how often it was taken."""

    def __init__(self, mark: str) -> None:
        self.mark, self.times = mark, 0

    def __call__(self, annotator: Annotator) -> str:
        self.times += 1
        return self.mark


def commit(db: Database) -> None:
    db.write("INSERT INTO setting (key, value) VALUES (hex(randomblob(8)), '1')")


def test_a_look_is_taken_again_after_a_commit_and_not_before(db: Database) -> None:
    known, look = Watches(db), Looked("1")
    known.keep(KIM, "a", look, "1", live=False)
    assert not any(known.changed(KIM, "a", "1") for _ in range(5))
    assert look.times == 1, "once, since the rows may have changed while the page was answered"
    look.mark = "2"
    assert not known.changed(KIM, "a", "1")
    commit(db)
    assert known.changed(KIM, "a", "1")
    assert not known.changed(KIM, "a", "2"), "the page was told"
    assert look.times == 2


def test_what_no_row_says_is_looked_at_each_time_or_after_some_seconds(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, live, rows = Watches(db), Looked("1"), Looked("1")
    known.keep(KIM, "live", live, "1", live=True)
    known.keep(KIM, "rows", rows, "1", live=False)
    for _ in range(3):
        assert not known.changed(KIM, "live", "1")
        assert not known.changed(KIM, "rows", "1")
    assert (live.times, rows.times) == (3, 1)
    monkeypatch.setattr(watches, "TRUSTED_SECONDS", -1.0)
    assert not known.changed(KIM, "rows", "1")
    assert rows.times == 2


def test_nobody_asks_by_anothers_key_and_the_unknown_ask_gradio(db: Database) -> None:
    known = Watches(db)
    known.keep(KIM, "a", Looked("1"), "1", live=False)
    assert known.changed(LEE, "a", "1")
    assert known.changed(KIM, "b", "1")
    for key in (None, 7, "", "x" * (LONGEST_KEY + 1), ["a"]):
        known.keep(LEE, key, Looked("1"), "1", live=False)
    assert [*known.known] == [(1, "a")]


def test_memory_is_bounded_and_a_refusal_is_said_by_gradio(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MAXIMUM", 3)
    known = Watches(db)

    def refuse(annotator: Annotator) -> str:
        raise UserError("No.")

    for key in "abcd":
        known.keep(KIM, key, refuse, "1", live=False)
    assert [key for _, key in known.known] == ["b", "c", "d"]
    assert known.changed(KIM, "d", "1")
