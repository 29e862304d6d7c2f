"""Chats as rows: asked together, taken once, shown as they grow, stopped, failed, and put before annotators."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from annotation.claims import handing_out
from annotation.database import Database, open_database
from annotation.records import Message, Sampling, TokenIds, UserError, write_token_ids
from annotation.store import prompt_store
from annotation.web import access
from rlhf.generation import playground_store
from rlhf.generation.playground_store import Chat, FinishedAnswer
from tests.conftest import seed_prompts, shown_texts
from tests.machine_fixtures import PATIENCE_SECONDS

QUESTION: list[Message] = [{"role": "user", "content": "Why is the sky blue?"}]
SAMPLING = Sampling(max_new_tokens=40)


@pytest.fixture
def two(db: Database) -> Database:
    """A registry of two policies, with ids 1 and 2."""
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    return db


def asked(
    db: Database, *model_ids: int, messages: list[Message] = QUESTION, by: str = "kim", seed: int = 7
) -> list[int]:
    """Chats of these policies, asked together."""
    return playground_store.ask(db, dict.fromkeys(model_ids, messages), SAMPLING, seed, by)


def ended(text: str, reason: playground_store.FinishReason = "stop") -> FinishedAnswer:
    """An answer as the worker would record it."""
    return FinishedAnswer(
        text=text,
        rendered_prompt="<user> …",
        prompt_tokens=12,
        tokens=len(text.split()) + 1,
        finish_reason=reason,
        token_ids=None if reason == "stopped" else TokenIds("v", tuple(range(len(text.split()) + 1))),
    )


def answer(db: Database, chat_id: int, text: str, reason: playground_store.FinishReason = "stop") -> None:
    """Let a chat be answered."""
    playground_store.begin(db, [chat_id])
    playground_store.finish(db, chat_id, ended(text, reason))


def one(db: Database, chat_id: int) -> Chat:
    """A chat by its id."""
    (found,) = playground_store.with_ids(db, [chat_id])
    return found


# ------------------------------------------------------------------------------------------------------ conversations
def test_a_conversation_grows_by_what_each_column_has_said(two: Database) -> None:
    first, second = asked(two, 1, 2)
    answer(two, first, "It scatters.")
    answer(two, second, "It is the sea.")
    turns = [playground_store.next_turn(one(two, number), "", " And at night? ") for number in (first, second)]
    assert turns[0] == (
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "It scatters."},
        {"role": "user", "content": "And at night?"},
    )
    assert [turn[1]["content"] for turn in turns] == ["It scatters.", "It is the sea."]


def test_a_system_prompt_is_in_front_as_it_stands_now(db: Database) -> None:
    begun = playground_store.next_turn(None, " Be brief. ", "Hello")
    assert begun == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    (number,) = playground_store.ask(db, {1: begun}, SAMPLING, 0, "kim")
    answer(db, number, "Hi.")
    later = playground_store.next_turn(one(db, number), "Be long.", "And?")
    assert [message["content"] for message in later] == ["Be long.", "Hello", "Hi.", "And?"]
    without = playground_store.next_turn(one(db, number), "", "And?")
    assert [message["role"] for message in without] == ["user", "assistant", "user"]


@pytest.mark.parametrize("how", ["failed", "stopped before it began", "empty"])
def test_a_turn_that_got_no_answer_was_not_said(db: Database, how: str) -> None:
    """Two turns of the user in a row are no conversation that a chat template takes."""
    (number,) = asked(db, 1)
    if how == "stopped before it began":
        playground_store.stop(db, [number])
    else:
        playground_store.begin(db, [number])
        playground_store.show(db, {number: "Half a"})
        playground_store.fail(db, [number], "No.") if how == "failed" else playground_store.finish(
            db, number, ended(" ")
        )
    assert not one(db, number).open
    assert playground_store.next_turn(one(db, number), "", "Again?") == ({"role": "user", "content": "Again?"},)


@pytest.mark.parametrize(
    ("system", "text", "sentence"),
    [
        ("", " \n", "Write a message"),
        ("", "x" * 20_001, "message has 20,001"),
        ("x" * 20_001, "y", "system prompt has"),
    ],
)
def test_what_can_not_be_asked_is_refused(system: str, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        playground_store.next_turn(None, system, text)


def test_half_a_surrogate_pair_can_be_stored(db: Database) -> None:
    (number,) = playground_store.ask(db, {1: playground_store.next_turn(None, "", "a\ud83d")}, SAMPLING, 0, "kim")
    assert one(db, number).messages[0]["content"] == "a\ufffd"


def test_what_a_person_asked_last_comes_back_on_a_new_page(two: Database) -> None:
    asked(two, 1)
    last = asked(two, 2, 1)
    asked(two, 1, by="bob")
    assert [chat.id for chat in playground_store.latest(two, "kim")] == last
    assert [(chat.revision, chat.seed, chat.sampling) for chat in playground_store.latest(two, "kim")] == [
        ("dpo-1", 7, SAMPLING),
        ("base", 7, SAMPLING),
    ]
    assert playground_store.latest(two, "eve") == []


# ---------------------------------------------------------------------------------------------------- being answered
def test_those_that_one_policy_can_answer_together_come_together_and_the_oldest_first(two: Database) -> None:
    first = asked(two, 1, 2)
    second = asked(two, 1, by="bob", seed=9)
    playground_store.ask(two, {1: QUESTION}, replace(SAMPLING, temperature=0.5), 7, "eve")
    assert [chat.id for chat in playground_store.next_asked(two)] == [first[0], second[0]]
    assert playground_store.begin(two, [first[0], second[0]]) == [first[0], second[0]]
    assert [chat.id for chat in playground_store.next_asked(two)] == [first[1]]


def test_one_batch_has_a_limit(db: Database) -> None:
    for _ in range(playground_store.BATCH + 2):
        asked(db, 1)
    assert len(playground_store.next_asked(db)) == playground_store.BATCH


def test_the_worker_finds_out_that_nothing_waits_without_reading_old_chats(db: Database) -> None:
    """It looks twenty times a second."""
    plan = db.rows(f"EXPLAIN QUERY PLAN SELECT * FROM chat c WHERE {playground_store.OPEN} AND c.state = 'asked'")
    assert "USING INDEX chat_open" in plan[0]["detail"]


def test_of_workers_that_take_a_chat_at_once_exactly_one_gets_it(db: Database, data_dir: Path) -> None:
    (number,) = asked(db, 1)
    barrier, won = threading.Barrier(4), []

    def take() -> None:
        database = open_database(data_dir)
        barrier.wait()
        won.extend(playground_store.begin(database, [number]))
        database.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert won == [number]


def test_a_growing_answer_says_when_its_first_token_was_there(db: Database) -> None:
    (number,) = asked(db, 1)
    assert one(db, number).first_token_seconds is None
    playground_store.begin(db, [number])
    assert one(db, number).first_token_seconds is None, "taken is not begun"
    playground_store.show(db, {number: ""})
    first = one(db, number)
    assert first.first_token_seconds is not None
    assert first.first_token_seconds >= 0
    playground_store.show(db, {number: "It"})
    playground_store.finish(db, number, ended("It scatters."))
    whole = one(db, number)
    assert (whole.state, whole.text, whole.tokens, whole.begun) == ("done", "It scatters.", 3, first.begun)
    assert whole.finished is not None
    playground_store.show(db, {number: "late"})
    playground_store.fail(db, [number], "late")
    playground_store.finish(db, number, ended("late"))
    assert one(db, number) == whole, "what has ended stays as it is"
    db.write("UPDATE chat SET begun = '2026-01-01T00:00:00.000000+00:00'")
    assert one(db, number).first_token_seconds is None, "the clock was set back meanwhile"


def test_stopping_ends_at_once_what_has_not_begun_and_asks_the_worker_to_end_the_rest(two: Database) -> None:
    writing, waiting = asked(two, 1, 2)
    other = asked(two, 1, by="bob")[0]
    playground_store.begin(two, [writing])
    playground_store.stop(two, [writing, waiting])
    assert playground_store.states(two, [writing, waiting, other]) == {
        writing: "stopping",
        waiting: "done",
        other: "asked",
    }
    assert (one(two, waiting).finish_reason, one(two, waiting).text) == ("stopped", "")
    assert playground_store.begin(two, [waiting]) == []
    playground_store.finish(two, writing, ended("It scat", "stopped"))
    playground_store.stop(two, [writing])
    assert (one(two, writing).state, one(two, writing).text) == ("done", "It scat")


def test_an_answer_that_was_stopped_before_its_first_token_never_had_one(db: Database) -> None:
    (number,) = asked(db, 1)
    playground_store.begin(db, [number])
    playground_store.stop(db, [number])
    playground_store.finish(db, number, replace(ended("", "stopped"), tokens=0))
    assert (one(db, number).state, one(db, number).first_token_seconds) == ("done", None)


def test_what_a_dead_worker_was_writing_fails_and_what_waits_goes_on_waiting(two: Database) -> None:
    writing, waiting = asked(two, 1, 2)
    stopping, done = asked(two, 1, 2)
    playground_store.begin(two, [writing, stopping])
    playground_store.show(two, {writing: "It scat"})
    playground_store.stop(two, [stopping])
    answer(two, done, "Whole.")
    playground_store.fail_all(two)
    assert playground_store.states(two, [writing, waiting, stopping, done]) == {
        writing: "failed",
        waiting: "asked",
        stopping: "failed",
        done: "done",
    }
    assert "Send the message again" in one(two, writing).message
    assert one(two, writing).text == "It scat"


# --------------------------------------------------------------------------------------------- before the annotators
def test_answers_of_two_policies_become_a_comparison_of_no_single_one(two: Database) -> None:
    first, second = asked(two, 1, 2)
    answer(two, first, "It scatters.")
    answer(two, second, "It is the sea.", "length")
    number, count = playground_store.compare(two, [first, second])
    assert count == 2
    comparison = two.one("SELECT * FROM comparison WHERE id = ?", (number,))
    assert (comparison["model_id"], comparison["purpose"], comparison["state"]) == (None, "preference", "ready")
    (prompt,) = prompt_store.prompts(two, "train")
    assert (list(prompt.messages), prompt.source, prompt.id) == (QUESTION, "playground", comparison["prompt_id"])
    rows = two.rows(
        """SELECT r.model_id, r.origin, r.purpose, r.text, r.seed, r.rendered_prompt, r.prompt_tokens, r.tokens,
               r.finish_reason, r.token_ids FROM comparison_response c JOIN response r ON r.id = c.response_id
           WHERE c.comparison_id = ? ORDER BY c.position""",
        (number,),
    )
    ids = [write_token_ids(TokenIds("v", tuple(range(count)))) for count in (3, 5)]
    same = {"origin": "policy", "purpose": "compare", "seed": 7, "rendered_prompt": "<user> …", "prompt_tokens": 12}
    assert rows == [
        {"model_id": 1, "text": "It scatters.", "tokens": 3, "finish_reason": "stop", "token_ids": ids[0], **same},
        {"model_id": 2, "text": "It is the sea.", "tokens": 5, "finish_reason": "length", "token_ids": ids[1], **same},
    ]
    ann = access.add_account(two, "ann", "annotator", "ann's password")
    claim = handing_out.claim_next(two, ann.id)
    assert claim is not None
    assert (claim.comparison_id, sorted(shown_texts(claim))) == (number, ["It is the sea.", "It scatters."])


def test_a_held_out_prompt_stays_held_out(two: Database) -> None:
    prompt = seed_prompts(two, 1, "held-out")[0]
    first, second = asked(two, 1, 2, messages=list(prompt.messages))
    answer(two, first, "One.")
    answer(two, second, "Two.")
    number, _ = playground_store.compare(two, [first, second])
    assert two.value("SELECT prompt_id FROM comparison WHERE id = ?", (number,)) == prompt.id
    assert prompt_store.prompts(two, "train") == []


def test_of_several_answers_the_different_ones_that_ended_are_compared(two: Database) -> None:
    with two.transaction() as connection:
        for number in (3, 4, 5):
            connection["model"].insert(
                {"id": number, "revision": f"dpo-{number}", "algorithm": "dpo", "base": "b", "status": "candidate",
                 "created": ""}
            )  # fmt: skip
    numbers = asked(two, 1, 2, 3, 4, 5)
    for number, text in zip(numbers, ("One.", "Two.", "  one.", "Thr", ""), strict=True):
        playground_store.begin(two, [number])
        playground_store.show(two, {number: text})
    answer(two, numbers[0], "One.")
    answer(two, numbers[1], "Two.")
    answer(two, numbers[2], "  one.")
    playground_store.finish(two, numbers[3], ended("Thr", "stopped"))
    playground_store.fail(two, [numbers[4]], "It can't.")
    number, count = playground_store.compare(two, numbers)
    assert count == 2
    found = two.rows(
        """SELECT r.text FROM comparison_response c JOIN response r ON r.id = c.response_id
           WHERE c.comparison_id = ? ORDER BY c.position""",
        (number,),
    )
    assert [row["text"] for row in found] == ["One.", "Two."]


def test_what_is_no_comparison_is_refused_with_the_reason(two: Database) -> None:
    first, second = asked(two, 1, 2)
    answer(two, first, "One.")
    with pytest.raises(UserError, match="Wait until every answer"):
        playground_store.compare(two, [first, second])
    answer(two, second, "ONE.")
    with pytest.raises(UserError, match="two different answers"):
        playground_store.compare(two, [first, second])
    with pytest.raises(UserError, match="two different answers"):
        playground_store.compare(two, [])

    first, second = asked(two, 1, 2)
    answer(two, first, "One.")
    answer(two, second, "Two.")
    playground_store.compare(two, [first, second])
    with pytest.raises(UserError, match="sent to annotation already"):
        playground_store.compare(two, [first, second])

    turns = {
        number: playground_store.next_turn(one(two, chat), "", "And?") for number, chat in ((1, first), (2, second))
    }
    third, fourth = playground_store.ask(two, turns, SAMPLING, 7, "kim")
    answer(two, third, "Three.")
    answer(two, fourth, "Four.")
    with pytest.raises(UserError, match="no answers to the same prompt"):
        playground_store.compare(two, [third, fourth])
    assert two.value("SELECT count(*) FROM comparison") == 1
