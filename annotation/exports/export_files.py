"""Exports that the page makes: written by a process of their own, kept in the data directory, for admins only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from starlette.responses import FileResponse, Response
from starlette.routing import Route

from annotation.database import Database
from annotation.environment import child_environment, remove_leftover
from annotation.exports.export_command import PROGRAM, arguments_of
from annotation.exports.formats import NUMBERED, ONE_FILE, ExportRequest, reasons_of
from annotation.exports.writing import DIRECTORY, leftovers
from annotation.jobs import job_table
from annotation.jobs.attempt import Attempt, Stopped
from annotation.jobs.job_process import REFUSED, ROOT, TIED, run_command
from annotation.jobs.job_queue import JobQueue, JobRequest, named
from annotation.jobs.job_table import Job
from annotation.jobs.lane_runner import JobOutcome, LaneRunner
from annotation.records import UserError
from annotation.translation import N_, _, joined, ngettext, retold
from annotation.web.middleware import admins_route

# No separators, and no dot in front: such a name can't lead out of the directory or to what is being written.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
COUNT_SECONDS: Final = 300.0


@dataclass(frozen=True)
class ExportFile:
    name: str
    size: int
    made: str


def files(data_dir: Path) -> list[ExportFile]:
    """The finished exports, newest first."""
    found = []
    for path in sorted((data_dir / DIRECTORY).glob("*"), key=lambda path: path.name):
        if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            facts = path.stat()
            made = datetime.fromtimestamp(facts.st_mtime, UTC).isoformat(timespec="seconds")
            found.append(ExportFile(path.name, facts.st_size, made))
    return sorted(found, key=lambda entry: entry.made, reverse=True)


def find(data_dir: Path, name: str) -> Path:
    """The path of a finished export. Raises UserError for a name that none has."""
    path = data_dir / DIRECTORY / name if NAME.fullmatch(name) else None
    if path is None or not path.is_file() or path.is_symlink():
        raise UserError(_("There is no such export any more. Reload the page to see those that are there."))
    return path


@dataclass(frozen=True)
class WriteExport(JobRequest):
    kind = "export"
    request: ExportRequest
    file: str


EXPORTS: Final[JobQueue[WriteExport]] = JobQueue("web", named(WriteExport))


def start(db: Database, request: ExportRequest, by: str) -> None:
    """Have an export written. Raises UserError while one is."""
    with db.transaction():
        if EXPORTS.open(db):
            raise UserError(_("An export is being written already. Wait until it is there."))
        EXPORTS.enqueue(db, WriteExport(request, file_name(request)), by)


def cancel(db: Database) -> None:
    """Have the export that is being written end without a file. Raises UserError where none is."""
    latest = EXPORTS.newest(db)
    if latest is None or not latest.is_open:
        raise UserError(_("No export is being written."))
    job_table.cancel(db, latest.id)


def runner(data_dir: Path) -> LaneRunner[WriteExport]:
    """What writes exports in the web server, one at a time."""
    return LaneRunner(data_dir, EXPORTS, perform)


def perform(attempt: Attempt, job: Job[WriteExport]) -> JobOutcome:
    """Run `python -m annotation export`. Raises UserError where it came to nothing, Stopped where it was to stop."""
    directory = attempt.data_dir / DIRECTORY
    directory.mkdir(exist_ok=True)
    remove_leftover(leftovers(attempt.data_dir))
    target = directory / job.spec.file
    if job.attempt > 1 and target.is_file():
        return JobOutcome(_("Wrote {file} just before Prefloop was stopped.").format(file=job.spec.file))
    command = command_of(attempt.data_dir, job.spec.request, f"--to={target}", "--json-progress", TIED)
    ended = run_command(attempt, command, child_environment(), progress_of)
    if ended.status == 0:
        return JobOutcome(written(job.spec.file, **ended.said["outcome"]))
    attempt.raise_if_stopped()
    if ended.told_to_end:
        raise Stopped
    if ended.status == REFUSED:
        raise UserError(ended.refusal)
    said = _("The export ended without finishing (status {status}).").format(status=ended.status)
    raise UserError(joined(said, ended.last_word))


def written(file: str, rows: Mapping[str, int], left_out: Mapping[str, int]) -> str:
    """What an export has written, and how much it has not."""
    total = sum(rows.values())
    said = ngettext("Wrote {file}: {total:,} row ({parts}).", "Wrote {file}: {total:,} rows ({parts}).", total)
    without = _("Left out: {reasons}.").format(reasons=reasons_of(left_out)) if left_out else ""
    return joined(said.format(file=file, total=total, parts=parts_of(rows)), without)


def parts_of(rows: Mapping[str, int]) -> str:
    """How many rows there are of each split, or of an archive's tables, which stand there by their names."""
    of_each = (_(SPLITS.get(name, NUMBERED)).format(what=name, count=count) for name, count in rows.items() if count)
    return joined(*of_each, by=", ")


SPLITS: Final[Mapping[str, str]] = {"train": N_("{count:,} for training"), "test": N_("{count:,} for testing")}


def progress_of(told: Any) -> tuple[int, int, str]:
    """How far an export is: what is done, of how many, in words."""
    done, total = told["done"], told["total"]
    return done, total, _(PROGRESS[told["unit"]]).format(done=done, total=total)


# By what an export counts.
PROGRESS = {"rows": N_("rows: {done:,} of {total:,}"), "judgements": N_("judgements: {done:,} of {total:,}")}


def file_name(request: ExportRequest) -> str:
    moment = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    return f"{request.format}-{moment}{ONE_FILE.get(request.format, '.zip')}"


def command_of(data_dir: Path, request: ExportRequest, *more: str) -> list[str]:
    return [sys.executable, *PROGRAM, *arguments_of(request), f"--data={data_dir}", *more]


def count(data_dir: Path, request: ExportRequest) -> Mapping[str, Mapping[str, int]]:
    """What an export would hold (`rows` by split) and leave out (`left_out` by reason), counted in another process.

    Raises UserError with what that process says where it refuses, and where it takes too long.
    """
    try:
        done = subprocess.run(
            command_of(data_dir, request, "--count"),  # for which somebody waits
            cwd=ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COUNT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = _("Counting takes more than {seconds:.0f} s. The export itself can still be made.")
        raise UserError(said.format(seconds=COUNT_SECONDS)) from error
    if done.returncode == REFUSED:
        raise UserError(retold(json.loads(done.stdout)["refused"]))
    done.check_returncode()
    counted: Mapping[str, Mapping[str, int]] = json.loads(done.stdout)
    return counted


def download_route(data_dir: Path) -> Route:
    """The route by which an admin, and nobody else, fetches a finished export."""

    def export(name: str) -> Response:
        path = find(data_dir, name)
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    return admins_route(DIRECTORY, export)
