"""Checks that have ended well, as records, and which of them is a policy's newest. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from annotation.database import Database
from annotation.store import answer_changes
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.report import AnswerFigures, CheckReport
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job, ended_at
from rlhf.models.registry import Policy


@dataclass(frozen=True)
class FinishedCheck:
    job_id: int
    spec: CheckSpec
    report: CheckReport


def check_of(job: Job | None) -> FinishedCheck | None:
    """What a job measured, if it is a check that has ended well."""
    if job is None or not isinstance(job.spec, CheckSpec) or job.status != "finished" or job.result is None:
        return None
    return FinishedCheck(job.id, job.spec, CheckReport.from_json(job.result))


def finished_checks(db: Database, revision: str | None = None) -> list[FinishedCheck]:
    """The finished checks, of one policy or of all, the last to end first: one that was resumed ends after later ones.

    Whoever looks at a policy sees the first of them; who may decide on it hangs on the last.
    """
    ended = sorted(job_store.checks(db, revision), key=ended_at, reverse=True)
    return [check for job in ended if (check := check_of(job)) is not None]


def told_as_now(db: Database) -> set[int]:
    """The jobs of checks that began when policies answered as now, on the same weights, and thinking or not."""
    rows = db.rows(f"SELECT id FROM job WHERE kind = 'check' AND {answer_changes.as_told_now(db, 'job', 'job')}")
    return {row["id"] for row in rows}


def newest_check(db: Database, revision: str) -> FinishedCheck | None:
    """The newest check of a policy, against whatever it was."""
    return next(iter(finished_checks(db, revision)), None)


def newest_checks(db: Database) -> dict[str, FinishedCheck]:
    """The newest check of each policy, by revision."""
    found: dict[str, FinishedCheck] = {}
    for check in finished_checks(db):
        found.setdefault(check.spec.candidate, check)
    return found


def measured_before(db: Database, policy: Policy) -> Iterator[AnswerFigures]:
    """What finished checks found of a policy in its precision, the newest first: a policy never changes.

    But for whether it thinks, and on what its base is: of checks from when it did otherwise there is nothing.
    """
    now = told_as_now(db)
    for check in finished_checks(db):
        if check.job_id not in now:
            continue
        for figures in (check.report.candidate, check.report.against, check.report.anchor):
            if (figures.revision, figures.precision) == (policy.revision, policy.precision):
                yield figures
