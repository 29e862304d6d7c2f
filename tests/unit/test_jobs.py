"""Job rows on a real file: claimed once, fenced against stale workers, cancelled, lost, resumed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from annotation.database import Database, open_database
from annotation.records import UserError
from rlhf import jobs
from rlhf.specs import DPOSpec, GenerateSpec


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
        thread.join(30)
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


def test_the_tail_of_the_log_is_its_last_lines_oldest_first(db: Database, job: int) -> None:
    for number in range(5):
        jobs.log(db, job, f"line {number}")
    assert [line[10:] for line in jobs.log_tail(db, job, 3)] == ["line 2", "line 3", "line 4"]


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
    time.sleep(0.01)
    assert jobs.mark_lost(db, 0.001) == [job]
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
    time.sleep(1.1)
    jobs.beat(db, job, "w")
    assert jobs.mark_lost(db, 1.0) == []
    time.sleep(0.05)
    assert jobs.mark_lost(db, 0.04) == [job]
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
def test_only_a_silent_worker_is_marked_lost(db: Database, job: int) -> None:
    other = jobs.enqueue(db, GenerateSpec(), "the program")
    queued = jobs.enqueue(db, DPOSpec(), "ann")
    jobs.claim(db, job, "silent")
    jobs.claim(db, other, "alive")
    time.sleep(1.1)
    jobs.beat(db, other, "alive")
    assert jobs.mark_lost(db, 1.0) == [job]
    assert [jobs.get(db, number).status for number in (job, other, queued)] == ["lost", "running", "queued"]
    assert "Resume" in jobs.get(db, job).message
    assert jobs.mark_lost(db, 1.0) == []
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
