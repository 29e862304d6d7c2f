"""The iteration: what would be trained, freezing it into a job, and when the next step is due. Torch-free."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from annotation import store
from annotation.database import Database
from annotation.records import UserError
from rlhf import freezing, jobs, policies, refusals
from rlhf.artifacts import verify_directory
from rlhf.base_model import EMBEDDED, EMBEDDED_NAME
from rlhf.policies import Policy
from rlhf.specs import (
    DPOSpec,
    EvaluateSpec,
    MeasureSpec,
    MergeSpec,
    Spec,
    TrainingSpec,
    from_json,
    to_json,
    with_defaults,
)

AUTO_TRAIN_DEFAULT: Mapping[str, Any] = {"on": False, "every": 60}


@dataclass(frozen=True)
class Preview:
    """What a training job would use if it were made now."""

    train: int
    """Items to train on: pairs, comparisons' pairs, demonstrations or prompts."""
    held_out: int
    left_out: dict[str, int]
    parent: str
    unit: str
    """What is counted, in the plural."""
    flip: float | None = None
    """Mean estimated chance that a pair to train on is the wrong way round; None without pairs."""


def preview(db: Database, data_dir: Path, spec: TrainingSpec) -> Preview:
    """Count what `submit` would freeze for this spec. Raises UserError where there is nothing to count."""
    parent = policies.by_revision(db, spec.parent)
    rows = freezing.data_of(db, spec, parent)
    with db.reading():
        flips = [row["flip"] for row in rows if row["split"] == "train" and "flip" in row]
    counts, left_out = rows.counts, dict(rows.left_out)
    flip = fmean(flips) if flips else None
    return Preview(counts["train"], counts["held-out"], left_out, parent.revision, freezing.unit_of(spec), flip)


def rows_of(db: Database, spec: TrainingSpec) -> Iterator[Mapping[str, Any]]:
    """The rows that `submit` would freeze for this spec, one by one."""
    with db.reading():
        yield from freezing.data_of(db, spec, policies.by_revision(db, spec.parent))


def submit(db: Database, data_dir: Path, spec: Spec, requested_by: str) -> int:
    """Freeze everything the spec leaves open (data, parent, base) and queue the job; returns its id.

    Raises UserError where there is too little data, or settings that can't work.
    """
    spec = freeze(db, data_dir, spec)
    return jobs.enqueue(db, spec, requested_by)


def freeze(db: Database, data_dir: Path, spec: Spec) -> Spec:
    """The spec with revisions for names, the method's learning rate, and its data's sha256. Raises UserError.

    The data is frozen outside of any write transaction: it may take seconds, and annotators must not wait for it.
    """
    base = policies.by_revision(db, "base")
    if spec.model not in ("base", base.base) and not (spec.model == EMBEDDED and base.base == EMBEDDED_NAME):
        raise UserError(f"This data directory belongs to the base model {base.base}; the spec asks for {spec.model}.")
    spec = replace(spec, model=base.base)
    if isinstance(spec, TrainingSpec):
        return freeze_training(db, data_dir, spec)
    if isinstance(spec, EvaluateSpec):
        return freeze_evaluation(db, data_dir, spec)
    if isinstance(spec, MeasureSpec):
        measured = from_json(spec.training)
        if not isinstance(measured, TrainingSpec):
            raise UserError("Only training jobs can be measured.")
        return replace(spec, training=to_json(freeze_training(db, data_dir, measured)))
    if isinstance(spec, MergeSpec):
        return freeze_merge(db, spec)
    return spec


Trainable = TypeVar("Trainable", bound=TrainingSpec)


def freeze_training(db: Database, data_dir: Path, spec: Trainable) -> Trainable:
    """The spec with its parent's revision, its learning rate and its data's sha256. Raises UserError."""
    spec = with_defaults(spec)
    for sentence in refusals.check(db, spec):
        raise UserError(sentence)
    base, parent = policies.by_revision(db, "base"), policies.by_revision(db, spec.parent)
    spec = replace(spec, parent=parent.revision, model=base.base)
    if spec.snapshot:
        return spec
    snapshot = freezing.store_snapshot(
        db, data_dir, freezing.data_of(db, spec, parent), freezing.AT_LEAST[spec.kind], freezing.unit_of(spec)
    )
    return replace(spec, snapshot=snapshot)


def freeze_merge(db: Database, spec: MergeSpec) -> MergeSpec:
    """The spec with the adapter's revision. Raises UserError for what can't be merged."""
    policy = policies.by_revision(db, spec.revision)
    for sentence in refusals.merge_trouble(db, policy):
        raise UserError(sentence)
    return replace(spec, revision=policy.revision)


def delete_policy(db: Database, data_dir: Path, revision: str, decided_by: str) -> int:
    """Delete a policy's or reward model's files, and keep its row; returns the bytes that are free now.

    Raises UserError, and deletes nothing, while it serves or others need it.
    """
    with db.transaction():
        policy = policies.by_revision(db, revision)
        for sentence in refusals.needed_by(db, policy):
            raise UserError(sentence)
        policies.mark_deleted(db, policy.id)
        policies.record_decision(db, policy.id, policies.serving(db).id, "delete", decided_by)
    directory = data_dir / str(policy.path)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    shutil.rmtree(directory, ignore_errors=True)
    return size


def promote(db: Database, data_dir: Path, revision: str, decided_by: str) -> Policy:
    """Let a policy serve after checking that its files are whole. Raises UserError; then nothing has changed."""
    policy = policies.by_revision(db, revision)
    if policy.path is not None and policy.sha256 is not None and not policy.deleted:
        verify_directory(data_dir / policy.path, policy.sha256, f"adapter {policy.revision}")
    return policies.promote(db, policy.revision, decided_by)


def freeze_evaluation(db: Database, data_dir: Path, spec: EvaluateSpec) -> EvaluateSpec:
    """The spec with revisions for names and its data's sha256."""
    candidate, against = policies.by_revision(db, spec.candidate), policies.by_revision(db, spec.against)
    snapshot = spec.snapshot or freezing.store_snapshot(db, data_dir, freezing.collect(db, candidate, "new", 100_000))
    return replace(spec, candidate=candidate.revision, against=against.revision, snapshot=snapshot)


@dataclass(frozen=True)
class Step:
    """What the loop does next without being asked: check a candidate, or train."""

    action: str
    candidate: str = ""


def next_step(auto_train: Mapping[str, Any], new_judgements: int, active: int, unchecked: str | None) -> Step | None:
    """The next step of the iteration, if one is due. Pure.

    A fresh candidate is checked first; then, when switched on, every N new judgements start a training.
    """
    if active:
        return None
    if unchecked:
        return Step("evaluate", unchecked)
    if auto_train.get("on") and new_judgements >= max(int(auto_train.get("every", 60)), freezing.MIN_PAIRS):
        return Step("train")
    return None


def advance(db: Database, data_dir: Path) -> int | None:
    """Do the step that is due, if any; returns the new job's id."""
    active = len(jobs.active(db, jobs.TRAINING))
    if active:
        return None
    auto_train = store.setting(db, "auto_train", AUTO_TRAIN_DEFAULT)
    latest = next(iter(jobs.recent(db, ("dpo", "ppo"), 1)), None)
    new = store.judgement_count(db, since=latest.created if latest else "") if auto_train.get("on") else 0
    step = next_step(auto_train, new, active, unchecked_candidate(db))
    if step is None:
        return None
    if step.action == "evaluate":
        return submit(db, data_dir, EvaluateSpec(candidate=step.candidate), "the loop")
    spec = automatic_spec(db)
    if refusals.check(db, spec):
        return None  # the page says why, where automatic training is switched on
    try:
        return submit(db, data_dir, spec, "the loop")
    except freezing.TooFew:
        return None  # enough judgements, but too few of them are pairs: wait for more


def automatic_spec(db: Database) -> DPOSpec:
    """What is trained without being asked: DPO as by default, on from the adapter that serves in its own shape."""
    return replace(DPOSpec(), **refusals.shape_of(db, policies.serving(db)))


def unchecked_candidate(db: Database) -> str | None:
    """The oldest candidate whose training asked for a check and which has had none."""
    checks = [check.spec for check in jobs.recent(db, ("evaluate",), 1000)]
    asked = {spec.candidate for spec in checks if isinstance(spec, EvaluateSpec)}
    for policy in policies.everything(db):
        if policy.status != "candidate" or policy.job_id is None or policy.revision in asked or policy.deleted:
            continue
        job = jobs.get(db, policy.job_id)
        if job.status == "finished" and getattr(job.spec, "evaluate", False):
            return policy.revision
    return None
