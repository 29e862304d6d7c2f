"""On rented hardware: unpack a job, run its worker, and send what it reports and makes back through the Hub.

The job's command there fetches what was packed, installs the requirements and runs
`python -m rlhf.hub.rental_worker DIRECTORY --data DIR --repo REPO --began SECONDS --hours HOURS`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from annotation import hub_client as hubs
from annotation.database import Database
from annotation.environment import keep_private
from annotation.hub_client import Hub
from annotation.records import UserError
from annotation.translation import N_, _, joined
from annotation.ui.invisible import visible
from rlhf.hub.job_bundle import MADE, RESULT, digest, report_name, unpack
from rlhf.hub.push_model import Files
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.devices import query_graphics
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, to_json
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.submission.preconditions import machine_problem
from rlhf.workers.worker_process import run_to_end

# Each report is a commit. The first come sooner, for people who wait to see that it works.
FIRST_SECONDS: Final = 15.0
REPORT_SECONDS: Final = 60.0
QUICK_REPORTS: Final = 8
# Set by tests, which have no minute.
PACE: Final = "PREFLOOP_REPORT_SECONDS"
# To end by itself before the Hub ends it, so that the last report arrives.
SPARE_SECONDS: Final = 120.0
# What was made is sent again and again until the machine is nearly taken away.
LAST_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 60.0
REFUSED_SECONDS: Final = 600.0
OVER: Final = N_("The time that was agreed to is over. What it had learnt until then is gone: rent for longer.")
ENDED_THERE: Final = N_("The machine was told to end before it began.")

logger = logging.getLogger(__name__)


# When the steady clock began, by the other one.
BEGAN: Final = time.time() - time.monotonic()


def steady_time() -> float:
    """The time as `time.time` had it when this began: setting a machine's clock gives it no more time, nor less."""
    return BEGAN + time.monotonic()


@dataclass
class Reporter:
    """Sends what a job reports, in numbered batches. A batch that did not arrive is sent again as it was."""

    hub: Hub
    repo: str
    db: Database
    job_id: int
    sent: int = 0
    last: int = 0
    """The newest event that has been sent."""
    unsent: dict[str, Any] | None = None
    said: tuple[Any, ...] = ()
    """How far it was at the last report."""

    def batch(self) -> dict[str, Any]:
        """What has not arrived yet, if anything is new; the same again until it has."""
        if self.unsent is None:
            job = job_store.get(self.db, self.job_id)
            events = rental_store.events_after(self.db, self.job_id, self.last)
            self.unsent = {"step": job.step, "steps": job.steps, "message": job.message, "events": events}
        return self.unsent

    def files(self) -> dict[str, bytes]:
        """The file of the batch; none where nothing is new."""
        batch = self.batch()
        if not batch["events"] and progress_in(batch) == self.said:
            self.unsent = None
            return {}
        return {report_name(self.sent + 1): json.dumps(batch).encode()}

    def arrived(self) -> None:
        if self.unsent is not None:
            self.last = max((event["id"] for event in self.unsent["events"]), default=self.last)
            self.sent, self.said, self.unsent = self.sent + 1, progress_in(self.unsent), None

    def send(self) -> None:
        """Send what is new. Raises UserError, and then it is sent the next time."""
        files = self.files()
        if files:
            hubs.commit(self.hub, self.repo, "dataset", dict(files), f"Report {self.sent + 1}")
            self.arrived()

    def finish(self, ending: dict[str, Any], made: Files, end: float) -> None:
        """Send the rest, how it ended and what was made, in one commit; again and again, whatever the Hub says.

        `end` is when the machine is taken away, as `steady_time` says it. Raises UserError shortly before.
        """
        if self.unsent is not None:
            retry(self.send, end)
        files: Files = {**self.files(), **made, RESULT: json.dumps(ending, indent=1).encode()}
        retry(lambda: hubs.commit(self.hub, self.repo, "dataset", files, "The end"), end)


def retry(act: Callable[[], object], end: float) -> None:
    """Repeat what fails: with the machine all would be lost. Raises UserError shortly before `end`.

    What the Hub refuses plainly is not repeated for so long, for the time is paid for.
    """
    pause, refused_until = 2.0, steady_time() + REFUSED_SECONDS
    while True:
        try:
            act()
            return
        except UserError as error:
            refused = error.__cause__ is not None and hubs.status_of(error.__cause__) in (401, 403, 404)
            until = min(end - LAST_SECONDS, refused_until if refused else end)
            if steady_time() + pause > until:
                raise
            logger.warning("%s", error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def progress_in(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    return batch["step"], batch["steps"], batch["message"]


class Watch(threading.Thread):
    """Reports while the job runs, and has it ended when the time is nearly over."""

    def __init__(
        self, reporter: Reporter, deadline: float, pace: float | None, clock: Callable[[], float] = steady_time
    ) -> None:
        super().__init__(daemon=True)
        self.reporter, self.deadline, self.pace, self.clock = reporter, deadline, pace, clock
        self.ended = threading.Event()
        self.over = False

    def run(self) -> None:
        due = steady_time()
        while not self.ended.wait(0.2):
            if self.clock() > self.deadline and not self.over:
                self.over = True
                os.kill(os.getpid(), signal.SIGTERM)
            if steady_time() >= due:
                try:
                    self.reporter.send()
                except UserError as error:
                    logger.warning("%s", error)
                quick = FIRST_SECONDS if self.reporter.sent < QUICK_REPORTS else REPORT_SECONDS
                due = steady_time() + (self.pace or quick)


def run(
    hub: Hub,
    repo: str,
    source: Path,
    data_dir: Path,
    end: float,
    spare: float,
    clock: Callable[[], float] = steady_time,
) -> int:
    """Do the whole job; returns the exit status.

    The machine is taken away at `end`, as `steady_time` says it; the work stops `spare` seconds before by the `clock`.
    Raises UserError where not even the job's end could be reported.
    """
    try:
        db, job = unpack(source, data_dir)
        refuse_machine(job.spec)
    except UserError as error:
        ending = json.dumps({"status": "failed", "message": str(error)}).encode()
        retry(lambda: hubs.commit(hub, repo, "dataset", {RESULT: ending}, "The end"), end)
        return 1
    os.environ["HF_HUB_OFFLINE"] = "1"  # for the worker, which has no token: the model is here
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    pace = os.environ.get(PACE)
    watch = Watch(Reporter(hub, repo, db, job.id), end - spare, float(pace) if pace else None, clock)
    watch.start()
    while job.status == "queued" and not told and not watch.over:  # again where memory ran out and it goes on
        run_to_end(db, data_dir, job, told)
        job = job_store.get(db, job.id)
    watch.ended.set()
    watch.join()
    watch.reporter.finish(*outcome(db, data_dir, job, watch.over), end)
    return 0 if job.status == "finished" else 1


def refuse_machine(spec: JobSpec) -> None:
    """Raises UserError where the machine is not what the job needs, before time is spent on it."""
    import torch

    found = [*machine_problem(spec)] if isinstance(spec, TrainingSpec) else []
    if query_graphics() and not torch.cuda.is_available():
        said = _("PyTorch {version} can't use the GPU of this machine. Rent another kind.")
        found.append(said.format(version=torch.__version__))
    if found:
        raise UserError(joined(*found))


def outcome(db: Database, data_dir: Path, job: Job, over: bool) -> tuple[dict[str, Any], Files]:
    """How a job has ended, for whoever waits for it, and the files of what it has made."""
    status, message = job.status, ENDED_THERE if job.status == "queued" else job.message
    if over and status != "finished":  # also where its worker had not yet begun
        status, message = "lost", OVER
    ending: dict[str, Any] = {"status": status, "message": message, "result": job.result}
    ending["spec"] = json.loads(to_json(job.spec))  # the batch may have been halved
    made = registry.of_job(db, job.id) if job.status == "finished" else None
    if made is None:
        return ending, {}
    directory = data_dir / str(made.path)
    files: Files = {f"{MADE}/{path.name}": path for path in sorted(directory.iterdir()) if path.is_file()}
    held = {Path(name).name: digest(content) for name, content in files.items()}
    return {**ending, "model": asdict(made), "files": held}, files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="where the files of the job are")
    parser.add_argument("--data", type=Path, required=True, help="a data directory to make")
    parser.add_argument("--repo", required=True, help="where reports go: the dataset that the files came from")
    parser.add_argument("--began", type=float, required=True, help="when the machine's time began, as `date +%%s`")
    parser.add_argument("--hours", type=float, required=True, help="for how long it may run")
    options = parser.parse_args(arguments)
    keep_private()
    logging.basicConfig(format="%(message)s")
    hub = hubs.connect(hubs.token_here())
    seconds = options.hours * 3600
    spare = min(SPARE_SECONDS, seconds / 2)  # of a short time only half is kept in reserve
    try:
        return run(hub, options.repo, options.source, options.data, options.began + seconds, spare)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
