"""What an admin decides about a policy, on the Runs and the Iterations page: each does it and says so in a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from annotation.records import UserError
from annotation.tabs.guard import Context
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.evaluation import gate_decisions
from rlhf.evaluation.check_spec import EvaluateSpec
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.tabs import downloads
from rlhf.tabs.runs import job_words


def promote(context: Context, revision: str, decided_by: str, why: str = "") -> str:
    """Let a policy serve; `why` is kept with what the rule says, and needed against it. Raises UserError."""
    try:
        made = gate_decisions.promote(context.db, context.data_dir, revision, decided_by, why)
    except gate_decisions.PromotionAgainstRule as error:
        raise UserError(f"{error} Say why in the field below.") from error
    return (
        f"{made.sentence()} The answering worker switches within seconds, and its comparisons come first; those of "
        f"earlier policies that wait are judged after them. To go back, choose {made.before} under “Policy” on the "
        "Iterations tab: that needs no reason."
    )


def emptied(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The field for a reason as it changes, without what was typed into it for another policy or decision."""
    return {"why": {**changed.get("why", gr.update()), "value": ""}}


def reject(context: Context, revision: str, decided_by: str, why: str = "") -> str:
    """Turn a candidate down; `why` is kept with what the rule says. Raises UserError where that can't be."""
    policy = gate_decisions.reject(context.db, revision, decided_by, why)
    return f"{policy.revision} was rejected. It stays on disk and can still be promoted, with a reason."


def check(context: Context, revision: str, requested_by: str, judges: str = EvaluateSpec.judges) -> str:
    """Queue a check of a policy by these judges, named as in its spec. Raises UserError where that can't be."""
    policy = registry.by_revision(context.db, revision)
    # The serving policy against itself would tell nothing.
    against = "base" if policy.status == "serving" else "serving"
    spec = replace(controller.check_spec(context.db, policy.revision, against), model=context.model, judges=judges)
    job_id = job_submission.submit(context.db, context.data_dir, spec, requested_by=requested_by)
    return f"Job {job_id} is to check {policy.revision}; Train → Runs shows how far it is."


def merge(context: Context, revision: str, requested_by: str) -> str:
    """Queue the merging of an adapter into 16-bit weights. Raises UserError where that can't be."""
    spec = MergeSpec(model=context.model, revision=revision)
    job_id = job_submission.submit(context.db, context.data_dir, spec, requested_by=requested_by)
    return f"Job {job_id} is to merge {revision} into 16-bit weights; they become a policy of their own."


def delete(context: Context, revision: str, decided_by: str) -> str:
    """Delete a policy's files. Raises UserError while something needs them."""
    freed = job_submission.delete_policy(context.db, context.data_dir, revision, decided_by)
    return f"The files of {revision} are deleted; {job_words.size(freed)} are free again."


def delete_checkpoints(context: Context, job_id: int) -> str:
    """Delete the checkpoints of a run that ended early. Raises UserError for one that waits or runs."""
    with context.db.transaction():  # nobody resumes it meanwhile
        job = job_store.get(context.db, job_id)
        if job.status not in job_store.ENDED:
            raise UserError(f"Job {job_id} is {job.status} and needs its checkpoints: cancel it first.")
        directory = checkpoints_directory(context.data_dir, job_id)
        freed = downloads.bytes_within(directory)
        shutil.rmtree(directory, ignore_errors=True)
    return f"The checkpoints of job {job_id} are deleted; {job_words.size(freed)} are free again."
