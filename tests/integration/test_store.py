"""Claims and judgements on a real file: exactly once, never on the wrong pair, never lost, append-only."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from annotation import access, store
from annotation.database import Database
from annotation.records import Annotator, UserError
from rlhf import policies
from tests.conftest import make_response, seed_comparisons, seed_prompts


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


@pytest.fixture
def bob(db: Database) -> Annotator:
    return access.add_account(db, "bob", "annotator", "bob's password")


def in_hand(db: Database, annotator: Annotator) -> store.Claim:
    claim = store.claim_next(db, annotator.id)
    assert claim is not None
    return claim


def judgements(db: Database) -> list[dict[str, object]]:
    return db.rows("SELECT * FROM judgement ORDER BY id")


def let_claims_expire(db: Database) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    with db.transaction() as connection:
        connection.execute("UPDATE claim SET expires = ? WHERE state = 'held'", (past,))


def run_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ----------------------------------------------------------------------------------------------------------- answers
def test_empty_and_repeated_answers_are_kept_marked_and_never_offered(db: Database, ann: Annotator) -> None:
    prompt = seed_prompts(db, 1)[0]
    texts = ["  \n", "Blue  light scatters.", "blue light\nscatters. ", "It scatters."]
    assert store.add_comparison(db, [make_response(prompt, text) for text in texts]) is not None
    assert sorted(in_hand(db, ann).texts) == ["Blue  light scatters.", "It scatters."]
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


# ------------------------------------------------------------------------------------------------------------ claims
def test_asking_again_gives_the_same_comparison_in_the_same_order(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 5)
    first = in_hand(db, ann)
    assert [in_hand(db, ann) for _ in range(5)] == [first] * 5


def test_two_annotators_never_hold_the_same_comparison(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 1)
    in_hand(db, ann)
    assert store.claim_next(db, bob.id) is None


def test_an_expired_claim_goes_back_and_its_owner_can_not_judge_it(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 1)
    old = in_hand(db, ann)
    let_claims_expire(db)
    new = in_hand(db, bob)
    assert new.comparison_id == old.comparison_id
    assert new.nonce != old.nonce
    with pytest.raises(UserError, match="ran out"):
        store.judge(db, ann.id, old.nonce, "tie")
    store.judge(db, bob.id, new.nonce, "tie")
    assert [row["annotator_id"] for row in judgements(db)] == [bob.id]


def test_a_claim_of_someone_else_can_not_be_judged(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 2)
    for nonce in (in_hand(db, ann).nonce, "made up", ""):
        with pytest.raises(UserError, match="not in your hands"):
            store.judge(db, bob.id, nonce, "tie")
    assert judgements(db) == []


def test_only_answers_of_the_serving_policy_are_compared(db: Database, ann: Annotator) -> None:
    """After a promotion the old policy's stock rests; after a rollback it is there again."""
    stale = seed_comparisons(db, 1)
    policies.add_adapter(
        db, revision="it-1", method="dpo", base="b", parent_id=1, job_id=make_job(db), path="p", sha256="0"
    )
    policies.promote(db, "it-1", "test")
    fresh = seed_comparisons(db, 1, model_id=2)
    store.judge(db, ann.id, in_hand(db, ann).nonce, "tie")
    assert [row.comparison_id for row in store.judged_comparisons(db)] == fresh
    assert store.claim_next(db, ann.id) is None
    policies.promote(db, "base", "test")
    assert in_hand(db, ann).comparison_id == stale[0]


def make_job(db: Database) -> int:
    with db.transaction() as connection:
        return int(
            connection.execute(
                "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', '{}', 'finished', '', '')"
            ).lastrowid
        )


def test_comparisons_come_in_the_order_in_which_they_were_made(db: Database, ann: Annotator) -> None:
    """So the splits keep the share that the answering worker gave them."""
    made = [*seed_comparisons(db, 2, "train"), *seed_comparisons(db, 1, "held-out"), *seed_comparisons(db, 2, "train")]
    served = []
    for _ in made:
        claim = in_hand(db, ann)
        served.append(claim.comparison_id)
        store.judge(db, ann.id, claim.nonce, "tie")
    assert served == made


def test_a_skipped_comparison_is_no_stock(db: Database, ann: Annotator) -> None:
    """Its one annotator never gets it again: counted as stock it would keep new answers from being drawn."""
    seed_comparisons(db, 3)
    for _ in range(3):
        store.judge(db, ann.id, in_hand(db, ann).nonce, "skip")
    assert store.claim_next(db, ann.id) is None
    assert store.buffer_sizes(db, 1) == {"train": 0, "held-out": 0}


# -------------------------------------------------------------------------------------------------------- judgements
@pytest.mark.parametrize("word", ["left-better", "right-slightly"])
def test_the_answer_that_was_seen_as_better_wins(db: Database, ann: Annotator, word: str) -> None:
    seed_comparisons(db, 20)
    for _ in range(20):
        claim = in_hand(db, ann)
        store.judge(db, ann.id, claim.nonce, word)
        judged = store.judged_comparisons(db)[-1]
        assert judged.ranking is not None
        winner = judged.responses[judged.ranking.index(1)]["text"]
        assert winner == claim.shown_texts[0 if word.startswith("left") else 1]
    orders = {row["shown_order"] for row in judgements(db)}
    assert orders == {"[0, 1]", "[1, 0]"}


def test_the_same_request_again_returns_the_first_judgement(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 2)
    nonce = in_hand(db, ann).nonce
    first = store.judge(db, ann.id, nonce, "left-better")
    assert [store.judge(db, ann.id, nonce, word) for word in ("left-better", "right-better", "skip")] == [first] * 3
    assert len(judgements(db)) == 1
    assert in_hand(db, ann).nonce != nonce


def test_a_word_that_is_no_judgement_records_nothing(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    with pytest.raises(UserError, match="is not a judgement"):
        store.judge(db, ann.id, claim.nonce, "both")
    assert judgements(db) == []
    assert in_hand(db, ann) == claim


def test_a_skip_gives_the_comparison_to_others_only(db: Database, ann: Annotator, bob: Annotator) -> None:
    seed_comparisons(db, 1)
    skipped = in_hand(db, ann)
    store.judge(db, ann.id, skipped.nonce, "skip")
    assert store.claim_next(db, ann.id) is None
    assert in_hand(db, bob).comparison_id == skipped.comparison_id
    assert store.judgement_count(db) == 0


def test_many_threads_of_two_annotators_judge_each_comparison_once(
    db: Database, ann: Annotator, bob: Annotator
) -> None:
    seed_comparisons(db, 60)
    seen: list[tuple[int, str, int]] = []
    turns = iter([ann, bob] * 4)

    def work() -> None:
        annotator = next(turns)
        while (claim := store.claim_next(db, annotator.id)) is not None:
            made = store.judge(db, annotator.id, claim.nonce, "left-better")
            seen.append((claim.comparison_id, annotator.name, made))
        db.close()

    run_threads(work, 8)
    rows = judgements(db)
    assert len(rows) == 60
    assert len({row["comparison_id"] for row in rows}) == 60
    assert {made for _, _, made in seen} == {row["id"] for row in rows}
    assert {name for _, name, _ in seen} == {"ann", "bob"}


def test_a_burst_of_the_same_press_is_one_judgement(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 3)
    nonce = in_hand(db, ann).nonce
    made: list[int] = []

    def press() -> None:
        made.append(store.judge(db, ann.id, nonce, "tie"))
        db.close()

    run_threads(press, 12)
    assert len(made) == 12
    assert len(set(made)) == len(judgements(db)) == 1


# ------------------------------------------------------------------------------------------------------------- undo
def test_undo_brings_the_comparison_back_as_it_was_shown(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 2)
    first = in_hand(db, ann)
    store.judge(db, ann.id, first.nonce, "left-better")
    again = store.undo(db, ann.id, in_hand(db, ann).nonce)
    assert (again.comparison_id, again.shown_texts) == (first.comparison_id, first.shown_texts)
    assert store.judgement_count(db, ann) == 0
    store.judge(db, ann.id, again.nonce, "right-better")
    assert [row["outcome"] for row in judgements(db)] == ["ranked", "undone", "ranked"]
    assert store.judgement_count(db, ann) == 1


def test_a_repeated_undo_takes_back_one_judgement_only(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 3)
    for _ in range(2):
        store.judge(db, ann.id, in_hand(db, ann).nonce, "tie")
    shown = in_hand(db, ann).nonce
    store.undo(db, ann.id, shown)
    with pytest.raises(UserError, match="nothing was undone"):
        store.undo(db, ann.id, shown)
    assert store.judgement_count(db, ann) == 1


def test_undo_from_the_waiting_card(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    store.judge(db, ann.id, claim.nonce, "tie")
    assert store.claim_next(db, ann.id) is None
    assert store.undo(db, ann.id, "").comparison_id == claim.comparison_id


def test_a_press_on_what_was_taken_back_is_refused(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    claim = in_hand(db, ann)
    store.judge(db, ann.id, claim.nonce, "tie")
    store.undo(db, ann.id, "")
    with pytest.raises(UserError, match="took this judgement back"):
        store.judge(db, ann.id, claim.nonce, "tie")
    assert store.judgement_count(db) == 0


def test_nothing_to_undo_and_a_skip_that_someone_took(db: Database, ann: Annotator, bob: Annotator) -> None:
    with pytest.raises(UserError, match="no judgement of yours"):
        store.undo(db, ann.id, "")
    seed_comparisons(db, 1)
    store.judge(db, ann.id, in_hand(db, ann).nonce, "skip")
    in_hand(db, bob)
    with pytest.raises(UserError, match="your skip stays"):
        store.undo(db, ann.id, "")
    assert [row["outcome"] for row in judgements(db)] == ["skip"]


def test_judgements_are_append_only(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    store.judge(db, ann.id, in_hand(db, ann).nonce, "tie")
    for statement in ("UPDATE judgement SET outcome = 'skip'", "DELETE FROM judgement"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"), db.transaction() as connection:
            connection.execute(statement)
    assert [row["outcome"] for row in judgements(db)] == ["ranked"]


def test_what_was_judged_comes_out_with_all_that_training_needs(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    store.judge(db, ann.id, in_hand(db, ann).nonce, "all-bad")
    judged = store.judged_comparisons(db)
    assert [(entry.outcome, entry.ranking, entry.strength, entry.annotator) for entry in judged] == [
        ("all-bad", None, None, "ann")
    ]
    assert [response["text"][:8] for response in judged[0].responses] == ["Answer A", "Answer B"]
    assert store.judged_comparisons(db, after=judged[0].judgement_id) == []
    assert json.dumps(judged[0].responses)
