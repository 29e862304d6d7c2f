"""How long a training takes, by the pace of those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from annotation.database import Database
from annotation.records import seconds_between
from rlhf.jobs import job_store
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job

# The kind of job that runs a few steps of a training.
MEASURING = "measure"


@dataclass(frozen=True)
class StepTime:
    """Seconds a step, as a job measured them, and when; its peak of memory where it says."""

    seconds_per_step: float
    beside: float
    """Seconds that it took beside its steps: to load, to measure what is held out, to write samples, to save."""
    measured: str
    job_id: int
    peak_memory_mb: float | None

    def seconds(self, steps: int) -> float:
        """About how long a run of so many steps takes."""
        return self.beside + self.seconds_per_step * steps


def step_time_of(spec: TrainingSpec, finished: Sequence[Job], items: int = 0) -> StepTime | None:
    """The newest pace measured with these settings: by a measurement, else by a run. `finished` has newest first.

    A step over so many items may take another number of forward passes than theirs did.
    """
    wanted = spec.comparable()
    like = [job for job in finished if (own := job.spec.trains()) is not None and own.comparable() == wanted]
    measured = [job for job in like if job.kind != spec.kind]
    for job in (*measured, *(job for job in like if job.kind == spec.kind)):
        done = FinishedTraining.of(job.result)
        if job.status == "finished" and done.seconds_per_step:
            passes = spec.over(items).accumulated() / (done.accumulation or spec.accumulated()) if items else 1.0
            return StepTime(
                seconds_per_step=done.seconds_per_step * passes,
                beside=max(0.0, seconds_taken(job, done) - done.seconds_per_step * (done.steps or 0)),
                measured=job.finished or job.created,
                job_id=job.id,
                peak_memory_mb=done.peak_memory_mb,
            )
    return None


def seconds_taken(job: Job, done: FinishedTraining) -> float:
    """What the attempt that ended a job took, by its own clock if it says: that stops while the machine sleeps."""
    if done.seconds is not None or job.started is None or job.finished is None:
        return done.seconds or 0.0
    return seconds_between(job.started, job.finished)


def finished_jobs(db: Database, spec: TrainingSpec, limit: int = 200) -> list[Job]:
    """Jobs whose pace on this machine may be that of this spec, newest first."""
    kinds = (MEASURING, spec.kind)
    return [job for job in job_store.recent(db, kinds, limit) if job.flavor is None]
