"""Prompts, answers and comparisons on a real file: kept, counted, never offered twice, and watched while written."""

from __future__ import annotations

import pytest

from annotation import access, claims, store
from annotation.database import Database
from annotation.records import Annotator
from tests.conftest import make_response, seed_prompts


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


# ----------------------------------------------------------------------------------------------------------- answers
def test_empty_and_repeated_answers_are_kept_marked_and_never_offered(db: Database, ann: Annotator) -> None:
    prompt = seed_prompts(db, 1)[0]
    texts = ["  \n", "Blue  light scatters.", "blue light\nscatters. ", "It scatters."]
    assert store.add_comparison(db, [make_response(prompt, text) for text in texts]) is not None
    claim = claims.claim_next(db, ann.id)
    assert claim is not None
    assert sorted(claim.shown_texts) == ["Blue  light scatters.", "It scatters."]
    counts = store.answer_counts(db)
    assert (counts.total, counts.empty, counts.duplicate) == (4, 1, 1)


def test_too_few_different_answers_make_no_comparison(db: Database) -> None:
    prompt = seed_prompts(db, 1)[0]
    assert store.add_comparison(db, [make_response(prompt, text) for text in ("Same.", "same.", "")]) is None
    assert db.value("SELECT count(*) FROM comparison") == 0
    assert store.answer_counts(db).total == 3


def test_a_known_prompt_keeps_its_split(db: Database) -> None:
    first = seed_prompts(db, 1, "held-out")[0]
    moved = store.Prompt(first.messages, "train", "import")
    assert store.add_prompts(db, [moved]) == 0
    assert [prompt.id for prompt in store.prompts(db, "held-out")] == [first.id]
    assert store.prompts(db, "train") == []
