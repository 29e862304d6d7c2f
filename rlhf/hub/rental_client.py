"""Send a training to rented hardware (Hugging Face Jobs), follow it there, and take in what it has made.

Everything goes through one private dataset for each job: what is packed goes up in one commit, the job there adds its
reports and at the end what it has made. What is known of it is in the rows, so that whoever follows it may end at any
time and another goes on: no job is started twice.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from annotation import hub_client as hubs
from annotation.database import Database
from annotation.hub_client import Hub
from annotation.jobs import job_table
from annotation.jobs.attempt import Stopped, beating
from annotation.jobs.lane_runner import JobOutcome, attend
from annotation.records import UserError, now, seconds_between
from annotation.translation import N_, _, joined, ngettext
from annotation.ui import formatting
from annotation.validation import FromMapping, adapter
from rlhf.algorithms.model_card import public_name
from rlhf.hub import job_bundle, pull_model
from rlhf.hub.job_bundle import CODE, MADE, RESULT, digest, report_name
from rlhf.hub.push_model import ADAPTER, CARD, WHOLE
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.artifacts import FETCHED, directory_sha256, new_directory
from rlhf.jobs.job_spec import JobSpec, TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.jobs.rental_reports import AS_REPORTED
from rlhf.jobs.rental_store import ENDED_THERE, Rental, Terms
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.adapters.stored_adapter import read_adapter, write_settings
from rlhf.models.model_files import read_header, refuse_adapter
from rlhf.models.registry import HeldPrecision, Policy

IMAGE: Final = "python:3.12"
# One line of commands that read variables. The time that is paid for begins with it.
SCRIPT: Final = " && ".join(
    (
        "began=$(date +%s)",
        "place=$(mktemp -d)",
        'pip install -q --root-user-action=ignore "huggingface_hub==$PREFLOOP_HUB_CLIENT"',
        'hf download "$PREFLOOP_JOBS_REPO" --repo-type dataset --revision "$PREFLOOP_REVISION" '
        '--local-dir "$place/job" --quiet',
        f'pip install -q --root-user-action=ignore -r "$place/job/{CODE}/requirements.txt"',
        f'cd "$place/job/{CODE}"',
        'exec python -m rlhf.hub.rental_worker "$place/job" --data "$place/data" --repo "$PREFLOOP_JOBS_REPO" '
        '--began "$began" --hours "$PREFLOOP_HOURS"',
    )
)
Tried = TypeVar("Tried")
LABEL: Final = "prefloop"
# Between two looks at a job: soon at first, for people who wait to see it begin.
FIRST_POLL_SECONDS: Final = 1.0
POLL_SECONDS: Final = 10.0
SLOWER: Final = 1.2
# The follower looks for jobs to follow this often.
LOOK_SECONDS: Final = 2.0
# Between two attempts to delete what is no use any more.
CLEAR_SECONDS: Final = 60.0
# How long the Hub may say that a job has ended before what it sent last can be read.
SETTLING_SECONDS: Final = 10.0
WAITING: Final[Mapping[str, str]] = {
    "SCHEDULING": N_("It waits for the rented machine."),
    "RUNNING": N_("The rented machine installs what it needs."),
}
# For how long after the agreed time the Hub is asked about a job, should it refuse to tell.
GRACE_SECONDS: Final = 3600.0
# A machine that has sent its result ends by itself within seconds, or is ended.
LEAVING_SECONDS: Final = 60.0
MADE_FILES: Final = (*ADAPTER, *WHOLE, CARD, "prefloop.json")
LAST_LINES: Final = 5
ANEW: Final = N_("Nothing of it can be resumed: start a new run.")
GIVEN_BACK: Final = N_("The rented machine was given back.")
OWN_ERROR: Final = N_("An error of Prefloop's own ended it ({kind}: {error}). Resume looks for it on the Hub again.")
ROUNDING: Final = 1e-6

logger = logging.getLogger(__name__)


class RentalEnded(UserError):
    """The job has ended on the Hub, and nothing is to be waited for."""


# ------------------------------------------------------------------------------------------------------------ following
class Follower(threading.Thread):
    """Follows every job for rented hardware, each in a thread of its own."""

    def __init__(
        self,
        hub: Hub,
        data_dir: Path,
        db: Database,
        poll_seconds: float = POLL_SECONDS,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called when a machine was rented, and when nobody follows it here any more."""
        super().__init__(name="rented jobs", daemon=True)
        self.changed = changed
        self.hub, self.data_dir, self.db, self.poll_seconds = hub, data_dir, db, poll_seconds
        self.ended = threading.Event()
        self.followed: dict[int, threading.Thread] = {}
        self.clear_not_before = 0.0

    def run(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:
                logger.error("The follower of rented jobs failed. %s", hubs.for_log(error))

    def look(self) -> None:
        """Follow what nobody follows, if there is a token to do it with, and clear up after what has ended."""
        if self.hub.token is None:
            return
        if time.monotonic() >= self.clear_not_before:
            self.clear_not_before = time.monotonic() + CLEAR_SECONDS
            clear_up(self.hub, self.db)
        for job_id in rental_store.to_follow(self.db):
            running = self.followed.get(job_id)
            if running is None or not running.is_alive():
                thread = threading.Thread(
                    target=follow,
                    args=(self.hub, self.db, self.data_dir, job_id, self.ended, self.poll_seconds, self.changed),
                    name=f"rented job {job_id}",
                    daemon=True,
                )
                self.followed[job_id] = thread
                thread.start()

    def stop(self, seconds: float) -> None:
        """Leave the jobs to whoever comes next; they go on."""
        self.ended.set()
        deadline = time.monotonic() + seconds
        for thread in self.followed.values():
            thread.join(max(deadline - time.monotonic(), 0))


def follow(
    hub: Hub,
    db: Database,
    data_dir: Path,
    job_id: int,
    ended: threading.Event,
    poll_seconds: float = POLL_SECONDS,
    changed: Callable[[], None] = lambda: None,
) -> None:
    """Take a job to its end, or until told to end, if nobody else follows it; how it ended is in its row."""
    worker = uuid.uuid4().hex
    job = rental_store.acquire(db, job_id, worker)
    if job is None:
        return
    run = Run(db, data_dir, job, worker, ended)
    try:
        with beating(run):
            see_through(RentedRun(hub, run, job, poll_seconds, changed))
    finally:
        db.close()


def see_through(rented: RentedRun) -> None:
    """Take a job that nobody else follows to its end, and say in its row how it ended."""
    attend(rented.run, partial(outcome_of, rented), _(GIVEN_BACK), OWN_ERROR)
    rented.changed()


def outcome_of(rented: RentedRun) -> JobOutcome:
    """What came of a job; of what failed nothing is left there that costs money. Raises Stopped, UserError."""
    try:
        return JobOutcome("", rented.result())
    except Stopped:
        raise
    except UserError as error:
        rented.run.log(str(error))
        if isinstance(error, RentalEnded):
            clear(rented.hub, rented.db, rented.rental)
        raise
    except Exception:
        rented.try_to_give_back()  # not only once somebody has mended this
        raise


class RentedRun:
    """One job's way: pack, start, follow, take in. Every step looks first whether it was done already."""

    def __init__(self, hub: Hub, run: Run, job: Job, poll_seconds: float, changed: Callable[[], None]) -> None:
        self.changed, self.ended = changed, run.terminated
        self.hub, self.run, self.job, self.poll_seconds = hub, run, job, poll_seconds
        self.db, self.data_dir = run.db, run.data_dir
        self.rental = rental_store.get(self.db, job.id)
        self.warned, self.pause = "", min(FIRST_POLL_SECONDS, poll_seconds)

    def result(self) -> dict[str, Any]:
        """The job's result. Raises Stopped, or UserError where it came to nothing."""
        if self.rental.hub_job is None:
            self.start()
        elif self.rental.is_over:
            raise RentalEnded(_(ANEW))
        ending = checked_ending(self.wait())
        self.see_it_leave()
        if not isinstance(ending, FinishedEnding):
            raise RentalEnded(f"{_(ending.message)} {_(ANEW)}")
        self.retry(_("Taking in what was made is tried again: {error}"), lambda: self.take_in(ending))
        dollars = formatting.dollars(self.rental.cost)
        minutes = round(self.rental.seconds / 60)
        self.run.log(
            ngettext(
                "What was made is here: {minutes} minute on {flavor}, about {dollars}.",
                "What was made is here: {minutes} minutes on {flavor}, about {dollars}.",
                minutes,
            ).format(minutes=minutes, flavor=self.job.flavor, dollars=dollars)
        )
        return {**(ending.result or {}), "rented": {"flavor": self.job.flavor, "cost_usd": round(self.rental.cost, 4)}}

    # ----------------------------------------------------------------------------------------------------------- start
    def start(self) -> None:
        """Send the files and start the job, unless an earlier follower had started it without saying so."""
        who = self.retry(_("Asking whose token it is is tried again: {error}"), lambda: hubs.check_token(self.hub))
        payer = self.rental.namespace or who.name
        hubs.check_token(self.hub, f"{payer}/x")  # what was told is remembered
        self.rental = rental_store.record_payer(self.db, self.job.id, payer)
        started = self.retry(_("Looking for the job is tried again: {error}"), self.started_before)
        if started is None:
            try:
                started = self.begin()
            except UserError:
                clear(self.hub, self.db, self.rental)  # no machine will fetch what was sent
                raise
        self.rental = rental_store.started(self.db, self.job.id, started.id, started.url)
        terms = Terms(self.job.flavor or "", self.rental.price_per_hour, self.rental.hours, payer)
        self.run.log(_("Rented. {terms} {url}").format(terms=terms.sentence, url=started.url))
        self.changed()

    def begin(self) -> Any:
        """Send the files and start the job. Raises UserError."""
        self.retry(_("Asking for the price is tried again: {error}"), self.check_price)
        self.run.report(0, 0, {}, _("It sends the files to the Hub."))
        sha = self.retry(_("Sending the files is tried again: {error}"), self.send)
        self.raise_if_ended()
        # An answer may be lost although the job was started: it is looked for before it is started again.
        return self.retry(
            _("Renting the hardware is tried again: {error}"), lambda: self.started_before() or self.rent(sha)
        )

    def send(self) -> str:
        """Put what the job needs into its dataset; returns the commit. Raises UserError."""
        repo = self.rental.repo
        hubs.ensure_repo(self.hub, repo, "dataset", private=True)
        files = job_bundle.pack(self.db, self.data_dir, self.job)
        return hubs.commit(self.hub, repo, "dataset", files, f"Job {self.job.id}: {self.job.kind}")

    def rent(self, sha: str) -> Any:
        """Start the job on the Hub with the files of this commit. Raises UserError."""
        with hubs.explained(_("Renting the hardware failed.")):
            return self.hub.api.run_job(
                image=IMAGE,
                command=["bash", "-c", SCRIPT],
                env=self.environment(sha),
                secrets={"HF_TOKEN": self.hub.token or ""},
                flavor=self.job.flavor,
                timeout=round(self.rental.hours * 3600),
                labels={LABEL: self.rental.mark},
                namespace=self.rental.namespace,
            )

    def environment(self, sha: str) -> dict[str, str]:
        """What the script is told. Where the Hub is, if not in its usual place."""
        told = {
            "PREFLOOP_JOBS_REPO": self.rental.repo,
            "PREFLOOP_REVISION": sha,
            "PREFLOOP_HOURS": f"{self.rental.hours:g}",
            "PREFLOOP_HUB_CLIENT": version("huggingface_hub"),
        }
        usual = self.hub.endpoint.rstrip("/") == "https://huggingface.co"
        return told if usual else {**told, "HF_ENDPOINT": self.hub.endpoint}

    def started_before(self) -> Any:
        """The job on the Hub that has this one's mark; None where there is none."""
        with hubs.explained(_("Looking for the job on the Hub failed.")):
            known = self.hub.api.list_jobs(labels={LABEL: self.rental.mark}, namespace=self.rental.namespace)
            return next(iter(known), None)

    def check_price(self) -> None:
        """Raises UserError where the Hub asks for more than was agreed to, or has no such hardware."""
        price, agreed = price_of(self.hub, self.job.flavor or ""), self.rental.price_per_hour
        if price > agreed + ROUNDING:
            said = _(
                "{flavor} costs {dollars} an hour on the Hub, and {dollars_2} was agreed to. Nothing was "
                "rented; start a new run if that is not too much."
            )
            asked, known = formatting.dollars(price), formatting.dollars(agreed)
            raise UserError(said.format(flavor=self.job.flavor, dollars=asked, dollars_2=known))

    # ---------------------------------------------------------------------------------------------------------- follow
    def wait(self) -> Any:
        """How the job ended there; reports are recorded on the way. Raises Stopped, UserError."""
        while True:
            self.raise_if_ended()
            ending = self.retry(_("Following the job is tried again: {error}"), self.look, patient=True)
            if ending is not None:
                return ending
            self.ended.wait(self.pause)
            self.pause = min(SLOWER * self.pause, self.poll_seconds)

    def look(self) -> Any:
        """Record what is new; how the job ended, if it has. Raises RentalEnded where it ended without a word."""
        ending = self.read_reports()
        if ending is not None:
            return ending
        stage, message = self.stage()
        if stage in ENDED_THERE:
            time.sleep(min(SETTLING_SECONDS, self.poll_seconds))
            ending = self.read_reports()
            if ending is None:
                raise RentalEnded(self.failure_message(stage, message))
        return ending

    def stage(self) -> tuple[str, str]:
        """The stage that the Hub says the job is in, and why."""
        assert self.rental.hub_job is not None
        try:
            with hubs.explained(_("Asking the Hub for the job {job} failed."), job=self.rental.hub_job):
                info = self.hub.api.inspect_job(job_id=self.rental.hub_job, namespace=self.rental.namespace)
        except UserError as error:
            if error.__cause__ is not None and hubs.status_of(error.__cause__) == 404:
                return "DELETED", _("the Hub knows it no more")
            raise
        seconds = float((info.durations.running_secs if info.durations else None) or 0)
        before = self.rental.stage
        self.rental = rental_store.seen(self.db, self.job.id, str(info.status.stage), max(seconds, self.rental.seconds))
        if self.rental.stage != before and not self.rental.batches:  # installing takes minutes
            self.run.report(0, 0, {}, WAITING.get(self.rental.stage, ""))
        return self.rental.stage, info.status.message or ""

    def read_reports(self) -> Any:
        """Add the reports to the record that are not in it yet; how the job ended, if it has said so."""
        with hubs.explained(_("Reading the job's reports failed.")):
            names = set(self.hub.api.list_repo_files(self.rental.repo, repo_type="dataset"))
        while (name := report_name(self.rental.batches + 1)) in names:
            batch = self.read(name)
            self.rental = rental_store.replay(self.db, self.job.id, self.run.worker, self.rental.batches + 1, batch)
            self.raise_if_ended()
        return self.read(RESULT) if RESULT in names else None

    def read(self, name: str) -> Any:
        """What a JSON file of the job's holds; an empty object where it holds nothing that can be read."""
        with tempfile.TemporaryDirectory(prefix="prefloop-") as directory:
            failed = hubs.explained(_("Fetching {name} failed."), name=name)
            with failed, hubs.at_most(hubs.LONGEST_ANSWER):
                path = self.hub.api.hf_hub_download(
                    self.rental.repo, name, repo_type="dataset", local_dir=directory, force_download=True
                )
            try:
                return json.loads(Path(path).read_text("utf-8"))
            except (ValueError, RecursionError):
                return {}

    def failure_message(self, stage: str, message: str) -> str:
        said = _("The rented job ended without a result: {ended}.")
        if message:
            said = _("The rented job ended without a result: {ended} ({message}).")
        parts, lines = [said.format(ended=stage.lower(), message=message)], self.last_lines()
        if lines:
            parts.append(_("Its last words: {words}.").format(words=" / ".join(lines)))
        if self.rental.seconds:
            parts.append(_("About {dollars} was spent.").format(dollars=formatting.dollars(self.rental.cost)))
        return joined(*parts, _("Its log: {url}.").format(url=self.rental.url), _(ANEW))

    def last_lines(self) -> list[str]:
        """The end of the job's log; nothing where the Hub does not give it."""
        try:
            with hubs.explained(_("Reading the job's log failed.")):
                lines = list(
                    self.hub.api.fetch_job_logs(
                        job_id=str(self.rental.hub_job), namespace=self.rental.namespace, tail=LAST_LINES
                    )
                )
        except UserError:
            return []
        return [hubs.without_tokens(line.strip())[:200] for line in lines[-LAST_LINES:] if line.strip()]

    # --------------------------------------------------------------------------------------------------------- take in
    def take_in(self, ending: FinishedEnding) -> None:
        """Fetch what was made, check it, and register it as a candidate. Raises UserError."""
        if registry.of_job(self.db, self.job.id) is not None:
            return  # an earlier follower was interrupted after this
        spec = self.job.spec
        assert isinstance(spec, TrainingSpec)
        steps = job_store.get(self.db, self.job.id).steps
        self.run.report(steps, steps, {}, _("It fetches what was made."))
        parent = registry.by_revision(self.db, spec.parent)
        entry = self.entry(spec, parent, ending.model)

        def refuse() -> None:
            if not job_table.is_held(self.db, self.job.id, self.run.worker):
                raise Stopped
            rental_store.record_settings(self.db, self.job.id, as_trained(spec, ending.spec.batch_size))

        (self.data_dir / "adapters").mkdir(exist_ok=True)
        named = registry.registered(self.db, refuse, entry)
        with new_directory(self.data_dir / entry["path"], named) as directory:
            self.fetch(directory, ending.files)
            if directory_sha256(directory) != ending.model.sha256:
                raise UserError(
                    _("What the rented job made arrived damaged. Nothing was kept; Resume fetches it again.")
                )
            for weights in directory.glob("*.safetensors"):
                read_header(weights)
            self.check_made(directory, spec, parent)
            entry["sha256"] = directory_sha256(directory)  # a configuration may have been written anew

    def entry(self, spec: TrainingSpec, parent: Policy, made: MadeModel) -> dict[str, Any]:
        """The row of what was made."""
        revision = registry.free_name(self.db, self.job.kind, self.job.id)
        return {
            "revision": revision,
            "algorithm": self.job.kind,
            "base": registry.by_revision(self.db, "base").base,
            "parent_id": parent.id,
            "job_id": self.job.id,
            "path": f"adapters/{revision}",
            "sha256": made.sha256,
            "kind": spec.makes,
            "form": registry.FORM_OF[spec.method],
            "precision": made.precision,
            "ground_id": None if spec.method == "full" else parent.lies_on,
        }

    def check_made(self, directory: Path, spec: TrainingSpec, parent: Policy) -> None:
        """Raises UserError for what `pull` refuses: whoever can write to the job's dataset could have made it."""
        base = pull_model.base_path(self.db, self.data_dir)
        if spec.method == "full":  # keeps what the base's says of code that is never run
            refuse_adapter(directory)
            pull_model.check_whole(directory, base, public_name(parent.base))
            return
        adapter = read_adapter(directory, self.rental.repo)
        if (adapter.form, adapter.kind) != (registry.FORM_OF[spec.method], spec.makes):
            said = _("The rented job made another kind of model than it was asked for. Nothing was kept.")
            raise UserError(said)
        under = base if parent.lies_on is None else self.data_dir / str(registry.by_id(self.db, parent.lies_on).path)
        pull_model.check_tensors(directory, adapter, under, self.rental.repo)
        write_settings(directory, adapter)

    def fetch(self, directory: Path, expected: Mapping[str, str]) -> None:
        """The files of a directory, each compared with its sha256. Raises UserError."""
        with tempfile.TemporaryDirectory(prefix=FETCHED, dir=directory.parent) as there:
            for name, known in expected.items():
                with hubs.explained(_("Fetching {name} failed."), name=name):
                    path = self.hub.api.hf_hub_download(
                        self.rental.repo, f"{MADE}/{name}", repo_type="dataset", local_dir=there
                    )
                if digest(Path(path)) != known:
                    said = _("{name} arrived damaged. Nothing was kept; Resume fetches it again.")
                    raise UserError(said.format(name=name))
                Path(path).rename(directory / name)

    def see_it_leave(self) -> None:
        """Wait until the machine has ended by itself, or end it: its time is paid for."""
        deadline = time.monotonic() + LEAVING_SECONDS
        try:
            while self.stage()[0] not in ENDED_THERE:
                if time.monotonic() > deadline:
                    self.cancel()
                    return
                self.raise_if_ended()
                self.ended.wait(self.pause)
        except UserError as error:
            self.run.log(_("{error} See {url}.").format(error=error, url=self.rental.url))

    # ------------------------------------------------------------------------------------------------------------ both
    def retry(self, again: str, act: Callable[[], Tried], patient: bool = False) -> Tried:
        """Do what may fail for a passing reason again and again: what runs there runs on meanwhile.

        `patient`: for any reason, until its time is over for sure, because not to know of it does not end it.
        """
        while True:
            try:
                return act()
            except RentalEnded:
                raise
            except UserError as error:
                if not hubs.is_passing(error) and not (patient and self.time_is_left()):
                    raise
                self.warn(again.format(error=error))
            self.raise_if_ended()
            self.ended.wait(self.poll_seconds)

    def warn(self, text: str) -> None:
        """Say in the log what keeps going wrong, once."""
        if text != self.warned:
            self.run.log(text)
            self.warned = text

    def time_is_left(self) -> bool:
        """Whether the job may still run there."""
        return seconds_between(self.job.started or now(), now()) < self.rental.hours * 3600 + GRACE_SECONDS

    def raise_if_ended(self) -> None:
        """Raises Stopped where it is followed here no more; of a cancelled one, once it has ended on the Hub too."""
        if not self.ended.is_set():
            self.run.beat()
            if not self.run.stopped:
                return
            still_ours = job_store.get(self.db, self.job.id).worker == self.run.worker
            if still_ours and self.rental.namespace:
                self.give_back()
                clear(self.hub, self.db, self.rental)
        raise Stopped

    def give_back(self) -> None:
        """Have the job on the Hub end, however often that must be tried: it costs money.

        Raises Stopped, RentalEnded.
        """
        while not self.ended.is_set():
            try:
                if not self.cancel():
                    return
            except UserError as error:
                if not self.time_is_left():
                    said = _("The rented machine could not be given back; its time is over. {error} See {url}.")
                    raise RentalEnded(said.format(error=error, url=self.rental.url)) from error
                by_hand = (
                    _("{error} If that goes on, end it by hand: {url}.")
                    if self.rental.url
                    else _("{error} If that goes on, end it by hand on the Hub.")
                )
                self.warn(by_hand.format(error=error, url=self.rental.url))
            self.run.beat()
            self.ended.wait(self.poll_seconds)
        raise Stopped

    def cancel(self) -> bool:
        """Tell the job on the Hub to end; whether it has not ended yet. Raises UserError."""
        if self.rental.hub_job is None:
            started = self.started_before()
            if started is None:
                return False
            self.rental = rental_store.started(self.db, self.job.id, started.id, started.url)
        if self.stage()[0] in ENDED_THERE:
            return False
        with hubs.explained(_("Giving the rented machine back failed.")):
            self.hub.api.cancel_job(job_id=str(self.rental.hub_job), namespace=self.rental.namespace)
        return self.stage()[0] not in ENDED_THERE

    def try_to_give_back(self) -> None:
        try:
            if self.rental.namespace:
                self.cancel()
        except UserError as error:
            self.run.log(_("{error} See {url}.").format(error=error, url=self.rental.url))


# -------------------------------------------------------------------------------------------------------------- the end
@dataclass(frozen=True)
class Ending:
    """How a job has ended there: whoever can write to its dataset could have written it."""

    __pydantic_config__ = AS_REPORTED
    status: str
    message: str


@dataclass(frozen=True)
class MadeModel:
    """What is said there of the model that was made."""

    __pydantic_config__ = AS_REPORTED
    sha256: str
    precision: HeldPrecision


@dataclass(frozen=True)
class EndedSpec:
    """What may have become of the spec."""

    __pydantic_config__ = AS_REPORTED
    batch_size: int


@dataclass(frozen=True)
class FinishedEnding(Ending):
    """The end of a job that has made something."""

    result: Mapping[str, Any] | None
    model: Annotated[MadeModel, FromMapping()]
    spec: Annotated[EndedSpec, FromMapping()]
    files: Mapping[str, str]
    """By name, the sha256 of each file of what was made."""


def checked_ending(told: Any) -> Ending:
    """What a job says of its end, a FinishedEnding of one that has finished. Raises RentalEnded for what is amiss."""
    try:
        ending: Ending = adapter(Ending).validate_python(told)
        if ending.status != "finished":
            return ending
        finished: FinishedEnding = adapter(FinishedEnding).validate_python(told)
    except ValueError as error:
        said = _("What the rented job says of its end can't be read, so nothing was taken in. {anew}")
        raise RentalEnded(said.format(anew=_(ANEW))) from error
    odd = [name for name in finished.files if not any(fnmatch(name, one) for one in MADE_FILES) or "/" in name]
    if odd:
        said = _("The rented job made files that no model has here ({odd}). Nothing was kept.")
        raise RentalEnded(said.format(odd=", ".join(odd)[:200]))
    return finished


def as_trained(spec: JobSpec, batch: int) -> JobSpec:
    """The spec with the batch that it ended with: there memory may have run out, and the batch been halved."""
    found: JobSpec | None = spec
    while isinstance(found, TrainingSpec) and found.batch_size != batch:
        found = found.halved()
    return spec if found is None else found


def clear_up(hub: Hub, db: Database) -> None:
    for job_id in rental_store.to_clear(db):
        clear(hub, db, rental_store.get(db, job_id))


def clear(hub: Hub, db: Database, rental: Rental) -> None:
    """Delete what was sent, once it has come back or never will. What can't be deleted is no reason to fail."""
    try:
        with hubs.explained(_("Deleting {repo} failed."), repo=rental.repo):
            hub.api.delete_repo(rental.repo, repo_type="dataset", missing_ok=True)
    except UserError as error:
        if hubs.is_passing(error):
            rental_store.to_be_cleared(db, rental.job_id)
            return
        job_table.log(db, rental.job_id, _("{error} It is private, and no use any more.").format(error=error))
    rental_store.cleared(db, rental.job_id)


def price_of(hub: Hub, flavor: str) -> float:
    """What hardware for jobs costs now, in dollars an hour. Raises UserError where the Hub has no such hardware."""
    with hubs.explained(_("Asking the Hub for its prices failed.")):
        prices = {one.name: hubs.hourly_price(one) for one in hub.api.list_jobs_hardware()}
    if flavor not in prices:
        cheapest_first = sorted(prices.items(), key=lambda one: one[1])
        known = ", ".join(f"{name} ({formatting.dollars(cost)})" for name, cost in cheapest_first)
        said = _("The Hub rents no '{flavor}'. It has, with prices per hour: {known}.")
        raise UserError(said.format(flavor=flavor, known=known))
    return prices[flavor]
