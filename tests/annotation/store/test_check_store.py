"""Answers of a check on a real file: those to the very text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from annotation.database import Database
from annotation.records import now
from annotation.store import answer_changes, check_store, comparison_store, policy_comparisons
from tests.conftest import make_response, seed_prompts

pytestmark = pytest.mark.slow


def test_kept_answers_of_a_check_are_those_to_the_very_text_that_is_fed(db: Database) -> None:
    """A template that writes the date feeds another text a day later: yesterday's answer is no answer to it."""
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompt = seed_prompts(db, 1, "held-out")[0]
    for day, models in (("Monday", (1, 2)), ("Tuesday", (1,))):
        for model_id in models:
            answer = replace(make_response(prompt, f"{day} {model_id}", model_id), rendered_prompt=f"{day}: Why?")
            comparison_store.add_response(db, answer, "check")
    terms = (db, 1, [prompt], make_response(prompt, "").seed, make_response(prompt, "").sampling)
    assert [one.text for one in check_store.answers_of_check(*terms)] == ["Monday 1", "Tuesday 1"]
    assert [one.text for one in check_store.answers_of_check(*terms, {prompt.id: "Tuesday: Why?"})] == ["Tuesday 1"]
    assert (
        check_store.answers_of_check(*terms, {prompt.id: "Wednesday: Why?"})
        == check_store.answers_of_check(*terms, {})
        == []
    )
    assert [pair.texts for pair in policy_comparisons.paired_answers(db, 2, 1)] == [("Monday 2", "Monday 1")]


def test_what_was_answered_on_other_weights_is_answered_anew(db: Database) -> None:
    """Neither is it what a check speaks of, nor is an answer of now compared with it."""
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompt = seed_prompts(db, 1, "held-out")[0]

    def answer(model_id: int, text: str) -> None:
        check_store.add_checked_answer(db, replace(make_response(prompt, text, model_id), rendered_prompt="Why?"))

    def kept(**asked: Any) -> list[str]:
        terms = (db, 1, [prompt], make_response(prompt, "").seed, make_response(prompt, "").sampling)
        return [one.text for one in check_store.answers_of_check(*terms, **asked)]

    answer(1, "base before")
    before = now()
    answer_changes.note_change_of_answers(db, None)
    assert kept(rendered={prompt.id: "Why?"}) == []
    answer(2, "candidate")
    assert policy_comparisons.paired_answers(db, 2, 1) == []
    answer(1, "base now")
    assert kept(rendered={prompt.id: "Why?"}) == ["base now"]
    assert [pair.texts for pair in policy_comparisons.paired_answers(db, 2, 1)] == [("candidate", "base now")]
    assert (kept(), kept(until=before)) == (["base before", "base now"], ["base before"])
