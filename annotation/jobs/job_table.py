"""The one table of jobs, whatever their lane: put in, claimed, heard of, ended, cancelled, begun again.

Who does a job claims its row under an id of its own, and can only write to it while the row has that id. So a job has
one who does it, however many programs look, and one who was thought dead changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, Literal, TypeVar

from annotation.database import Database, marks
from annotation.jobs import liveness
from annotation.records import UserError, now
from annotation.translation import N_, _, kept, kept_within, retold, retold_within

Lane = Literal["device", "hub", "web"]
"""Who does a job: a worker on this machine's devices, whoever holds the Hub's token, or the web server."""
Status = Literal["queued", "running", "cancelling", "cancelled", "finished", "failed", "lost"]
Reason = Literal["out-of-memory", "killed", "not-a-number", "too-few-answers"]
"""Why a job ended or does not get on, where the program goes by it. Its message is for people."""
Spec = TypeVar("Spec")

# Who does a job beats every 3 s; on one silent for this long nobody counts, though it may live.
HEARD_WITHIN_SECONDS: Final = 30.0
OPEN: Final = ("queued", "running", "cancelling")
CAME_TO_NOTHING: Final = ("cancelled", "failed", "lost")
ENDED: Final = ("finished", *CAME_TO_NOTHING)
AT_WORK: Final = "status IN ('running', 'cancelling')"
# A job waits where its position puts it; one from before there were positions, where its id does.
PLACE: Final = "coalesce(position, id)"
LAST_PLACE: Final = f"(SELECT coalesce(max({PLACE}), 0) + 1 FROM job)"
# How often a job is begun again whose doer ended: it may be what ends it.
MOST_REPETITIONS: Final = 2
CANCELLED: Final = N_("It was cancelled.")
INTERRUPTED: Final = N_("It was interrupted each time that it was begun. Look at the log, then ask again.")


@dataclass(frozen=True)
class Job(Generic[Spec]):
    """A row of work: a frozen spec and how far it has come."""

    id: int
    kind: str
    spec: Spec
    status: Status
    attempt: int
    worker: str | None
    requested_by: str
    created: str
    started: str | None
    heartbeat: str | None
    finished: str | None
    step: int
    steps: int
    message: str
    result: Mapping[str, Any] | None
    position: float | None = None
    """Jobs that wait start in the order of their positions, or ids where there is none."""
    flavor: str | None = None
    """The rented hardware that it is for; None for this machine."""
    lane: Lane = "device"
    reason: Reason | None = None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN


def as_job(row: Mapping[str, Any], spec: Spec) -> Job[Spec]:
    """A row as a record, with its spec read and what it says to people in the language that is spoken."""
    result = None if row["result"] is None else retold_within(json.loads(row["result"]))
    return Job(**{**row, "spec": spec, "result": result, "message": retold(row["message"])})


def enqueue(db: Database, lane: Lane, kind: str, spec: str, requested_by: str, flavor: str | None = None) -> int:
    """Put a job at the end of its queue and return its id; `spec` is JSON, and `flavor` names rented hardware."""
    with db.transaction():
        asked = {"lane": lane, "kind": kind, "spec": spec, "flavor": flavor, "requested_by": requested_by}
        last = {"status": "queued", "created": now(), "position": db.value(f"SELECT {LAST_PLACE}")}
        return db.insert("job", asked | last)


# ------------------------------------------------------------------------------------------------------------ doing it
def claim(db: Database, job_id: int, worker: str) -> dict[str, Any] | None:
    """Take a queued job for this worker and return its row; None if it is not queued (any more)."""
    sql = """UPDATE job SET status = 'running', worker = :worker, attempt = attempt + 1, started = :now,
                 heartbeat = :now, finished = NULL, message = '', reason = NULL, step = 0, steps = 0
             WHERE id = :id AND status = 'queued' RETURNING *"""
    return taken(db, worker, sql, {"id": job_id})


def taken(db: Database, worker: str, sql: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row that a statement gives to a worker, who is known to live from before then until `liveness.end`."""
    new, row = liveness.begin(db, worker), None
    try:
        with db.transaction():
            row = db.row(sql, {"worker": worker, "now": now(), **values})
    finally:
        if new and row is None:
            liveness.end(db, worker)
    return row


def is_wanted(db: Database, job_id: int, worker: str) -> bool:
    """Whether a job is this worker's, and nobody has cancelled it."""
    return bool(db.value("SELECT status = 'running' FROM job WHERE id = ? AND worker = ?", (job_id, worker)))


def is_held(db: Database, job_id: int, worker: str) -> bool:
    return bool(db.value(f"SELECT {AT_WORK} FROM job WHERE id = ? AND worker = ?", (job_id, worker)))


def beat(db: Database, job_id: int, worker: str) -> bool:
    """Say that the worker lives. False when the job was cancelled or is no longer this worker's: stop."""
    with db.transaction():
        row = db.row(
            f"UPDATE job SET heartbeat = ? WHERE id = ? AND worker = ? AND {AT_WORK} RETURNING status",
            (now(), job_id, worker),
        )
    return row is not None and row["status"] == "running"


def report(
    db: Database, job_id: int, worker: str, step: int, steps: int, metrics: Mapping[str, float], message: str = ""
) -> bool:
    """Record progress, metrics and a heartbeat in one transaction. False means stop, as in `beat`.

    The step in which a worker learns that it is cancelled is recorded too: the checkpoint it leaves holds that step.
    """
    with db.transaction():
        row = db.row(
            f"""UPDATE job SET heartbeat = :now, step = :step, steps = :steps,
                    message = coalesce(nullif(:message, ''), message), reason = iif(:message = '', reason, NULL)
                WHERE id = :id AND worker = :worker AND {AT_WORK} RETURNING status""",
            {"now": now(), "step": step, "steps": steps, "message": kept(message), "id": job_id, "worker": worker},
        )
        if row is not None and metrics:
            add_event(db, job_id, "metric", step, dict(metrics))
    return row is not None and row["status"] == "running"


def explain(db: Database, job_id: int, worker: str, reason: Reason | None, message: str) -> None:
    """Record why a job that is at work does not get on, until it next reports a message; None: it does again."""
    db.write(
        f"""UPDATE job SET reason = :reason, message = :message
            WHERE id = :id AND worker = :worker AND {AT_WORK}""",
        {"reason": reason, "message": kept(message), "id": job_id, "worker": worker},
    )


def log(db: Database, job_id: int, text: str) -> None:
    with db.transaction():
        add_event(db, job_id, "log", 0, kept(text))


def add_event(db: Database, job_id: int, kind: str, step: int, data: Any) -> None:
    row = {"job_id": job_id, "kind": kind, "step": step, "data": json.dumps(data), "created": now()}
    db.insert("event", row)


def finish(db: Database, job_id: int, worker: str, result: Mapping[str, Any], message: str = "") -> bool:
    """End a job well. False if it is no longer this worker's; then nothing is written."""
    told = json.dumps(kept_within(result))
    changed = db.write(
        f"""UPDATE job SET status = 'finished', finished = :now, step = steps, result = :result,
                message = :message, reason = NULL WHERE id = :id AND worker = :worker AND {AT_WORK}""",
        {"now": now(), "result": told, "message": kept(message), "id": job_id, "worker": worker},
    )
    return changed == 1


def stop(db: Database, job_id: int, worker: str, status: Status, message: str, reason: Reason | None = None) -> bool:
    """End a job otherwise: 'cancelled', 'failed' or 'lost', with a sentence for people.

    One that was to stop has stopped, and is not lost.
    """
    changed = db.write(
        f"""UPDATE job SET finished = :now, message = :message, reason = :reason,
                status = iif(status = 'cancelling' AND :status = 'lost', 'cancelled', :status)
            WHERE id = :id AND worker = :worker AND {AT_WORK}""",
        {"status": status, "now": now(), "message": kept(message), "reason": reason, "id": job_id, "worker": worker},
    )
    return changed == 1


def clear_results(db: Database, kinds: Sequence[str], by: str) -> None:
    """Forget what somebody's jobs of these kinds found, and others' a day after their end."""
    db.write(
        f"""UPDATE job SET result = NULL
            WHERE kind IN ({marks(kinds)}) AND (requested_by = ? OR finished < ?) AND result IS NOT NULL""",
        (*kinds, by, seconds_from_now(-24 * 60 * 60)),
    )


def kinds_at_work(db: Database, *lanes: Lane) -> list[str]:
    """The kinds of the jobs at work in these lanes, oldest first; those on rented hardware apart."""
    rows = db.rows(
        f"SELECT kind FROM job WHERE lane IN ({marks(lanes)}) AND flavor IS NULL AND {AT_WORK} ORDER BY id", lanes
    )
    return [row["kind"] for row in rows]


# ------------------------------------------------------------------------------------------------- ended from outside
def take_out(db: Database, job_id: int, message: str, unless: str = "0") -> bool:
    """Take a job out of its queue; False if it does not wait there (any more). `unless`, in SQL, keeps it there."""
    changed = db.write(
        f"""UPDATE job SET status = 'cancelled', finished = ?, message = ?, reason = NULL
            WHERE id = ? AND status = 'queued' AND NOT {unless}""",
        (now(), kept(message), job_id),
    )
    return changed == 1


def request_cancel(db: Database, job_id: int, also: str = "0") -> bool:
    """Ask whoever is at a job to stop; False if nobody is. `also`, in SQL, says when one that waits is asked too."""
    return db.write(f"UPDATE job SET status = 'cancelling' WHERE id = ? AND ({AT_WORK} OR {also})", (job_id,)) == 1


def seconds_from_now(seconds: float) -> str:
    """`now` and so many seconds, as text."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


# Who is gone, or has left the job to whoever comes.
GONE: Final = "coalesce(worker, '') IN (SELECT value FROM json_each(:gone))"


def gone(db: Database) -> dict[str, str]:
    """The value of GONE. Who is gone comes back under no id, so it holds for as long as anybody likes."""
    rows = db.rows(f"SELECT DISTINCT worker FROM job WHERE {AT_WORK} AND worker IS NOT NULL")
    dead = [row["worker"] for row in rows if not liveness.lives(db, row["worker"])]
    return {"gone": json.dumps(["", *dead])}


def cancel(db: Database, job_id: int) -> None:
    """End a job that waits, or whose doer is gone; ask one that is at work to stop. Raises UserError for an ended one.

    Nobody may come who does its lane: of the Hub's, say, where there is no token any more.
    """
    with db.transaction():
        ended = db.write(
            f"""UPDATE job SET status = 'cancelled', worker = NULL, finished = :now, message = :message, reason = NULL
                WHERE id = :id AND {AT_WORK} AND {GONE}""",
            {"now": now(), "message": kept(CANCELLED), "id": job_id, **gone(db)},
        )
        if not (ended or take_out(db, job_id, CANCELLED) or request_cancel(db, job_id)):
            raise UserError(_("That has ended already, so there is nothing to cancel."))


def take_over(db: Database, job_id: int, worker: str) -> bool:
    """Go on with a job, as it is, whose doer is gone; whether it was so."""
    sql = f"UPDATE job SET worker = :worker, heartbeat = :now WHERE id = :id AND {AT_WORK} AND {GONE} RETURNING id"
    return taken(db, worker, sql, {"id": job_id, **gone(db)}) is not None


def release(db: Database, job_id: int, worker: str) -> None:
    """Leave a job to whoever comes next, though this worker's process lives."""
    db.write(
        f"UPDATE job SET worker = NULL, heartbeat = '' WHERE id = ? AND worker = ? AND {AT_WORK}", (job_id, worker)
    )


def requeue_stale(db: Database, lane: Lane, kinds: Sequence[str]) -> None:
    """Put jobs back whose doer is gone, to be done from the beginning; not without end.

    One that was to stop has stopped.
    """
    left = f"lane = :lane AND kind IN (SELECT value FROM json_each(:kinds)) AND {AT_WORK} AND {GONE}"
    values = {"lane": lane, "kinds": json.dumps(list(kinds)), **gone(db), "now": now(), "most": MOST_REPETITIONS}
    values |= {"cancelled": CANCELLED, "interrupted": INTERRUPTED}
    if db.row(f"SELECT id FROM job WHERE {left}", values) is None:  # as nearly always; nothing is written
        return
    with db.transaction():
        db.write(
            f"""UPDATE job SET worker = NULL, finished = :now,
                    status = iif(status = 'cancelling', 'cancelled', 'failed'),
                    message = iif(status = 'cancelling', :cancelled, :interrupted), reason = NULL
                WHERE {left} AND (status = 'cancelling' OR attempt > :most)""",
            values,
        )
        db.write(
            f"""UPDATE job SET status = 'queued', worker = NULL, step = 0, steps = 0, message = '', reason = NULL
                WHERE {left}""",
            values,
        )
