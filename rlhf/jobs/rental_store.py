"""Every SQL statement about rented hardware: what was agreed to, where a job runs, and what came back of it."""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import asdict, dataclass
from typing import Annotated, Any, cast

from annotated_types import Interval

from annotation.database import Database
from annotation.hub_client import check_name
from annotation.jobs import job_table
from annotation.jobs.job_table import AT_WORK, GONE, gone
from annotation.records import UserError, now
from annotation.translation import N_, _, as_it_stands, ngettext
from annotation.ui.formatting import dollars, most_dollars
from annotation.validation import adapter
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, to_json
from rlhf.jobs.job_store import Job
from rlhf.jobs.rental_reports import LogEvent, readable

FLAVOR = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
LONGEST_HOURS = 72.0
SHORTEST_HOURS = 0.1
HIGHEST_PRICE = 1000.0
# The Hub's words for a job that has ended there.
ENDED_THERE = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
# What a job is called on the Hub until it has a repository's name.
MARK_DIGITS = 12


@dataclass(frozen=True)
class Terms:
    """What a person agrees to: the hardware, its price in dollars an hour, for how many hours at most, who pays."""

    flavor: str
    price_per_hour: float
    hours: float = 1.0
    namespace: str = ""
    """The account or organisation that pays; empty for the token's owner."""

    @property
    def most(self) -> float:
        """Dollars that can be spent."""
        return self.price_per_hour * self.hours

    @property
    def sentence(self) -> str:
        """What is agreed to."""
        count = 1 if self.hours == 1 else max(2, math.ceil(self.hours))  # "0.5 hours"
        if self.namespace:
            agreed = ngettext(
                "This costs up to {most}: {flavor} at {price} an hour, ended after {hours:g} hour at the latest, paid "
                "by {payer}.",
                "This costs up to {most}: {flavor} at {price} an hour, ended after {hours:g} hours at the latest, paid "
                "by {payer}.",
                count,
            )
        else:
            agreed = ngettext(
                "This costs up to {most}: {flavor} at {price} an hour, ended after {hours:g} hour at the latest.",
                "This costs up to {most}: {flavor} at {price} an hour, ended after {hours:g} hours at the latest.",
                count,
            )
        price, most = dollars(self.price_per_hour), most_dollars(self.most)
        return agreed.format(most=most, flavor=self.flavor, price=price, hours=self.hours, payer=self.namespace)


@dataclass(frozen=True)
class Rental:
    """A job's rental: the terms, and how far it has come on the Hub."""

    job_id: int
    mark: str
    price_per_hour: float
    hours: float
    namespace: str
    hub_job: str | None
    url: str
    batches: int
    """How many of its reports are in the job's record."""
    stage: str
    """The Hub's word for how the job stands there."""
    seconds: float
    """For how long it has run there."""
    cleared: str | None = None
    """When its repository was deleted; empty while that is still to be done."""

    @property
    def repo(self) -> str:
        """The private dataset through which files go and come."""
        return f"{self.namespace}/prefloop-job-{self.mark[:MARK_DIGITS]}"

    @property
    def is_over(self) -> bool:
        """Whether it ran there, and nothing of it can come back any more."""
        return self.hub_job is not None and self.cleared is not None

    @property
    def cost(self) -> float:
        """Dollars so far; the Hub bills by the minute."""
        return math.ceil(self.seconds / 60) / 60 * self.price_per_hour


def checked_terms(flavor: Any, price_per_hour: Any, hours: Any, namespace: Any = "") -> Terms:
    """Terms as somebody has typed them. Raises UserError for what can't be meant."""
    if not isinstance(flavor, str) or not FLAVOR.fullmatch(flavor.strip()):
        raise UserError(_("Name the hardware as the Hub does, say a10g-small."))
    namespace = namespace.strip() if isinstance(namespace, str) else ""
    if namespace:
        check_name(f"{namespace}/x")
    price = number_within(
        price_per_hour, 0.0, HIGHEST_PRICE, _("The price must be in dollars an hour, from {low:g} to {high:g}.")
    )
    time = number_within(
        hours, SHORTEST_HOURS, LONGEST_HOURS, _("The time must be in hours, from {low:g} to {high:g}.")
    )
    return Terms(flavor.strip(), price, time, namespace)


def number_within(value: Any, low: float, high: float, wanted: str) -> float:
    """A finite number between two others. Raises UserError with the sentence `wanted`, which has gaps for the two."""
    try:
        return cast(float, adapter(Annotated[float, Interval(ge=low, le=high)]).validate_python(value))
    except ValueError:
        raise UserError(wanted.format(low=low, high=high)) from None


def enqueue(db: Database, spec: JobSpec, requested_by: str, terms: Terms) -> int:
    """Queue a job for rented hardware on these terms; returns its id."""
    with db.transaction():
        job_id = job_store.enqueue(db, spec, requested_by, terms.flavor)
        agreed = {"price_per_hour": terms.price_per_hour, "hours": terms.hours, "namespace": terms.namespace}
        db.insert("rental", {"job_id": job_id, "mark": uuid.uuid4().hex, **agreed})
    return job_id


def get(db: Database, job_id: int) -> Rental:
    return Rental(**db.one("SELECT * FROM rental WHERE job_id = ?", (job_id,)))


def found(db: Database, job_id: int) -> Rental | None:
    row = db.row("SELECT * FROM rental WHERE job_id = ?", (job_id,))
    return None if row is None else Rental(**row)


def to_follow(db: Database) -> list[int]:
    """Jobs for rented hardware that nobody here follows: those that wait, and those whose follower is gone."""
    rows = db.rows(
        f"""SELECT id FROM job
            WHERE flavor IS NOT NULL AND (status = 'queued' OR ({AT_WORK} AND {GONE})) ORDER BY id""",
        gone(db),
    )
    return [row["id"] for row in rows]


def to_clear(db: Database) -> list[int]:
    """Ended jobs whose dataset is no use any more.

    That of a finished one is the only other copy of what was made, until a safe copy is newer, where such are made.
    """
    rows = db.rows(
        """SELECT id FROM job JOIN rental ON rental.job_id = job.id
           WHERE namespace != '' AND coalesce(cleared, '') = '' AND (status = 'cancelled'
               OR (status = 'failed' AND cleared = '') OR (status = 'finished' AND (
               NOT EXISTS (SELECT 1 FROM safe_copy WHERE state = 'safe')
               OR EXISTS (SELECT 1 FROM safe_copy WHERE state = 'safe' AND created > job.finished))))
           ORDER BY id"""
    )
    return [row["id"] for row in rows]


def give_up(db: Database) -> None:
    """Mark jobs lost that nobody here has followed for longer than they can have run."""
    db.write(
        f"""UPDATE job SET status = 'lost', worker = NULL, finished = :now, message = :unfollowed, reason = NULL
           WHERE {AT_WORK} AND {GONE} AND flavor IS NOT NULL AND EXISTS (
               SELECT 1 FROM rental WHERE job_id = job.id
                   AND julianday(coalesce(nullif(heartbeat, ''), started)) + (hours + :grace) / 24
                       < julianday('now'))""",
        {"now": now(), "unfollowed": UNFOLLOWED, "grace": GRACE_HOURS, **gone(db)},
    )


UNFOLLOWED = N_(
    "Nobody here has followed it, since Prefloop has no token for the Hub, and its time is over. Resume looks for what "
    "it has made, once there is one."
)
# Waiting for a machine and fetching what was made take their time too.
GRACE_HOURS = 1.0


def acquire(db: Database, job_id: int, worker: str) -> Job | None:
    """Claim a queued job for rented hardware, or follow one further whose follower is gone; None if neither is so."""
    claimed = job_store.claim(db, job_id, worker)
    if claimed is not None:
        return claimed
    return job_store.get(db, job_id) if job_table.take_over(db, job_id, worker) else None


def record_payer(db: Database, job_id: int, namespace: str) -> Rental:
    """Record who pays, once that is known; what is sent from now on is to be deleted again."""
    db.write("UPDATE rental SET namespace = ?, cleared = NULL WHERE job_id = ?", (namespace, job_id))
    return get(db, job_id)


def started(db: Database, job_id: int, hub_job: str, url: str) -> Rental:
    """Record the job on the Hub, so that no other is started for it."""
    db.write("UPDATE rental SET hub_job = ?, url = ?, cleared = NULL WHERE job_id = ?", (hub_job, url, job_id))
    return get(db, job_id)


def seen(db: Database, job_id: int, stage: str, seconds: float) -> Rental:
    db.write("UPDATE rental SET stage = ?, seconds = ? WHERE job_id = ?", (stage, seconds, job_id))
    return get(db, job_id)


def to_be_cleared(db: Database, job_id: int) -> None:
    """Record that its dataset is no use any more, and could not be deleted yet."""
    db.write("UPDATE rental SET cleared = '' WHERE job_id = ?", (job_id,))


def cleared(db: Database, job_id: int) -> None:
    db.write("UPDATE rental SET cleared = ? WHERE job_id = ?", (now(), job_id))


def replay(db: Database, job_id: int, worker: str, number: int, batch: Any) -> Rental:
    """Add a report from there to the job's record, in one transaction with its number, so that none is added twice.

    Nothing is written where the job is no longer this worker's, or the report is there already.
    """
    report = readable(batch, number)
    with db.transaction() as connection:
        mine = connection.execute(
            f"""UPDATE job SET step = :step, steps = :steps, message = :message, reason = NULL, heartbeat = :now
               WHERE id = :id AND worker = :worker AND {AT_WORK}
                   AND EXISTS (SELECT 1 FROM rental WHERE job_id = job.id AND batches = :before)""",
            {
                "step": report.step,
                "steps": report.steps,
                "message": as_it_stands(report.message),
                "now": now(),
                "id": job_id,
                "worker": worker,
                "before": number - 1,
            },
        ).rowcount
        if mine:
            connection.execute("UPDATE rental SET batches = ? WHERE job_id = ?", (number, job_id))
            for event in report.events:
                row = asdict(event)
                if isinstance(event, LogEvent):
                    row["data"] = as_it_stands(event.data)
                db.insert("event", {**row, "job_id": job_id, "data": json.dumps(row["data"])})
    return get(db, job_id)


def record_settings(db: Database, job_id: int, spec: JobSpec) -> None:
    db.write("UPDATE job SET spec = ? WHERE id = ?", (to_json(spec), job_id))


def events_after(db: Database, job_id: int, last: int) -> list[dict[str, Any]]:
    """What a job has reported since the event `last`, as `replay` takes it, each with its id."""
    rows = db.rows(
        "SELECT id, kind, step, data, created FROM event WHERE job_id = ? AND id > ? ORDER BY id", (job_id, last)
    )
    return [{**row, "data": job_store.said_in(row)} for row in rows]
