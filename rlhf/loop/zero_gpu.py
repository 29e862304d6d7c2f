"""ZeroGPU, where a Space's web process borrows a GPU for one function at a time: writing answers is such a function."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from annotation.database import Database, open_database
from annotation.records import UserError
from annotation.translation import N_, _, of_server, speaking
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.jobs.run import Run, attend
from rlhf.submission import job_submission

P = ParamSpec("P")
R = TypeVar("R")
SECONDS: Final = 60
"""How long the GPU is asked for; visitors have some minutes a day."""
SPARE_SECONDS: Final = 10
COMPARISONS: Final = 12
REFUSED: Final = N_(
    "ZeroGPU lent no GPU, or took it back too early, so no more answers were written. Each account has "
    "some minutes a day: try again later, or choose other hardware in the Space's settings."
)

logger = logging.getLogger(__name__)


def lent(seconds: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that needs the GPU: `spaces.GPU`, where that package is there; as it is elsewhere.

    On ZeroGPU the function runs in a forked process which is ended after so many seconds, so it takes and returns only
    what can be pickled, and opens files and the database by itself.
    """
    try:
        from spaces import GPU
    except ImportError:
        return lambda function: function
    decorate: Callable[[Callable[P, R]], Callable[P, R]] = GPU(duration=seconds)
    return decorate


def start_up() -> None:
    """Tell the machinery of ZeroGPU that the decorated functions are known: it waits for a launch that is not ours."""
    try:
        from spaces.zero import startup  # is there on ZeroGPU only
    except ImportError:
        return
    startup()


def write_answers(db: Database, data_dir: Path, requested_by: str) -> job_store.Job:
    """Fill a small stock of comparisons by the serving policy, while the caller waits; returns the job as it ended.

    Raises UserError where a job like this is running, and where no GPU was lent for one.
    """
    # One that waits has no process that would begin it any more: only this function does.
    if any(not job_store.take_out(db, job.id) for job in job_store.active(db, (AnsweringSpec.kind,))):
        raise UserError(_("Answers are being written already. Wait until that has ended."))
    job_id = job_submission.submit(db, data_dir, AnsweringSpec(stock=COMPARISONS, until_full=True), requested_by)
    try:
        write_stock(str(data_dir), job_id)
    except Exception as error:  # whatever the package that lends GPUs raises
        logger.warning("The GPU was not lent to the end: %s", error)
        job_store.take_out(db, job_id)
        raise UserError(_(REFUSED)) from error
    if job_store.take_out(db, job_id):
        raise UserError(_(REFUSED))
    return job_store.get(db, job_id)


@lent(SECONDS)
def write_stock(data_dir: str, job_id: int) -> None:
    """Run an answering job in this process, and end it in time to keep what was written."""
    db = open_database(Path(data_dir))
    worker = uuid.uuid4().hex
    job = job_store.claim(db, job_id, worker)
    if job is None:
        return
    run = Run(db, Path(data_dir), job, worker)
    bell = threading.Timer(SECONDS - SPARE_SECONDS, run.terminated.set)
    bell.start()
    try:
        with speaking(of_server()):  # everybody reads what becomes of it, not only who asked
            said = _("The time for which ZeroGPU lends its GPU ({seconds} s) was over too early. Try again.")
            run.told_to_end = said.format(seconds=SECONDS)
            attend(run, job.spec)
    finally:
        bell.cancel()
        db.close()
