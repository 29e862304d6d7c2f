"""Prompts, answers and comparisons on a real file: kept, counted, never offered twice, and watched while written."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from annotation import claims, store
from annotation.database import Database
from annotation.records import Annotator, Feedback, now
from annotation.web import access
from tests.conftest import act, make_response, seed_prompts, shown_texts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


# ----------------------------------------------------------------------------------------------------------- answers
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
            store.add_response(db, answer, "check")
    terms = (db, 1, [prompt], make_response(prompt, "").seed, make_response(prompt, "").sampling)
    assert [one.text for one in store.answers_of_check(*terms)] == ["Monday 1", "Tuesday 1"]
    assert [one.text for one in store.answers_of_check(*terms, {prompt.id: "Tuesday: Why?"})] == ["Tuesday 1"]
    assert store.answers_of_check(*terms, {prompt.id: "Wednesday: Why?"}) == store.answers_of_check(*terms, {}) == []
    assert [pair.texts for pair in store.paired_answers(db, 2, 1)] == [("Monday 2", "Monday 1")]


def test_what_was_answered_on_other_weights_is_answered_anew(db: Database) -> None:
    """Neither is it what a check speaks of, nor is an answer of now compared with it."""
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompt = seed_prompts(db, 1, "held-out")[0]

    def answer(model_id: int, text: str) -> None:
        store.add_checked_answer(db, replace(make_response(prompt, text, model_id), rendered_prompt="Why?"))

    def kept(**asked: Any) -> list[str]:
        terms = (db, 1, [prompt], make_response(prompt, "").seed, make_response(prompt, "").sampling)
        return [one.text for one in store.answers_of_check(*terms, **asked)]

    answer(1, "base before")
    before = now()
    store.note_change_of_answers(db, None)
    assert kept(rendered={prompt.id: "Why?"}) == []
    answer(2, "candidate")
    assert store.paired_answers(db, 2, 1) == []
    answer(1, "base now")
    assert kept(rendered={prompt.id: "Why?"}) == ["base now"]
    assert [pair.texts for pair in store.paired_answers(db, 2, 1)] == [("candidate", "base now")]
    assert (kept(), kept(until=before)) == (["base before", "base now"], ["base before"])


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
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompts = seed_prompts(db, 4, "held-out")
    texts = [("base one", "dpo one"), ("base two", "dpo two"), ("the same", "the same"), ("base four", " ")]
    for prompt, pair in zip(prompts, texts, strict=True):
        for model_id, text in enumerate(pair, 1):
            store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "check")
    store.set_project(db, replace(store.project(db), candidate_share=0.5))
    assert store.compare_policies(db, 2, 1) == 2
    assert store.compare_policies(db, 2, 1) == store.compare_policies(db, 1, 2) == 0
    claim = claims.claim_next(db, ann.id)
    assert claim is not None
    assert sorted(shown_texts(claim)) in (["base one", "dpo one"], ["base two", "dpo two"])  # in no telling order
    claims.judge(db, ann.id, claim.nonce, act("left-much"))
    judged = next(current_judgements(db))
    assert (judged.split, {response.revision for response in judged.responses}) == ("held-out", {"base", "dpo-1"})


# ------------------------------------------------------------------------------------------------------------- chances
def test_a_prompt_is_taken_with_the_chance_that_is_noted(db: Database) -> None:
    """Those compared least for certain, the others by lot."""
    prompts = seed_prompts(db, 8)
    for prompt in prompts[:5]:
        store.add_comparison(db, [make_response(prompt, place) for place in "AB"])
    taken = Counter[int]()
    for _ in range(300):
        found = store.prompts_to_answer(db, 1, "train", 4, {prompts[0].id, prompts[7].id})
        assert [chance for _, _, chance in found] == [1.0, 1.0, 0.5, 0.5]
        taken.update(prompt.id for prompt, _, _ in found)
    assert [taken[prompt.id] for prompt in prompts[5:7]] == [300, 300]
    assert all(abs(taken[prompt.id] - 150) < 5 * math.sqrt(75) for prompt in prompts[1:5])
    assert sum(taken.values()) == 1200


def test_a_comparison_says_with_what_chance_it_was_made_and_goes_to_people(db: Database, ann: Annotator) -> None:
    (prompt,) = seed_prompts(db, 1)
    answers = [make_response(prompt, place) for place in "AB"]
    drawn, unnoted = store.add_comparison(db, answers, chance=0.25), store.add_comparison(db, answers)
    mixed = store.add_mixed_comparison(db, prompt, [make_response(prompt, place) for place in "CD"])
    asked = store.ask(db, ann.id, prompt.messages)
    assert db.value("SELECT count(*) FROM comparison WHERE people_chance = 1 AND people_drawn") == 4
    store.set_feedback(db, Feedback(mode="mixed"))
    waits = store.add_comparison(db, answers, chance=1.0)
    own = store.ask(db, ann.id, ({"role": "user", "content": "Why?"},))
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
    store.set_feedback(db, Feedback(mode="people"))
    rows = db.rows("SELECT people_chance, people_drawn FROM comparison")
    assert [tuple(row.values()) for row in rows] == [(1.0, 1)] * 6


def test_people_get_a_share_of_a_check_drawn_by_lot_until_all_is_asked_of_them(db: Database) -> None:
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    prompts = seed_prompts(db, 300, "held-out")
    for prompt in prompts:
        for model_id in (1, 2):
            store.add_response(db, make_response(prompt, f"by {model_id}", model_id, seed=prompt.id), "check")
    on = [prompt.id for prompt in prompts[:200]]
    assert store.compare_policies(db, 2, 1, "people", on, 0.25) == 300
    rows = db.rows("SELECT * FROM comparison ORDER BY prompt_id")
    assert [row["people_chance"] for row in rows] == [0.25] * 200 + [0.0] * 100
    assert all((row["asks"] == "people") == row["people_drawn"] for row in rows)
    assert abs(sum(row["people_drawn"] for row in rows) - 50) < 5 * math.sqrt(200 * 0.25 * 0.75)
    drawn = [row["people_drawn"] for row in rows]
    assert store.ask_people_of_candidate(db, 2, 1, on) == 200 - sum(drawn)
    after = db.rows("SELECT * FROM comparison ORDER BY prompt_id")
    assert [row["asks"] for row in after] == ["people"] * 200 + ["nobody"] * 100
    assert [(row["people_chance"], row["people_drawn"]) for row in after] == [
        (row["people_chance"], row["people_drawn"]) for row in rows
    ], "what was drawn stays known"
    assert store.ask_people_of_candidate(db, 2, 1) == 100
    after = db.rows("SELECT * FROM comparison ORDER BY prompt_id")
    assert {(row["people_chance"], row["people_drawn"]) for row in after[200:]} == {(1.0, 1)}
