"""Run a few steps of a training job and keep nothing but what they cost: seconds, memory, parameters."""

from __future__ import annotations

import shutil
from typing import Any

from annotation.records import UserError
from annotation.translation import _
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec, from_row
from rlhf.jobs.run import Run, run_algorithm


def run(run: Run, spec: MeasureSpec) -> dict[str, Any]:
    """Train for `spec.steps` steps. Returns the job's result; no model and no checkpoint is left.

    Raises UserError for a spec of anything but a training.
    """
    training = from_row(spec.training)
    if not isinstance(training, TrainingSpec):
        said = _("Only training jobs can be measured, not one of the kind '{kind}'.")
        raise UserError(said.format(kind=training.kind))
    run.measured_steps = spec.steps
    try:
        result = run_algorithm(run, training)
    finally:
        if run.rank == 0:
            shutil.rmtree(checkpoints_of(run), ignore_errors=True)
    return {"measured": training.kind, **FinishedTraining.of(result).cost().to_json()}
