"""What an admin decides about a policy, on the Runs and the Iterations page: each does it and says so in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from annotation.records import UserError
from annotation.tabs.guard import Context
from annotation.translation import _
from annotation.ui import formatting
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import asking_people, peoples_decisions
from rlhf.models import decision_store, registry
from rlhf.submission import job_submission


def promote(
    context: Context, revision: str, decided_by: str, why: str = "", undoes: int | None = None, after: int | None = None
) -> str:
    """Let a policy serve; `why` is kept with what the rule says, and needed against it. Raises UserError.

    `undoes`: the number of the decision that this takes back; `after`: of the newest one that was shown.
    """
    try:
        made = peoples_decisions.promote(context.db, context.data_dir, revision, decided_by, why, undoes, after)
    except peoples_decisions.PromotionAgainstRule as error:
        raise UserError(_("{error} Say why on the Iterations tab.").format(error=error)) from error
    return _(
        "{sentence} Its answers come first from now on; what waits of earlier policies is judged after them."
    ).format(sentence=made.sentence())


def undo(context: Context, number: int, decided_by: str) -> str:
    """Take the decision of this number back. Raises UserError where something else holds since."""
    with context.db.transaction():
        row = decision_store.to_take_back(context.db, number)
        if row.action == "reject":
            decision_store.take_back_rejection(context.db, row.revision, decided_by)
    if row.action == "reject" or row.previous is None:
        policy = registry.by_revision(context.db, row.revision)
        check = asking_people.check_to_ask_about(context.db, policy)
        said = _("{revision} is a candidate again.")
        if check is not None and asking_people.can_be_asked(context.db, policy, check):
            said = _("{revision} is a candidate again. “Let people compare” puts its answers before them again.")
        return said.format(revision=row.revision)
    why = _("{revision} was taken back.").format(revision=row.revision)
    return promote(context, row.previous, decided_by, why, undoes=number)


def emptied(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The field for a reason as it changes, without what was typed into it for another policy or decision."""
    return {"why": {**changed.get("why", gr.update()), "value": ""}}


def reject(context: Context, revision: str, decided_by: str, why: str = "") -> str:
    """Turn a candidate down; `why` is kept with what the rule says. Raises UserError where that can't be."""
    policy = peoples_decisions.reject(context.db, revision, decided_by, why)
    return _("{revision} was rejected. Its files stay.").format(revision=policy.revision)


def check(context: Context, revision: str, requested_by: str, judges: str = CheckSpec.judges) -> str:
    """Queue a check of a policy by these judges, named as in its spec. Raises UserError where that can't be."""
    policy = registry.by_revision(context.db, revision)
    # The serving policy against itself would tell nothing.
    against = "base" if policy.status == "serving" else "serving"
    spec = CheckSpec(model=context.model, candidate=policy.revision, against=against, judges=judges)
    job_id = job_submission.submit(context.db, context.data_dir, spec, requested_by=requested_by)
    return _("Job {job_id} is to check {revision}.").format(job_id=job_id, revision=policy.revision)


def merge(context: Context, revision: str, requested_by: str) -> str:
    """Queue the merging of an adapter into 16-bit weights. Raises UserError where that can't be."""
    spec = MergeSpec(model=context.model, revision=revision)
    job_id = job_submission.submit(context.db, context.data_dir, spec, requested_by=requested_by)
    return _("Job {job_id} is to merge {revision} into 16-bit weights; they become a policy of their own.").format(
        job_id=job_id, revision=revision
    )


def delete(context: Context, revision: str, decided_by: str) -> str:
    """Delete a policy's files. Raises UserError while something needs them."""
    freed = job_submission.delete_policy(context.db, context.data_dir, revision, decided_by)
    return _("The files of {revision} are deleted; {size} are free again.").format(
        revision=revision, size=formatting.size(freed)
    )


def delete_checkpoints(context: Context, job_id: int) -> str:
    """Delete the checkpoints of a run that ended early. Raises UserError for one that waits or runs."""
    freed = job_submission.delete_checkpoints(context.db, context.data_dir, job_id)
    return _("The checkpoints of job {job_id} are deleted; {size} are free again.").format(
        job_id=job_id, size=formatting.size(freed)
    )
