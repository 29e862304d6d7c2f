"""The queue and the supervisor with real worker processes: one at a time, in order, and what their deaths leave."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from annotation.database import Database
from annotation.jobs import job_table, liveness
from annotation.records import UserError
from annotation.sqlite import sqlite3
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation.answering_spec import AnsweringSpec, answers_come
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.devices import PROCESSORS, VISIBLE, devices_here
from rlhf.jobs.job_spec import JobSpec, to_json
from rlhf.jobs.out_of_memory import KILLED, MEMORY_RAN_OUT, advice
from rlhf.jobs.rental_store import Terms
from rlhf.jobs.run import Run, perform
from rlhf.loop import supervisor as supervisor_module
from rlhf.loop.supervisor import FIRST_RETRY_SECONDS, KILLED_MARK, Supervisor
from rlhf.workers.worker_process import WorkerProcess, process_tree, worker_command
from tests.conftest import BASE_NAME
from tests.machine_fixtures import PATIENCE_SECONDS, Machine, has_ended, wait_until
from tests.run_fixtures import QUICK_SFT, demonstrations, finished_run, run_beforehand, starve

pytestmark = pytest.mark.slow

DPO = DPOSpec()


@pytest.fixture
def unhurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that never come to claim their jobs, so that what was queued can be looked at."""
    run_beforehand(monkeypatch, tmp_path, "import signal\nsignal.pause()")


@pytest.fixture
def supervisor(db: Database, data_dir: Path, unhurried: None) -> Iterator[Supervisor]:
    """A supervisor whose thread does not run: each test takes the steps itself. What it started is killed."""
    yield from supervising(Supervisor(db, data_dir, BASE_NAME, [PROCESSORS]))


@pytest.fixture
def two_devices(db: Database, data_dir: Path, unhurried: None) -> Iterator[Supervisor]:
    """The same on a machine that has two GPUs."""
    yield from supervising(Supervisor(db, data_dir, BASE_NAME, ["0", "1"]))


@pytest.fixture
def at_machine(machine: Machine) -> Iterator[Supervisor]:
    """The same over the tiny model, where jobs can really run."""
    yield from supervising(Supervisor(machine.db, machine.data_dir, str(machine.model), [PROCESSORS]))


def supervising(supervisor: Supervisor) -> Iterator[Supervisor]:
    """A supervisor to work with; in the end what it started is killed."""
    (supervisor.data_dir / "logs").mkdir()
    yield supervisor
    for child in supervisor.children.values():
        child.signal(signal.SIGKILL)
        child.process.wait(PATIENCE_SECONDS)


def queue(db: Database, spec: JobSpec = DPO) -> int:
    """A queued job."""
    return job_store.enqueue(db, spec, "ann")


def kill(supervisor: Supervisor, job_id: int) -> WorkerProcess:
    """Kill a job's worker, all its processes, and wait for its end; it is not reaped yet."""
    child = supervisor.children[job_id]
    child.signal(signal.SIGKILL)
    child.process.wait(PATIENCE_SECONDS)
    return child


# ------------------------------------------------------------------------------------------------------- the command
def test_one_process_is_started_as_a_module(db: Database) -> None:
    job = job_store.get(db, queue(db))
    expected = ["--data", "/data", "--job", str(job.id), "--worker", "w"]
    assert worker_command(job, Path("/data"), "w") == [sys.executable, "-m", "rlhf.workers.worker", *expected]
    check = job_store.get(db, queue(db, CheckSpec()))
    assert worker_command(check, Path("/data"), "w")[1:3] == ["-m", "rlhf.workers.worker"]


def test_several_processes_are_started_by_accelerate_with_one_worker_id(db: Database) -> None:
    job = job_store.get(db, queue(db, SFTSpec(processes=3)))
    command = worker_command(job, Path("/data"), "w")
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    for pair in (
        ["--num_processes", "3"],
        ["--num_machines", "1"],
        ["--main_process_port", "0"],
        ["-m", "rlhf.workers.worker"],
    ):
        place = command.index(pair[0], 3)
        assert command[place : place + 2] == pair
    assert "--cpu" not in command, "that starts one process unless there is mpirun"
    assert command[-6:] == ["--data", "/data", "--job", str(job.id), "--worker", "w"]


def test_accelerate_takes_the_command_to_torch_distributed(db: Database) -> None:
    """The parser of the installed version, and what its launcher decides from it."""
    from accelerate.commands.launch import launch_command_parser

    command = worker_command(job_store.get(db, queue(db, SFTSpec(processes=2))), Path("/data"), "w")
    options = launch_command_parser().parse_args(command[3:])
    assert (options.multi_gpu, options.cpu, options.num_processes, options.module) == (True, False, 2, True)
    assert options.training_script == "rlhf.workers.worker"
    assert options.training_script_args == command[-6:]


# ------------------------------------------------------------------------------------------------------------ in turn
def test_the_first_of_the_queue_is_started_and_only_one_at_a_time(db: Database, supervisor: Supervisor) -> None:
    first, second, check = queue(db), queue(db, SFTSpec()), queue(db, CheckSpec(candidate="x"))
    job_store.move(db, check, up=True)
    job_store.move(db, check, up=True)
    supervisor.start_next()
    assert list(supervisor.children) == [check]
    job_store.move(db, second, up=True)
    supervisor.start_next()
    assert list(supervisor.children) == [check], "its worker has not claimed it yet, and still it is its turn"
    end(supervisor, check)
    assert supervisor.children == {}
    supervisor.start_next()
    assert list(supervisor.children) == [second]
    assert job_store.get(db, first).status == "queued"


def test_a_job_that_another_program_runs_is_waited_for(db: Database, supervisor: Supervisor) -> None:
    elsewhere, waiting = queue(db), queue(db)
    assert job_store.claim(db, elsewhere, "another-program") is not None
    supervisor.start_next()
    assert supervisor.children == {}
    job_table.finish(db, elsewhere, "another-program", {})
    supervisor.start_next()
    assert list(supervisor.children) == [waiting]


def test_a_resumed_job_waits_its_turn_and_is_run_again(db: Database, supervisor: Supervisor) -> None:
    ended, other = queue(db), queue(db)
    job_store.claim(db, ended, "w")
    job_table.stop(db, ended, "w", "cancelled", "Cancelled.")
    job_store.resume(db, ended)
    supervisor.start_next()
    assert list(supervisor.children) == [other]
    assert [job.id for job in job_store.queue(db)] == [other, ended]


# ----------------------------------------------------------------------------------------------------------- devices
def visible(supervisor: Supervisor, job_id: int) -> str | None:
    """The GPUs that a job's worker sees."""
    process = psutil.Process(supervisor.children[job_id].process.pid)
    # For a moment after a program has begun the system shows none of its variables.
    told: dict[str, str] = wait_until("the worker's variables", process.environ)
    return told.get(VISIBLE)


def end(supervisor: Supervisor, job_id: int) -> None:
    """Take a job out whose worker has not begun, and forget that."""
    job_store.cancel(supervisor.db, job_id)
    kill(supervisor, job_id)
    supervisor.reap()


def test_jobs_run_beside_each_other_on_devices_of_their_own(db: Database, two_devices: Supervisor) -> None:
    first, second, third = queue(db), queue(db, SFTSpec()), queue(db, CheckSpec(candidate="x"))
    two_devices.start_next()
    assert {job: visible(two_devices, job) for job in two_devices.children} == {first: "0", second: "1"}
    assert job_store.claim(db, first, two_devices.children[first].worker) is not None
    two_devices.start_next()
    assert list(two_devices.children) == [first, second], "both devices are taken"
    end(two_devices, second)
    two_devices.start_next()
    assert {job: visible(two_devices, job) for job in two_devices.children} == {first: "0", third: "1"}


def test_a_job_waits_for_as_many_devices_as_it_has_processes_and_nothing_overtakes_it(
    db: Database, two_devices: Supervisor
) -> None:
    small, large, later = queue(db), queue(db, SFTSpec(processes=2)), queue(db)
    two_devices.start_next()
    assert list(two_devices.children) == [small]
    end(two_devices, small)
    two_devices.start_next()
    assert {job: visible(two_devices, job) for job in two_devices.children} == {large: "0,1"}
    end(two_devices, large)
    most = queue(db, SFTSpec(processes=5))
    job_store.move(db, most, up=True)
    two_devices.start_next()
    assert {job: visible(two_devices, job) for job in two_devices.children} == {most: "0,1"}, "all that there are"
    assert job_store.get(db, later).status == "queued"


def test_while_another_program_trains_no_device_is_known_to_be_free(db: Database, two_devices: Supervisor) -> None:
    elsewhere, waiting = queue(db), queue(db)
    assert job_store.claim(db, elsewhere, "another-program") is not None
    two_devices.start_next()
    assert two_devices.children == {}
    job_table.finish(db, elsewhere, "another-program", {})
    two_devices.start_next()
    assert list(two_devices.children) == [waiting]


def test_the_answering_worker_takes_no_device_and_sees_them_all(db: Database, two_devices: Supervisor) -> None:
    answering = job_store.enqueue(db, AnsweringSpec(), "the program")
    two_devices.keep_answering()
    first, second = queue(db), queue(db)
    two_devices.start_next()
    assert list(two_devices.children) == [answering, first, second]
    assert visible(two_devices, answering) is None


def test_devices_are_what_the_driver_lists_and_the_environment_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real program of that name that answers like the driver's."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'Some Card, 81559, 80994, 9.0'\necho 'Some Card, 81559, 80994, 9.0'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv(VISIBLE, raising=False)
    assert devices_here() == ["0", "1"]
    for allowed, expected in (("1", ["1"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]), ("", [PROCESSORS])):
        monkeypatch.setenv(VISIBLE, allowed)
        assert devices_here() == expected
    monkeypatch.delenv(VISIBLE)
    driver.write_text("#!/bin/sh\nexit 6\n")
    assert devices_here() == [PROCESSORS]


def test_a_driver_that_begins_anew_with_eight_gpus_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds each. Else all would be trained on the processors until the program starts again."""

    def answer(command: Any, *, timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        if timeout < 8 * 3:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0, "H100, 81559, 80000, 9.0\n" * 8)

    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("subprocess.run", answer)
    assert len(devices_here()) == 8


def test_on_the_processors_the_environment_stays_as_it_is(db: Database, supervisor: Supervisor) -> None:
    job = queue(db, SFTSpec(processes=2))
    supervisor.start_next()
    assert visible(supervisor, job) is None


# ------------------------------------------------------------------------------------------------------------- deaths
def test_a_job_fails_whose_worker_dies_twice_before_it_could_begin(db: Database, supervisor: Supervisor) -> None:
    job = queue(db)
    for _start in range(2):
        assert job_store.get(db, job).status == "queued"
        supervisor.start_next()
        kill(supervisor, job)
        supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, row.attempt) == ("failed", 0)
    assert KILLED in row.message
    assert f"job-{job}.log" in row.message


@pytest.mark.own_start
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_waits_for_the_next_start_where_the_system_ends_its_worker_before_it_could_begin(
    db: Database, supervisor: Supervisor, processes: int
) -> None:
    """As systemd does, which tells every process at once."""
    job = queue(db, SFTSpec(processes=processes))
    supervisor.start_next()
    child = supervisor.children[job]
    all_of_them = 1 if processes == 1 else 1 + processes
    wait_until("its processes", lambda: len(process_tree(child.process.pid)) == all_of_them)
    child.signal(signal.SIGTERM)
    assert child.process.wait(PATIENCE_SECONDS) != 0
    supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, supervisor.children) == ("queued", {}), row.message


@pytest.mark.own_start
def test_a_job_waits_for_the_next_start_also_where_its_launcher_sees_a_process_end_before_it_is_told(
    db: Database, supervisor: Supervisor
) -> None:
    job = queue(db, SFTSpec(processes=2))
    supervisor.start_next()
    child = supervisor.children[job]
    youngest, *_ = wait_until("its processes", lambda: len(found := process_tree(child.process.pid)) == 3 and found)
    youngest.terminate()
    assert child.process.wait(PATIENCE_SECONDS) != 0
    supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, supervisor.children) == ("queued", {}), row.message


def test_who_said_that_it_ended_with_the_program_is_not_contradicted_by_its_launcher(
    db: Database, supervisor: Supervisor
) -> None:
    job = queue(db, SFTSpec(processes=2))
    supervisor.start_next()
    child = supervisor.children[job]
    assert job_store.claim(db, job, child.worker) is not None
    said = job_store.ended_with_program(SFTSpec())
    assert job_table.stop(db, job, child.worker, "lost", said)
    child.signal(signal.SIGTERM)
    assert child.process.wait(PATIENCE_SECONDS) != 0
    supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, row.message) == ("lost", said)


def test_a_killed_worker_is_told_of_with_what_to_lower(db: Database, supervisor: Supervisor) -> None:
    job = queue(db, SFTSpec(batch_size=8))
    supervisor.start_next()
    assert job_store.claim(db, job, supervisor.children[job].worker) is not None
    kill(supervisor, job)
    supervisor.reap()
    row = job_store.get(db, job)
    assert row.status == "lost"
    assert row.message.startswith(KILLED)
    for words in ("batch_size below 8", "max_length below 512", "QLoRA", "lora_targets"):
        assert words in row.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", f"{MEMORY_RAN_OUT} .*batch_size below 8"),
        ("cannot allocate memory for thread-local data: ABORT", f"{MEMORY_RAN_OUT} .*batch_size below 8"),
        ("double free or corruption", r"The worker died \(exit code -6\)\. See .*job-1\.log"),
    ],
)
def test_a_library_that_ends_a_worker_for_want_of_memory_is_told_of_as_such(
    db: Database, supervisor: Supervisor, words: str, said: str
) -> None:
    """As where the memory of a program is limited: not every library can raise an error."""
    job = queue(db, SFTSpec(batch_size=8))
    supervisor.start_next()
    child = supervisor.children[job]
    assert job_store.claim(db, job, child.worker) is not None
    with supervisor.log_file(job).open("a") as log:
        log.write(f"{words}\n")
    child.signal(signal.SIGABRT)
    child.process.wait(PATIENCE_SECONDS)
    supervisor.reap()
    row = job_store.get(db, job)
    assert row.status == "lost"
    assert re.match(said, row.message)
    assert row.reason == ("out-of-memory" if said.startswith(MEMORY_RAN_OUT) else None)


def test_nothing_is_left_of_a_worker_that_was_killed(db: Database, supervisor: Supervisor) -> None:
    job = queue(db)
    supervisor.start_next()
    left = supervisor.data_dir / liveness.DIRECTORY / supervisor.children[job].worker
    left.parent.mkdir()
    left.touch()
    kill(supervisor, job)
    supervisor.reap()
    assert not left.exists()


def test_failures_of_the_answering_worker_that_are_far_apart_do_not_add_up(
    db: Database, supervisor: Supervisor
) -> None:
    """Each had worked for hours: the first retry is soon."""
    for _death in range(3):
        supervisor._ticks += 3600.0
        supervisor.keep_answering()
        ((job, child),) = supervisor.children.items()
        assert job_store.claim(db, job, child.worker) is not None
        db.write("UPDATE job SET heartbeat = ? WHERE id = ?", (job_table.seconds_from_now(3600), job))
        kill(supervisor, job)
        supervisor.reap()
        assert supervisor._answering_not_before == supervisor._ticks + FIRST_RETRY_SECONDS


def test_a_killed_worker_that_may_halve_its_batch_is_queued_again(db: Database, supervisor: Supervisor) -> None:
    job, later = queue(db, SFTSpec(batch_size=8, halve_batch=True)), queue(db)
    supervisor.start_next()
    assert job_store.claim(db, job, supervisor.children[job].worker) is not None
    kill(supervisor, job)
    supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, row.spec) == ("queued", SFTSpec(batch_size=4, accumulation=2, halve_batch=True))
    assert "batch_size 8 → 4, accumulation 1 → 2" in job_store.log_tail(db, job)[0]
    supervisor.start_next()
    assert list(supervisor.children) == [job], "it goes on before what came later"
    assert job_store.get(db, later).status == "queued"


def test_a_death_that_the_disk_refuses_is_recorded_later(
    db: Database, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True))
    supervisor.start_next()
    assert job_store.claim(db, job, supervisor.children[job].worker) is not None
    kill(supervisor, job)

    def refuse() -> Any:
        raise UserError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(db, "transaction", refuse)
        with pytest.raises(UserError):
            supervisor.reap()
    supervisor.reap()
    assert job_store.get(db, job).status == "queued"


def test_workers_are_started_also_once_somebody_has_deleted_all_logs(db: Database, supervisor: Supervisor) -> None:
    (supervisor.data_dir / "logs").rmdir()
    job = queue(db)
    supervisor.start_next()
    assert list(supervisor.children) == [job]
    assert supervisor.log_file(job).is_file()


def test_a_worker_that_hung_is_killed_and_its_job_stays_lost(
    db: Database, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the supervisor that kills it, so nothing says that memory ran out. One that is heard of is left alone."""
    monkeypatch.setattr(supervisor_module, "HUNG_LOOKS", 3)
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True))
    supervisor.start_next()
    child = supervisor.children[job]
    assert job_store.claim(db, job, child.worker) is not None
    for _look in range(9):
        job_table.beat(db, job, child.worker)
        supervisor.end_hanging()
    assert (job_store.get(db, job).status, child.process.poll()) == ("running", None)
    for _look in range(5):
        supervisor.end_hanging()
    assert child.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, row.spec) == ("lost", SFTSpec(batch_size=8, halve_batch=True))
    assert "without a word" in row.message
    assert job not in supervisor.children


def test_an_answering_job_of_an_earlier_start_counts_as_begun_when_its_worker_is_started(
    db: Database, supervisor: Supervisor
) -> None:
    job = job_store.enqueue(db, AnsweringSpec(), "the program")
    db.write("UPDATE job SET created = '2026-01-01T00:00:00+00:00' WHERE id = ?", (job,))
    assert not answers_come(db)
    supervisor.keep_answering()
    assert answers_come(db)


def test_what_was_rented_is_followed_further_until_its_follower_is_gone(db: Database, supervisor: Supervisor) -> None:
    """Its time is over, as after a sleep of the machine, and what it has made waits to be fetched."""
    job = rental_store.enqueue(db, SFTSpec(), "ann", Terms("a10g-small", 1.0, 1.0))
    assert rental_store.acquire(db, job, "follower") is not None
    long_ago = "2026-01-01T00:00:00.000000+00:00"
    db.write("UPDATE job SET heartbeat = ?, started = ? WHERE id = ?", (long_ago, long_ago, job))
    supervisor.tick()
    assert job_store.get(db, job).status == "running"
    liveness.end(db, "follower")
    supervisor.tick()
    assert job_store.get(db, job).status == "lost", "nobody follows it"


def test_a_job_that_its_own_worker_queued_again_is_not_given_up(db: Database, supervisor: Supervisor) -> None:
    """The worker caught the error, put the job back, and ended with an error of its own."""
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True))
    supervisor.start_next()
    child = supervisor.children[job]
    assert job_store.claim(db, job, child.worker) is not None
    assert job_store.requeue_smaller(db, job, child.worker, "out-of-memory")
    child.process.terminate()
    child.process.wait(PATIENCE_SECONDS)
    supervisor.reap()
    assert job_store.get(db, job).status == "queued"


@pytest.mark.own_start
def test_all_processes_of_a_job_end_together_and_one_killed_is_noticed(db: Database, supervisor: Supervisor) -> None:
    """A real launcher with two processes: the system kills one of them, the launcher ends the other."""
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True, processes=2))
    supervisor.start_next()
    child = supervisor.children[job]

    def ranks() -> list[psutil.Process]:
        found = [process for process in process_tree(child.process.pid) if process.pid != child.process.pid]
        return found if len(found) == 2 else []

    first, second = wait_until("two processes", ranks)
    job_store.claim(db, job, child.worker)
    second.kill()
    wait_until("the launcher's end", lambda: child.process.poll() is not None)
    wait_until("the end of both", lambda: has_ended(first) and has_ended(second))
    supervisor.reap()
    row = job_store.get(db, job)
    assert (row.status, row.worker) == ("queued", None)
    assert row.spec == SFTSpec(batch_size=4, accumulation=2, halve_batch=True, processes=2)


@pytest.mark.own_start
def test_stopping_reaches_every_process_of_a_job(db: Database, supervisor: Supervisor) -> None:
    job = queue(db, SFTSpec(processes=2))
    supervisor.start_next()
    child = supervisor.children[job]
    wait_until("two processes", lambda: len(process_tree(child.process.pid)) == 3)
    processes = process_tree(child.process.pid)
    supervisor.stop()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    assert alive == []


def test_the_end_of_the_program_is_told_in_the_rows_of_workers_that_can_not_say_so(
    db: Database, supervisor: Supervisor
) -> None:
    """One has claimed its job and dies without a word; the other is still at its imports."""
    begun, waiting = queue(db), queue(db, SFTSpec())
    supervisor.devices = ["0", "1"]
    supervisor.start_next()
    assert job_store.claim(db, begun, supervisor.children[begun].worker) is not None
    children = list(supervisor.children.values())
    assert len(children) == 2
    supervisor.stop()
    assert all(child.process.returncode is not None for child in children)
    row = job_store.get(db, begun)
    assert (row.status, row.message) == ("lost", "Prefloop was stopped while this ran.")
    assert (job_store.get(db, waiting).status, job_store.get(db, waiting).attempt) == ("queued", 0)


# Told to end, it goes on until there is a file of this name.
UNTIL_IT_MAY_END = """
import os, signal, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("{ready}", "w").close()
while not os.path.exists("{may_end}"):
    time.sleep(0.01)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("silent", "looks", "hurried", "code"),
    [(False, 99, 99, 0), (True, 99, 99, -9), (False, 8, 99, -9), (False, 99, 8, -9)],
)
def test_the_end_of_a_worker_is_waited_for_while_it_is_heard_of_and_not_for_ever(
    db: Database,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    silent: bool,
    looks: int,
    hurried: int,
    code: int,
) -> None:
    """However slow the machine is: it ends at the twentieth look, silent for no more than three, or somebody hurries
    the program at the eighth."""
    ready, may_end = tmp_path / "ready", tmp_path / "may-end"
    run_beforehand(monkeypatch, tmp_path, UNTIL_IT_MAY_END.format(ready=ready, may_end=may_end))
    for name, value in {"POLL_SECONDS": 0.01, "SILENT_LOOKS": 3, "ENDING_LOOKS": looks}.items():
        monkeypatch.setattr(supervisor_module, name, value)
    job = queue(db)
    supervisor.start_next()
    child = supervisor.children[job]
    assert job_store.claim(db, job, child.worker) is not None
    wait_until("the worker", ready.exists)
    looked, heartbeat = count(1), supervisor.heartbeat

    def beaten(job_id: int) -> str | None:
        look = next(looked)
        supervisor.hurried = lambda: look >= hurried
        if not silent and look % 2:
            job_table.beat(db, job, child.worker)
        if look >= 20:
            may_end.touch()
        return heartbeat(job_id)

    monkeypatch.setattr(supervisor, "heartbeat", beaten)
    supervisor.stop()
    assert child.process.returncode == code
    assert job_store.get(db, job).message == "Prefloop was stopped while this ran."


@pytest.mark.parametrize("error", [UserError("The disk is full."), sqlite3.OperationalError("database is locked")])
def test_every_worker_is_waited_for_where_the_end_of_the_first_can_not_be_recorded(
    db: Database,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    begun = [queue(db), queue(db, SFTSpec())]
    supervisor.devices = ["0", "1"]
    supervisor.start_next()
    assert all(job_store.claim(db, job, supervisor.children[job].worker) is not None for job in begun)

    def refuse() -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(db, "transaction", refuse)
        supervisor.stop()
    assert all(child.process.returncode is not None for child in supervisor.children.values())
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"The end of job {begun[0]} was not recorded.")
    assert str(error) in first
    assert str(error) in second


def test_a_disk_that_refuses_writes_is_a_sentence_in_the_programs_log_once_until_that_is_over(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may do so each second for days."""
    fails = [True, True, False, True, True]

    def tick() -> None:
        failing = fails.pop()
        if not fails:
            supervisor._ended.set()
        if failing:
            raise UserError("The disk is full.")

    monkeypatch.setattr(supervisor, "tick", tick)
    monkeypatch.setattr("rlhf.loop.supervisor.POLL_SECONDS", 0.0)
    supervisor._loop()
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("The supervisor failed. The disk is full.", None)
    ] * 2


def test_jobs_are_started_also_while_the_loop_can_not_take_its_next_step(
    db: Database, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("The snapshots can't be written.")

    job = queue(db)
    monkeypatch.setattr("rlhf.loop.controller.advance", refuse)
    with pytest.raises(UserError):
        supervisor.tick()
    assert job in supervisor.children


def test_workers_are_told_of_the_end_of_the_program_while_its_thread_waits(
    db: Database, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For another's write, say; those who stop a program don't wait long."""
    job = queue(db)
    supervisor.start_next()
    child, waits, released = supervisor.children[job], threading.Event(), threading.Event()

    def tick() -> None:
        waits.set()
        assert released.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(supervisor, "tick", tick)
    supervisor.start()
    assert waits.wait(PATIENCE_SECONDS)
    stopping = threading.Thread(target=supervisor.stop)
    stopping.start()
    try:
        child.process.wait(PATIENCE_SECONDS)
    finally:
        released.set()
        stopping.join()


# ------------------------------------------------------------------------------------- a real run that can't go on
SHARED = replace(QUICK_SFT, processes=2, precision="fp32", samples=0, checkpoint_steps=1)


def see_through(supervisor: Supervisor, job_id: int) -> job_store.Job:
    """Let a job that was started end, and record it."""
    supervisor.children[job_id].process.wait(PATIENCE_SECONDS)
    supervisor.reap()
    return job_store.get(supervisor.db, job_id)


def test_memory_that_runs_out_in_the_second_process_ends_the_job_as_in_the_first(
    machine: Machine, at_machine: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starve(monkeypatch, tmp_path, rank=1, rows=2)
    job_id = machine.submit(replace(SHARED, snapshot=demonstrations(machine)))
    at_machine.start_next()
    job = see_through(at_machine, job_id)
    assert job.status == "failed"
    assert job.message.startswith("Memory ran out. ")
    assert "Set batch_size below 4." in job.message
    assert job_store.can_be_halved(job)


def test_memory_that_runs_out_in_the_second_process_halves_the_batch_where_that_is_asked_for(
    machine: Machine, at_machine: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starve(monkeypatch, tmp_path, rank=1, rows=2)
    job_id = machine.submit(replace(SHARED, halve_batch=True, snapshot=demonstrations(machine)))
    at_machine.start_next()
    job = see_through(at_machine, job_id)
    assert job.status == "queued"
    assert job_store.retries(machine.db, job_id) == [
        "Memory ran out. Queued again with a smaller batch: batch_size 4 → 2, accumulation 1 → 2."
    ]
    at_machine.start_next()
    assert see_through(at_machine, job_id).status == "finished"
    assert any("resuming from checkpoint-2" in line for line in job_store.log_tail(machine.db, job_id))


@pytest.mark.parametrize("words", [b"failed (exitcode: -9) local_rank: 1", b"  exitcode  : -9 (pid: 7)  (SIGKILL)"])
def test_a_killed_process_is_told_from_what_the_launcher_says_first_or_in_its_list(words: bytes) -> None:
    """It names the one first that it saw end first, which may be one that was left alone."""
    assert KILLED_MARK.search(words)
    assert not KILLED_MARK.search(words.replace(b"-9", b"-6"))


def test_a_process_that_is_killed_in_training_takes_the_job_with_it_and_it_is_queued_again(
    machine: Machine, at_machine: Supervisor
) -> None:
    """The one that is left is cut off in the middle of a step, and must not call that a failure."""
    spec = replace(SHARED, epochs=100_000, halve_batch=True, snapshot=demonstrations(machine))
    job_id = machine.submit(spec)
    at_machine.start_next()
    child = at_machine.children[job_id]
    wait_until("the second step", lambda: job_store.get(machine.db, job_id).step >= 2)
    second = [process for process in process_tree(child.process.pid) if process.environ().get("RANK") == "1"]
    assert len(second) == 1
    second[0].kill()
    assert see_through(at_machine, job_id).status == "queued"
    assert job_store.retries(machine.db, job_id)[0].startswith(KILLED)


def test_a_run_goes_on_with_half_the_batch_and_learns_the_same(machine: Machine) -> None:
    """The allocator refuses the fourth step its memory."""
    spec = replace(QUICK_SFT, precision="fp32", samples=0, snapshot=demonstrations(machine))

    class Starved(Run):
        """Runs out of memory after it has reported its third step."""

        def report(self, step: int, steps: int, metrics: Any, message: str = "") -> None:
            super().report(step, steps, metrics, message)
            if step == 3 and metrics:
                torch.empty(1 << 46)

    unbroken = finished_run(machine, spec)
    job_id = machine.submit(spec)
    claimed = job_store.claim(machine.db, job_id, "w")
    assert claimed is not None
    assert perform(Starved(machine.db, machine.data_dir, claimed, "w"), claimed.spec) == 1
    assert job_store.can_be_halved(job_store.get(machine.db, job_id))
    job_store.resume(machine.db, job_id, half_batch=True)
    job = machine.perform(job_id)
    assert job.status == "finished", job.message
    assert job.spec == replace(spec, model=unbroken.spec.model, parent="base", batch_size=2, accumulation=2)
    assert any("resuming from checkpoint-2" in line for line in job_store.log_tail(machine.db, job_id))
    expected, found = (machine.adapter((one.result or {})["revision"]) for one in (unbroken, job))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=2e-4)


def test_a_run_whose_loss_was_no_number_goes_on_more_slowly_from_the_last_good_checkpoint(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are spoiled before the fourth step, so that the loss is none."""
    from rlhf.algorithms.trl_trainer import ProgressCallback

    spec = replace(QUICK_SFT, samples=0, snapshot=demonstrations(machine))
    unbroken = finished_run(machine, spec)
    job_id = machine.submit(spec)

    def spoil(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.step_begins()
        if state.global_step == 3:
            trained = [weight for weight in self.trainer.model.parameters() if weight.requires_grad]
            trained[0].data.fill_(float("nan"))

    with monkeypatch.context() as patched:
        patched.setattr(ProgressCallback, "on_step_begin", spoil)
        failed = machine.perform(job_id)
    assert failed.status == "failed"
    for words in ("became not a number at step 4", "checkpoint-2, is kept: Resume goes on", "half the learning_rate"):
        assert words in failed.message
    changed = job_store.resume(machine.db, job_id)
    assert changed == "Queued again with half the learning rate: learning_rate 0.005 → 0.0025."
    job = machine.perform(job_id)
    assert job.status == "finished", job.message
    assert any(changed in line for line in job_store.log_tail(machine.db, job_id))
    whole, halved = (
        {entry["step"]: entry["learning_rate"] for entry in job_store.metrics(machine.db, one.id)}
        for one in (unbroken, job)
    )
    assert halved.keys() == whole.keys() == {1, 2, 3, 4, 5, 6}
    for step, rate in whole.items():
        assert halved[step] == pytest.approx(rate if step <= 2 else rate / 2, rel=1e-6), step


# ------------------------------------------------------------------------------------------------------------- advice
@pytest.mark.parametrize(
    ("spec", "words", "absent"),
    [
        (
            SFTSpec(method="lora", batch_size=8),
            ("batch_size below 8", "max_length below 512", "method QLoRA", "lora_targets", "halve_batch"),
            ("max_new_tokens",),
        ),
        (
            PPOSpec(method="qlora"),
            ("batch_size below 4", "sampling.max_new_tokens below", "lora_targets"),
            ("method QLoRA",),
        ),
        (SFTSpec(method="full"), ("method QLoRA",), ("lora_targets",)),
        (DPOSpec(batch_size=1, halve_batch=True), ("max_length",), ("batch_size", "halve_batch")),
        (DPOSpec(method="qlora", lora_targets="attention"), ("batch_size below 4",), ("lora_targets", "method QLoRA")),
        (CheckSpec(), ("smaller base model",), ("batch_size",)),
        (
            MeasureSpec(training=to_json(SFTSpec(batch_size=6, max_length=300))),
            ("batch_size below 6", "max_length below 300"),
            ("smaller base model",),
        ),
    ],
)
def test_advice_names_what_can_be_lowered_and_nothing_else(
    spec: JobSpec, words: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    said = advice(spec)
    assert [word for word in words if word not in said] == []
    assert [word for word in absent if word in said] == []
