"""One go at a job, for what does it: its heartbeat, how it reports, and whether it is to stop."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from annotation import hub_client
from annotation.database import Database
from annotation.jobs import job_table, liveness
from annotation.jobs.job_table import Job, Reason

BEAT_SECONDS: Final = 3.0


class Stopped(Exception):
    """The job was cancelled, taken away, or the program is shutting down."""


class Attempt:
    """One go at a job, for what does it: where the data is, how to report, and whether to stop."""

    def __init__(
        self, db: Database, data_dir: Path, job: Job[Any], worker: str, terminated: threading.Event | None = None
    ) -> None:
        self.db = db
        self.data_dir = data_dir
        self.job_id = job.id
        self.kind = job.kind
        self.number = job.attempt
        """Its how-manieth go this is: 1 is the first."""
        self.worker = worker
        self.began = time.monotonic()
        self._cancelled = threading.Event()
        self.terminated = terminated or threading.Event()
        """Set where this process is told to end, or the program that started it is gone."""

    @property
    def stopped(self) -> bool:
        """Whether the job should end as soon as it can."""
        return self._cancelled.is_set() or self.terminated.is_set()

    def raise_if_stopped(self) -> None:
        """Raises Stopped where nothing is left to save."""
        if self.stopped:
            raise Stopped

    def report(self, step: int, steps: int, metrics: Mapping[str, float], message: str = "") -> None:
        if not job_table.report(self.db, self.job_id, self.worker, step, steps, metrics, message):
            self._cancelled.set()

    def explain(self, reason: Reason | None, message: str) -> None:
        """Say why the job does not get on, as data and in words, or by None that it does again."""
        job_table.explain(self.db, self.job_id, self.worker, reason, message)

    def beat(self) -> None:
        """Say that this worker gets on, and learn whether the job was cancelled."""
        if not job_table.beat(self.db, self.job_id, self.worker):
            self._cancelled.set()

    def look(self) -> None:
        """Learn whether the job was cancelled, at the price of a read."""
        if not job_table.is_wanted(self.db, self.job_id, self.worker):
            self._cancelled.set()

    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 1)


@contextmanager
def beating(attempt: Attempt) -> Iterator[None]:
    """Meanwhile say every few seconds that the worker gets on; afterwards it is at nothing any more."""
    try:
        with repeating(attempt.beat, BEAT_SECONDS):
            yield
    finally:
        liveness.end(attempt.db, attempt.worker)


@contextmanager
def repeating(act: Callable[[], object], seconds: float) -> Iterator[None]:
    """Meanwhile do something every so many seconds, in a thread of its own."""
    ended = threading.Event()
    heart = threading.Thread(target=keep_repeating, args=(act, seconds, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def keep_repeating(act: Callable[[], object], seconds: float, ended: threading.Event) -> None:
    """Do something every so many seconds until told that it is over."""
    while not ended.wait(seconds):
        try:
            act()
        except Exception as error:
            # A database that is busy or full for a moment must not silence what lives; the next time tries.
            print(hub_client.for_log(error), file=sys.stderr)
