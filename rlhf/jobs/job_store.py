"""Every SQL statement about jobs that train, answer and judge: their queue, how they are lost, resumed and changed.

What they have in common with all other jobs, claim, report, end, is `annotation.jobs.job_table`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any, TypeAlias

from annotation.database import Database, marks
from annotation.jobs import job_table
from annotation.jobs.job_table import AT_WORK, CAME_TO_NOTHING, GONE, LAST_PLACE, PLACE, Reason
from annotation.records import UserError, now
from annotation.translation import N_, _, joined, kept, retold
from annotation.validation import known
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, from_row, kinds, to_json
from rlhf.jobs.out_of_memory import KILLED, MEMORY_RAN_OUT, MemoryReason, difference

Job: TypeAlias = job_table.Job[JobSpec]
# A job that waits to be followed again, for which a machine may have been rented.
RENTED = "(status = 'queued' AND EXISTS (SELECT 1 FROM rental WHERE rental.job_id = job.id AND rental.namespace != ''))"
NOT_BEGUN = N_("It had not begun.")
# How the record of a job says that it goes on with other settings.
SMALLER = N_("Queued again with a smaller batch: {changes}.")
SLOWER = N_("Queued again with half the learning rate: {changes}.")


class Diverged(UserError):
    """The loss or a gradient is no number any more."""


def read_job(row: Mapping[str, Any]) -> Job:
    return job_table.as_job(row, from_row(row["spec"]))


def select(db: Database, kinds: Sequence[str], more: str, *values: Any) -> list[Job]:
    """The jobs of these kinds that the rest of a query picks."""
    rows = db.rows(f"SELECT * FROM job WHERE kind IN ({marks(kinds)}) {more}", (*kinds, *values))
    return [read_job(row) for row in rows]


def enqueue(db: Database, spec: JobSpec, requested_by: str, flavor: str | None = None) -> int:
    """Put a job at the end of the queue and return its id; one for rented hardware waits for nobody."""
    lane: job_table.Lane = "device" if flavor is None else "hub"
    return job_table.enqueue(db, lane, spec.kind, to_json(spec), requested_by, flavor)


def doing(db: Database, spec: JobSpec) -> Job | None:
    """The job that waits or runs and makes one of this spec needless."""
    found = (job for job in active(db, (spec.kind,)) if job.status != "cancelling")
    return next((job for job in found if spec.repeats(job.spec)), None)


def waiting_kinds() -> tuple[str, ...]:
    """The kinds of job that wait in the queue for a device."""
    return tuple(kind for kind, spec in kinds().items() if spec.waits)


def queue(db: Database) -> list[Job]:
    """The jobs that wait for this machine, the next one first; the answering worker waits for nobody."""
    return select(db, waiting_kinds(), f"AND status = 'queued' AND lane = 'device' ORDER BY {PLACE}, id")


def at_work(db: Database) -> list[Job]:
    """The jobs that run here or are about to end, the answering worker's apart."""
    return [job for job in active(db, waiting_kinds()) if job.status != "queued" and job.flavor is None]


def rented_jobs(db: Database) -> list[Job]:
    return [job for job in active(db, waiting_kinds()) if job.flavor is not None]


def jobs_ahead(db: Database, job: Job) -> list[Job]:
    """The jobs that one which waits has to wait for: those at work, then those before it in the queue."""
    if not job.spec.waits or job.flavor is not None:
        return []
    return [*at_work(db), *takewhile(lambda other: other.id != job.id, queue(db))]


def move(db: Database, job_id: int, up: bool) -> None:
    """Let a waiting job change places with the one before it (or after it). At the end of the queue nothing changes.

    Raises UserError if it does not wait.
    """
    with db.transaction() as connection:
        waiting = queue(db)
        place = next((number for number, job in enumerate(waiting) if job.id == job_id), None)
        if place is None:
            said = _("Job {job_id} does not wait in the queue (any more), so it can't be moved.")
            raise UserError(said.format(job_id=job_id))
        other = place - 1 if up else place + 1
        if not 0 <= other < len(waiting):
            return
        for job, taken in ((waiting[place], waiting[other]), (waiting[other], waiting[place])):
            position = taken.id if taken.position is None else taken.position
            connection.execute("UPDATE job SET position = ? WHERE id = ?", (position, job.id))


def claim(db: Database, job_id: int, worker: str) -> Job | None:
    """Take a queued job for this worker; None if it is not queued (any more)."""
    row = job_table.claim(db, job_id, worker)
    return None if row is None else read_job(row)


def ended_with_program(spec: JobSpec) -> str:
    """What is said of a job that ended because the program did.

    Nothing of what a resumed one would go on from: that is seen where it is resumed, and may be deleted meanwhile.
    """
    if not spec.waits:
        return _("Prefloop was stopped while this ran. It starts anew with Prefloop.")
    return _("Prefloop was stopped while this ran.")


def died(db: Database, job_id: int, worker: str, message: str, reason: Reason | None = None) -> bool:
    """Mark a job lost whose worker has died, if it was this worker's to the end; one that was to stop is cancelled.

    Of several processes that share a job the survivors may have said that it was lost, without knowing why.
    """
    changed = db.write(
        """UPDATE job SET status = CASE status WHEN 'cancelling' THEN 'cancelled' ELSE 'lost' END,
               finished = :now, message = :message, reason = :reason
           WHERE id = :id AND worker = :worker AND status IN ('running', 'cancelling', 'lost')""",
        {"now": now(), "message": kept(message), "reason": reason, "id": job_id, "worker": worker},
    )
    return changed == 1


def requeue_smaller(db: Database, job_id: int, worker: str, reason: MemoryReason) -> bool:
    """Queue a job again with half the batch after memory ran out, where its spec asks for that (`halve_batch`).

    False, and nothing is written, where it does not, the batch is 1 already, or the job is no longer this worker's.
    It keeps its place and goes on from its last checkpoint; the new spec is in its row and the change in its log.
    """
    with db.transaction() as connection:
        row = db.row(
            "SELECT spec FROM job WHERE id = ? AND worker = ? AND status IN ('running', 'lost')", (job_id, worker)
        )
        old = None if row is None else from_row(row["spec"])
        new = old.halved() if isinstance(old, TrainingSpec) and old.halve_batch else None
        if old is None or new is None:
            return False
        said = MEMORY_RAN_OUT if reason == "out-of-memory" else KILLED
        message = joined(_(said), _(SMALLER).format(changes=difference(old, new)))
        connection.execute(
            """UPDATE job SET spec = :spec, status = 'queued', worker = NULL, finished = NULL, message = :message,
                   reason = :reason WHERE id = :id""",
            {"spec": to_json(new), "message": kept(message), "reason": reason, "id": job_id},
        )
        job_table.add_event(db, job_id, "change", 0, kept(message))
        return True


def retries(db: Database, job_id: int) -> list[str]:
    """What was changed each time that a job was queued again with other settings, oldest first."""
    rows = db.rows("SELECT kind, data FROM event WHERE job_id = ? AND kind = 'change' ORDER BY id", (job_id,))
    return [said_in(row) for row in rows]


def give_up(db: Database, job_id: int, attempt: int, message: str, reason: Reason | None = None) -> None:
    """Mark a queued job failed whose worker could not even begin: nobody has claimed it since its `attempt`."""
    db.write(
        """UPDATE job SET status = 'failed', finished = :now, message = :message, reason = :reason
           WHERE id = :id AND status = 'queued' AND attempt = :attempt""",
        {"now": now(), "message": kept(message), "reason": reason, "id": job_id, "attempt": attempt},
    )


def cancel(db: Database, job_id: int) -> None:
    """Ask a running job to stop, or take a queued one out. Raises UserError if it has ended, or there is none."""
    with db.transaction():
        get(db, job_id)
        if not (take_out(db, job_id) or job_table.request_cancel(db, job_id, also=RENTED)):
            raise UserError(_("Job {job_id} is not running, so there is nothing to cancel.").format(job_id=job_id))


def take_out(db: Database, job_id: int) -> bool:
    """Take a job out of the queue; False if it does not wait there (any more), or may have a machine on the Hub."""
    return job_table.take_out(db, job_id, NOT_BEGUN, unless=RENTED)


def resume(db: Database, job_id: int, half_batch: bool = False) -> str:
    """Put a job that was lost, cancelled or failed at the end of the queue; it goes on from its last checkpoint.

    Its spec is as before, unless that would fail in the same way: a run whose numbers were none any more goes on with
    half the learning rate, and one whose memory ran out, where a person says so, with `half_batch`. Returns what was
    changed, which is in the log too; empty if nothing. Raises UserError for a job in any other state, and for a batch
    that can't be halved. A job for rented hardware is looked for there again, as it is; one that was never started
    there is rented now.
    """
    with db.transaction() as connection:
        job = find(db, job_id)
        if job is None or job.status not in CAME_TO_NOTHING:
            told = _("Job {job_id} can't be resumed: only one that was lost, cancelled or failed can.")
            raise UserError(told.format(job_id=job_id))
        spec, message = job.spec, ""
        if job.flavor is not None:  # what is there is followed and fetched
            if half_batch:
                told = _("Job {job_id} was for {flavor}. Start a new one there, with a smaller batch.")
                raise UserError(told.format(job_id=job_id, flavor=job.flavor))
        elif half_batch:
            spec, message = halved(job), SMALLER
        elif isinstance(spec, TrainingSpec) and diverged(job):
            spec, message = replace(spec, learning_rate=spec.learning_rate / 2), SLOWER
        told = _(message).format(changes=difference(job.spec, spec))
        said = kept(told)
        if said:
            job_table.add_event(db, job_id, "change", 0, said)
        connection.execute(
            f"""UPDATE job SET spec = ?, status = 'queued', worker = NULL, finished = NULL, message = ?, reason = NULL,
                    position = {LAST_PLACE} WHERE id = ?""",
            (to_json(spec), said, job_id),
        )
    return told


def halved(job: Job) -> JobSpec:
    """The spec of a job that goes on with half the batch. Raises UserError where there is nothing to halve."""
    spec = job.spec.halved()
    if spec is None:
        raise UserError(_("Job {id} has no batch that could be halved.").format(id=job.id))
    return spec


def diverged(job: Job) -> bool:
    """Whether a job ended because its loss or a gradient was no number any more."""
    return job.status == "failed" and job.reason == "not-a-number" and job.flavor is None


def can_be_halved(job: Job) -> bool:
    """Whether a job ended because memory ran out, and could go on with half the batch."""
    ran_out = job.status in ("failed", "lost") and job.reason in ("out-of-memory", "killed")
    return ran_out and job.flavor is None and job.spec.halved() is not None


SILENT = N_("The worker stopped without a word.")


def mark_lost(db: Database) -> list[int]:
    """Mark jobs at work lost whose worker is gone; return their ids.

    They stay that worker's: whoever started it may know why it died, and say so (`died`). Not those on rented hardware:
    they go on whether anybody here follows them or not.
    """
    left = f"{AT_WORK} AND {GONE} AND lane = 'device'"
    values = {"now": now(), "silent": SILENT, **job_table.gone(db)}
    if db.row(f"SELECT id FROM job WHERE {left}", values) is None:  # as nearly always; nothing is written
        return []
    with db.transaction():
        rows = db.rows(
            f"""UPDATE job SET finished = :now, message = :silent, reason = NULL,
                    status = CASE status WHEN 'cancelling' THEN 'cancelled' ELSE 'lost' END
                WHERE {left} RETURNING id""",
            values,
        )
    return [row["id"] for row in rows]


def find(db: Database, job_id: int) -> Job | None:
    """One of these jobs, if it is there. Raises UserError for a number that no job can have."""
    row = db.row("SELECT * FROM job WHERE id = ?", (job_id,))
    return None if row is None or row["kind"] not in kinds() else read_job(row)


def get(db: Database, job_id: int) -> Job:
    """One job. Raises UserError if there is none."""
    job = find(db, job_id)
    if job is None:
        said = _("There is no job {job_id}: their numbers go up to {newest}.")
        raise UserError(said.format(job_id=job_id, newest=db.value("SELECT coalesce(max(id), 0) FROM job")))
    return job


def recent(db: Database, kinds: Sequence[str], limit: int = 50) -> list[Job]:
    """The latest jobs of these kinds, newest first."""
    return select(db, kinds, "ORDER BY id DESC LIMIT ?", limit)


def note_start(db: Database, job_id: int) -> None:
    """That a worker is started for a job which may have been in the queue since an earlier start of the program."""
    db.write("UPDATE job SET created = ? WHERE id = ? AND status = 'queued'", (now(), job_id))


def ended(db: Database, kinds: Sequence[str], limit: int) -> list[Job]:
    """The jobs of these kinds that ended last, the latest first, whenever they were asked for."""
    ended_last = f"AND status IN ({marks(job_table.ENDED)}) ORDER BY finished DESC, id DESC LIMIT ?"
    return select(db, kinds, ended_last, *job_table.ENDED, limit)


def with_ids(db: Database, job_ids: Sequence[int]) -> list[Job]:
    job_ids = [job_id for job_id in job_ids if job_id < 2**63]  # SQLite holds no larger number
    rows = db.rows(f"SELECT * FROM job WHERE id IN ({marks(job_ids)})", job_ids)
    return [read_job(row) for row in rows if row["kind"] in kinds()]


def active(db: Database, kinds: Sequence[str]) -> list[Job]:
    """Jobs of these kinds that are queued, running or being cancelled, oldest first."""
    return select(db, kinds, "AND status IN ('queued', 'running', 'cancelling') ORDER BY id")


def checks(db: Database, revision: str | None = None) -> list[Job]:
    """Every check of this policy, or of all, in whatever state; the last to be asked for first."""
    rows = db.rows(
        """SELECT * FROM job WHERE kind = 'check' AND (:revision IS NULL OR json_extract(spec, '$.candidate')
           = :revision) ORDER BY id DESC""",
        {"revision": revision},
    )
    return [read_job(row) for row in rows]


def ended_at(job: Job) -> str:
    """When a job ended; one that was resumed ends after those that were made later."""
    return job.finished or job.created


def newest_event(db: Database, job_id: int) -> int:
    """The id of a job's last event; 0 before the first. It tells whether anything was reported since."""
    return int(db.value("SELECT max(id) FROM event WHERE job_id = ?", (job_id,)) or 0)


def metrics(db: Database, job_id: int) -> list[dict[str, Any]]:
    """A job's metrics, one dictionary a step with key 'step'; the last report of a step wins (after a resume)."""
    rows = db.rows("SELECT step, data FROM event WHERE job_id = ? AND kind = 'metric' ORDER BY id", (job_id,))
    by_step = {row["step"]: {"step": row["step"], **json.loads(row["data"])} for row in rows}
    return [by_step[step] for step in sorted(by_step)]


@dataclass(frozen=True)
class SampleAnswer:
    """What a model answered during a run to one of its fixed prompts."""

    prompt: str
    answer: str
    finish_reason: str
    tokens: int


def sample(db: Database, job_id: int, step: int, answers: Sequence[SampleAnswer]) -> None:
    """Keep what a run answered to its fixed prompts at a step."""
    with db.transaction():
        for answer in answers:
            job_table.add_event(db, job_id, "sample", step, asdict(answer))


def samples(db: Database, job_id: int) -> dict[str, dict[int, SampleAnswer]]:
    """A run's sample answers by prompt and step, in the order in which they came first; the last at a step counts."""
    rows = db.rows("SELECT step, data FROM event WHERE job_id = ? AND kind = 'sample' ORDER BY id", (job_id,))
    found: dict[str, dict[int, SampleAnswer]] = {}
    for row in rows:
        told = json.loads(row["data"])
        if "prompt" not in told:
            continue  # what an AI judge gave in vain
        answer = known(SampleAnswer, told)
        found.setdefault(answer.prompt, {})[row["step"]] = answer
    return {prompt: dict(sorted(by_step.items())) for prompt, by_step in found.items()}


def step_times(db: Database, job: Job) -> list[tuple[int, str]]:
    """(step, time) of the metrics that the job's present attempt has reported, oldest first.

    Since it last began to count anew: each judge of a check does.
    """
    rows = db.rows(
        "SELECT step, created FROM event WHERE job_id = ? AND kind = 'metric' AND created >= ? ORDER BY id",
        (job.id, job.started or ""),
    )
    anew = max((place for place in range(1, len(rows)) if rows[place]["step"] < rows[place - 1]["step"]), default=0)
    return [(row["step"], row["created"]) for row in rows[anew:]]


def log_tail(db: Database, job_id: int, lines: int = 12) -> list[str]:
    """The last lines of a job's log, oldest first, each with its time of day in UTC."""
    rows = db.rows(
        """SELECT kind, data, created FROM event WHERE job_id = ? AND kind IN ('log', 'change')
           ORDER BY id DESC LIMIT ?""",
        (job_id, lines),
    )
    return [f"{row['created'][11:19]}  {said_in(row)}" for row in reversed(rows)]


def said_in(event: Mapping[str, Any]) -> Any:
    """What an event says; of a log and a change of settings in the language that is spoken."""
    data = json.loads(event["data"])
    return retold(data) if isinstance(data, str) else data
