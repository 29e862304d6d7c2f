"""The web side of jobs: starts workers, notices silent ones, keeps the resident worker alive, advances the loop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import psutil

from annotation.database import Database
from annotation.environment import child_environment
from rlhf.hub import rental_store
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.jobs.out_of_memory import KILLED, advice
from rlhf.jobs.specs import GenerateSpec, TrainingSpec
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.models.memory import query_graphics
from rlhf.submission import job_submission

POLL_SECONDS = 1.0
# After a worker failed, wait before starting the next: doubling up to five minutes.
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 300.0
STOP_SECONDS = 20.0
# How the launcher of several processes tells that one of them was killed, in the log.
KILLED_MARK = b"exitcode: -9"
# The one device where there is no GPU: whoever trains there has all of the processors.
PROCESSORS = "processors"
VISIBLE = "CUDA_VISIBLE_DEVICES"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Child:
    """A worker that this program started."""

    process: subprocess.Popen[bytes]
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
        if self.process.poll() is not None:
            return
        for process in family(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def family(pid: int) -> list[psutil.Process]:
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
    program = ["rlhf.jobs.worker", "--data", str(data_dir), "--job", str(job.id), "--worker", worker]
    processes = processes_of(job)
    if processes == 1:
        return [sys.executable, "-m", *program]
    # Everything that accelerate would otherwise take from a configuration file of the user, or warn about.
    threads = max((os.cpu_count() or 1) // processes, 1)
    settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    settings += ["--num_cpu_threads_per_process", str(threads)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    return [*launcher, *settings, "-m", *program]


def processes_of(job: Job) -> int:
    """How many processes share a job's work."""
    return job.spec.processes if isinstance(job.spec, TrainingSpec) else 1


def devices_here() -> list[str]:
    """The GPUs that jobs may train on, as CUDA_VISIBLE_DEVICES names them; the processors where there is none."""
    known = [str(number) for number in range(len(query_graphics()))]
    allowed = os.environ.get(VISIBLE)
    if known and allowed is not None:
        known = [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    return known or [PROCESSORS]


@cache
def life_line() -> int:
    """The end to read from of a pipe that nobody writes to and that no other process holds open for writing."""
    reading, writing = os.pipe()
    os.register_at_fork(after_in_child=lambda: os.close(writing))
    return reading


def start_worker(
    job: Job, data_dir: Path, worker: str, devices: Sequence[str], output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start the processes of a queued job so that they see these GPUs only. They print to `output`, or as this one.

    They end with this program, however it ends: their standard input is its life line.
    """
    seen = {} if set(devices) <= {PROCESSORS} else {VISIBLE: ",".join(devices)}
    if seen and VISIBLE not in os.environ:
        seen["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's order, whose numbers these are
    return subprocess.Popen(
        [*worker_command(job, data_dir, worker), "--tied"],
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        stdin=life_line(),
        cwd=Path(__file__).parents[2],
        env={**child_environment(), **seen},
        start_new_session=True,
    )


class Supervisor:
    """A thread that turns queued rows into worker processes: one resident, and one training job on each device.

    It signals only processes that it started itself; what another program started is judged by its heartbeat.
    """

    def __init__(
        self, db: Database, data_dir: Path, model: str, devices: Sequence[str] | None = None, resident: bool = True
    ) -> None:
        self.db, self.data_dir, self.model, self.resident = db, data_dir, model, resident
        self.devices = devices or devices_here()
        self.children: dict[int, Child] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._failures = 0
        self._resident_not_before = 0.0
        self._ticks = 0.0
        self._tried: int | None = None

    def start(self) -> None:
        """Begin to watch the queue."""
        (self.data_dir / "logs").mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the workers that this program started to save and end, and wait for them."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for child in self.children.values():
            child.signal(signal.SIGTERM)
        for job_id, child in self.children.items():
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("the worker of job %d does not end; killing it", job_id)
                child.signal(signal.SIGKILL)
                child.process.wait()
            job = job_store.get(self.db, job_id)
            if job.status != "lost":  # it could not say so itself
                job_store.died(self.db, job_id, child.worker, job_store.ended_with_program(job.kind, saved=False))

    def _loop(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self._ticks += POLL_SECONDS
            try:
                self.tick()
            except Exception:
                # The thread must outlive a bad row; the failure is in the program's log and the next tick tries again.
                logger.exception("the supervisor failed")

    def tick(self) -> None:
        """One look at the rows: reap, mark lost, start what is due."""
        self.reap()
        rental_store.give_up(self.db)
        for job_id in job_store.mark_lost(self.db):
            if job_id in self.children:  # it hangs: a second worker beside it would take the memory of both
                self.children[job_id].signal(signal.SIGKILL)
        if self.resident:
            self.keep_resident()
        controller.advance(self.db, self.data_dir)
        self.start_next()

    def start_next(self) -> None:
        """Start the first jobs of the queue, as many as there are free devices for.

        None overtakes another: while small jobs could go first, one that waits for several devices would never begin.
        """
        for job in job_store.queue(self.db):
            if job.id in self.children:
                continue  # its worker is just about to take it
            free, needed = self.free_devices(), min(processes_of(job), len(self.devices))
            if len(free) < needed:
                return
            self.launch(job.id, free[:needed])

    def free_devices(self) -> list[str]:
        """The devices that nothing trains on; none while another program's job runs, because nobody knows on which."""
        own = {child.worker for child in self.children.values()}
        if any(job.worker not in own for job in job_store.at_work(self.db)):
            return []
        held = {device for child in self.children.values() for device in child.devices}
        return [device for device in self.devices if device not in held]

    def reap(self) -> None:
        """Forget workers that have ended, and say so in the row of one that died without a word."""
        for job_id, child in list(self.children.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self.children[job_id]
            job = job_store.get(self.db, job_id)
            self.record_death(job, child, code)
            if job.kind == "generate":
                self.resident_ended(code)

    def record_death(self, job: Job, child: Child, code: int) -> None:
        """Say how a worker ended that could not say so itself."""
        killed = code == -signal.SIGKILL or (code != 0 and KILLED_MARK in self.words_of(job.id, child))
        record_death(self.db, job, child, code, killed, f"See {self.log_file(job.id)}.")

    def words_of(self, job_id: int, child: Child) -> bytes:
        """What a worker has printed; nothing where its log file is gone."""
        try:
            with self.log_file(job_id).open("rb") as log:
                log.seek(child.said_from)
                return log.read()
        except FileNotFoundError:
            return b""

    def resident_ended(self, code: int) -> None:
        """Decide when the next resident worker may start."""
        self._failures = self._failures + 1 if code else 0
        wait = min(FIRST_RETRY_SECONDS * 2 ** (self._failures - 1), LAST_RETRY_SECONDS) if code else 0.0
        self._resident_not_before = self._ticks + wait

    def keep_resident(self) -> None:
        """Start the answering worker if none is alive."""
        active = job_store.active(self.db, ("generate",))
        if any(job.status != "queued" for job in active):
            return
        if active and active[0].id in self.children:
            return
        serving = registry.serving(self.db).id
        if self._ticks < self._resident_not_before and serving == self._tried:
            return
        self._tried = serving
        self.launch(
            active[0].id if active else job_submission.submit(self.db, self.data_dir, GenerateSpec(), "the program")
        )

    def launch(self, job_id: int, devices: Sequence[str] = ()) -> None:
        """Start a worker process for a queued job; its output goes to a log file, never to a pipe."""
        if job_id in self.children:
            return
        worker, job = uuid.uuid4().hex, job_store.get(self.db, job_id)
        with self.log_file(job_id).open("ab") as log:
            said_from = log.tell()
            process = start_worker(job, self.data_dir, worker, devices, log)
            self.children[job_id] = Child(process, worker, job.attempt, said_from, devices)

    def log_file(self, job_id: int) -> Path:
        """Where a job's worker prints."""
        return self.data_dir / "logs" / f"job-{job_id}.log"


def record_death(db: Database, job: Job, child: Child, code: int, killed: bool, see: str) -> None:
    """Say in a job's row how its worker ended. Rows that it ended well, or that another holds, stay as they are."""
    if killed and job_store.requeue_smaller(db, job.id, child.worker, KILLED):
        return
    obituary = KILLED if killed else f"The worker died (exit code {code})."
    said = f"{obituary} Resume goes on from the last checkpoint."
    if killed:
        said += f" If it is killed again: {advice(job.spec)}"
    if code or job.status != "lost":  # one that was told to stop has said why by itself
        job_store.died(db, job.id, child.worker, said)
    if code:
        job_store.give_up(db, job.id, child.attempt, f"{obituary} {see}".strip())


def run_to_end(db: Database, data_dir: Path, job: job_store.Job, told: Callable[[], bool] = lambda: False) -> None:
    """Run a queued job to its end in processes of its own, and stop them when this one is told to stop.

    Nothing else runs, as far as training goes, so it may have the first devices. `told` says whether this process was
    told before it could hear it here.
    """
    worker, devices = uuid.uuid4().hex, devices_here()[: processes_of(job)]
    child = Child(start_worker(job, data_dir, worker, devices, None), worker, job.attempt)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: child.signal(signal.SIGTERM)) for number in numbers]
    if told():
        child.signal(signal.SIGTERM)
    try:
        code = child.process.wait()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    record_death(db, job_store.get(db, job.id), child, code, code == -signal.SIGKILL, "What it printed is above.")
