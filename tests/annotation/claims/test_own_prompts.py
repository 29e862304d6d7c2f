"""Prompts of annotators' own: theirs first, few at a time, and so many a day."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from annotation.claims import judging, own_prompts
from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.store import comparison_store, prompt_store
from tests.annotation.claims.people import begin, in_hand, judge_all, run_threads, set_project
from tests.conftest import act, seed_comparisons

pytestmark = pytest.mark.slow


def test_an_own_prompt_comes_first_and_others_get_it_only_then(db: Database, ann: Annotator, bob: Annotator) -> None:
    set_project(db, overlap=2)
    seed_comparisons(db, 2)
    held = in_hand(db, ann)
    asked = own_prompts.ask(db, ann.id, [{"role": "user", "content": "My own question?"}])
    begin(db, ("One way.", "Another."), asked)
    judging.judge(db, ann.id, held.nonce, act("tie"))
    assert asked not in judge_all(db, bob)
    own = in_hand(db, ann)
    assert own.comparison_id == asked
    assert [message["content"] for message in own.messages] == ["My own question?"]
    assert judge_all(db, bob) == [asked]


def test_the_same_own_prompt_is_asked_again_once_its_answers_were_seen(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    messages = [{"role": "user", "content": "My own question?"}]
    first = own_prompts.ask(db, ann.id, messages)
    assert own_prompts.ask(db, ann.id, messages) == first, "it waits already"
    begin(db, ("One way.", "Another."), first)
    assert own_prompts.ask(db, ann.id, messages) == first, "it is being answered"
    db.write("UPDATE comparison SET state = 'ready'")
    assert own_prompts.ask(db, ann.id, messages) == first, "it is answered, and the page may have waited in vain"
    assert in_hand(db, ann).comparison_id == first
    assert own_prompts.ask(db, ann.id, messages) != first
    assert own_prompts.ask(db, bob.id, messages) != first
    assert len(own_prompts.asked(db)) == 2
    assert len(prompt_store.prompts(db, "train")) == 1


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}?"}]


def test_an_annotator_has_few_own_prompts_waiting_however_many_requests_come_at_once(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    asked, refused = [], []
    numbers = itertools.count()

    def post() -> None:
        for _ in range(5):
            try:
                asked.append(own_prompts.ask(db, ann.id, question(next(numbers))))
            except UserError as error:
                refused.append(str(error))
        db.close()

    run_threads(post, 6)
    assert len(asked) == own_prompts.MOST_UNANSWERED
    assert len(refused) == 30 - own_prompts.MOST_UNANSWERED
    assert set(refused) == {"3 of your prompts wait for their answers. Ask again when one is answered."}
    assert len(prompt_store.prompts(db, "train")) == own_prompts.MOST_UNANSWERED, "nothing stays of what was refused"
    bobs = own_prompts.ask(db, bob.id, question(100))
    first, *later = sorted(asked)  # a thread may be held up before it notes its own
    assert [entry for entry, _ in own_prompts.asked(db)] == [first, bobs, *later], "each one's first comes first"
    begin(db, ("One way.", "Another."), asked[0])
    with pytest.raises(UserError, match="wait for their answers"):
        own_prompts.ask(db, ann.id, question(101))
    comparison_store.fail_answers(db, asked[0])
    own_prompts.ask(db, ann.id, question(101))


def test_an_annotator_asks_so_many_prompts_a_day(db: Database, ann: Annotator, bob: Annotator) -> None:
    for number in range(own_prompts.MOST_A_DAY):
        own_prompts.refuse_asked(db, own_prompts.ask(db, ann.id, question(number)))
    with pytest.raises(UserError, match="asked 50 prompts in the last 24 hours"):
        own_prompts.ask(db, ann.id, question(1000))
    own_prompts.ask(db, bob.id, question(1000))
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).isoformat(timespec="microseconds")
    db.write("UPDATE comparison SET created = ? WHERE id = 1", (yesterday,))
    own_prompts.ask(db, ann.id, question(1001))
