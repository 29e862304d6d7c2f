"""Jobs of the lanes that no device does: one doer each, progress, cancelled, left behind, done again after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import psutil
import pytest

from annotation.database import Database, open_database
from annotation.exports import export_files
from annotation.exports.export_files import EXPORTS
from annotation.exports.formats import ExportRequest, Filters
from annotation.imports import import_process
from annotation.imports.import_process import FROM_HUB, HERE, ImportData, Importer
from annotation.jobs import job_table, lane_runner, liveness
from annotation.jobs.attempt import Attempt, Stopped, keep_repeating
from annotation.jobs.job_process import run_command
from annotation.jobs.job_queue import JobQueue, JobRequest, named
from annotation.jobs.job_table import CANCELLED, Job, Lane
from annotation.jobs.lane_runner import JobOutcome, LaneRunner
from annotation.records import UserError, now
from tests.annotation.exports.test_exports import UNNAMED, judge_all, process_writing
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, has_ended, wait_until

pytestmark = pytest.mark.slow


class Count(JobRequest):
    """Something to do."""

    kind: ClassVar[str] = "count"


HUB, WEB = (JobQueue(lane, named(Count)) for lane in ("hub", "web"))
QUEUES: list[JobQueue[Count]] = [HUB, WEB]


def waits(attempt: Attempt, job: Job[Count]) -> JobOutcome:
    """Work that goes on until it is to stop."""
    attempt.report(1, 2, {}, "half")
    while not attempt.stopped:
        attempt.look()
        time.sleep(0.01)
    raise Stopped


@pytest.fixture
def started(data_dir: Path, db: Database) -> Iterator[list[LaneRunner[Any]]]:
    """Runners that are stopped at the end of the test."""
    runners: list[LaneRunner[Any]] = []
    yield runners
    for runner in runners:
        runner.stop(30)


def status_of(db: Database, job_id: int) -> str:
    return str(db.value("SELECT status FROM job WHERE id = ?", (job_id,)))


# -------------------------------------------------------------------------------------------------------------- claims
def test_of_two_runners_one_gets_a_job(db: Database, data_dir: Path) -> None:
    jobs = [WEB.enqueue(db, Count(), "kim") for _ in range(40)]
    done: list[int] = []
    together = threading.Barrier(4)

    def note(attempt: Attempt, job: Job[Count]) -> JobOutcome:
        done.append(job.id)
        return JobOutcome("done")

    def run() -> None:
        own = open_database(data_dir)  # as another process would, with a lock of its own
        runner = LaneRunner(data_dir, WEB, note)
        together.wait()
        while runner.run_next(own):
            pass
        own.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(done) == Counter(jobs)
    assert {(job.status, job.attempt) for job in WEB.recent(db, 99)} == {("finished", 1)}


def test_a_runner_does_its_own_lane_and_kinds_only(db: Database, data_dir: Path) -> None:
    others = [HUB.enqueue(db, Count(), "kim"), HERE.enqueue(db, ImportData(("--",)), "kim")]
    assert not LaneRunner(data_dir, WEB, waits).run_next(db)
    assert [status_of(db, one) for one in others] == ["queued", "queued"]
    assert WEB.newest(db) is None


def test_who_was_thought_gone_changes_nothing_any_more(db: Database) -> None:
    job_id = WEB.enqueue(db, Count(), "kim")
    assert WEB.claim_next(db, "first") is not None
    job_table.release(db, job_id, "first")
    job_table.requeue_stale(db, "web", ("count",))
    assert WEB.claim_next(db, "second") is not None
    assert not job_table.finish(db, job_id, "first", {"by": "first"})
    assert not job_table.beat(db, job_id, "first")
    assert not job_table.is_wanted(db, job_id, "first")
    assert job_table.is_wanted(db, job_id, "second")
    assert job_table.finish(db, job_id, "second", {"by": "second"}, "There.")
    ended = WEB.newest(db)
    assert (ended.result, ended.message, ended.attempt) == ({"by": "second"}, "There.", 2)


def test_the_job_of_one_who_is_gone_is_begun_again_at_once(db: Database) -> None:
    job_id = WEB.enqueue(db, Count(), "kim")
    assert WEB.claim_next(db, "dead") is not None
    liveness.end(db, "dead")
    job_table.requeue_stale(db, "web", ("count",))
    assert status_of(db, job_id) == "queued"


def test_who_could_not_say_how_a_job_ended_leaves_it_to_the_next(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk; the process that it was in goes on."""
    job_id = WEB.enqueue(db, Count(), "kim")
    runner = LaneRunner(data_dir, WEB, lambda attempt, job: JobOutcome("done"))
    with monkeypatch.context() as full:
        full.setattr(job_table, "finish", Mock(side_effect=UserError("The disk is full.")))
        with pytest.raises(UserError, match="full"):
            runner.run_next(db)
    assert status_of(db, job_id) == "running"
    job_table.requeue_stale(db, "web", ("count",))
    assert status_of(db, job_id) == "queued"


def test_one_who_lives_keeps_its_job_however_long_nothing_was_heard_of_it(db: Database) -> None:
    job_id = HUB.enqueue(db, Count(), "kim")
    assert HUB.claim_next(db, "w") is not None
    db.write("UPDATE job SET heartbeat = '2026-01-01T00:00:00.000000+00:00'")
    job_table.requeue_stale(db, "hub", ("count",))
    assert status_of(db, job_id) == "running"


# -------------------------------------------------------------------------------------------------------------- cancel
@pytest.mark.parametrize("queue", QUEUES, ids=["hub", "web"])
def test_a_job_is_cancelled_while_it_waits_and_while_it_is_done(
    db: Database, data_dir: Path, queue: JobQueue[Count], started: list[LaneRunner[Any]]
) -> None:
    waiting = queue.enqueue(db, Count(), "kim")
    job_table.cancel(db, waiting)
    assert queue.newest(db).message == CANCELLED
    at_work = queue.enqueue(db, Count(), "kim")
    started.append(LaneRunner(data_dir, queue, waits))
    started[0].start()
    wait_until("its progress", lambda: queue.newest(db).message == "half")
    job_table.cancel(db, at_work)
    wait_until("its end", lambda: not queue.newest(db).is_open)
    ended = queue.newest(db)
    assert (ended.status, ended.message, ended.step, ended.steps) == ("cancelled", CANCELLED, 1, 2)
    for job_id in (waiting, at_work):
        with pytest.raises(UserError, match="has ended already"):
            job_table.cancel(db, job_id)


def test_one_that_was_to_stop_when_its_runner_ended_is_cancelled(db: Database) -> None:
    job_id = HUB.enqueue(db, Count(), "kim")
    assert HUB.claim_next(db, "w") is not None
    job_table.cancel(db, job_id)
    job_table.release(db, job_id, "w")
    job_table.requeue_stale(db, "hub", ("count",))
    ended = HUB.newest(db)
    assert (ended.status, ended.message) == ("cancelled", CANCELLED)
    assert ended.finished is not None


def test_an_import_whose_doer_is_gone_and_has_no_successor_ends_as_it_is_cancelled(db: Database) -> None:
    importer = Importer(db, token_held=True)
    importer.start("import", ["--hub", "--", "ann/data"], [])
    assert FROM_HUB.claim_next(db, "w") is not None
    importer.cancel()
    assert importer.state.status == "running", "it was heard of"
    job_table.release(db, importer.state.number, "w")
    without_token = Importer(db)
    without_token.cancel()
    assert without_token.state.status == "failed"
    without_token.start("look", ["--", "there.csv"], [])


@pytest.mark.parametrize("lane", ["hub", "web"])
def test_a_runner_that_is_stopped_leaves_its_job_to_the_next(
    db: Database, data_dir: Path, lane: Lane, started: list[LaneRunner[Any]]
) -> None:
    queue = JobQueue(lane, named(Count))
    job_id = queue.enqueue(db, Count(), "kim")
    first = LaneRunner(data_dir, queue, waits)
    first.start()
    wait_until("its progress", lambda: queue.newest(db).message == "half")
    first.stop(30)
    assert status_of(db, job_id) == "running"
    started.append(LaneRunner(data_dir, queue, lambda attempt, job: JobOutcome(f"at the attempt {job.attempt}")))
    started[0].start()
    wait_until("the next", lambda: queue.newest(db).message == "at the attempt 2")


def test_a_runner_ends_also_where_the_disk_refuses_to_leave_its_job_to_the_next(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program has workers to end after it."""
    WEB.enqueue(db, Count(), "kim")
    begun, released = threading.Event(), threading.Event()

    def hangs(attempt: Attempt, job: Job[Count]) -> JobOutcome:
        begun.set()
        released.wait()
        return JobOutcome("")

    def refuse(*_: object) -> None:
        raise UserError("The disk is full.")

    monkeypatch.setattr(job_table, "release", refuse)
    runner = LaneRunner(data_dir, WEB, hangs)
    runner.start()
    assert begun.wait(PATIENCE_SECONDS)
    try:
        runner.stop(0.0)
    finally:
        released.set()
    assert runner.thread is not None
    runner.thread.join()


def test_an_error_of_our_own_is_in_the_log_also_where_the_disk_refuses_to_record_it(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    WEB.enqueue(db, Count(), "kim")

    def fail(attempt: Attempt, job: Job[Count]) -> JobOutcome:
        raise ZeroDivisionError("a bug")

    def refuse(*_: object) -> None:
        runner.ended.set()
        raise UserError("The disk is full.")

    monkeypatch.setattr(job_table, "stop", refuse)
    runner = LaneRunner(data_dir, WEB, fail)
    runner.work()
    bug, refusal = (record.getMessage() for record in caplog.records)
    assert "in fail" in bug
    assert bug.endswith("ZeroDivisionError: a bug\n")
    assert refusal == "The runner of the lane 'web' failed. The disk is full."


def test_a_command_ends_where_what_becomes_of_it_can_not_be_told(db: Database, data_dir: Path) -> None:
    """As while the disk is full."""
    WEB.enqueue(db, Count(), "kim")
    job = WEB.claim_next(db, "w")
    assert job is not None

    def refuse(told: Any) -> tuple[int, int, str]:
        raise UserError("The disk is full.")

    program = "import time; print('{\"progress\": {}}', flush=True); time.sleep(3600)"
    with pytest.raises(UserError, match="full"):
        run_command(Attempt(db, data_dir, job, "w"), [sys.executable, "-c", program], {}, refuse)


# ------------------------------------------------------------------------------------------- the web server's own lane
FILTERS = Filters(iterations=(0,), annotators=("ann",), since="2020-01-01", agreement=0.5, sources=("human",))


def test_a_runner_that_can_not_open_the_database_tries_again(
    db: Database, data_dir: Path, started: list[LaneRunner[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the disk is full."""
    refusals = [UserError("The disk is full."), OSError("no space")]

    def opened(directory: Path) -> Database:
        if refusals:
            raise refusals.pop()
        return open_database(directory)

    monkeypatch.setattr(lane_runner, "open_database", opened)
    job = WEB.enqueue(db, Count(), "kim")
    runner = LaneRunner(data_dir, WEB, lambda attempt, job: JobOutcome("done"))
    started.append(runner)
    runner.start()
    wait_until("the job", lambda: status_of(db, job) == "finished")
    assert refusals == []


def test_the_spec_of_an_export_comes_back_from_its_row(db: Database) -> None:
    asked = export_files.WriteExport(
        ExportRequest(format="kto", container="jsonl", filters=FILTERS, names=True, licence="mit"), "kto.zip"
    )
    assert EXPORTS.get(db, EXPORTS.enqueue(db, asked, "kim")).spec == asked


@pytest.mark.own_start  # it is found by its command
def test_an_export_is_cancelled_and_leaves_no_file(
    db: Database, data_dir: Path, started: list[LaneRunner[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_all(db)
    export_files.start(db, ExportRequest(), "kim")
    (job,) = EXPORTS.recent(db, 9)
    with monkeypatch.context() as held:
        held.setattr(export_files, "PROGRAM", UNNAMED)
        started.append(LaneRunner(data_dir, EXPORTS, export_files.perform))
        started[0].start()
        wait_until("its process", lambda: process_writing(psutil.Process(), job.spec.file))
        job_table.cancel(db, job.id)
        wait_until("its end", lambda: status_of(db, job.id) == "cancelled")
    assert export_files.files(data_dir) == []
    export_files.start(db, ExportRequest("csv"), "kim")
    wait_until("the next", lambda: EXPORTS.recent(db, 1)[0].status == "finished")


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process without a word")
def test_an_export_whose_program_was_killed_is_written_by_the_next(db: Database, data_dir: Path) -> None:
    judge_all(db)
    export_files.start(db, ExportRequest(), "kim")
    (job,) = EXPORTS.recent(db, 9)
    code = "import sys, time, pathlib; from annotation.exports import export_files\n"
    code += f"export_files.PROGRAM = {UNNAMED!r}\n"
    code += "export_files.runner(pathlib.Path(sys.argv[1])).start()\n"
    code += "time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", code, str(data_dir)], cwd=ROOT) as program:
        child = wait_until("the process", lambda: process_writing(psutil.Process(program.pid), job.spec.file))
        program.send_signal(signal.SIGKILL)
    assert status_of(db, job.id) == "running"
    wait_until("its end with the program, by itself", lambda: has_ended(child))
    assert export_files.runner(data_dir).run_next(db)
    ended = EXPORTS.get(db, job.id)
    assert (ended.status, ended.attempt) == ("finished", 2), ended.message
    assert ended.message.startswith(f"Wrote {job.spec.file}: ")
    assert [entry.name for entry in export_files.files(data_dir)] == [job.spec.file]


def test_an_export_that_was_there_when_its_program_was_killed_is_not_written_again(
    db: Database, data_dir: Path
) -> None:
    export_files.start(db, ExportRequest(), "kim")
    job = EXPORTS.claim_next(db, "w")
    assert job is not None
    (data_dir / "exports").mkdir()
    (data_dir / "exports" / job.spec.file).write_bytes(b"whole")
    job_table.release(db, job.id, "w")
    assert LaneRunner(data_dir, EXPORTS, export_files.perform).run_next(db)
    assert EXPORTS.get(db, job.id).message == f"Wrote {job.spec.file} just before Prefloop was stopped."
    assert (data_dir / "exports" / job.spec.file).read_bytes() == b"whole"


# A program that the system tells to end.
TOLD_TO_END = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process without a word")
def test_an_export_whose_process_the_system_ends_before_the_program_is_written_by_the_next(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd does, which tells every process at once."""
    judge_all(db)
    export_files.start(db, ExportRequest(), "kim")
    (job,) = EXPORTS.recent(db, 9)
    with monkeypatch.context() as told:
        told.setattr(export_files, "command_of", lambda *_: [sys.executable, "-c", TOLD_TO_END])
        assert export_files.runner(data_dir).run_next(db)
    assert export_files.runner(data_dir).run_next(db)
    ended = EXPORTS.get(db, job.id)
    assert (ended.status, ended.attempt) == ("finished", 2), ended.message


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process without a word")
def test_an_import_whose_process_the_system_ends_before_the_program_ended_with_that(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = Importer(db)
    importer.start("import", ["--", "/uploads/gone.csv"], [])
    monkeypatch.setattr(import_process, "PROGRAM", ["-c", TOLD_TO_END])
    for _ in range(2):
        assert import_process.runner(data_dir).run_next(db)
    assert importer.state.error == "It ended with Prefloop, which was stopped. Nothing was imported."


@pytest.mark.parametrize("queue", [HERE, FROM_HUB], ids=["web", "hub"])
@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("a person", "It was cancelled."),
        ("the system", "It ended with Prefloop, which was stopped."),
        ("the program", "It ended with Prefloop, which was stopped."),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="ends a process without a word")
def test_an_import_that_is_ended_once_all_is_there_says_by_whom_and_is_not_done_again(
    db: Database, data_dir: Path, queue: JobQueue[ImportData], by: str, said: str
) -> None:
    number = queue.enqueue(db, ImportData(("--", "ann/data")), "kim")

    def commit(attempt: Attempt, job: Job[ImportData]) -> JobOutcome:
        row = {"name": "x", "sha256": "", "format": "csv", "counts": "{}", "requested_by": "kim"}
        db.insert("import", {**row, "created": now()})
        if by == "a person":
            job_table.cancel(db, number)
        if by == "the program":
            runner.ended.set()
        program = TOLD_TO_END if by == "the system" else "import time; time.sleep(3600)"
        return import_process.follow(attempt, job, [sys.executable, "-c", program], {})

    runner = LaneRunner(data_dir, queue, commit)
    assert runner.run_next(db)
    ended = queue.get(db, number)
    assert (ended.status, ended.message) == ("failed", f"{said} Just before, everything had been imported.")


def test_an_import_ends_with_its_program_and_says_whether_it_is_there(db: Database, data_dir: Path) -> None:
    importer = Importer(db)
    for written, said in ((False, "Nothing was imported."), (True, "Just before, everything had been imported.")):
        importer.start("import", ["--", "/uploads/gone.csv"], [])
        job = HERE.claim_next(db, "w")
        assert job is not None
        if written:
            with db.transaction():
                row = {"name": "x", "sha256": "", "format": "csv", "counts": "{}", "requested_by": "kim"}
                db.insert("import", {**row, "created": job.started})
        job_table.release(db, job.id, "w")
        assert LaneRunner(data_dir, HERE, import_process.perform).run_next(db)
        state = importer.state
        assert (state.status, state.number) == ("failed", job.id)
        assert state.error == f"It ended with Prefloop, which was stopped. {said}"


def test_what_a_look_has_shown_is_forgotten_when_the_next_begins(db: Database, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "private.jsonl"
    path.write_text('{"prompt": "a secret of ann"}\n', "utf-8")
    importer = Importer(db)
    importer.start("look", ["--", str(path)], [])
    assert LaneRunner(data_dir, HERE, import_process.perform).run_next(db)
    assert importer.state.status == "finished"
    assert any("a secret of ann" in str(row) for row in db.rows("SELECT result FROM job"))
    importer.start("look", ["--", "elsewhere.jsonl"], [])
    assert not any("a secret of ann" in str(row) for row in db.rows("SELECT result FROM job"))


def test_no_token_is_in_the_log_of_an_import_that_failed_or_of_a_heart_that_did(
    db: Database,
    data_dir: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = f"hf_{'a1' * 17}"
    HERE.enqueue(db, ImportData(("--look", "--", "x.csv")), "kim")
    job = HERE.claim_next(db, "worker")
    assert job is not None
    attempt = Attempt(db, data_dir, job, "worker")
    fails = [sys.executable, "-c", f"raise RuntimeError('no way with {secret}')"]
    with pytest.raises(UserError, match="ended unexpectedly"):
        import_process.follow(attempt, job, fails, {})
    assert "no way with [token]" in caplog.text

    ended = threading.Event()

    def breaks() -> None:
        ended.set()
        raise RuntimeError(f"no way with {secret}")

    keep_repeating(breaks, 0.0, ended)
    said = capsys.readouterr().err
    assert "RuntimeError: no way with [token]" in said
    assert secret not in said + caplog.text
