"""How the check of a candidate stands, as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from annotation.database import Database
from annotation.translation import N_, _, joined
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions.candidate_decision import decision_on
from rlhf.evaluation.finished_checks import told_as_now
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.submission.form_fields import in_labels


@dataclass(frozen=True)
class CheckStatus:
    sentence: str
    """What it waits for, how far it is, or why there is none and how to go on; empty where all was measured."""
    active: bool
    """Whether one that counts waits or runs, so that nobody has to ask for one."""


def check_status(db: Database, policy: Policy) -> CheckStatus:
    """How the check of a policy stands now; of a candidate only checks against what serves count."""
    every = [(job, job.spec) for job in job_store.checks(db, policy.revision) if isinstance(job.spec, CheckSpec)]
    against = registry.serving(db).revision if policy.status == "candidate" else None
    active = [one for one in every if one[0].is_open]
    ended = sorted((one for one in every if not one[0].is_open), key=lambda one: job_store.ended_at(one[0]))
    now = told_as_now(db)
    right = [job for job, spec in ended if job.status == "finished" and against in (None, spec.against)]
    counting = [job for job in right if against is None or job.id in now]
    before = ""
    if counting:
        before = _("The figures are those of the check before (job {number}).").format(number=counting[-1].id)
    if active:
        job, spec = min(active, key=lambda one: (against not in (None, one[1].against), one[0].status == "queued"))
        if against in (None, spec.against):
            return CheckStatus(joined(progress_of(db, job), before), True)
        beside = _("The gate counts checks against {serving}, which serves now; this one is against {against}.").format(
            serving=against, against=spec.against
        )
        return CheckStatus(joined(progress_of(db, job), beside, before), False)
    if not ended:
        return CheckStatus("" if policy.path is None else _("It has not been checked yet."), False)
    job, spec = ended[-1]
    if job.status != "finished":
        again = _("Check it again, or resume job {id}.").format(id=job.id)
        return CheckStatus(joined(how_it_ended(job, spec.about()), again, before), False)
    if right and not counting:
        said = _("Its check (job {number}) is of when policies answered otherwise than now. Check it again.")
        return CheckStatus(said.format(number=right[-1].id), False)
    if not counting:
        elsewhere = _(
            "The gate counts checks against {serving}, which serves now; its check (job {number}) was against "
            "{against}. Check it again."
        ).format(serving=against, number=job.id, against=spec.against)
        return CheckStatus(elsewhere, False)
    again = _("Its check left out some of what the rule asks: check it again.")
    return CheckStatus(again if policy.status == "candidate" and left_out(db, policy) else "", False)


def left_out(db: Database, policy: Policy) -> bool:
    """Whether a check of a policy left out some of what the rule waits for."""
    decision = decision_on(db, policy)
    return decision.says == "not enough evidence" and any(one.passed == "missing" for one in decision.weighed.limits)


def progress_of(db: Database, job: Job) -> str:
    if job.status == "cancelling":
        return _("Job {id}, its check, is being cancelled.").format(id=job.id)
    if job.status == "running":
        if not job.steps:
            return _("Job {number} is checking it.").format(number=job.id)
        return _("Job {number} is checking it: step {step} of {steps}.").format(
            number=job.id, step=job.step, steps=job.steps
        )
    place = next((number for number, other in enumerate(job_store.queue(db)) if other.id == job.id), 0)
    running = job_store.at_work(db) if place == 0 else []
    if running:
        return _("It waits for its check (job {number}, first in the queue, behind job {running}).").format(
            number=job.id, running=running[0].id
        )
    said = _(IN_THE_QUEUE[min(place, len(IN_THE_QUEUE) - 1)])
    return said.format(number=job.id, place=place + 1)


# By how many are before it.
IN_THE_QUEUE = (
    N_("It waits for its check (job {number}, first in the queue)."),
    N_("It waits for its check (job {number}, second in the queue)."),
    N_("It waits for its check (job {number}, third in the queue)."),
    N_("It waits for its check (job {number}, number {place} in the queue)."),
)
ENDINGS: Mapping[str, str] = {
    "failed": N_("Job {number} ({about}) failed."),
    "lost": N_("Job {number} ({about}) was lost."),
    "cancelled": N_("Job {number} ({about}) was cancelled."),
}
ENDINGS_WITH_MESSAGE: Mapping[str, str] = {
    "failed": N_("Job {number} ({about}) failed: {message}."),
    "lost": N_("Job {number} ({about}) was lost: {message}."),
}


def how_it_ended(job: Job, about: str) -> str:
    """How a job ended that came to nothing, as a sentence; why it was cancelled, who did that knows."""
    said = "" if job.status == "cancelled" else in_labels(_(job.message), job.spec)
    message = " ".join(said.split()).rstrip(".")
    ended = ENDINGS_WITH_MESSAGE if message else ENDINGS
    return _(ended[job.status]).format(number=job.id, about=about, message=message)
