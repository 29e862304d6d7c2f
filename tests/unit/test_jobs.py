"""Job rows on a real file: claimed once, fenced against stale workers, cancelled, lost, resumed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from annotation.database import Database, open_database
from annotation.records import UserError
from rlhf import jobs
from rlhf.shrinking import KILLED, smaller
from rlhf.specs import DPOSpec, EvaluateSpec, GenerateSpec, PPOSpec, RewardModelSpec, SFTSpec, Spec, to_json
from tests.machine_fixtures import PATIENCE_SECONDS


@pytest.fixture
def job(db: Database) -> int:
    """A queued job."""
    return jobs.enqueue(db, DPOSpec(beta=0.25), "ann")


def at_once(work: Callable[[int], None], count: int) -> None:
    """Run `count` threads that begin together."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)


# ------------------------------------------------------------------------------------------------------------- claims
def test_a_queued_job_carries_its_spec_and_who_asked_for_it(db: Database, job: int) -> None:
    row = jobs.get(db, job)
    assert (row.kind, row.status, row.attempt, row.worker, row.requested_by) == ("dpo", "queued", 0, None, "ann")
    assert row.spec == DPOSpec(beta=0.25)
    with pytest.raises(UserError, match=f"no job {job + 1}"):
        jobs.get(db, job + 1)


@pytest.mark.parametrize("shared_connection", [True, False], ids=["one program", "two programs"])
def test_of_workers_that_claim_at_once_exactly_one_gets_the_job(
    db: Database, data_dir: Path, job: int, shared_connection: bool
) -> None:
    """Through one Database object the process's lock decides; through separate ones only SQLite does."""
    won: list[str] = []

    def claim(number: int) -> None:
        database = db if shared_connection else open_database(data_dir)
        claimed = jobs.claim(database, job, f"worker-{number}")
        if claimed is not None:
            won.append(claimed.worker or "")
        database.close()

    at_once(claim, 4)
    assert len(won) == 1
    row = jobs.get(db, job)
    assert (row.status, row.worker, row.attempt) == ("running", won[0], 1)
    assert row.started is not None
    assert row.heartbeat is not None


def test_a_job_that_is_not_queued_is_claimed_by_nobody(db: Database, job: int) -> None:
    jobs.cancel(db, job)
    assert jobs.claim(db, job, "late") is None
    assert jobs.get(db, job).status == "cancelled"


# ----------------------------------------------------------------------------------------------------------- the queue
def waiting(db: Database) -> list[int]:
    """The queue as ids."""
    return [entry.id for entry in jobs.queue(db)]


def test_the_queue_is_in_the_order_of_asking_without_what_runs_or_answers(db: Database, job: int) -> None:
    jobs.enqueue(db, GenerateSpec(), "the program")
    second, third = jobs.enqueue(db, SFTSpec(), "bob"), jobs.enqueue(db, EvaluateSpec(candidate="x"), "the loop")
    assert waiting(db) == [job, second, third]
    jobs.claim(db, job, "w")
    assert waiting(db) == [second, third]
    jobs.cancel(db, second)
    assert waiting(db) == [third]


def test_a_waiting_job_changes_places_with_its_neighbour(db: Database, job: int) -> None:
    second, third = jobs.enqueue(db, SFTSpec(), "bob"), jobs.enqueue(db, SFTSpec(), "kim")
    jobs.move(db, third, up=True)
    assert waiting(db) == [job, third, second]
    jobs.move(db, third, up=True)
    assert waiting(db) == [third, job, second]
    jobs.move(db, third, up=True)
    assert waiting(db) == [third, job, second], "at the front it stays"
    jobs.move(db, third, up=False)
    assert waiting(db) == [job, third, second]
    jobs.move(db, second, up=False)
    assert waiting(db) == [job, third, second], "at the end it stays"
    assert jobs.enqueue(db, SFTSpec(), "ann") == waiting(db)[-1], "a new one goes to the end"


def test_jobs_from_before_there_were_positions_wait_in_the_order_of_their_ids(db: Database, job: int) -> None:
    with db.transaction() as connection:
        for _ in range(2):
            connection.execute(
                "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', ?, 'queued', 'ann', '')",
                (to_json(DPOSpec()),),
            )
        connection.execute("UPDATE job SET position = NULL")
    assert waiting(db) == [job, job + 1, job + 2]
    jobs.move(db, job + 2, up=True)
    assert waiting(db) == [job, job + 2, job + 1]
    assert jobs.enqueue(db, SFTSpec(), "ann") == waiting(db)[-1]


def test_what_is_ahead_of_a_job_is_what_runs_and_what_waits_before_it(db: Database, job: int) -> None:
    second, third = jobs.enqueue(db, SFTSpec(), "bob"), jobs.enqueue(db, SFTSpec(), "kim")
    answering = jobs.enqueue(db, GenerateSpec(), "the program")

    def ahead(number: int) -> list[int]:
        return [other.id for other in jobs.ahead(db, jobs.get(db, number))]

    assert [ahead(number) for number in (job, second, third, answering)] == [[], [job], [job, second], []]
    jobs.claim(db, second, "w")
    jobs.claim(db, answering, "resident")
    assert [ahead(number) for number in (job, third)] == [[second], [second, job]], "what runs comes first"
    jobs.cancel(db, second)
    assert ahead(job) == [second], "it still ends"


def test_a_job_is_taken_out_while_it_waits_and_left_alone_once_it_runs(db: Database, job: int) -> None:
    second = jobs.enqueue(db, SFTSpec(), "bob")
    assert jobs.take_out(db, second)
    assert jobs.get(db, second).status == "cancelled"
    jobs.claim(db, job, "w")
    assert not jobs.take_out(db, job)
    assert jobs.get(db, job).status == "running"


def test_only_a_job_that_waits_can_be_moved(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    for number in (job, 999):
        with pytest.raises(UserError, match="does not wait"):
            jobs.move(db, number, up=True)


@pytest.mark.parametrize("shared_connection", [True, False], ids=["one program", "two programs"])
def test_moves_at_once_lose_and_double_nothing(db: Database, data_dir: Path, job: int, shared_connection: bool) -> None:
    """Two people drag two jobs up and down; each move is whole, so the queue stays the same jobs in some order."""
    others = [jobs.enqueue(db, SFTSpec(), "bob") for _ in range(4)]
    moved = {0: others[3], 1: others[1]}

    def shuffle(number: int) -> None:
        database = db if shared_connection else open_database(data_dir)
        for turn in range(20):
            jobs.move(database, moved[number], up=turn % 3 != 2)
        database.close()

    at_once(shuffle, 2)
    assert sorted(waiting(db)) == [job, *others]
    places = [jobs.get(db, number).position for number in waiting(db)]
    assert len(set(places)) == 5


def test_a_resumed_job_goes_to_the_end_of_the_queue(db: Database, job: int) -> None:
    second = jobs.enqueue(db, SFTSpec(), "bob")
    jobs.claim(db, job, "w")
    jobs.stop(db, job, "w", "failed", "why")
    jobs.resume(db, job)
    third = jobs.enqueue(db, SFTSpec(), "kim")
    assert waiting(db) == [second, job, third]


# ------------------------------------------------------------------------------------------------------- out of memory
BIG = DPOSpec(batch_size=8, accumulation=2, halve_batch=True)


@pytest.mark.parametrize(
    ("spec", "batch", "accumulation"),
    [
        (BIG, 4, 4),
        (SFTSpec(batch_size=2, halve_batch=True), 1, 2),
        (RewardModelSpec(batch_size=9, accumulation=2, halve_batch=True), 3, 6),
        (SFTSpec(batch_size=5, halve_batch=True), 1, 5),
    ],
)
def test_half_the_batch_takes_twice_the_accumulation(spec: Spec, batch: int, accumulation: int) -> None:
    """An optimiser step sees as many items as before, whatever the number."""
    assert isinstance(spec, SFTSpec | DPOSpec | RewardModelSpec)
    made = smaller(spec)
    assert made == replace(spec, batch_size=batch, accumulation=accumulation)
    assert batch * accumulation == spec.batch_size * spec.accumulation


def test_ppo_cuts_its_minibatches_by_itself_and_others_are_left_alone() -> None:
    ppo = PPOSpec(batch_size=4, halve_batch=True)
    assert smaller(ppo) == replace(ppo, batch_size=2)
    for spec in (replace(BIG, batch_size=1), EvaluateSpec(), GenerateSpec()):
        assert smaller(spec) is None


def test_after_memory_ran_out_a_job_waits_with_half_the_batch_and_its_log_says_so(db: Database) -> None:
    job = jobs.enqueue(db, BIG, "ann")
    later = jobs.enqueue(db, SFTSpec(), "bob")
    jobs.claim(db, job, "w")
    jobs.report(db, job, "w", 3, 9, {"loss": 0.5})
    assert jobs.requeue_smaller(db, job, "w", "Memory ran out.")
    row = jobs.get(db, job)
    assert row.spec == replace(BIG, batch_size=4, accumulation=4)
    assert (row.status, row.worker, row.step, row.requested_by) == ("queued", None, 3, "ann")
    assert waiting(db) == [job, later], "it keeps its place"
    (line,) = jobs.log_tail(db, job)
    assert line.endswith("Memory ran out. Queued again with a smaller batch: batch_size 8 → 4, accumulation 2 → 4.")
    assert row.message in line
    assert jobs.retries(db, job) == [row.message]
    assert not jobs.requeue_smaller(db, job, "w", "Memory ran out."), "the second of two processes has lost the job"
    assert jobs.get(db, job).spec == row.spec


@pytest.mark.parametrize("spec", [DPOSpec(batch_size=8), replace(BIG, batch_size=1), EvaluateSpec()])
def test_without_being_told_to_a_job_is_not_changed(db: Database, spec: Spec) -> None:
    job = jobs.enqueue(db, spec, "ann")
    jobs.claim(db, job, "w")
    before = jobs.get(db, job)
    assert not jobs.requeue_smaller(db, job, "w", "Memory ran out.")
    assert jobs.get(db, job) == before
    assert jobs.log_tail(db, job) == jobs.retries(db, job) == []


def test_a_stale_worker_or_a_cancelled_job_is_not_queued_again(db: Database) -> None:
    job = jobs.enqueue(db, BIG, "ann")
    jobs.claim(db, job, "w")
    assert not jobs.requeue_smaller(db, job, "stale", "Memory ran out.")
    jobs.cancel(db, job)
    assert not jobs.requeue_smaller(db, job, "w", "Memory ran out.")
    assert jobs.get(db, job).status == "cancelling"


@pytest.mark.parametrize("status", ["failed", "lost"])
@pytest.mark.parametrize("said", ["Memory ran out. Lower this.", f"{KILLED} Resume goes on."])
def test_a_job_that_ended_for_memory_goes_on_with_half_the_batch_when_asked(
    db: Database, status: str, said: str
) -> None:
    job, later = jobs.enqueue(db, DPOSpec(batch_size=8), "ann"), jobs.enqueue(db, SFTSpec(), "bob")
    assert not jobs.can_be_halved(jobs.get(db, job)), "it waits"
    jobs.claim(db, job, "w")
    assert not jobs.can_be_halved(jobs.get(db, job)), "it runs"
    jobs.stop(db, job, "w", status, said)
    assert jobs.can_be_halved(jobs.get(db, job))
    changed = jobs.resume(db, job, half_batch=True)
    assert changed == "Queued again with a smaller batch: batch_size 8 → 4, accumulation 2 → 4."
    row = jobs.get(db, job)
    assert (row.status, row.worker, row.message) == ("queued", None, changed)
    assert row.spec == DPOSpec(batch_size=4, accumulation=4), "and nobody told it to halve it by itself"
    assert jobs.retries(db, job) == [changed]
    assert waiting(db) == [later, job]


@pytest.mark.parametrize(
    ("spec", "status", "said"),
    [
        (DPOSpec(batch_size=8), "failed", "The disk is full."),
        (DPOSpec(batch_size=8), "lost", "The worker died (exit code 1). Resume goes on from the last checkpoint."),
        (DPOSpec(batch_size=8), "cancelled", "Cancelled."),
        (DPOSpec(batch_size=1), "failed", "Memory ran out."),
        (EvaluateSpec(), "failed", "Memory ran out."),
    ],
)
def test_what_did_not_end_for_memory_or_has_no_batch_is_not_offered_to_be_halved(
    db: Database, spec: Spec, status: str, said: str
) -> None:
    job = jobs.enqueue(db, spec, "ann")
    jobs.claim(db, job, "w")
    jobs.stop(db, job, "w", status, said)
    assert not jobs.can_be_halved(jobs.get(db, job))
    if smaller(spec) is None:
        with pytest.raises(UserError, match="no batch that could be halved"):
            jobs.resume(db, job, half_batch=True)
        assert jobs.get(db, job).status == status


def test_a_run_whose_loss_was_no_number_goes_on_with_half_the_learning_rate(db: Database) -> None:
    job = jobs.enqueue(db, DPOSpec(learning_rate=2e-4), "ann")
    for rate, before in ((1e-4, "0.0002 → 0.0001"), (5e-5, "0.0001 → 5e-05")):
        jobs.claim(db, job, "w")
        jobs.stop(db, job, "w", "failed", "The loss became not a number at step 3, so the run was stopped.")
        changed = jobs.resume(db, job)
        assert changed == f"Queued again with half the learning rate: learning_rate {before}."
        assert jobs.get(db, job).spec == DPOSpec(learning_rate=rate)
        assert jobs.get(db, job).message == changed
    assert len(jobs.retries(db, job)) == 2
    jobs.claim(db, job, "w")
    jobs.stop(db, job, "w", "failed", "The disk is full.")
    assert jobs.resume(db, job) == ""
    assert jobs.get(db, job).spec == DPOSpec(learning_rate=5e-5)


def test_the_death_of_a_worker_is_told_of_what_it_held_to_the_end(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    assert not jobs.died(db, job, "other", "It died.")
    assert jobs.stop(db, job, "w", "lost", "Prefloop was stopped.")
    assert jobs.died(db, job, "w", "It was killed."), "a survivor did not know why"
    assert (jobs.get(db, job).status, jobs.get(db, job).message) == ("lost", "It was killed.")
    jobs.resume(db, job)
    assert not jobs.died(db, job, "w", "It died."), "it is somebody else's turn now"
    jobs.claim(db, job, "w2")
    jobs.cancel(db, job)
    assert jobs.died(db, job, "w2", "It was killed.")
    assert jobs.get(db, job).status == "cancelled"


def test_only_a_job_that_nobody_has_claimed_since_is_given_up(db: Database, job: int) -> None:
    jobs.give_up(db, job, 1, "It could not begin.")
    assert jobs.get(db, job).status == "queued"
    jobs.give_up(db, job, 0, "It could not begin.")
    assert jobs.get(db, job).status == "failed"


# ------------------------------------------------------------------------------------------------------------ progress
def test_a_report_writes_progress_metrics_and_heartbeat_together(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    before = jobs.get(db, job).heartbeat or ""
    assert jobs.report(db, job, "w", 3, 10, {"loss": 0.5}, "training")
    assert jobs.report(db, job, "w", 4, 10, {})
    row = jobs.get(db, job)
    assert (row.step, row.steps, row.message) == (4, 10, "training")
    assert (row.heartbeat or "") > before
    assert jobs.metrics(db, job) == [{"step": 3, "loss": 0.5}]


def test_after_a_resume_the_last_report_of_a_step_wins(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    for step, loss in ((1, 0.7), (2, 0.6), (3, 0.5), (2, 0.61), (3, 0.51)):
        jobs.report(db, job, "w", step, 3, {"loss": loss})
    assert jobs.metrics(db, job) == [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.61}, {"step": 3, "loss": 0.51}]


def test_jobs_are_found_by_their_ids_whatever_number_is_asked_for(db: Database, job: int) -> None:
    second = jobs.enqueue(db, SFTSpec(), "ann")
    assert {entry.id for entry in jobs.with_ids(db, [second, job, 999, 10**30])} == {job, second}
    assert jobs.with_ids(db, []) == []


def test_the_tail_of_the_log_is_its_last_lines_oldest_first(db: Database, job: int) -> None:
    for number in range(5):
        jobs.log(db, job, f"line {number}")
    assert [line[10:] for line in jobs.log_tail(db, job, 3)] == ["line 2", "line 3", "line 4"]


def test_samples_are_kept_by_prompt_and_step_and_the_last_at_a_step_counts(db: Database, job: int) -> None:
    def answer(prompt: str, text: str) -> dict[str, object]:
        return {"prompt": prompt, "answer": text, "finish_reason": "stop", "tokens": 3}

    jobs.sample(db, job, 0, [answer("b", "b0"), answer("a", "a0")])
    jobs.sample(db, job, 10, [answer("b", "b10 of a killed run"), answer("a", "a10")])
    jobs.sample(db, job, 10, [answer("b", "b10")])
    found = jobs.samples(db, job)
    assert list(found) == ["b", "a"]
    assert {step: one["answer"] for step, one in found["b"].items()} == {0: "b0", 10: "b10"}
    assert {step: one["answer"] for step, one in found["a"].items()} == {0: "a0", 10: "a10"}
    assert jobs.samples(db, job + 1) == {}


def test_the_newest_event_tells_whether_a_job_has_said_anything(db: Database, job: int) -> None:
    assert jobs.newest_event(db, job) == 0
    jobs.log(db, job, "a line")
    before = jobs.newest_event(db, job)
    jobs.log(db, jobs.enqueue(db, DPOSpec(), "ann"), "another job's")
    assert jobs.newest_event(db, job) == before > 0


def test_the_newest_finished_check_of_a_policy(db: Database) -> None:
    first, second, other = (jobs.enqueue(db, EvaluateSpec(candidate=name), "ann") for name in ("x", "x", "y"))
    assert jobs.newest_check(db, "x") is None
    for number in (first, second, other):
        jobs.claim(db, number, "w")
    for number in (second, first, other):
        jobs.finish(db, number, "w", {})
    found = jobs.newest_check(db, "x")
    assert found is not None
    assert found.id == second


def test_a_finished_job_keeps_its_result(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    jobs.report(db, job, "w", 7, 10, {}, "nearly")
    assert jobs.finish(db, job, "w", {"revision": "dpo-1"})
    row = jobs.get(db, job)
    assert (row.status, row.step, row.message, row.result) == ("finished", 10, "", {"revision": "dpo-1"})
    assert row.finished is not None


# --------------------------------------------------------------------------------------------------------------- fence
def test_a_worker_whose_job_was_given_to_another_can_change_nothing(db: Database, job: int) -> None:
    """It was taken for dead, the job was resumed elsewhere, and then it wakes up."""
    jobs.claim(db, job, "stale")
    assert jobs.mark_lost(db, -1) == [job]
    jobs.resume(db, job)
    jobs.claim(db, job, "new")
    jobs.report(db, job, "new", 5, 10, {"loss": 0.5})
    before = jobs.get(db, job)

    assert not jobs.beat(db, job, "stale")
    assert not jobs.report(db, job, "stale", 9, 10, {"loss": 99.0})
    assert not jobs.finish(db, job, "stale", {})
    assert not jobs.stop(db, job, "stale", "failed", "no")
    assert jobs.get(db, job) == before
    assert jobs.metrics(db, job) == [{"step": 5, "loss": 0.5}]
    assert jobs.finish(db, job, "new", {})
    assert jobs.get(db, job).attempt == 2


# -------------------------------------------------------------------------------------------------------------- cancel
def test_a_worker_learns_of_its_cancellation_at_its_next_word(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    assert jobs.beat(db, job, "w")
    jobs.cancel(db, job)
    assert jobs.get(db, job).status == "cancelling"
    assert not jobs.beat(db, job, "w")
    assert not jobs.report(db, job, "w", 2, 3, {"loss": 0.4})
    # The checkpoint it now writes holds that step, so the curve must have it.
    assert jobs.metrics(db, job) == [{"step": 2, "loss": 0.4}]
    assert jobs.stop(db, job, "w", "cancelled", "Cancelled.")
    assert jobs.get(db, job).status == "cancelled"
    assert not jobs.report(db, job, "w", 3, 3, {"loss": 0.3})


def test_a_worker_that_is_saving_its_checkpoint_is_not_taken_for_dead(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    jobs.cancel(db, job)
    fall_silent(db, job)
    jobs.beat(db, job, "w")
    assert jobs.mark_lost(db, HOUR) == []
    fall_silent(db, job)
    assert jobs.mark_lost(db, HOUR) == [job]
    assert jobs.get(db, job).status == "cancelled"


def test_a_queued_job_is_cancelled_at_once_and_an_ended_one_not_at_all(db: Database, job: int) -> None:
    jobs.cancel(db, job)
    assert jobs.get(db, job).status == "cancelled"
    with pytest.raises(UserError, match="nothing to cancel"):
        jobs.cancel(db, job)
    with pytest.raises(UserError, match="nothing to cancel"):
        jobs.cancel(db, 999)


def test_a_job_that_finished_before_it_saw_the_cancellation_is_finished(db: Database, job: int) -> None:
    jobs.claim(db, job, "w")
    jobs.cancel(db, job)
    assert jobs.finish(db, job, "w", {"revision": "dpo-1"})
    assert jobs.get(db, job).status == "finished"


# -------------------------------------------------------------------------------------------------------- lost, resumed
HOUR = 3600.0


def fall_silent(db: Database, job_id: int) -> None:
    """As if a job's worker had not been heard of for two hours."""
    heard = (datetime.now(UTC) - timedelta(seconds=2 * HOUR)).isoformat(timespec="microseconds")
    with db.transaction() as connection:
        connection.execute("UPDATE job SET heartbeat = ? WHERE id = ?", (heard, job_id))


def test_only_a_silent_worker_is_marked_lost(db: Database, job: int) -> None:
    other = jobs.enqueue(db, GenerateSpec(), "the program")
    queued = jobs.enqueue(db, DPOSpec(), "ann")
    jobs.claim(db, job, "silent")
    jobs.claim(db, other, "alive")
    for claimed in (job, other):
        fall_silent(db, claimed)
    jobs.beat(db, other, "alive")
    assert jobs.mark_lost(db, HOUR) == [job]
    assert [jobs.get(db, number).status for number in (job, other, queued)] == ["lost", "running", "queued"]
    assert "Resume" in jobs.get(db, job).message
    assert jobs.mark_lost(db, HOUR) == []
    assert jobs.LOST_AFTER_SECONDS < 60, "a killed worker is marked lost within a minute"


@pytest.mark.parametrize("status", ["lost", "cancelled", "failed"])
def test_an_ended_job_goes_back_into_the_queue_with_its_progress(db: Database, job: int, status: str) -> None:
    jobs.claim(db, job, "w")
    jobs.report(db, job, "w", 4, 9, {"loss": 0.5})
    jobs.stop(db, job, "w", status, "why")
    jobs.resume(db, job)
    row = jobs.get(db, job)
    assert (row.status, row.step, row.steps, row.worker, row.message) == ("queued", 4, 9, None, "")
    assert jobs.claim(db, job, "again") is not None


def test_a_job_that_is_queued_running_or_finished_can_not_be_resumed(db: Database, job: int) -> None:
    for step in (lambda: None, lambda: jobs.claim(db, job, "w"), lambda: jobs.finish(db, job, "w", {})):
        step()
        status = jobs.get(db, job).status
        with pytest.raises(UserError, match="can't be resumed"):
            jobs.resume(db, job)
        assert jobs.get(db, job).status == status


def test_active_jobs_are_those_that_have_not_ended_oldest_first(db: Database, job: int) -> None:
    second, other_kind = jobs.enqueue(db, DPOSpec(), "ann"), jobs.enqueue(db, GenerateSpec(), "the program")
    assert [entry.id for entry in jobs.active(db, ("dpo",))] == [job, second]
    jobs.claim(db, job, "w")
    jobs.finish(db, job, "w", {})
    assert [entry.id for entry in jobs.active(db, ("dpo", "generate"))] == [second, other_kind]
    assert [entry.id for entry in jobs.recent(db, ("dpo",), 1)] == [second]
