"""The web side of jobs: starts workers, notices silent ones, keeps the resident worker alive, advances the loop."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

from annotation.database import Database
from rlhf import jobs, loop, policies
from rlhf.specs import GenerateSpec

POLL_SECONDS = 1.0
# After a worker failed, wait before starting the next: doubling up to five minutes.
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 300.0
STOP_SECONDS = 20.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Child:
    """A worker process that this program started, and the id under which it claims its job."""

    process: subprocess.Popen[bytes]
    worker: str


class Supervisor:
    """A thread that turns queued rows into worker processes: one resident, one training job at a time.

    It signals only processes that it started itself; what an earlier program started is judged by its heartbeat.
    """

    def __init__(self, db: Database, data_dir: Path, model: str) -> None:
        self.db, self.data_dir, self.model = db, data_dir, model
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
            child.process.terminate()
        for job_id, child in self.children.items():
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("the worker of job %d does not end; killing it", job_id)
                child.process.kill()
                child.process.wait()

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
        for job_id in jobs.mark_lost(self.db):
            if job_id in self.children:  # it hangs: a second worker beside it would take the memory of both
                self.children[job_id].process.kill()
        self.keep_resident()
        loop.advance(self.db, self.data_dir)
        active = jobs.active(self.db, loop.TRAINING)
        if active and not any(job.status != "queued" for job in active):
            self.launch(active[0].id)

    def reap(self) -> None:
        """Forget workers that have ended, and say so in the row of one that died without a word."""
        for job_id, child in list(self.children.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self.children[job_id]
            # Only a job that this very worker held: another process may have it by now.
            jobs.stop(
                self.db, job_id, child.worker, "lost", f"{obituary(code)} Resume goes on from the last checkpoint."
            )
            if code:
                jobs.give_up(self.db, job_id, f"{obituary(code)} See {self.log_file(job_id)}.")
            if jobs.get(self.db, job_id).kind == "generate":
                self.resident_ended(code)

    def resident_ended(self, code: int) -> None:
        """Decide when the next resident worker may start."""
        self._failures = self._failures + 1 if code else 0
        wait = min(FIRST_RETRY_SECONDS * 2 ** (self._failures - 1), LAST_RETRY_SECONDS) if code else 0.0
        self._resident_not_before = self._ticks + wait

    def keep_resident(self) -> None:
        """Start the answering worker if none is alive."""
        active = jobs.active(self.db, ("generate",))
        if any(job.status != "queued" for job in active):
            return
        if active and active[0].id in self.children:
            return
        serving = policies.serving(self.db).id
        if self._ticks < self._resident_not_before and serving == self._tried:
            return
        self._tried = serving
        self.launch(active[0].id if active else loop.submit(self.db, self.data_dir, GenerateSpec(), "the program"))

    def launch(self, job_id: int) -> None:
        """Start a worker process for a queued job; its output goes to a log file, never to a pipe."""
        if job_id in self.children:
            return
        worker = uuid.uuid4().hex
        command = [sys.executable, "-m", "rlhf.worker", "--data", str(self.data_dir), "--job", str(job_id)]
        command += ["--worker", worker]
        with self.log_file(job_id).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )
        self.children[job_id] = Child(process, worker)

    def log_file(self, job_id: int) -> Path:
        """Where a job's worker prints."""
        return self.data_dir / "logs" / f"job-{job_id}.log"


def obituary(code: int) -> str:
    """What an exit code says of a worker that ended without reporting."""
    if code == -9:
        return "The worker was killed, often because memory ran out."
    return f"The worker died (exit code {code})."
