"""The web side of jobs: starts workers, notices dead ones, keeps the answering worker alive, advances the loop."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from annotation.database import Database
from annotation.environment import worker_environment
from annotation.hub_client import for_log
from annotation.jobs import job_table, liveness
from annotation.records import seconds_between
from annotation.translation import N_, _
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.devices import devices_here
from rlhf.jobs.job_store import Job
from rlhf.jobs.out_of_memory import MemoryReason
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.workers.forked_worker import ForkServer, can_fork
from rlhf.workers.worker_process import WorkerProcess, processes_of, record_death, start_worker

POLL_SECONDS = 1.0
# After a worker failed, wait before starting the next: doubling up to five minutes.
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 300.0
# More than other programs' writes take, for which a worker waits.
HUNG_LOOKS = 300
# So long one that is to end may be silent while this program waits for it, and so long it may take in all: as long as
# it gives itself where this program was killed (`rlhf.workers.worker`).
SILENT_LOOKS = 30
ENDING_LOOKS = 300
# How the launcher of several processes tells that one of them was killed, in the log: as the first one that it saw end,
# or in its list, where it saw that of another first.
KILLED_MARK = re.compile(rb"exitcode *: -9\b")
# How a library tells that it ended a process for want of memory, and can't raise an error for it.
MEMORY_MARKS = (b"bad_alloc", b"annot allocate memory")

logger = logging.getLogger(__name__)


class Supervisor:
    """A thread that turns queued rows into worker processes: one that answers, and one other job on each device.

    It signals only processes that it started itself.
    """

    def __init__(
        self,
        db: Database,
        data_dir: Path,
        model: str,
        devices: Sequence[str] | None = None,
        answering: bool = True,
        forks: bool = False,
    ) -> None:
        self.db, self.data_dir, self.model, self.answering = db, data_dir, model, answering
        self.devices = devices or devices_here()
        self.forking = forks and can_fork(self.devices)
        self.forks: ForkServer | None = None
        self.children: dict[int, WorkerProcess] = {}
        self.hurried: Callable[[], bool] = lambda: False
        """Whether somebody does not want to wait until workers have ended."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._failures = 0
        self._answering_not_before = 0.0
        self._ticks = 0.0
        self._tried: int | None = None
        self._heard: dict[int, tuple[str | None, int]] = {}
        self._unbegun: set[tuple[int, int]] = set()

    def start(self) -> None:
        if self.forking:
            self.forks = ForkServer(worker_environment())
        self._thread.start()

    def stop(self) -> None:
        """Ask the workers that this program started to save and end, and wait for them."""
        self._ended.set()
        self.tell_to_end()  # before the thread ends: it may wait for another's write
        if self._thread.is_alive():
            self._thread.join()
        if self.forks is not None:
            self.forks.close()
        self.tell_to_end()  # whatever it has started meanwhile
        self.await_ends()
        for job_id, child in self.children.items():
            try:
                job = job_store.get(self.db, job_id)
                if job.status != "lost":  # it could not say so itself
                    job_store.died(self.db, job_id, child.worker, job_store.ended_with_program(job.spec))
            except Exception as error:  # of a full disk, say; the next start finds it gone
                logger.error("The end of job %d was not recorded. %s", job_id, for_log(error))

    def await_ends(self) -> None:
        """Wait for workers that were told to end, and kill those that don't: by looks, as `end_hanging` does."""
        heard: dict[int, tuple[str | None, int]] = {}
        for look in count(1):
            alive = {job_id: child for job_id, child in self.children.items() if child.process.poll() is None}
            if not alive:
                return
            for job_id, child in alive.items():
                beat, since = self.heartbeat(job_id), look
                if job_id in heard and heard[job_id][0] == beat:
                    since = heard[job_id][1]
                heard[job_id] = beat, since
                if look - since >= SILENT_LOOKS or look >= ENDING_LOOKS or self.hurried():
                    logger.warning("the worker of job %d does not end; killing it", job_id)
                    child.signal(signal.SIGKILL)
                    child.process.wait()
            with suppress(subprocess.TimeoutExpired):
                next(iter(alive.values())).process.wait(POLL_SECONDS)

    def heartbeat(self, job_id: int) -> str | None:
        """When a job was heard of; None where that can't be read, as of a disk that is gone."""
        with suppress(Exception):
            return job_store.get(self.db, job_id).heartbeat
        return None

    def tell_to_end(self) -> None:
        for child in [*self.children.values()]:
            child.signal(signal.SIGTERM)

    def _loop(self) -> None:
        said = ""
        while not self._ended.wait(POLL_SECONDS):
            self._ticks += POLL_SECONDS
            before, said = said, ""
            try:
                self.tick()
            except Exception as error:
                # The thread must outlive a bad row; the failure is in the program's log, once, and the next tick tries
                # again.
                said = for_log(error)
                if said != before:
                    logger.error("The supervisor failed. %s", said)

    def tick(self) -> None:
        """One look at the rows: reap, mark lost, start what is due."""
        self.reap()
        self.end_hanging()
        job_store.mark_lost(self.db)
        rental_store.give_up(self.db)
        if self.answering:
            self.keep_answering()
        self.start_next()  # first: the loop's next step may fail, each time
        controller.advance(self.db, self.data_dir)

    def end_hanging(self) -> None:
        """End workers that were silent at so many looks: whoever waits for them would wait for ever.

        Looks, not time: while the machine sleeps or this program can't get on, its workers can't either.
        """
        for job in job_store.with_ids(self.db, [*self.children]):
            child, (heard, looks) = self.children[job.id], self._heard.get(job.id, ("", 0))
            self._heard[job.id] = (job.heartbeat, looks + 1 if heard == job.heartbeat else 0)
            if looks >= HUNG_LOOKS and job_table.stop(self.db, job.id, child.worker, "lost", job_store.SILENT):
                child.signal(signal.SIGKILL)
                self.children[job.id] = replace(child, worker="")  # nothing is to be said of its death

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
            job = job_store.get(self.db, job_id)
            self.record_death(job, child, code)
            del self.children[job_id]  # not before: a full disk may refuse its death, which is then recorded later
            self._heard.pop(job_id, None)
            if not job.spec.waits:
                begun, heard = job.started, job.heartbeat
                self.answering_ended(code, seconds_between(begun, heard) if begun and heard else 0.0)

    def record_death(self, job: Job, child: WorkerProcess, code: int) -> None:
        """Say how a worker ended that could not say so itself. One that could not even begin is started once more.

        It may have been told to end, as systemd tells all at once, before this program was; then the next start begins
        its job. A launcher of several processes does not say so by its exit code, nor always in words.
        """
        start = (job.id, child.attempt)
        if code and (job.status, job.attempt) == ("queued", child.attempt) and start not in self._unbegun:
            self._unbegun.add(start)
            liveness.remove_dead(self.db, child.worker)
            return
        words = self.words_of(job.id, child)
        reason: MemoryReason | None = None
        if code == -signal.SIGKILL or (code != 0 and KILLED_MARK.search(words)):
            reason = "killed"
        elif code == -signal.SIGABRT and any(mark in words for mark in MEMORY_MARKS):
            reason = "out-of-memory"
        record_death(self.db, job, child, code, reason, _("See {file}.").format(file=self.log_file(job.id)))

    def words_of(self, job_id: int, child: WorkerProcess) -> bytes:
        try:
            with self.log_file(job_id).open("rb") as log:
                log.seek(child.said_from)
                return log.read()
        except FileNotFoundError:
            return b""

    def answering_ended(self, code: int, worked: float = 0.0) -> None:
        """Decide when the next answering worker may start. One that has `worked` so many seconds has not failed again.

        Days apart, failures say nothing of the next start, and people wait for it.
        """
        before = self._failures if worked < LAST_RETRY_SECONDS else 0
        self._failures = before + 1 if code else 0
        wait = min(FIRST_RETRY_SECONDS * 2 ** (self._failures - 1), LAST_RETRY_SECONDS) if code else 0.0
        self._answering_not_before = self._ticks + wait

    def keep_answering(self) -> None:
        """Start the answering worker if none is alive."""
        active = job_store.active(self.db, (AnsweringSpec.kind,))
        if any(job.status != "queued" for job in active):
            return
        if active and active[0].id in self.children:
            return
        serving = registry.serving(self.db).id
        if self._ticks < self._answering_not_before and serving == self._tried:
            return
        self._tried = serving
        if active:
            job_store.note_start(self.db, active[0].id)
            self.launch(active[0].id)
        else:
            self.launch(job_submission.submit(self.db, self.data_dir, AnsweringSpec(), N_("the program")))

    def launch(self, job_id: int, devices: Sequence[str] = ()) -> None:
        """Start a worker process for a queued job; its output goes to a log file, never to a pipe."""
        if job_id in self.children:
            return
        worker, job = uuid.uuid4().hex, job_store.get(self.db, job_id)
        self.log_file(job_id).parent.mkdir(exist_ok=True)  # somebody may have deleted it with all that was there
        with self.log_file(job_id).open("ab") as log:
            said_from = log.tell()
            process = start_worker(job, self.data_dir, worker, devices, log, self.forks)
            self.children[job_id] = WorkerProcess(
                process=process, worker=worker, attempt=job.attempt, said_from=said_from, devices=devices
            )

    def log_file(self, job_id: int) -> Path:
        return self.data_dir / "logs" / f"job-{job_id}.log"
