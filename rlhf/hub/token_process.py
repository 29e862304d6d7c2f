"""The process that has the Hub's token while people judge: it makes safe copies and does what the page asks of it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from annotation import __main__ as annotation_commands
from annotation import hub_client
from annotation.copies import copy_reasons, restoration, safe_copies
from annotation.copies.safe_copies import PendingCopy, Schedule
from annotation.copies.targets import CopyTarget, refuse_shared_fate, target_of
from annotation.database import Database, hold_data_directory, open_database
from annotation.environment import keep_private, without_judge_keys
from annotation.imports import import_process
from annotation.imports.import_process import ImportData
from annotation.jobs.attempt import Attempt
from annotation.jobs.job_process import ROOT, TIED
from annotation.jobs.job_table import Job
from annotation.jobs.lane_runner import JobOutcome, LaneRunner
from annotation.records import UserError
from annotation.ui.invisible import visible
from annotation.ui.terminal import log_visibly, outlast_readers
from annotation.web.space import Space
from rlhf.hub import hub_requests, rental_client
from rlhf.hub.token_launcher import BEGIN_AGAIN, LAUNCHER, PLACE, TRY_AGAIN, end_with_launcher, hide_environment, module
from rlhf.models.base import base_files, base_model

POLL_SECONDS = 1.0
# A program that is being replaced ends within minutes.
FOLLOW_SECONDS = 180.0
LOOK_SECONDS = 5.0
# To leave jobs to the next process with a token as they are.
LEAVE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class StaleCopy(Exception):
    """Another running copy of this program was quicker, and nothing has been done here: begin again from its copy."""


class CopyLoop:
    """One loop: look whether a copy is due, and make it.

    `first`: nothing can have been changed since the program began. `follow`: to begin again is better than to step
    aside, while nothing has been done here.
    """

    def __init__(
        self,
        db: Database,
        data_dir: Path,
        place: CopyTarget,
        schedule: Schedule,
        first: bool = False,
        follow: bool = False,
    ) -> None:
        self.db, self.data_dir, self.schedule, self.follow = db, data_dir, schedule, follow
        self.run = uuid.uuid4().hex
        self.named = place.name
        """The place that was asked for; copies may go aside from it."""
        clash = safe_copies.conflict_of(db, place.name)
        self.alone = clash is not None
        self.place = place if clash is None else place.aside(clash.run)
        self.ended, self.hurried = threading.Event(), threading.Event()
        self.failures = 0
        self.looked = self.started = time.monotonic()
        # What was just restored is as safe as it was, and may be another program's until somebody judges here.
        as_safe = first and safe_copies.is_as_restored(db)
        self.attempted = self.started if as_safe else None
        self.kept_mark = copy_reasons.state_mark(db) if as_safe else ""

    def watch(self) -> None:
        """Make copies until told to end, then the last one. Raises StaleCopy."""
        while not self.ended.wait(POLL_SECONDS):
            self.look_for_newer()
            pending = self.pending()
            if safe_copies.due(pending, self.schedule) or (self.hurried.is_set() and pending.changed):
                self.hurried.clear()
                self.make_copy()
        if self.pending().changed:
            self.make_copy()

    def pending(self) -> PendingCopy:
        """What a copy now would add."""
        status = safe_copies.status(self.db, self.named)
        since = None if self.attempted is None else time.monotonic() - self.attempted
        return PendingCopy(
            copy_reasons.state_mark(self.db) != self.kept_mark,
            status.judgements_since if status else 0,
            since,
            self.failures,
        )

    def make_copy(self) -> None:
        """One copy. What goes wrong is in its row, which the page shows, and in the log."""
        mark = copy_reasons.state_mark(self.db)
        try:
            safe_copies.make_copy(self.db, self.data_dir, self.place, self.run, self.alone)
        except hub_client.Conflict as error:
            if self.may_begin_again():
                raise StaleCopy(str(error)) from error
            logger.error("%s From now on copies of this one go to %s.", error, self.step_aside())
            self.make_copy()
            return
        except UserError as error:
            logger.warning("No safe copy was made. %s", error)
            self.failures += 1
        else:
            self.failures, self.kept_mark = 0, mark
        self.attempted = time.monotonic()

    def may_begin_again(self) -> bool:
        """Whether nothing is lost by it."""
        status = safe_copies.status(self.db, self.named)
        untouched = not (status and status.judgements_since) and not safe_copies.has_unsafe_work(self.db)
        return self.follow and not self.alone and not self.ended.is_set() and untouched

    def look_for_newer(self) -> None:
        """In the first minutes, notice that a program that has not ended yet has made another copy."""
        moment = time.monotonic()
        if moment - self.started > FOLLOW_SECONDS or moment - self.looked < LOOK_SECONDS or not self.may_begin_again():
            return
        self.looked = moment
        try:
            safe_copies.known_head(self.db, self.place)
        except hub_client.Conflict as error:
            raise StaleCopy(str(error)) from error
        except UserError as error:
            logger.warning("%s", error)

    def step_aside(self) -> str:
        """Put further copies beside those of another running program: nothing of either is lost."""
        if self.alone:
            raise RuntimeError(f"Somebody else writes to {self.place.name}.")
        self.place, self.alone = self.place.aside(self.run), True
        return self.place.name


def runners(data_dir: Path) -> list[LaneRunner[Any]]:
    """What does the jobs of the Hub's lane, where there is a token to do them with, beside the safe copies.

    An import, which people wait for before a form, must not wait for an upload, nor the other way round.
    """
    if hub_client.token_here() is None:
        return []
    return [
        LaneRunner(data_dir, hub_requests.REQUESTS, hub_requests.perform),
        LaneRunner(data_dir, import_process.FROM_HUB, import_data),
    ]


def import_data(attempt: Attempt, job: Job[ImportData]) -> JobOutcome:
    """Run an import in a process of its own that has the token. Raises UserError, Stopped."""
    environment = {**without_judge_keys(os.environ), "PYTHONPATH": str(ROOT)}
    return import_process.follow(attempt, job, import_command(attempt.data_dir, job.spec.arguments), environment)


def import_command(data_dir: Path, arguments: Sequence[str]) -> list[str]:
    """This module's own command line, so that nobody can read the token in the environment of what it starts."""
    told = json.dumps([TIED, *arguments])
    return [*module("rlhf.hub.token_process"), "--data", str(data_dir), "--import", told]


def begin(data_dir: Path, place: CopyTarget | None, model: str) -> None:
    """What must be done with the token before the web server starts. Raises UserError."""
    if place is not None:
        refuse_shared_fate(place, data_dir, Space.from_environment(os.environ) is not None)
        with hold_data_directory(data_dir), closing(restoration.exclusive_lock(data_dir)):
            begun = restoration.begin(place, data_dir, os.environ.get(restoration.VARIABLE, "").strip())
            logger.warning("%s", begun)
    try:
        base_model.present(data_dir, model, room=False)
    except UserError:
        base_files.locate(data_dir, model)  # downloads a model that only this token may read


def main(arguments: list[str] | None = None) -> int:
    """The command line, used by the launcher. What it reads from the environment: docs/safe-copies.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--begin", action="store_true", help="restore what is to be restored, fetch the model, and end")
    parser.add_argument("--first", action="store_true", help="the program has only just begun")
    parser.add_argument("--follow", action="store_true", help="end with a status of its own where others were quicker")
    parser.add_argument("--last", action="store_true", help="make one copy and end")
    parser.add_argument("--import", dest="bring", type=json.loads, help="arguments of an import, as a list in JSON")
    parser.add_argument("--model", default=base_files.EMBEDDED, help="the base model to fetch")
    options = parser.parse_args(arguments)
    keep_private()
    hide_environment()
    log_visibly()
    if options.bring is not None:
        return annotation_commands.main(["import", f"--data={options.data}", *options.bring])
    try:
        named = os.environ.get(PLACE, "").strip()
        place = target_of(named, hub_client.connect(hub_client.token_here())) if named else None
        schedule = Schedule.from_environment(os.environ)
        if options.begin:
            begin(options.data, place, options.model)
        else:
            with closing(restoration.shared_lock(options.data)):
                work(options, place, schedule)
    except StaleCopy as error:
        print(
            visible(f"{error} Nobody has done anything here, so Prefloop begins again from that copy."), file=sys.stderr
        )
        return BEGIN_AGAIN
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return TRY_AGAIN if hub_client.is_passing(error) else 2
    return 0


def work(options: argparse.Namespace, place: CopyTarget | None, schedule: Schedule) -> None:
    """Work until told to end; a copy in hand is finished first. Raises StaleCopy, UserError."""
    ended, hurried = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    signal.signal(signal.SIGUSR1, lambda number, frame: hurried.set())
    if LAUNCHER in os.environ:
        end_with_launcher()
    rented, working = None, [] if options.last else runners(options.data)
    if options.last:
        ended.set()
    else:
        for runner in working:
            runner.start()
        here = hub_client.connect(hub_client.token_here())
        # What is rented, and what came of it, is in a safe copy soon.
        rented = rental_client.Follower(here, options.data, open_database(options.data), changed=hurried.set)
        rented.start()
    if place is None:
        ended.wait()
    else:
        copies = CopyLoop(open_database(options.data), options.data, place, schedule, options.first, options.follow)
        copies.ended, copies.hurried = ended, hurried
        copies.watch()
    if rented is not None:
        rented.stop(LEAVE_SECONDS)
    for runner in working:
        runner.ended.set()
    for runner in working:
        runner.stop(LEAVE_SECONDS)


if __name__ == "__main__":
    outlast_readers()
    ended_with = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended_with)  # whatever a runner is at would be waited for
