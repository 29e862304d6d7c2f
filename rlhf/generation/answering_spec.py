"""The job that answers for annotators, described, and whether it is at work; `answering_job` does it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

from annotated_types import Predicate, doc

from annotation.database import Database
from annotation.jobs import job_table
from annotation.jobs.job_table import HEARD_WITHIN_SECONDS
from annotation.records import MAXIMUM_ANSWERS, Sampling
from annotation.translation import N_, _
from annotation.validation import NonNegativeInt, PositiveInt
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import Drawing, JobSpec
from rlhf.jobs.job_store import Job

# A worker that was started has taken its job by then; where none was, nobody takes it.
STARTS_WITHIN_SECONDS: Final = 300.0
Comparable = Annotated[
    NonNegativeInt,
    Predicate(lambda answers: answers == 0 or 2 <= answers <= MAXIMUM_ANSWERS),
    doc(N_("between 2 and {most}, or 0 for the project's")),
    {"most": MAXIMUM_ANSWERS},  # what fills in the gap
]


@dataclass(frozen=True)
class AnsweringSpec(JobSpec):
    """Keep a stock of comparisons ahead of the annotators (the answering worker), or fill it once and end."""

    kind: ClassVar = "answering"
    title: ClassVar = N_("answering")
    waits: ClassVar = False
    seed: NonNegativeInt = 0
    """Start of the stream of seeds; each answer's own seed is stored with it."""
    stock: PositiveInt = 24
    """Open comparisons by the serving policy that are kept ready, one in six of them on held-out prompts."""
    answers: Comparable = 0
    """Different answers in a comparison; 0 for as many as the project asks for."""
    spare: NonNegativeInt = 1
    """Answers drawn beyond those, in case some are empty or the same."""
    prompts_per_batch: PositiveInt = 12
    """Prompts answered together."""
    until_full: bool = False
    """End when the stock is full, instead of waiting for it to empty."""
    sampling: Drawing = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""

    def facts(self) -> Facts:
        return [(_("Stock"), str(self.stock)), (_("Seed"), str(self.seed))]


@dataclass(frozen=True)
class AnsweringResult:
    """What came of a job that answers: the comparisons that it made, and how long it took."""

    comparisons: int = 0
    seconds: float = 0.0


def newest_answering(db: Database) -> Job | None:
    """The job that answers, or did last."""
    return next(iter(job_store.recent(db, (AnsweringSpec.kind,), 1)), None)


def answers_come(db: Database) -> bool:
    """Whether a worker writes answers to compare, or is about to; not one that failed, or found too few of them."""
    job = newest_answering(db)
    if job is None or not job.is_open:
        return False
    about_to = job.status == "queued" and job.created > job_table.seconds_from_now(-STARTS_WITHIN_SECONDS)
    alive = about_to or (job.heartbeat or "") > job_table.seconds_from_now(-HEARD_WITHIN_SECONDS)
    return alive and job.reason != "too-few-answers"
