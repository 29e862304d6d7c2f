"""Workers that are forks of a server: they end, die and are told to end as others do, also when the server dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from annotation.environment import without_variables, worker_environment
from rlhf.jobs import job_store
from rlhf.jobs.devices import PROCESSORS
from rlhf.jobs.job_store import Job
from rlhf.loop.supervisor import Supervisor
from rlhf.workers.forked_worker import ForkedWorker, ForkServer, can_fork
from rlhf.workers.worker_process import worker_arguments
from tests.conftest import starter
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, Machine, has_ended, wait_until
from tests.run_fixtures import QUICK_SFT, demonstrations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_fork([PROCESSORS]), reason="workers are forked on Linux alone"),
]
AT_ONCE = 0.0
# It takes far longer than any test.
LONG = replace(QUICK_SFT, epochs=1000, samples=0, checkpoint_steps=1000)


@pytest.fixture
def supervisor(machine: Machine) -> Iterator[Supervisor]:
    """A supervisor that forks, whose thread does not run: each test takes the steps itself."""
    made = Supervisor(machine.db, machine.data_dir, str(machine.model), [PROCESSORS], answering=False, forks=True)
    made.forks = ForkServer(worker_environment())
    yield made
    made.stop()


def started(supervisor: Supervisor, machine: Machine, spec: object = QUICK_SFT) -> tuple[int, ForkedWorker]:
    """A job on its way, and its worker."""
    assert isinstance(spec, type(QUICK_SFT))
    job_id = machine.submit(replace(spec, snapshot=demonstrations(machine)))
    supervisor.start_next()
    process = supervisor.children[job_id].process
    assert isinstance(process, ForkedWorker)
    return job_id, process


def at_work(machine: Machine, job_id: int) -> None:
    wait_until("its first step", lambda: job_store.get(machine.db, job_id).step > 0)


def ended(supervisor: Supervisor, job_id: int) -> Job:
    """A job's row once its worker is gone."""
    wait_until("its end", lambda: supervisor.reap() or job_id not in supervisor.children)
    return job_store.get(supervisor.db, job_id)


def test_one_worker_after_the_other_is_forked_and_says_in_its_log_what_it_does(
    supervisor: Supervisor, machine: Machine
) -> None:
    assert supervisor.forks is not None
    for _ in range(2):
        job_id, process = started(supervisor, machine)
        assert ended(supervisor, job_id).status == "finished"
        assert process.poll() == process.wait() == 0
        assert process.pid not in (None, os.getpid(), supervisor.forks.process.pid)
    assert supervisor.log_file(job_id).read_text("utf-8").startswith("12 demonstrations, 4 held out")


def test_workers_are_forked_also_where_libraries_have_started_threads_for_all_processors(
    supervisor: Supervisor, machine: Machine
) -> None:
    """As in a program whose user has set nothing; the tests' own processes compute in one thread."""
    assert supervisor.forks is not None
    supervisor.forks.close()
    supervisor.forks = ForkServer(without_variables(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), worker_environment()))
    job_id, process = started(supervisor, machine)
    assert ended(supervisor, job_id).status == "finished"
    assert process.pid is not None


def test_a_killed_worker_is_said_to_be_killed(supervisor: Supervisor, machine: Machine) -> None:
    job_id, process = started(supervisor, machine, LONG)
    at_work(machine, job_id)
    supervisor.children[job_id].signal(signal.SIGKILL)
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    job = ended(supervisor, job_id)
    assert (job.status, "The worker was killed" in job.message) == ("lost", True)


def test_a_worker_outlives_the_server_and_the_next_one_is_no_fork(supervisor: Supervisor, machine: Machine) -> None:
    assert supervisor.forks is not None
    job_id, process = started(supervisor, machine, LONG)
    at_work(machine, job_id)
    supervisor.forks.process.kill()
    supervisor.forks.process.wait()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(AT_ONCE)
    job_store.cancel(machine.db, job_id)
    assert ended(supervisor, job_id).status == "cancelled"
    again = machine.submit(replace(QUICK_SFT, snapshot=demonstrations(machine)))
    supervisor.start_next()
    assert isinstance(supervisor.children[again].process, subprocess.Popen)
    assert ended(supervisor, again).status == "finished"


def test_a_job_whose_server_died_before_it_forked_is_run_all_the_same(supervisor: Supervisor, machine: Machine) -> None:
    assert supervisor.forks is not None
    supervisor.forks.process.send_signal(signal.SIGSTOP)
    job_id, process = started(supervisor, machine)
    assert (process.poll(), process.pid) == (None, None)
    supervisor.children[job_id].signal(signal.SIGTERM)  # nothing to tell it to
    supervisor.forks.process.kill()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert ended(supervisor, job_id).status == "queued"
    supervisor.start_next()
    assert ended(supervisor, job_id).status == "finished"


def test_a_program_that_ends_tells_its_workers_and_what_is_not_forked_never_begins(
    supervisor: Supervisor, machine: Machine
) -> None:
    assert supervisor.forks is not None
    job_id, process = started(supervisor, machine, LONG)
    at_work(machine, job_id)
    supervisor.forks.process.send_signal(signal.SIGSTOP)
    later = machine.submit(replace(QUICK_SFT, snapshot=demonstrations(machine)))
    supervisor.launch(later)
    supervisor.stop()
    assert process.poll() is not None
    assert (job_store.get(machine.db, job_id).status, job_store.get(machine.db, later).status) == ("lost", "queued")


# Python runs it at its start: the server is killed by what it has just forked.
KILLED_WHILE_IT_FORKS = """
import os, signal

def kill_server(begin=os.setsid):
    begin()
    server = os.getppid()
    os.kill(server, signal.SIGKILL)
    while os.getppid() == server:
        pass

os.setsid = kill_server
"""


@pytest.mark.own_start
def test_a_job_whose_server_is_killed_while_it_forks_is_run_all_the_same(
    supervisor: Supervisor, machine: Machine, tmp_path: Path
) -> None:
    assert supervisor.forks is not None
    supervisor.forks.close()
    (tmp_path / "sitecustomize.py").write_text(KILLED_WHILE_IT_FORKS, "utf-8")
    supervisor.forks = ForkServer({**worker_environment(), "PYTHONPATH": str(tmp_path)})
    job_id, process = started(supervisor, machine)
    assert process.wait(PATIENCE_SECONDS) == 0
    assert supervisor.forks.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert ended(supervisor, job_id).status == "queued"
    if starter is not None:
        starter.wanted = True  # how this worker starts is no matter
    supervisor.start_next()
    assert ended(supervisor, job_id).status == "finished"


def test_where_the_system_tells_every_process_to_end_a_worker_ends_well(
    supervisor: Supervisor, machine: Machine
) -> None:
    """As systemd does at a stop. The program looks after its workers until it has heard of their ends."""
    assert supervisor.forks is not None
    job_id, process = started(supervisor, machine, LONG)
    at_work(machine, job_id)
    supervisor.forks.process.terminate()
    supervisor.children[job_id].signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    job = ended(supervisor, job_id)
    assert (job.status, job.message) == ("lost", job_store.ended_with_program(job.spec))


# Starts a worker by a server, says both process numbers, and lives until it is killed.
PARENT = f"""
import sys

sys.path.insert(0, "{ROOT}")
from annotation.environment import worker_environment
from annotation.jobs.job_process import life_line
from rlhf.workers.forked_worker import ForkServer

kind, *arguments = sys.argv[1:]
server = ForkServer(worker_environment())
worker = server.start(kind, arguments, life_line(), sys.stderr.fileno())
while worker.pid is None:
    assert worker.poll() is None
print(server.process.pid, worker.pid, flush=True)
sys.stdin.read()
"""


def test_server_and_worker_end_when_the_program_is_killed(machine: Machine, tmp_path: Path) -> None:
    job_id = machine.submit(replace(LONG, snapshot=demonstrations(machine)))
    job = job_store.get(machine.db, job_id)
    arguments = [job.kind, *worker_arguments(job, machine.data_dir, "w"), "--tied"]
    (tmp_path / "program.py").write_text(PARENT, "utf-8")
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, str(tmp_path / "program.py"), *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=log) as program:
            assert program.stdout is not None
            both = [psutil.Process(int(number)) for number in program.stdout.readline().split()]
            at_work(machine, job_id)
            program.kill()
            program.wait()
    said = (tmp_path / "log").read_text
    wait_until("the end of both", lambda: all(map(has_ended, both)), otherwise=lambda: said("utf-8"))
    assert job_store.get(machine.db, job_id).status == "lost"


def test_nothing_is_forked_where_a_gpu_may_be_used() -> None:
    assert can_fork([PROCESSORS])
    assert not can_fork(["0"])
