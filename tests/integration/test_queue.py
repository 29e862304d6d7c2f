"""The queue and the supervisor with real worker processes: one at a time, in order, and what their deaths leave."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from annotation.database import Database
from rlhf import jobs
from rlhf.shrinking import advice
from rlhf.specs import DPOSpec, EvaluateSpec, PPOSpec, SFTSpec, Spec
from rlhf.supervisor import KILLED, Child, Supervisor, family, worker_command
from tests.conftest import BASE_NAME
from tests.machine_fixtures import wait_until

DPO = DPOSpec()


@pytest.fixture
def supervisor(db: Database, data_dir: Path) -> Iterator[Supervisor]:
    """A supervisor whose thread does not run: each test takes the steps itself. What it started is killed."""
    made = Supervisor(db, data_dir, BASE_NAME)
    (data_dir / "logs").mkdir()
    yield made
    for child in made.children.values():
        child.signal(signal.SIGKILL)
        child.process.wait(30)


def queue(db: Database, spec: Spec = DPO) -> int:
    """A queued job whose worker needs seconds for its imports, and so can be looked at before it begins."""
    return jobs.enqueue(db, spec, "ann")


def kill(supervisor: Supervisor, job_id: int) -> Child:
    """Kill a job's worker, all its processes, and wait for its end; it is not reaped yet."""
    child = supervisor.children[job_id]
    child.signal(signal.SIGKILL)
    child.process.wait(30)
    return child


# ------------------------------------------------------------------------------------------------------- the command
def test_one_process_is_started_as_a_module(db: Database) -> None:
    job = jobs.get(db, queue(db))
    expected = ["--data", "/data", "--job", str(job.id), "--worker", "w"]
    assert worker_command(job, Path("/data"), "w") == [sys.executable, "-m", "rlhf.worker", *expected]
    check = jobs.get(db, queue(db, EvaluateSpec()))
    assert worker_command(check, Path("/data"), "w")[1:3] == ["-m", "rlhf.worker"]


def test_several_processes_are_started_by_accelerate_with_one_worker_id(db: Database) -> None:
    job = jobs.get(db, queue(db, SFTSpec(processes=3)))
    command = worker_command(job, Path("/data"), "w")
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    for pair in (
        ["--num_processes", "3"],
        ["--num_machines", "1"],
        ["--main_process_port", "0"],
        ["-m", "rlhf.worker"],
    ):
        place = command.index(pair[0], 3)
        assert command[place : place + 2] == pair
    assert "--cpu" not in command, "that starts one process unless there is mpirun"
    assert command[-6:] == ["--data", "/data", "--job", str(job.id), "--worker", "w"]


def test_accelerate_takes_the_command_to_torch_distributed(db: Database) -> None:
    """The parser of the installed version, and what its launcher decides from it."""
    from accelerate.commands.launch import launch_command_parser

    command = worker_command(jobs.get(db, queue(db, SFTSpec(processes=2))), Path("/data"), "w")
    options = launch_command_parser().parse_args(command[3:])
    assert (options.multi_gpu, options.cpu, options.num_processes, options.module) == (True, False, 2, True)
    assert options.training_script == "rlhf.worker"
    assert options.training_script_args == command[-6:]


# ------------------------------------------------------------------------------------------------------------ in turn
def test_the_first_of_the_queue_is_started_and_only_one_at_a_time(db: Database, supervisor: Supervisor) -> None:
    first, second, check = queue(db), queue(db, SFTSpec()), queue(db, EvaluateSpec(candidate="x"))
    jobs.move(db, check, up=True)
    jobs.move(db, check, up=True)
    supervisor.start_next()
    assert list(supervisor.children) == [check]
    jobs.move(db, second, up=True)
    supervisor.start_next()
    assert list(supervisor.children) == [check], "its worker has not claimed it yet, and still it is its turn"
    kill(supervisor, check)
    supervisor.reap()
    assert supervisor.children == {}
    supervisor.start_next()
    assert list(supervisor.children) == [second]
    assert jobs.get(db, first).status == "queued"


def test_a_job_that_another_program_runs_is_waited_for(db: Database, supervisor: Supervisor) -> None:
    elsewhere, waiting = queue(db), queue(db)
    assert jobs.claim(db, elsewhere, "python -m rlhf run") is not None
    supervisor.start_next()
    assert supervisor.children == {}
    jobs.finish(db, elsewhere, "python -m rlhf run", {})
    supervisor.start_next()
    assert list(supervisor.children) == [waiting]


def test_a_resumed_job_waits_its_turn_and_is_run_again(db: Database, supervisor: Supervisor) -> None:
    ended, other = queue(db), queue(db)
    jobs.claim(db, ended, "w")
    jobs.stop(db, ended, "w", "cancelled", "Cancelled.")
    jobs.resume(db, ended)
    supervisor.start_next()
    assert list(supervisor.children) == [other]
    assert [job.id for job in jobs.queue(db)] == [other, ended]


# ------------------------------------------------------------------------------------------------------------- deaths
def test_a_worker_that_dies_before_it_could_begin_fails_its_job(db: Database, supervisor: Supervisor) -> None:
    job = queue(db)
    supervisor.start_next()
    kill(supervisor, job)
    supervisor.reap()
    row = jobs.get(db, job)
    assert (row.status, row.attempt) == ("failed", 0)
    assert KILLED in row.message
    assert f"job-{job}.log" in row.message


def test_a_killed_worker_is_told_of_with_what_to_lower(db: Database, supervisor: Supervisor) -> None:
    job = queue(db, SFTSpec(batch_size=8))
    supervisor.start_next()
    assert jobs.claim(db, job, supervisor.children[job].worker) is not None
    kill(supervisor, job)
    supervisor.reap()
    row = jobs.get(db, job)
    assert row.status == "lost"
    assert row.message.startswith(KILLED)
    for words in ("Resume goes on", "batch_size below 8", "max_length below 512", "qlora", "lora_targets"):
        assert words in row.message


def test_a_killed_worker_that_may_halve_its_batch_is_queued_again(db: Database, supervisor: Supervisor) -> None:
    job, later = queue(db, SFTSpec(batch_size=8, halve_batch=True)), queue(db)
    supervisor.start_next()
    assert jobs.claim(db, job, supervisor.children[job].worker) is not None
    kill(supervisor, job)
    supervisor.reap()
    row = jobs.get(db, job)
    assert (row.status, row.spec) == ("queued", SFTSpec(batch_size=4, accumulation=2, halve_batch=True))
    assert "batch_size 8 → 4, accumulation 1 → 2" in jobs.log_tail(db, job)[0]
    supervisor.start_next()
    assert list(supervisor.children) == [job], "it goes on before what came later"
    assert jobs.get(db, later).status == "queued"


def test_a_worker_that_hung_is_killed_and_its_job_stays_lost(db: Database, supervisor: Supervisor) -> None:
    """It is the supervisor that kills it, so nothing says that memory ran out."""
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True))
    supervisor.start_next()
    assert jobs.claim(db, job, supervisor.children[job].worker) is not None
    assert jobs.mark_lost(db, -1) == [job]
    kill(supervisor, job)
    supervisor.reap()
    row = jobs.get(db, job)
    assert (row.status, row.spec) == ("lost", SFTSpec(batch_size=8, halve_batch=True))
    assert "without a word" in row.message


def test_a_job_that_its_own_worker_queued_again_is_not_given_up(db: Database, supervisor: Supervisor) -> None:
    """The worker caught the error, put the job back, and ended with an error of its own."""
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True))
    supervisor.start_next()
    child = supervisor.children[job]
    assert jobs.claim(db, job, child.worker) is not None
    assert jobs.requeue_smaller(db, job, child.worker, "Memory ran out.")
    child.process.terminate()
    child.process.wait(30)
    supervisor.reap()
    assert jobs.get(db, job).status == "queued"


def test_all_processes_of_a_job_end_together_and_one_killed_is_noticed(db: Database, supervisor: Supervisor) -> None:
    """A real launcher with two processes: the system kills one of them, the launcher ends the other."""
    job = queue(db, SFTSpec(batch_size=8, halve_batch=True, processes=2))
    supervisor.start_next()
    child = supervisor.children[job]

    def ranks() -> list[psutil.Process]:
        found = [process for process in family(child.process.pid) if process.pid != child.process.pid]
        return found if len(found) == 2 else []

    first, second = wait_until("two processes", ranks)
    # The first would claim it once it is that far; nothing here depends on how far it is.
    jobs.claim(db, job, child.worker)
    second.kill()
    wait_until("the launcher's end", lambda: child.process.poll() is not None)
    psutil.wait_procs([first, second], timeout=30)
    assert not first.is_running()
    supervisor.reap()
    row = jobs.get(db, job)
    assert (row.status, row.worker) == ("queued", None)
    assert row.spec == SFTSpec(batch_size=4, accumulation=2, halve_batch=True, processes=2)


def test_stopping_reaches_every_process_of_a_job(db: Database, supervisor: Supervisor) -> None:
    job = queue(db, SFTSpec(processes=2))
    supervisor.start_next()
    child = supervisor.children[job]
    wait_until("two processes", lambda: len(family(child.process.pid)) == 3)
    processes = family(child.process.pid)
    supervisor.stop()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


# ------------------------------------------------------------------------------------------------------------- advice
@pytest.mark.parametrize(
    ("spec", "words", "absent"),
    [
        (
            SFTSpec(batch_size=8),
            ("batch_size below 8", "max_length below 512", "method qlora", "lora_targets", "halve_batch"),
            ("max_new_tokens",),
        ),
        (PPOSpec(), ("batch_size below 4", "sampling.max_new_tokens below", "lora_targets"), ("method qlora",)),
        (SFTSpec(method="full"), ("method qlora",), ("lora_targets",)),
        (DPOSpec(batch_size=1, halve_batch=True), ("max_length",), ("batch_size", "halve_batch")),
        (replace(DPOSpec(), lora_targets="attention"), ("batch_size below 2",), ("lora_targets", "method qlora")),
        (EvaluateSpec(), ("smaller base model",), ("batch_size",)),
    ],
)
def test_advice_names_what_can_be_lowered_and_nothing_else(
    spec: Spec, words: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    said = advice(spec)
    assert [word for word in words if word not in said] == []
    assert [word for word in absent if word in said] == []
