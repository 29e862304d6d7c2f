"""A few steps of a training, to know what they cost, described; `measure_job` does it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import N_, _
from annotation.validation import PositiveInt
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, from_json, to_json
from rlhf.submission.job_submission import freeze_training


@dataclass(frozen=True)
class MeasureSpec(JobSpec):
    """Run a few steps of a training job and keep nothing but its figures: seconds, memory, parameters."""

    kind: ClassVar = "measure"
    title: ClassVar = N_("measuring")
    training: str = ""
    """The training job's spec, as JSON."""
    steps: PositiveInt = 3
    """Optimiser steps to run; the first is not counted, because it warms up."""

    def about(self) -> str:
        training = self.trains()
        return _(self.title) if training is None else _("measuring {about}").format(about=training.about())

    def facts(self) -> Facts:
        return [(_("Steps"), str(self.steps))]

    def trains(self) -> TrainingSpec | None:
        spec = from_json(self.training) if self.training else None
        return spec.trains() if spec is not None else None

    def depends_on(self) -> tuple[str, ...]:
        training = self.trains()
        return () if training is None else training.depends_on()

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with its training frozen. Raises UserError for what is no training, or can't be run."""
        measured = from_json(self.training)
        if not isinstance(measured, TrainingSpec):
            raise UserError(_("Only training jobs can be measured."))
        return replace(self, training=to_json(freeze_training(db, data_dir, measured)))
