"""Every kind of job: the algorithms, and what else workers do. `rlhf.jobs.job_spec.kinds` finds it."""

from __future__ import annotations

from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.jobs.job_spec import JobSpec
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.models.precisions.precisions_spec import PrecisionsSpec

SPECS: tuple[type[JobSpec], ...] = (
    AnsweringSpec,
    *ALGORITHMS.values(),
    CheckSpec,
    JudgeSpec,
    PromptSetSpec,
    MeasureSpec,
    MergeSpec,
    PrecisionsSpec,
)
KINDS: dict[str, type[JobSpec]] = {spec.kind: spec for spec in SPECS}
