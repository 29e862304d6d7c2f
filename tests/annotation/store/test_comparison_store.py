"""Answers and comparisons on a real file: kept, counted, never offered twice."""

from __future__ import annotations

import pytest

from annotation.claims import handing_out, own_prompts
from annotation.database import Database
from annotation.records import Annotator, Feedback
from annotation.store import comparison_store, project_store, stock_counts
from tests.conftest import make_response, seed_prompts, shown_texts

pytestmark = pytest.mark.slow


def test_empty_and_repeated_answers_are_kept_marked_and_never_offered(db: Database, ann: Annotator) -> None:
    prompt = seed_prompts(db, 1)[0]
    texts = ["  \n", "Blue  light scatters.", "blue light\nscatters. ", "It scatters."]
    assert comparison_store.add_comparison(db, [make_response(prompt, text) for text in texts]) is not None
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    assert sorted(shown_texts(claim)) == ["Blue  light scatters.", "It scatters."]
    counts = stock_counts.answer_counts(db)
    assert (counts.total, counts.empty, counts.duplicate) == (4, 1, 1)


def test_too_few_different_answers_make_no_comparison(db: Database) -> None:
    prompt = seed_prompts(db, 1)[0]
    assert comparison_store.add_comparison(db, [make_response(prompt, text) for text in ("Same.", "same.", "")]) is None
    assert db.value("SELECT count(*) FROM comparison") == 0
    assert stock_counts.answer_counts(db).total == 3


def test_a_comparison_says_with_what_chance_it_was_made_and_goes_to_people(db: Database, ann: Annotator) -> None:
    (prompt,) = seed_prompts(db, 1)
    answers = [make_response(prompt, place) for place in "AB"]
    drawn, unnoted = (
        comparison_store.add_comparison(db, answers, chance=0.25),
        comparison_store.add_comparison(db, answers),
    )
    mixed = comparison_store.add_mixed_comparison(db, prompt, [make_response(prompt, place) for place in "CD"])
    asked = own_prompts.ask(db, ann.id, prompt.messages)
    assert db.value("SELECT count(*) FROM comparison WHERE people_chance = 1 AND people_drawn") == 4
    project_store.set_feedback(db, Feedback(mode="mixed"))
    waits = comparison_store.add_comparison(db, answers, chance=1.0)
    own = own_prompts.ask(db, ann.id, ({"role": "user", "content": "Why?"},))
    rows = db.rows("SELECT id, formed_chance, people_chance, people_drawn FROM comparison")
    # Where judges come first, whether people get it is settled by what they say.
    assert {row["id"]: (row["formed_chance"], row["people_chance"], row["people_drawn"]) for row in rows} == {
        drawn: (0.25, None, None),
        unnoted: (None, None, None),
        mixed: (1.0, None, None),
        asked: (1.0, 1.0, 1),
        waits: (1.0, None, None),
        own: (1.0, 1.0, 1),
    }
    project_store.set_feedback(db, Feedback(mode="people"))
    rows = db.rows("SELECT people_chance, people_drawn FROM comparison")
    assert [tuple(row.values()) for row in rows] == [(1.0, 1)] * 6
