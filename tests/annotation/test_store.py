"""Prompts, answers and comparisons on a real file: kept, counted, never offered twice, and watched while written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annotation import claims, store
from annotation.database import Database
from annotation.records import Annotator
from annotation.web import access
from tests.conftest import act, make_response, seed_prompts, shown_texts

pytestmark = pytest.mark.slow


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


# ----------------------------------------------------------------------------------------------------------- answers
def test_kept_answers_of_a_check_are_those_to_the_very_text_that_is_fed(db: Database) -> None:
    """A template that writes the date feeds another text a day later: yesterday's answer is no answer to it."""
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "method": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompt = seed_prompts(db, 1, "held-out")[0]
    for day, models in (("Monday", (1, 2)), ("Tuesday", (1,))):
        for model_id in models:
            answer = replace(make_response(prompt, f"{day} {model_id}", model_id), rendered_prompt=f"{day}: Why?")
            store.add_response(db, answer, "evaluate")
    terms = (db, 1, [prompt], make_response(prompt, "").seed, make_response(prompt, "").sampling)
    assert [one.text for one in store.answers_of_check(*terms)] == ["Monday 1", "Tuesday 1"]
    assert [one.text for one in store.answers_of_check(*terms, {prompt.id: "Tuesday: Why?"})] == ["Tuesday 1"]
    assert store.answers_of_check(*terms, {prompt.id: "Wednesday: Why?"}) == store.answers_of_check(*terms, {}) == []
    assert [pair.texts for pair in store.paired_answers(db, 2, 1)] == [("Monday 2", "Monday 1")]


def test_empty_and_repeated_answers_are_kept_marked_and_never_offered(db: Database, ann: Annotator) -> None:
    prompt = seed_prompts(db, 1)[0]
    texts = ["  \n", "Blue  light scatters.", "blue light\nscatters. ", "It scatters."]
    assert store.add_comparison(db, [make_response(prompt, text) for text in texts]) is not None
    claim = claims.claim_next(db, ann.id)
    assert claim is not None
    assert sorted(shown_texts(claim)) == ["Blue  light scatters.", "It scatters."]
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


def test_what_two_policies_answered_in_a_check_is_compared_once(db: Database, ann: Annotator) -> None:
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "method": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompts = seed_prompts(db, 4, "held-out")
    texts = [("base one", "dpo one"), ("base two", "dpo two"), ("the same", "the same"), ("base four", " ")]
    for prompt, pair in zip(prompts, texts, strict=True):
        for model_id, text in enumerate(pair, 1):
            store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "evaluate")
    store.set_project(db, replace(store.project(db), candidate_share=0.5))
    assert store.compare_policies(db, 2, 1) == 2
    assert store.compare_policies(db, 2, 1) == store.compare_policies(db, 1, 2) == 0
    claim = claims.claim_next(db, ann.id)
    assert claim is not None
    assert sorted(shown_texts(claim)) in (["base one", "dpo one"], ["base two", "dpo two"])  # in no telling order
    claims.judge(db, ann.id, claim.nonce, act("left-much"))
    judged = next(store.judgements(db))
    assert (judged.split, {response["revision"] for response in judged.responses}) == ("held-out", {"base", "dpo-1"})
