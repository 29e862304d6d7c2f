"""Where `benchmarks.methods` works: a data directory in which jobs run one after the other, and what is done is kept.

Every job is a real one with a worker process of its own, so that the peak of its memory is its own. A part that is
finished is not done again: jobs by their rows, everything else by the file that it has left.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from annotation.database import open_database
from benchmarks.harness import driver
from benchmarks.harness.driver import BenchmarkError, say
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec
from rlhf.jobs.job_store import Job
from rlhf.models.base import base_files, base_identity, base_model
from rlhf.submission import job_submission
from rlhf.workers.worker_process import worker_command

TOLD_EVERY_SECONDS = 60.0
STOP_SECONDS = 20.0


class Laboratory:
    """The data directory, and the plan: the name of every part with about how long it takes beside the others."""

    def __init__(self, directory: Path, model: str, settings: Mapping[str, Any], plan: Mapping[str, float]) -> None:
        """Raises BenchmarkError if the directory holds a group of parts that was made with other settings."""
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        for group, values in settings.items():
            remember(self.directory / f"settings-{group}.json", values)
        self.parts = self.directory / "parts"
        self.parts.mkdir(exist_ok=True)
        self.plan = dict(plan)
        self.done: list[str] = []
        self.worked = 0.0
        """Seconds that this start has spent on the parts in `spent_on`."""
        self.spent_on: list[str] = []
        if model == base_files.EMBEDDED:
            driver.share_base_model(self.directory)
        self.db = open_database(self.directory)
        self.base = base_model.prepare(self.directory, model)
        base_identity.register(self.db, self.base)

    # ---- jobs
    def run(self, name: str, spec: JobSpec) -> Job:
        """The finished job of this name: from an earlier start, or run now to its end. Raises BenchmarkError."""
        return self.finish(name, self.job_of(name) or job_submission.submit(self.db, self.directory, spec, name))

    def job_of(self, name: str) -> int | None:
        """The id of the job that was made for this part, if it was."""
        found = self.db.value("SELECT id FROM job WHERE requested_by = ? ORDER BY id DESC LIMIT 1", (name,))
        return None if found is None else int(found)

    def finish(self, name: str, job_id: int, command: Sequence[str] | None = None) -> Job:
        """Run a queued or broken-off job to its end, with its worker's command unless another is given."""
        began = time.monotonic()
        self.wait_for_earlier(job_id)
        job = job_store.get(self.db, job_id)
        if job.status == "finished":
            self.tick(name, None)
            return job
        if not job.is_open:
            job_store.resume(self.db, job_id)
        say(f"{name} ...")
        worker = uuid.uuid4().hex
        given = [*command, "--worker", worker] if command else worker_command(job, self.directory, worker)
        self.work(name, job_id, given)
        job = job_store.get(self.db, job_id)
        if job.status != "finished":
            job_store.died(self.db, job_id, worker, "The worker died.")
            raise BenchmarkError(driver.failure_of(job_store.get(self.db, job_id), self.directory))
        self.tick(name, time.monotonic() - began)
        return job

    def wait_for_earlier(self, job_id: int) -> None:
        """Wait for the worker of a benchmark that was killed, until it has finished or is silent."""
        while job_store.get(self.db, job_id).status in ("running", "cancelling"):
            job_store.mark_lost(self.db)
            time.sleep(1)

    def work(self, name: str, job_id: int, command: Sequence[str]) -> None:
        """A process that works on a job, with a line on its progress from time to time."""
        log = self.directory / "logs" / f"job-{job_id}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(command, cwd=driver.ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                while True:
                    try:
                        process.wait(TOLD_EVERY_SECONDS)
                        return
                    except subprocess.TimeoutExpired:
                        job = job_store.get(self.db, job_id)
                        say(f"{name}: step {job.step} of {job.steps} {job.message}")
            finally:
                end(process)

    # ---- answers
    def compute(self, name: str, request: Mapping[str, Any]) -> Any:
        """The answers that `benchmarks.harness.answers` draws on request, in a process of its own; kept in a file."""
        result, began = self.parts / f"{name.replace(' ', '-')}.json", time.monotonic()
        if result.exists():
            self.tick(name, None)
            return json.loads(result.read_text("utf-8"))
        say(f"{name} ...")
        asked = self.parts / f"{name.replace(' ', '-')}.request.json"
        asked.write_text(json.dumps(request), "utf-8")
        command = [sys.executable, "-m", "benchmarks.harness.answers", str(self.directory), str(asked), str(result)]
        process = subprocess.Popen(command, cwd=driver.ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, errors = process.communicate()
        finally:
            end(process)
        if process.returncode:
            raise BenchmarkError(f"'{name}' ended with code {process.returncode}:\n{errors.decode('utf-8', 'replace')}")
        self.tick(name, time.monotonic() - began)
        return json.loads(result.read_text("utf-8"))

    def tick(self, name: str, seconds: float | None) -> None:
        """A part is done: say how long it took (None: it was there already), and about how long the rest will take."""
        self.done.append(name)
        if seconds is None:
            say(f"{name}: kept from an earlier start")
            return
        self.worked += seconds
        self.spent_on.append(name)
        rate = self.worked / sum(self.plan[part] for part in self.spent_on)
        left = rate * sum(weight for part, weight in self.plan.items() if part not in self.done)
        say(f"{name}: done in {seconds:.0f} s; about {left / 60:.0f} minutes left")


def remember(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new directory. Raises BenchmarkError where others are written there."""
    text = json.dumps(settings, sort_keys=True, indent=2)
    if path.exists() and path.read_text("utf-8") != text:
        raise BenchmarkError(f"{path.parent} holds a run with other settings ({path.name}). Give another --data.")
    path.write_text(text, "utf-8")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that this one has started, if it still runs; a job keeps what it has come to."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
