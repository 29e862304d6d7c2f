"""Imports that the page starts: jobs that run `python -m annotation import` in a process of its own, one at a time.

Datasets of the Hub come through whoever holds the token, where somebody does: the web server and its processes have
none, so these jobs are in the Hub's lane.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from annotation.database import Database
from annotation.environment import child_environment
from annotation.imports import importing
from annotation.imports.commit import has_imported_since
from annotation.imports.import_command import NOTHING_USABLE, PROGRAM
from annotation.imports.import_report import ImportReport
from annotation.imports.importing import ImportPreview, ImportResult
from annotation.jobs import job_table
from annotation.jobs.attempt import Attempt, Stopped
from annotation.jobs.job_process import REFUSED, TIED, run_command
from annotation.jobs.job_queue import JobQueue, JobRequest, named
from annotation.jobs.job_table import Job
from annotation.jobs.lane_runner import JobOutcome, LaneRunner, without_token
from annotation.records import UserError
from annotation.translation import N_, _, joined

ImportStep = Literal["look", "check", "import"]
KIND_ARGUMENTS: Final[Mapping[ImportStep, tuple[str, ...]]] = {
    "look": ("--look",),
    "check": ("--dry-run",),
    "import": (),
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportData(JobRequest):
    """Run `annotation import` with these arguments, as the import form makes them; the command checks them itself."""

    kind = "import"
    arguments: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """What stands before the two dashes; behind them stands what was typed."""
        return self.arguments[: self.arguments.index("--")]

    @property
    def form(self) -> ImportStep:
        """Which of the form's buttons it is."""
        return "look" if "--look" in self.options else "check" if "--dry-run" in self.options else "import"

    @property
    def is_on_hub(self) -> bool:
        return "--hub" in self.options


@dataclass(frozen=True)
class LookAtData(ImportData):
    """Only look at the first rows; earlier versions called it an import too."""

    kind = "look"


KINDS: Final = named(ImportData, LookAtData)
HERE: Final[JobQueue[ImportData]] = JobQueue("web", KINDS)
FROM_HUB: Final[JobQueue[ImportData]] = JobQueue("hub", KINDS)


# ----------------------------------------------------------------------------------------------------------- the page
@dataclass(frozen=True)
class ImportProgress:
    what: str
    rows: int
    share: float | None
    """Of the whole, where that is known."""


@dataclass(frozen=True)
class State:
    """How the latest run stands."""

    number: int = 0
    """The job's; 0 before the first."""
    kind: ImportStep = "look"
    status: Literal["none", "running", "finished", "failed"] = "none"
    progress: ImportProgress | None = None
    look: ImportPreview | None = None
    """Of a look that has finished."""
    outcome: ImportResult | None = None
    """Of a check or an import that has finished."""
    error: str = ""
    """Why a run failed, for the person who started it."""
    by: str = ""
    ended: str | None = None


@dataclass(frozen=True)
class Importer:
    """Looks, checks and imports of the page, one at a time."""

    db: Database
    token_held: bool = False
    """Whether somebody with a token does those of the Hub; otherwise the web server's lane does, with none."""

    @property
    def latest(self) -> Job[ImportData] | None:
        found = [queue.newest(self.db) for queue in (HERE, FROM_HUB)]
        return max((job for job in found if job is not None), key=lambda job: job.id, default=None)

    @property
    def state(self) -> State:
        return state_of(self.latest)

    def state_of(self, number: int) -> State:
        """How the run of this number stands, whatever was begun since."""
        found = [job for queue in (HERE, FROM_HUB) for job in queue.select(self.db, "AND id = ?", number)]
        return state_of(next(iter(found), None))

    def start(
        self, kind: ImportStep, source: Sequence[str], arguments: Sequence[str], by: str = N_("the import form")
    ) -> State:
        """Begin. `source` is what to import with what belongs to it. Raises UserError while another run is at work."""
        words = ("--json-progress", *KIND_ARGUMENTS[kind], *arguments, *source)
        spec = (LookAtData if kind == "look" else ImportData)(words)
        with self.db.transaction():
            latest = self.latest
            if latest is not None and latest.is_open:
                raise UserError(_("An import is at work. Wait until it is done, or cancel it."))
            # First rows of somebody's data, at which they don't look any more.
            job_table.clear_results(self.db, tuple(KINDS), by)
            queue = FROM_HUB if self.token_held and spec.is_on_hub else HERE
            queue.enqueue(self.db, spec, by)
        return self.state

    def cancel(self) -> None:
        """Ask the run to end; nothing of it stays. Raises UserError if none is at work."""
        latest = self.latest
        if latest is None or not latest.is_open:
            raise UserError(_("No import is at work."))
        job_table.cancel(self.db, latest.id)


def state_of(job: Job[ImportData] | None) -> State:
    if job is None:
        return State()
    state = State(number=job.id, kind=job.spec.form, by=job.requested_by, ended=job.finished)
    if job.is_open:
        share = min(1.0, job.step / job.steps) if job.steps else None
        progress = ImportProgress(_(job.message), job.step, share) if job.message else None
        return replace(state, status="running", progress=progress)
    if job.status == "finished":
        told = ImportReport.from_json(job.result or {})
        found = replace(state, status="finished", look=told.look, outcome=told.outcome)
        # What it found is cleared once somebody has begun another.
        return State() if told == ImportReport() else found
    return replace(state, status="failed", error=_(WAS_CANCELLED if job.status == "cancelled" else job.message))


WAS_CANCELLED: Final = N_("It was cancelled. Nothing was imported.")
ENDED_WITH_PROGRAM: Final = N_("It ended with Prefloop, which was stopped.")


# ----------------------------------------------------------------------------------------------------------- doing it
def runner(data_dir: Path) -> LaneRunner[ImportData]:
    """What imports files in the web server, one at a time."""
    return LaneRunner(data_dir, HERE, perform)


def perform(attempt: Attempt, job: Job[ImportData]) -> JobOutcome:
    """Run an import of the web server's lane. Raises UserError where it can't be done, or was."""
    if job.attempt > 1:  # what was uploaded is gone with the program
        raise UserError(said_of(attempt.db, job, _(ENDED_WITH_PROGRAM)))
    command = [sys.executable, *PROGRAM, f"--data={attempt.data_dir}", TIED, *job.spec.arguments]
    return follow(attempt, job, command, child_environment())


def follow(
    attempt: Attempt, job: Job[ImportData], command: Sequence[str], environment: Mapping[str, str]
) -> JobOutcome:
    """Run an import's command to its end; what it has found is the job's result. Raises UserError, Stopped."""
    ended = run_command(attempt, command, environment, progress_of)
    if ended.status in (0, NOTHING_USABLE) and ("look" in ended.said or "outcome" in ended.said):
        return JobOutcome("", ended.said)
    if ended.status == REFUSED:
        raise UserError(ended.refusal or _("The import was refused."))
    importing.clear_leftovers(attempt.db)
    if ended.told_to_end or attempt.terminated.is_set():
        if not has_imported_since(attempt.db, job.created):
            raise Stopped
        cancelled = attempt.stopped and not attempt.terminated.is_set()
        why = _("It was cancelled.") if cancelled else _(ENDED_WITH_PROGRAM)
        raise UserError(said_of(attempt.db, job, why))
    logger.error("An import ended with status %s: %s", ended.status, without_token(ended.words))
    why = _("It ended unexpectedly (status {status}; the log has its last words).").format(status=ended.status)
    if ended.status == -signal.SIGKILL:
        why = ended.last_word
    raise UserError(said_of(attempt.db, job, why))


def said_of(db: Database, job: Job[ImportData], why: str) -> str:
    """What became of an import that came to no end of its own."""
    imported = has_imported_since(db, job.created)
    came_of_it = _("Just before, everything had been imported.") if imported else _("Nothing was imported.")
    return joined(why, came_of_it)


def progress_of(told: Any) -> tuple[int, int, str]:
    """How far an import is, in rows, with how many there may be where that is known, and what it does."""
    rows, share = told["rows"], told["share"]
    return rows, round(rows / share) if share else 0, told["what"]
