"""Why something can't be done with policies and reward models as they are: train from them, merge, delete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

from annotation.database import Database
from annotation.records import UserError
from rlhf import jobs, policies
from rlhf.policies import Policy
from rlhf.specs import DPOSpec, MeasureSpec, PPOSpec, Spec, TrainingSpec, from_json, impossible

# PPO against a reward model that is right less often than this on held-out comparisons needs a person's word.
REWARD_THRESHOLD = 0.6


def check(db: Database, spec: TrainingSpec) -> list[str]:
    """Why this job can't be made, a sentence each, as far as can be told without freezing its data."""
    found = impossible(spec)
    if spec.optimiser == "adamw-8bit" and shutil.which("nvidia-smi") is None:
        found.append("The optimiser adamw-8bit needs a GPU, and there is none here: use adamw.")
    if spec.processes > max(2, os.cpu_count() or 1):
        found.append(f"{spec.processes} processes are more than this machine has processors ({os.cpu_count()}).")
    try:
        parent = policies.by_revision(db, spec.parent)
        found += parent_trouble(db, spec, parent)
        if isinstance(spec, PPOSpec):
            found += reward_trouble(db, spec, parent)
    except UserError as error:
        found.append(str(error))
    return found


def parent_trouble(db: Database, spec: TrainingSpec, parent: Policy) -> list[str]:
    """Why a job can't start from this parent."""
    if parent.deleted:
        return [f"The files of the parent {parent.revision} were deleted on {parent.deleted[:10]}: choose another."]
    if (parent.kind == "reward") != (spec.kind == "reward_model") and parent.kind == "reward":
        return [f"{parent.revision} is a reward model; choose a policy as the parent."]
    if spec.kind == "reward_model" and parent.kind == "policy" and parent.form not in ("base", "full"):
        return [
            f"A reward model grows on whole weights, and {parent.revision} is an adapter: merge it into 16-bit weights "
            "first, or start from the base."
        ]
    if parent.form in ("base", "full"):
        full_reference = isinstance(spec, DPOSpec) and spec.method == "full" and spec.reference == "base"
        if full_reference and parent.form == "full":
            return [
                f"Full fine-tuning from {parent.revision} keeps no copy of the base to be the reference: take the "
                "parent as the reference."
            ]
        return []
    if spec.method == "full":
        return [f"{parent.revision} is an adapter: merge it into 16-bit weights first to train every weight from it."]
    return shape_trouble(db, spec, parent)


SHAPE = {
    "lora": ("method", "lora_r", "lora_alpha", "lora_targets", "dora", "rslora", "lora_init"),
    "prompt": ("method", "virtual_tokens"),
}


def trained_as(db: Database, policy: Policy) -> TrainingSpec | None:
    """The training that made a policy; None for the base, and for merged weights."""
    spec = None if policy.job_id is None else jobs.get(db, policy.job_id).spec
    return spec if isinstance(spec, TrainingSpec) else None


def shape_of(db: Database, policy: Policy) -> dict[str, Any]:
    """The settings that a job has to share with the training that made its parent's adapter; none for whole weights."""
    made = trained_as(db, policy)
    return {} if made is None else {name: getattr(made, name) for name in SHAPE.get(policy.form, ())}


def shape_trouble(db: Database, spec: TrainingSpec, parent: Policy) -> list[str]:
    """Why the parent's adapter can't be continued: its weights would not fit, or would mean another policy."""
    made = trained_as(db, parent)
    if made is None:
        return []
    if spec.method != made.method and {spec.method, made.method} != {"lora", "qlora"}:
        return [
            f"The parent {parent.revision} was trained with {made.method} and can't be continued with {spec.method}: "
            "merge it into 16-bit weights first, or start from the base."
        ]
    if made.lora_init == "pissa":
        return [
            f"The parent {parent.revision} began with PiSSA, and was stored as an adapter of twice the rank: merge it "
            "into 16-bit weights first, or start from the base."
        ]
    differing = {name: value for name, value in shape_of(db, parent).items() if value != getattr(spec, name)}
    if not differing:
        return []
    has = " and ".join(f"{name} {value}" for name, value in differing.items())
    return [f"The parent {parent.revision} has {has}. Use the same to continue it, or start from the base."]


def reward_trouble(db: Database, spec: PPOSpec, parent: Policy) -> list[str]:
    """Why PPO can't be run against the reward model that the spec names, or not without a person's word."""
    if not spec.reward_model:
        return ["PPO needs a reward model: train one first, then choose it."]
    reward = policies.by_revision(db, spec.reward_model)
    if reward.kind != "reward":
        return [f"{reward.revision} is no reward model. Train one, then choose it."]
    if reward.deleted:
        return [f"The files of the reward model {reward.revision} were deleted on {reward.deleted[:10]}."]
    ground = parent.id if parent.form == "full" else parent.ground_id
    if reward.ground_id != ground:
        return [
            f"The reward model {reward.revision} and the parent {parent.revision} lie on different weights, and PPO "
            "holds one copy for both: train the reward model from the weights that the parent lies on."
        ]
    if (reward.weights == "nf4") != (spec.method == "qlora"):
        return [
            f"The reward model {reward.revision} was trained on {reward.weights} weights: use the method "
            f"{'qlora' if reward.weights == 'nf4' else 'lora'} here, so that it judges with the weights it knows."
        ]
    accuracy = accuracy_of(db, reward)
    if accuracy is None:
        if spec.accepted_accuracy:
            return []
        return [
            f"Too few held-out comparisons tell how often the reward model {reward.revision} is right, and PPO mostly "
            "learns the mistakes of one that is seldom right. Collect more judgements, or confirm that you accept it "
            "(any accepted_accuracy, say 0.01)."
        ]
    accepted = spec.accepted_accuracy > 0 and abs(spec.accepted_accuracy - accuracy) < 0.005
    if accuracy >= REWARD_THRESHOLD or accepted:
        return []
    return [
        f"The reward model {reward.revision} is right on {accuracy:.1%} of held-out comparisons, and under "
        f"{REWARD_THRESHOLD:.0%} PPO mostly learns its mistakes. Collect more judgements, or confirm that you accept "
        f"it (accepted_accuracy {max(round(accuracy, 3), 0.001)})."
    ]


def accuracy_of(db: Database, reward: Policy) -> float | None:
    """How often a reward model is right on held-out comparisons; None where that was not measured."""
    result = (jobs.get(db, reward.job_id).result if reward.job_id is not None else None) or {}
    value = ((result.get("health") or {}).get("accuracy") or {}).get("value")
    return None if value is None else float(value)


NOT_MERGED: Mapping[str, str] = {
    "base": "has no adapter that could be merged.",
    "full": "is whole weights already: there is nothing to merge.",
    "prompt": "is virtual tokens before the prompt, which change no weight, so they can't be merged into any.",
    "reward": "is a reward model: it scores answers, and merging makes a policy, which gives them.",
}


def merge_trouble(policy: Policy) -> list[str]:
    """Why a policy can't be merged into 16-bit weights."""
    found = [f"{policy.revision} {NOT_MERGED[what]}" for what in (policy.kind, policy.form) if what in NOT_MERGED]
    if not found and policy.deleted:
        found.append(f"The files of {policy.revision} were deleted on {policy.deleted[:10]}.")
    return found


def needed_by(db: Database, policy: Policy) -> list[str]:
    """Why a policy's files can't be deleted now, a sentence each."""
    if policy.path is None:
        return ["The base model is not Prefloop's to delete."]
    if policy.deleted:
        return [f"The files of {policy.revision} were deleted already."]
    if policy.status == "serving":
        return [f"{policy.revision} serves now: promote another policy first."]
    grounded = [
        other.revision for other in policies.everything(db) if other.ground_id == policy.id and not other.deleted
    ]
    if grounded:
        return [f"{', '.join(grounded)} lie on the weights of {policy.revision}: delete them first."]
    users = [job.id for job in jobs.active(db, jobs.TRAINING) if policy.revision in named_in(job.spec)]
    return [f"Job {users[0]} needs {policy.revision}: wait for it, or cancel it."] if users else []


def named_in(spec: Spec) -> set[str]:
    """The revisions that a job reads."""
    inner = from_json(spec.training) if isinstance(spec, MeasureSpec) else spec
    names = ("parent", "reward_model", "candidate", "against", "revision")
    return {getattr(inner, name) for name in names if hasattr(inner, name)}
