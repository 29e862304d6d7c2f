"""A worker as a process: its command line, starting it so that it ends with this program, how it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from annotation.database import Database
from annotation.environment import worker_environment
from annotation.jobs import liveness
from annotation.jobs.job_process import life_line
from annotation.translation import _, joined
from rlhf.jobs import job_store
from rlhf.jobs.devices import PROCESSORS, VISIBLE, devices_here
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.jobs.out_of_memory import KILLED, MEMORY_RAN_OUT, MemoryReason, advice
from rlhf.workers.forked_worker import ForkedWorker, ForkServer


@dataclass(frozen=True)
class WorkerProcess:
    process: subprocess.Popen[bytes] | ForkedWorker
    worker: str
    """The id under which it claims its job."""
    attempt: int = 0
    """How often the job had been claimed before."""
    said_from: int = 0
    """Where its words begin in the job's log file, in bytes."""
    devices: Sequence[str] = ()
    """What it trains on; the answering worker has no device of its own."""

    def signal(self, number: signal.Signals) -> None:
        """Signal the worker and all that it started: a run on several devices has a launcher and a process for each.

        Those have groups of their own, so signalling the launcher's group would miss them.
        """
        if self.process.poll() is not None or self.process.pid is None:
            return
        for process in process_tree(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants, the youngest generation first; none where it has ended."""
    try:
        leader = psutil.Process(pid)
        return [*reversed(leader.children(recursive=True)), leader]
    except psutil.NoSuchProcess:
        return []


def worker_command(job: Job, data_dir: Path, worker: str) -> list[str]:
    """The command line of a job's worker; where the spec asks for several processes, of their launcher.

    accelerate starts several processes through torch.distributed only with --multi_gpu, which works without a GPU too
    (the processes then speak gloo); its --cpu starts one process, unless there is mpirun. All get the same worker id.
    """
    program = ["rlhf.workers.worker", *worker_arguments(job, data_dir, worker)]
    processes = processes_of(job)
    if processes == 1:
        return [sys.executable, "-m", *program]
    # Everything that accelerate would otherwise take from a configuration file of the user, or warn about.
    threads = max((os.cpu_count() or 1) // processes, 1)
    settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    settings += ["--num_cpu_threads_per_process", str(threads)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    return [*launcher, *settings, "-m", *program]


def worker_arguments(job: Job, data_dir: Path, worker: str) -> list[str]:
    return ["--data", str(data_dir), "--job", str(job.id), "--worker", worker]


def processes_of(job: Job) -> int:
    return job.spec.processes if isinstance(job.spec, TrainingSpec) else 1


def start_worker(
    job: Job,
    data_dir: Path,
    worker: str,
    devices: Sequence[str],
    output: IO[bytes] | None,
    forks: ForkServer | None = None,
) -> subprocess.Popen[bytes] | ForkedWorker:
    """Start the processes of a queued job so that they see these GPUs only. They print to `output`, or as this one.

    They end with this program, however it ends: their standard input is its life line. One alone is forked, where there
    is a server for that.
    """
    if forks is not None and output is not None and processes_of(job) == 1:
        arguments = [*worker_arguments(job, data_dir, worker), "--tied"]
        forked = forks.start(job.kind, arguments, life_line(), output.fileno())
        if forked is not None:
            return forked
    seen = {} if set(devices) <= {PROCESSORS} else {VISIBLE: ",".join(devices)}
    if seen and VISIBLE not in os.environ:
        seen["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's order, whose numbers these are
    return subprocess.Popen(
        [*worker_command(job, data_dir, worker), "--tied"],
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        stdin=life_line(),
        cwd=Path(__file__).parents[2],
        env={**worker_environment(), **seen},
        start_new_session=True,
    )


def record_death(
    db: Database, job: Job, child: WorkerProcess, code: int, reason: MemoryReason | None, see: str
) -> None:
    """Say in a job's row how its worker ended. Rows that it ended well, or that another holds, stay as they are."""
    liveness.remove_dead(db, child.worker)
    if reason and job_store.requeue_smaller(db, job.id, child.worker, reason):
        return
    said = _("The worker died (exit code {code}).").format(code=code)
    if reason == "killed":
        said = joined(_(KILLED), _("If it is killed again, let it take less memory."), advice(job.spec))
    elif reason:
        said = joined(_(MEMORY_RAN_OUT), advice(job.spec))
    # One that was told to stop has said why by itself, also where its launcher then ends with an error.
    if job.status != "lost" or (code and job.message != job_store.ended_with_program(job.spec)):
        job_store.died(db, job.id, child.worker, said if reason else joined(said, see), reason)
    if code:
        job_store.give_up(db, job.id, child.attempt, joined(said, see), reason)


def run_to_end(db: Database, data_dir: Path, job: job_store.Job, told: list[int]) -> None:
    """Run a queued job to its end in processes of its own, and stop them when this one is told to stop.

    Nothing else runs, as far as training goes, so it may have the first devices. `told` has the signals that told this
    process so, and gets those that come; a job whose worker had not begun by then waits as before.
    """
    worker, devices = uuid.uuid4().hex, devices_here()[: processes_of(job)]
    child = WorkerProcess(start_worker(job, data_dir, worker, devices, None), worker, job.attempt)

    def stop(number: int, frame: object) -> None:
        told.append(number)
        child.signal(signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in numbers]
    if told:
        child.signal(signal.SIGTERM)
    try:
        code = child.process.wait()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    ended = job_store.get(db, job.id)
    if not (told and ended.status == "queued"):
        record_death(
            db, ended, child, code, "killed" if code == -signal.SIGKILL else None, _("What it printed is above.")
        )
