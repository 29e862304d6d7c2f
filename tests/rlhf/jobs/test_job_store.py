"""Job rows on a real file: claimed once, fenced against stale workers, cancelled, lost, resumed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import cast

import pytest

from annotation import translation
from annotation.database import Database, open_database
from annotation.jobs import job_table, liveness
from annotation.jobs.job_table import Reason, Status
from annotation.records import UserError
from annotation.translation import _
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.job_spec import JobSpec, to_json
from rlhf.jobs.job_store import SampleAnswer
from rlhf.jobs.out_of_memory import KILLED
from rlhf.jobs.run import Run
from rlhf.workers.worker import ReplicaRun
from rlhf.workers.worker_process import WorkerProcess, record_death
from tests.machine_fixtures import PATIENCE_SECONDS


@pytest.fixture
def job(db: Database) -> int:
    """A queued job."""
    return job_store.enqueue(db, DPOSpec(beta=0.25), "ann")


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
    row = job_store.get(db, job)
    assert (row.kind, row.status, row.attempt, row.worker, row.requested_by) == ("dpo", "queued", 0, None, "ann")
    assert row.spec == DPOSpec(beta=0.25)
    with pytest.raises(UserError, match=f"no job {job + 1}"):
        job_store.get(db, job + 1)


@pytest.mark.parametrize("shared_connection", [True, False], ids=["one program", "two programs"])
def test_of_workers_that_claim_at_once_exactly_one_gets_the_job(
    db: Database, data_dir: Path, job: int, shared_connection: bool
) -> None:
    """Through one Database object the process's lock decides; through separate ones only SQLite does."""
    won: list[str] = []

    def claim(number: int) -> None:
        database = db if shared_connection else open_database(data_dir)
        claimed = job_store.claim(database, job, f"worker-{number}")
        if claimed is not None:
            won.append(claimed.worker or "")
        database.close()

    at_once(claim, 4)
    assert len(won) == 1
    row = job_store.get(db, job)
    assert (row.status, row.worker, row.attempt) == ("running", won[0], 1)
    assert row.started is not None
    assert row.heartbeat is not None


def test_a_job_that_is_not_queued_is_claimed_by_nobody(db: Database, job: int) -> None:
    job_store.cancel(db, job)
    assert job_store.claim(db, job, "late") is None
    assert job_store.get(db, job).status == "cancelled"


# ----------------------------------------------------------------------------------------------------------- the queue
def waiting(db: Database) -> list[int]:
    """The queue as ids."""
    return [entry.id for entry in job_store.queue(db)]


def test_the_queue_is_in_the_order_of_asking_without_what_runs_or_answers(db: Database, job: int) -> None:
    job_store.enqueue(db, AnsweringSpec(), "the program")
    second, third = (
        job_store.enqueue(db, SFTSpec(), "bob"),
        job_store.enqueue(db, CheckSpec(candidate="x"), "the loop"),
    )
    assert waiting(db) == [job, second, third]
    job_store.claim(db, job, "w")
    assert waiting(db) == [second, third]
    job_store.cancel(db, second)
    assert waiting(db) == [third]


def test_a_waiting_job_changes_places_with_its_neighbour(db: Database, job: int) -> None:
    second, third = job_store.enqueue(db, SFTSpec(), "bob"), job_store.enqueue(db, SFTSpec(), "kim")
    job_store.move(db, third, up=True)
    assert waiting(db) == [job, third, second]
    job_store.move(db, third, up=True)
    assert waiting(db) == [third, job, second]
    job_store.move(db, third, up=True)
    assert waiting(db) == [third, job, second], "at the front it stays"
    job_store.move(db, third, up=False)
    assert waiting(db) == [job, third, second]
    job_store.move(db, second, up=False)
    assert waiting(db) == [job, third, second], "at the end it stays"
    assert job_store.enqueue(db, SFTSpec(), "ann") == waiting(db)[-1], "a new one goes to the end"


def test_jobs_from_before_there_were_positions_wait_in_the_order_of_their_ids(db: Database, job: int) -> None:
    with db.transaction() as connection:
        for _ in range(2):
            connection.execute(
                "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', ?, 'queued', 'ann', '')",
                (to_json(DPOSpec()),),
            )
        connection.execute("UPDATE job SET position = NULL")
    assert waiting(db) == [job, job + 1, job + 2]
    job_store.move(db, job + 2, up=True)
    assert waiting(db) == [job, job + 2, job + 1]
    assert job_store.enqueue(db, SFTSpec(), "ann") == waiting(db)[-1]


def test_what_is_ahead_of_a_job_is_what_runs_and_what_waits_before_it(db: Database, job: int) -> None:
    second, third = job_store.enqueue(db, SFTSpec(), "bob"), job_store.enqueue(db, SFTSpec(), "kim")
    answering = job_store.enqueue(db, AnsweringSpec(), "the program")

    def ahead(number: int) -> list[int]:
        return [other.id for other in job_store.jobs_ahead(db, job_store.get(db, number))]

    assert [ahead(number) for number in (job, second, third, answering)] == [[], [job], [job, second], []]
    job_store.claim(db, second, "w")
    job_store.claim(db, answering, "answers")
    assert [ahead(number) for number in (job, third)] == [[second], [second, job]], "what runs comes first"
    job_store.cancel(db, second)
    assert ahead(job) == [second], "it still ends"


def test_a_job_is_taken_out_while_it_waits_and_left_alone_once_it_runs(db: Database, job: int) -> None:
    second = job_store.enqueue(db, SFTSpec(), "bob")
    assert job_store.take_out(db, second)
    assert job_store.get(db, second).status == "cancelled"
    job_store.claim(db, job, "w")
    assert not job_store.take_out(db, job)
    assert job_store.get(db, job).status == "running"


def test_only_a_job_that_waits_can_be_moved(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    for number in (job, 999):
        with pytest.raises(UserError, match="does not wait"):
            job_store.move(db, number, up=True)


@pytest.mark.parametrize("shared_connection", [True, False], ids=["one program", "two programs"])
def test_moves_at_once_lose_and_double_nothing(db: Database, data_dir: Path, job: int, shared_connection: bool) -> None:
    """Two people drag two jobs up and down; each move is whole, so the queue stays the same jobs in some order."""
    others = [job_store.enqueue(db, SFTSpec(), "bob") for _ in range(4)]
    moved = {0: others[3], 1: others[1]}

    def shuffle(number: int) -> None:
        database = db if shared_connection else open_database(data_dir)
        for turn in range(20):
            job_store.move(database, moved[number], up=turn % 3 != 2)
        database.close()

    at_once(shuffle, 2)
    assert sorted(waiting(db)) == [job, *others]
    places = [job_store.get(db, number).position for number in waiting(db)]
    assert len(set(places)) == 5


def test_a_resumed_job_goes_to_the_end_of_the_queue(db: Database, job: int) -> None:
    second = job_store.enqueue(db, SFTSpec(), "bob")
    job_store.claim(db, job, "w")
    job_table.stop(db, job, "w", "failed", "why")
    job_store.resume(db, job)
    third = job_store.enqueue(db, SFTSpec(), "kim")
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
def test_half_the_batch_takes_twice_the_accumulation(spec: JobSpec, batch: int, accumulation: int) -> None:
    """An optimiser step sees as many items as before, whatever the number."""
    assert isinstance(spec, SFTSpec | DPOSpec | RewardModelSpec)
    made = spec.halved()
    assert made == replace(spec, batch_size=batch, accumulation=accumulation)
    assert batch * accumulation == spec.batch_size * spec.accumulation


def test_ppo_cuts_its_minibatches_by_itself_and_others_are_left_alone() -> None:
    ppo = PPOSpec(batch_size=4, halve_batch=True)
    assert ppo.halved() == replace(ppo, batch_size=2)
    for spec in (replace(BIG, batch_size=1), CheckSpec(), AnsweringSpec()):
        assert spec.halved() is None


def test_after_memory_ran_out_a_job_waits_with_half_the_batch_and_its_log_says_so(db: Database) -> None:
    job = job_store.enqueue(db, BIG, "ann")
    later = job_store.enqueue(db, SFTSpec(), "bob")
    job_store.claim(db, job, "w")
    job_table.report(db, job, "w", 3, 9, {"loss": 0.5})
    assert job_store.requeue_smaller(db, job, "w", "out-of-memory")
    row = job_store.get(db, job)
    assert row.spec == replace(BIG, batch_size=4, accumulation=4)
    assert (row.status, row.worker, row.step, row.requested_by) == ("queued", None, 3, "ann")
    assert waiting(db) == [job, later], "it keeps its place"
    (line,) = job_store.log_tail(db, job)
    assert line.endswith("Memory ran out. Queued again with a smaller batch: batch_size 8 → 4, accumulation 2 → 4.")
    assert row.message in line
    assert row.reason == "out-of-memory"
    assert job_store.retries(db, job) == [row.message]
    assert not job_store.requeue_smaller(db, job, "w", "out-of-memory"), "the second of two processes has lost the job"
    assert job_store.get(db, job).spec == row.spec


@pytest.mark.parametrize("spec", [DPOSpec(batch_size=8), replace(BIG, batch_size=1), CheckSpec()])
def test_without_being_told_to_a_job_is_not_changed(db: Database, spec: JobSpec) -> None:
    job = job_store.enqueue(db, spec, "ann")
    job_store.claim(db, job, "w")
    before = job_store.get(db, job)
    assert not job_store.requeue_smaller(db, job, "w", "out-of-memory")
    assert job_store.get(db, job) == before
    assert job_store.log_tail(db, job) == job_store.retries(db, job) == []


def test_a_stale_worker_or_a_cancelled_job_is_not_queued_again(db: Database) -> None:
    job = job_store.enqueue(db, BIG, "ann")
    job_store.claim(db, job, "w")
    assert not job_store.requeue_smaller(db, job, "stale", "out-of-memory")
    job_store.cancel(db, job)
    assert not job_store.requeue_smaller(db, job, "w", "out-of-memory")
    assert job_store.get(db, job).status == "cancelling"


@pytest.mark.parametrize("status", ["failed", "lost"])
@pytest.mark.parametrize("reason", ["out-of-memory", "killed"])
def test_a_job_that_ended_for_memory_goes_on_with_half_the_batch_when_asked(
    db: Database, status: Status, reason: Reason
) -> None:
    job, later = (
        job_store.enqueue(db, DPOSpec(batch_size=8, accumulation=1), "ann"),
        job_store.enqueue(db, SFTSpec(), "bob"),
    )
    assert not job_store.can_be_halved(job_store.get(db, job)), "it waits"
    job_store.claim(db, job, "w")
    assert not job_store.can_be_halved(job_store.get(db, job)), "it runs"
    job_table.stop(db, job, "w", status, "In whatever words.", reason)
    assert job_store.can_be_halved(job_store.get(db, job))
    changed = job_store.resume(db, job, half_batch=True)
    assert changed == "Queued again with a smaller batch: batch_size 8 → 4, accumulation 1 → 2."
    row = job_store.get(db, job)
    assert (row.status, row.worker, row.message, row.reason) == ("queued", None, changed, None)
    assert row.spec == DPOSpec(batch_size=4, accumulation=2), "and nobody told it to halve it by itself"
    assert job_store.retries(db, job) == [changed]
    assert waiting(db) == [later, job]


@pytest.mark.parametrize(
    ("spec", "status", "reason"),
    [
        (DPOSpec(batch_size=8), "failed", None),
        (DPOSpec(batch_size=8), "failed", "not-a-number"),
        (DPOSpec(batch_size=8), "lost", None),
        (DPOSpec(batch_size=8), "cancelled", "killed"),
        (DPOSpec(batch_size=1), "failed", "out-of-memory"),
        (CheckSpec(), "failed", "out-of-memory"),
    ],
)
def test_what_did_not_end_for_memory_or_has_no_batch_is_not_offered_to_be_halved(
    db: Database, spec: JobSpec, status: Status, reason: Reason | None
) -> None:
    job = job_store.enqueue(db, spec, "ann")
    job_store.claim(db, job, "w")
    job_table.stop(db, job, "w", status, "Memory ran out.", reason)
    assert not job_store.can_be_halved(job_store.get(db, job))
    if spec.halved() is None:
        with pytest.raises(UserError, match="no batch that could be halved"):
            job_store.resume(db, job, half_batch=True)
        assert job_store.get(db, job).status == status


def test_a_run_whose_loss_was_no_number_goes_on_with_half_the_learning_rate(db: Database) -> None:
    job = job_store.enqueue(db, DPOSpec(learning_rate=2e-4), "ann")
    for rate, before in ((1e-4, "0.0002 → 0.0001"), (5e-5, "0.0001 → 5e-05")):
        job_store.claim(db, job, "w")
        job_table.stop(db, job, "w", "failed", "In whatever words.", "not-a-number")
        changed = job_store.resume(db, job)
        assert changed == f"Queued again with half the learning rate: learning_rate {before}."
        assert job_store.get(db, job).spec == DPOSpec(learning_rate=rate)
        assert job_store.get(db, job).message == changed
    assert len(job_store.retries(db, job)) == 2
    job_store.claim(db, job, "w")
    job_table.stop(db, job, "w", "failed", "The loss became not a number: that the words say so does not count.")
    assert job_store.resume(db, job) == ""
    assert job_store.get(db, job).spec == DPOSpec(learning_rate=5e-5)


def test_the_death_of_a_worker_is_told_of_what_it_held_to_the_end(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    assert not job_store.died(db, job, "other", "It died.")
    assert job_table.stop(db, job, "w", "lost", "Prefloop was stopped.")
    assert job_store.died(db, job, "w", "It was killed.", "killed"), "a survivor did not know why"
    row = job_store.get(db, job)
    assert (row.status, row.message, row.reason) == ("lost", "It was killed.", "killed")
    job_store.resume(db, job)
    assert not job_store.died(db, job, "w", "It died."), "it is somebody else's turn now"
    job_store.claim(db, job, "w2")
    job_store.cancel(db, job)
    assert job_store.died(db, job, "w2", "It was killed.")
    assert job_store.get(db, job).status == "cancelled"


def test_a_job_that_was_to_stop_when_its_program_did_is_cancelled(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    job_store.cancel(db, job)
    assert job_table.stop(db, job, "w", "lost", "Prefloop was stopped.")
    assert job_store.get(db, job).status == "cancelled"


def test_only_a_job_that_nobody_has_claimed_since_is_given_up(db: Database, job: int) -> None:
    job_store.give_up(db, job, 1, "It could not begin.")
    assert job_store.get(db, job).status == "queued"
    job_store.give_up(db, job, 0, "It could not begin.", "killed")
    assert (job_store.get(db, job).status, job_store.get(db, job).reason) == ("failed", "killed")


def test_what_became_of_a_worker_is_said_in_the_language_of_whoever_reads_it(db: Database) -> None:
    german = translation.language_of("de")
    job = job_store.enqueue(db, BIG, "ann")
    job_store.claim(db, job, "w")
    job_store.requeue_smaller(db, job, "w", "killed")
    (line,) = job_store.log_tail(db, job)
    assert '"said"' not in line
    with translation.speaking(german):
        row = job_store.get(db, job)
        assert row.message == job_store.retries(db, job)[0] == job_store.log_tail(db, job)[0][10:]
        assert row.message.startswith(translation.translate(KILLED))
        assert "Queued" not in row.message
    see = translation.translate("See {file}.").format(file="job.log")
    record_death(db, row, WorkerProcess(cast(Popen[bytes], None), "w2", row.attempt), 1, None, see)
    assert job_store.get(db, job).message == "The worker died (exit code 1). See job.log."
    with translation.speaking(german):
        cause, seen = translation.translate("The worker died (exit code {code})."), translation.translate("See {file}.")
        assert job_store.get(db, job).message == f"{cause.format(code=1)} {seen.format(file='job.log')}"


def test_a_rented_machine_can_not_have_anything_said_again(db: Database) -> None:
    text = '{"said": ["{a} is full."], "gaps": {"a": "It"}}'
    job = rental_store.enqueue(db, DPOSpec(), "ann", rental_store.Terms("cpu-basic", 0.02))
    job_store.claim(db, job, "w")
    kinds = ("log", "change")
    events = [{"kind": kind, "step": 0, "data": text, "created": "2026-01-01T00:00:00.000000+00:00"} for kind in kinds]
    rental_store.replay(db, job, "w", 1, {"step": 1, "steps": 2, "message": text, "events": events})
    assert job_store.get(db, job).message == text
    assert job_store.retries(db, job) == [text]
    assert [line[10:] for line in job_store.log_tail(db, job)] == [text, text]
    assert [event["data"] for event in rental_store.events_after(db, job, 0)] == [text, text]


def test_why_a_job_does_not_get_on_is_said_until_it_reports_something_else(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    job_table.explain(db, job, "w", "too-few-answers", "All the same.")
    job_table.explain(db, job, "other", "killed", "It is not its job.")
    job_table.report(db, job, "w", 0, 0, {})
    assert (job_store.get(db, job).reason, job_store.get(db, job).message) == ("too-few-answers", "All the same.")
    job_table.report(db, job, "w", 1, 0, {}, "1 comparison in stock")
    assert job_store.get(db, job).reason is None
    job_table.explain(db, job, "w", "too-few-answers", "All the same.")
    job_table.finish(db, job, "w", {})
    assert job_store.get(db, job).reason is None


# ------------------------------------------------------------------------------------------------------------ progress
def test_a_report_writes_progress_metrics_and_heartbeat_together(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    before = job_store.get(db, job).heartbeat or ""
    assert job_table.report(db, job, "w", 3, 10, {"loss": 0.5}, "training")
    assert job_table.report(db, job, "w", 4, 10, {})
    row = job_store.get(db, job)
    assert (row.step, row.steps, row.message) == (4, 10, "training")
    assert (row.heartbeat or "") > before
    assert job_store.metrics(db, job) == [{"step": 3, "loss": 0.5}]


def test_a_new_attempt_is_at_no_step_before_it_says_so(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    job_table.report(db, job, "w", 3, 6, {})
    job_table.stop(db, job, "w", "lost", "")
    job_store.resume(db, job)
    assert (job_store.get(db, job).step, job_store.get(db, job).steps) == (3, 6), "as far as it had come"
    job_store.claim(db, job, "w")
    assert (job_store.get(db, job).step, job_store.get(db, job).steps) == (0, 0)


def test_after_a_resume_the_last_report_of_a_step_wins(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    for step, loss in ((1, 0.7), (2, 0.6), (3, 0.5), (2, 0.61), (3, 0.51)):
        job_table.report(db, job, "w", step, 3, {"loss": loss})
    assert job_store.metrics(db, job) == [
        {"step": 1, "loss": 0.7},
        {"step": 2, "loss": 0.61},
        {"step": 3, "loss": 0.51},
    ]


def test_the_pace_of_a_second_judge_is_not_that_of_the_first(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    for step in (0, 1, 2, 0, 1):
        job_table.report(db, job, "w", step, 2, {"judged": step})
    assert [step for step, _time in job_store.step_times(db, job_store.get(db, job))] == [0, 1]


def test_jobs_are_found_by_their_ids_whatever_number_is_asked_for(db: Database, job: int) -> None:
    second = job_store.enqueue(db, SFTSpec(), "ann")
    assert {entry.id for entry in job_store.with_ids(db, [second, job, 999, 10**30])} == {job, second}
    assert job_store.with_ids(db, []) == []


def test_the_tail_of_the_log_is_its_last_lines_oldest_first(db: Database, job: int) -> None:
    for number in range(5):
        job_table.log(db, job, f"line {number}")
    assert [line[10:] for line in job_store.log_tail(db, job, 3)] == ["line 2", "line 3", "line 4"]


def test_what_strangers_wrote_does_nothing_to_the_terminal_that_a_log_is_read_in(
    db: Database, job: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = job_store.get(db, job)
    Run(db, tmp_path, entry, "w").log("a tensor \x1b]0;mine\x07")
    ReplicaRun(db, tmp_path, entry, "w", threading.Event(), rank=1).log("\x1b[2J")
    assert capsys.readouterr().out == "a tensor ⟨U+001B⟩]0;mine⟨U+0007⟩\n[process 1] ⟨U+001B⟩[2J\n"


def test_samples_are_kept_by_prompt_and_step_and_the_last_at_a_step_counts(db: Database, job: int) -> None:
    def answer(prompt: str, text: str) -> SampleAnswer:
        return SampleAnswer(prompt, text, "stop", tokens=3)

    job_store.sample(db, job, 0, [answer("b", "b0"), answer("a", "a0")])
    job_store.sample(db, job, 10, [answer("b", "b10 of a killed run"), answer("a", "a10")])
    job_store.sample(db, job, 10, [answer("b", "b10")])
    found = job_store.samples(db, job)
    assert list(found) == ["b", "a"]
    assert {step: one.answer for step, one in found["b"].items()} == {0: "b0", 10: "b10"}
    assert {step: one.answer for step, one in found["a"].items()} == {0: "a0", 10: "a10"}
    assert job_store.samples(db, job + 1) == {}


def test_the_newest_event_tells_whether_a_job_has_said_anything(db: Database, job: int) -> None:
    assert job_store.newest_event(db, job) == 0
    job_table.log(db, job, "a line")
    before = job_store.newest_event(db, job)
    job_table.log(db, job_store.enqueue(db, DPOSpec(), "ann"), "another job's")
    assert job_store.newest_event(db, job) == before > 0


def test_a_finished_job_keeps_its_result(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    job_table.report(db, job, "w", 7, 10, {}, "nearly")
    assert job_table.finish(db, job, "w", {"revision": "dpo-1"})
    row = job_store.get(db, job)
    assert (row.status, row.step, row.message, row.result) == ("finished", 10, "", {"revision": "dpo-1"})
    assert row.finished is not None


# --------------------------------------------------------------------------------------------------------------- fence
def test_a_worker_whose_job_was_given_to_another_can_change_nothing(db: Database, job: int) -> None:
    """It hung, the job was resumed elsewhere, and then it wakes up."""
    job_store.claim(db, job, "stale")
    assert job_table.stop(db, job, "stale", "lost", "silent")
    job_store.resume(db, job)
    job_store.claim(db, job, "new")
    job_table.report(db, job, "new", 5, 10, {"loss": 0.5})
    before = job_store.get(db, job)

    assert not job_table.beat(db, job, "stale")
    assert not job_table.report(db, job, "stale", 9, 10, {"loss": 99.0})
    assert not job_table.finish(db, job, "stale", {})
    assert not job_table.stop(db, job, "stale", "failed", "no")
    assert job_store.get(db, job) == before
    assert job_store.metrics(db, job) == [{"step": 5, "loss": 0.5}]
    assert job_table.finish(db, job, "new", {})
    assert job_store.get(db, job).attempt == 2


# -------------------------------------------------------------------------------------------------------------- cancel
def test_a_worker_learns_of_its_cancellation_at_its_next_word(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    assert job_table.beat(db, job, "w")
    job_store.cancel(db, job)
    assert job_store.get(db, job).status == "cancelling"
    assert not job_table.beat(db, job, "w")
    assert not job_table.report(db, job, "w", 2, 3, {"loss": 0.4})
    # The checkpoint it now writes holds that step, so the curve must have it.
    assert job_store.metrics(db, job) == [{"step": 2, "loss": 0.4}]
    assert job_table.stop(db, job, "w", "cancelled", "Cancelled.")
    assert job_store.get(db, job).status == "cancelled"
    assert not job_table.report(db, job, "w", 3, 3, {"loss": 0.3})


def test_a_worker_that_is_saving_its_checkpoint_is_not_taken_for_dead(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    job_store.cancel(db, job)
    assert job_store.mark_lost(db) == []
    liveness.end(db, "w")
    assert job_store.mark_lost(db) == [job]
    assert job_store.get(db, job).status == "cancelled"


def test_a_queued_job_is_cancelled_at_once_and_an_ended_one_not_at_all(db: Database, job: int) -> None:
    job_store.cancel(db, job)
    assert job_store.get(db, job).status == "cancelled"
    with pytest.raises(UserError, match="nothing to cancel"):
        job_store.cancel(db, job)
    with pytest.raises(UserError, match="There is no job"):
        job_store.cancel(db, 999)


def test_a_job_that_finished_before_it_saw_the_cancellation_is_finished(db: Database, job: int) -> None:
    job_store.claim(db, job, "w")
    job_store.cancel(db, job)
    assert job_table.finish(db, job, "w", {"revision": "dpo-1"})
    assert job_store.get(db, job).status == "finished"


# -------------------------------------------------------------------------------------------------------- lost, resumed
def test_only_a_worker_that_is_gone_is_lost_however_long_others_say_nothing(db: Database, job: int) -> None:
    """As while the machine sleeps, its clock is set, or an import writes for longer than a worker waits."""
    other = job_store.enqueue(db, AnsweringSpec(), "the program")
    queued = job_store.enqueue(db, DPOSpec(), "ann")
    job_store.claim(db, job, "dead")
    job_store.claim(db, other, "alive")
    db.write("UPDATE job SET heartbeat = '2026-01-01T00:00:00.000000+00:00' WHERE id = ?", (other,))
    assert job_store.mark_lost(db) == []
    liveness.end(db, "dead")
    assert job_store.mark_lost(db) == [job]
    assert [job_store.get(db, number).status for number in (job, other, queued)] == ["lost", "running", "queued"]
    assert job_store.get(db, job).message == "The worker stopped without a word."
    assert job_store.mark_lost(db) == []


def test_who_started_a_worker_says_why_it_died_also_where_another_saw_first_that_it_did(db: Database, job: int) -> None:
    job_store.claim(db, job, "dead")
    liveness.end(db, "dead")
    assert job_store.mark_lost(db) == [job]
    assert job_store.died(db, job, "dead", "It was killed.", "killed")
    assert (job_store.get(db, job).message, job_store.get(db, job).reason) == ("It was killed.", "killed")


@pytest.mark.parametrize("status", ["lost", "cancelled", "failed"])
def test_an_ended_job_goes_back_into_the_queue_with_its_progress(db: Database, job: int, status: str) -> None:
    job_store.claim(db, job, "w")
    job_table.report(db, job, "w", 4, 9, {"loss": 0.5})
    job_table.stop(db, job, "w", status, "why")
    job_store.resume(db, job)
    row = job_store.get(db, job)
    assert (row.status, row.step, row.steps, row.worker, row.message) == ("queued", 4, 9, None, "")
    assert job_store.claim(db, job, "again") is not None


def test_a_job_that_is_queued_running_or_finished_can_not_be_resumed(db: Database, job: int) -> None:
    for step in (lambda: None, lambda: job_store.claim(db, job, "w"), lambda: job_table.finish(db, job, "w", {})):
        step()
        status = job_store.get(db, job).status
        with pytest.raises(UserError, match="can't be resumed"):
            job_store.resume(db, job)
        assert job_store.get(db, job).status == status


def test_active_jobs_are_those_that_have_not_ended_oldest_first(db: Database, job: int) -> None:
    second, other_kind = job_store.enqueue(db, DPOSpec(), "ann"), job_store.enqueue(db, AnsweringSpec(), "the program")
    assert [entry.id for entry in job_store.active(db, ("dpo",))] == [job, second]
    job_store.claim(db, job, "w")
    job_table.finish(db, job, "w", {})
    assert [entry.id for entry in job_store.active(db, ("dpo", "answering"))] == [second, other_kind]
    assert [entry.id for entry in job_store.recent(db, ("dpo",), 1)] == [second]


def test_why_a_job_ended_is_said_in_the_language_of_whoever_reads_it(db: Database, job: int, tmp_path: Path) -> None:
    sentence = "Job {id} has no batch that could be halved."
    made_up = f'msgid ""\nmsgstr "Language: de\\n"\n\nmsgid "{sentence}"\nmsgstr "Auftrag {{id}} hat keinen Batch."\n'
    (tmp_path / "de.po").write_text(made_up, "utf-8")
    job_store.claim(db, job, "w")
    job_table.stop(db, job, "w", "failed", str(UserError(_(sentence).format(id=7))))
    assert job_store.get(db, job).message == "Job 7 has no batch that could be halved."
    with translation.speaking(translation.chosen(str(tmp_path / "de.po"))):
        assert job_store.get(db, job).message == "Auftrag 7 hat keinen Batch."
