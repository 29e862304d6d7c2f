"""The process that makes the safe copies, and the only one that speaks to the Hub with a token while people judge."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path

from annotation import hub, restoring, safekeeping
from annotation.database import Database, hold_data_directory, open_database
from annotation.places import Place, place_of
from annotation.records import UserError
from annotation.safekeeping import Pending, Schedule
from rlhf import base_model
from rlhf.launching import BEGIN_AGAIN, LAUNCHER, PLACE, TRY_AGAIN, end_with_launcher, hide_environment

POLL_SECONDS = 1.0
# A program that is being replaced ends within minutes.
FOLLOW_SECONDS = 180.0
LOOK_SECONDS = 5.0

logger = logging.getLogger(__name__)


class LeftBehind(Exception):
    """Another running copy of this program was quicker, and nothing has been done here: begin again from its copy."""


class Keeper:
    """One loop: look whether a copy is due, and make it.

    `first`: nothing can have been changed since the program began. `follow`: to begin again is better than to step
    aside, while nothing has been done here.
    """

    def __init__(
        self,
        db: Database,
        data_dir: Path,
        place: Place,
        schedule: Schedule,
        first: bool = False,
        follow: bool = False,
    ) -> None:
        self.db, self.data_dir, self.schedule, self.follow = db, data_dir, schedule, follow
        self.run = uuid.uuid4().hex
        self.named = place.name
        """The place that was asked for; copies may go aside from it."""
        clash = safekeeping.conflict_of(db, place.name)
        self.alone = clash is not None
        self.place = place if clash is None else place.aside(clash.run)
        self.ended, self.hurried = threading.Event(), threading.Event()
        self.failures = 0
        self.looked = self.started = time.monotonic()
        # What was just restored is as safe as it was, and may be another program's until somebody judges here.
        as_safe = first and safekeeping.is_as_restored(db)
        self.attempted = self.started if as_safe else None
        self.kept_mark = safekeeping.mark(db) if as_safe else ""

    def watch(self) -> None:
        """Make copies until told to end, then the last one. Raises LeftBehind."""
        while not self.ended.wait(POLL_SECONDS):
            self.look_for_newer()
            pending = self.pending()
            if safekeeping.due(pending, self.schedule) or (self.hurried.is_set() and pending.changed):
                self.hurried.clear()
                self.keep()
        if self.pending().changed:
            self.keep()

    def pending(self) -> Pending:
        """What a copy now would add."""
        standing = safekeeping.standing(self.db, self.named)
        since = None if self.attempted is None else time.monotonic() - self.attempted
        return Pending(
            safekeeping.mark(self.db) != self.kept_mark,
            standing.judgements_since if standing else 0,
            since,
            self.failures,
        )

    def keep(self) -> None:
        """One copy. What goes wrong is in its row, which the page shows, and in the log."""
        mark = safekeeping.mark(self.db)
        try:
            safekeeping.keep(self.db, self.data_dir, self.place, self.run, self.alone)
        except hub.Conflict as error:
            if self.may_begin_again():
                raise LeftBehind(str(error)) from error
            logger.error("%s From now on copies of this one go to %s.", error, self.step_aside())
            self.keep()
            return
        except UserError as error:
            logger.warning("No safe copy was made. %s", error)
            self.failures += 1
        else:
            self.failures, self.kept_mark = 0, mark
        self.attempted = time.monotonic()

    def may_begin_again(self) -> bool:
        """Whether nothing is lost by it."""
        standing = safekeeping.standing(self.db, self.named)
        untouched = not (standing and standing.judgements_since) and not safekeeping.has_unsafe_work(self.db)
        return self.follow and not self.alone and not self.ended.is_set() and untouched

    def look_for_newer(self) -> None:
        """In the first minutes, notice that a program that has not ended yet has made another copy."""
        moment = time.monotonic()
        if moment - self.started > FOLLOW_SECONDS or moment - self.looked < LOOK_SECONDS or not self.may_begin_again():
            return
        self.looked = moment
        try:
            safekeeping.known_head(self.db, self.place)
        except hub.Conflict as error:
            raise LeftBehind(str(error)) from error
        except UserError as error:
            logger.warning("%s", error)

    def step_aside(self) -> str:
        """Put further copies beside those of another running program: nothing of either is lost."""
        if self.alone:
            raise RuntimeError(f"Somebody else writes to {self.place.name}.")
        self.place, self.alone = self.place.aside(self.run), True
        return self.place.name


def begin(data_dir: Path, place: Place | None, model: str) -> None:
    """What must be done with the token before the web server starts. Raises UserError."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if place is not None:
        with hold_data_directory(data_dir), closing(restoring.keep_closed(data_dir)):
            begun = restoring.begin(place, data_dir, os.environ.get(restoring.VARIABLE, "").strip())
            logger.warning("%s", begun.message)
    base_model.locate(data_dir, model)  # downloads a model that only this token may read


def main(arguments: list[str] | None = None) -> int:
    """The keeper's command line, used by the launcher. What it reads from the environment is in the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--begin", action="store_true", help="restore what is to be restored, fetch the model, and end")
    parser.add_argument("--first", action="store_true", help="the program has only just begun")
    parser.add_argument("--follow", action="store_true", help="end with a status of its own where others were quicker")
    parser.add_argument("--last", action="store_true", help="make one copy and end")
    parser.add_argument("--model", default=base_model.EMBEDDED, help="the base model to fetch")
    options = parser.parse_args(arguments)
    hide_environment()
    logging.basicConfig(format="%(message)s")
    try:
        named = os.environ.get(PLACE, "").strip()
        place = place_of(named, hub.connect(hub.token_here())) if named else None
        schedule = Schedule.from_environment(os.environ)
        if options.begin:
            begin(options.data, place, options.model)
        elif place is not None:
            in_use = restoring.keep_open(options.data)
            keeper = Keeper(open_database(options.data), options.data, place, schedule, options.first, options.follow)
            if options.last:
                keeper.ended.set()
            with closing(in_use):
                watch(keeper)
    except LeftBehind as error:
        print(f"{error} Nobody has done anything here, so Prefloop begins again from that copy.", file=sys.stderr)
        return BEGIN_AGAIN
    except UserError as error:
        print(error, file=sys.stderr)
        return TRY_AGAIN if hub.is_passing(error) else 2
    return 0


def watch(keeper: Keeper) -> None:
    """Let the keeper work until it is told to end; a copy in hand is finished first."""
    signal.signal(signal.SIGTERM, lambda number, frame: keeper.ended.set())
    signal.signal(signal.SIGUSR1, lambda number, frame: keeper.hurried.set())
    if LAUNCHER in os.environ:
        end_with_launcher()
    keeper.watch()


if __name__ == "__main__":
    sys.exit(main())
