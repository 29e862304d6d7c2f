"""The web side of jobs: starts workers, notices silent ones, keeps the resident worker alive, advances the loop."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

from annotation.database import Database
from rlhf import jobs, loop
from rlhf.specs import GenerateSpec

POLL_SECONDS = 1.0
# After a worker failed, wait before starting the next: doubling up to five minutes.
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 300.0
STOP_SECONDS = 20.0

logger = logging.getLogger(__name__)


class Supervisor:
    """A thread that turns queued rows into worker processes: one resident, one training job at a time.

    It signals only processes that it started itself; what an earlier program started is judged by its heartbeat.
    """

    def __init__(self, db: Database, data_dir: Path, model: str) -> None:
        self.db, self.data_dir, self.model = db, data_dir, model
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._failures = 0
        self._resident_not_before = 0.0
        self._ticks = 0.0

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
            child.terminate()
        for job_id, child in self.children.items():
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("the worker of job %d does not end; killing it", job_id)
                child.kill()
                child.wait()

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
        jobs.mark_lost(self.db)
        self.keep_resident()
        loop.advance(self.db, self.data_dir)
        active = jobs.active(self.db, loop.TRAINING)
        if active and not any(job.status != "queued" for job in active):
            self.launch(active[0].id)

    def reap(self) -> None:
        """Forget workers that have ended, and say so in the row of one that died without a word."""
        for job_id, child in list(self.children.items()):
            if child.poll() is None:
                continue
            del self.children[job_id]
            job = jobs.get(self.db, job_id)
            if job.status in ("running", "cancelling") and job.worker is not None:
                message = f"The worker died (exit code {child.returncode}). Resume goes on from the last checkpoint."
                jobs.stop(self.db, job_id, job.worker, "lost", message)
            if job.kind == "generate":
                self.resident_ended(child.returncode)

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
        if self._ticks < self._resident_not_before:
            return
        self.launch(active[0].id if active else loop.submit(self.db, self.data_dir, GenerateSpec(), "the program"))

    def launch(self, job_id: int) -> None:
        """Start a worker process for a queued job; its output goes to a log file, never to a pipe."""
        if job_id in self.children:
            return
        command = [sys.executable, "-m", "rlhf.worker", "--data", str(self.data_dir), "--job", str(job_id)]
        with (self.data_dir / "logs" / f"job-{job_id}.log").open("ab") as log:
            self.children[job_id] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )
