"""The loop that does the jobs of a queue one after the other, whatever becomes of them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic

from annotation import hub_client
from annotation.database import Database, open_database
from annotation.jobs import job_table
from annotation.jobs.attempt import Attempt, Stopped, beating
from annotation.jobs.job_queue import AnyRequest, JobQueue
from annotation.jobs.job_table import CANCELLED, Job
from annotation.records import UserError
from annotation.translation import N_, _

# Between two looks at the queue, and at jobs whose doer may be gone.
LOOK_SECONDS: Final = 0.25
GONE_SECONDS: Final = 5.0
OWN_ERROR: Final = N_("An error of Prefloop's own ended it ({kind}: {error}). The log has more.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobOutcome:
    """What came of a job: a sentence, and what the page makes more of."""

    message: str
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class LaneRunner(Generic[AnyRequest]):
    """One thread that does the jobs of a queue, one after the other.

    `perform` does one; it raises UserError where it can't be done, and Stopped where it was told to stop, or what it
    started was. At the end of the program it may be cut off wherever it is, so its work must be such that it can be
    done again.
    """

    data_dir: Path
    queue: JobQueue[AnyRequest]
    perform: Callable[[Attempt, Job[AnyRequest]], JobOutcome]
    ended: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    current: Attempt | None = None
    looked: float | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self.work, name=f"lane {self.queue.lane}", daemon=True)
        self.thread.start()

    def stop(self, seconds: float) -> None:
        """Take up nothing more, and give what is at work so long to stop; then it is left to the next runner."""
        self.ended.set()
        if self.thread is not None:
            self.thread.join(seconds)
        current = self.current
        if current is not None:  # it does not stop; whatever it does still, it can't write to its job any more
            with suppress(UserError):  # of a full disk: then it is left when this process ends
                release(current)

    def work(self) -> None:
        """Do what there is, whatever goes wrong, as long as the program runs."""
        while not self.ended.is_set():
            try:
                with closing(open_database(self.data_dir)) as db:
                    while not self.ended.is_set():
                        if not self.run_next(db):
                            self.ended.wait(LOOK_SECONDS)
            except Exception as error:
                logger.error("The runner of the lane '%s' failed. %s", self.queue.lane, hub_client.for_log(error))
                self.ended.wait(LOOK_SECONDS)

    def run_next(self, db: Database) -> bool:
        """Do the job that has waited longest, whatever becomes of it; whether there was one."""
        if self.looked is None or time.monotonic() - self.looked > GONE_SECONDS:
            self.looked = time.monotonic()
            job_table.requeue_stale(db, self.queue.lane, tuple(self.queue.kinds))
        worker = uuid.uuid4().hex
        job = self.queue.claim_next(db, worker)
        if job is None:
            return False
        self.current = Attempt(db, self.data_dir, job, worker, self.ended)
        try:
            with beating(self.current):
                attend(self.current, partial(self.perform, self.current, job))
        finally:
            self.current = None
        return True


def attend(
    attempt: Attempt, perform: Callable[[], JobOutcome], cancelled: str = CANCELLED, own_error: str = OWN_ERROR
) -> None:
    """Do a claimed job and record how it ended; an error of our own is in the log too.

    `cancelled` and `own_error` are what is said of these ends.
    """
    db, job_id, worker = attempt.db, attempt.job_id, attempt.worker
    try:
        outcome = perform()
    except Stopped:
        if attempt.stopped and not attempt.terminated.is_set():
            job_table.stop(db, job_id, worker, "cancelled", cancelled)
        else:
            release(attempt)
    except UserError as error:
        job_table.stop(db, job_id, worker, "failed", without_token(str(error)))
    except Exception as error:
        # Before it is recorded, which a full disk may refuse.
        logger.error("Job %d failed. %s", job_id, hub_client.for_log(error))
        said = _(own_error).format(kind=type(error).__name__, error=error)
        job_table.stop(db, job_id, worker, "failed", without_token(said))
    else:
        job_table.finish(db, job_id, worker, outcome.result, without_token(outcome.message))


def release(attempt: Attempt) -> None:
    """Leave a job to the next runner."""
    job_table.release(attempt.db, attempt.job_id, attempt.worker)


def without_token(message: str) -> str:
    token = hub_client.token_here()
    return hub_client.without_tokens(message.replace(token, "[token]") if token and token in message else message)
