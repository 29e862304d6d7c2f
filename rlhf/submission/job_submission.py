"""Jobs and decisions asked for: what would be trained, freezing a spec into a job, promotion, deletion. Torch-free."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from annotation.database import Database
from annotation.records import UserError
from rlhf.data import held_out_sets, snapshots
from rlhf.data.label_noise import Noise, noise_of, voices_in
from rlhf.generation import prompt_sets
from rlhf.hub import rental_store
from rlhf.hub.rental_store import Terms
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import verify_directory
from rlhf.jobs.specs import (
    AnswerSpec,
    EvaluateSpec,
    JudgeSpec,
    MeasureSpec,
    MergeSpec,
    Spec,
    TrainingSpec,
    from_json,
    to_json,
    with_defaults,
)
from rlhf.judges import judge_store
from rlhf.models import registry
from rlhf.models.base_model import EMBEDDED, EMBEDDED_NAME
from rlhf.models.registry import Policy
from rlhf.models.tokenize import LeftOut
from rlhf.submission import preconditions


@dataclass(frozen=True)
class Preview:
    """What a training job would use if it were made now."""

    train: int
    """Items to train on: pairs, comparisons' pairs, demonstrations or prompts."""
    held_out: int
    left_out: LeftOut
    parent: str
    unit: str
    """What is counted, in the plural."""
    noise: Noise | None = None
    """How many pairs to train on are labelled wrong, as far as that is known; None without pairs."""


def preview(db: Database, data_dir: Path, spec: TrainingSpec) -> Preview:
    """Count what `submit` would freeze for this spec. Raises UserError where there is nothing to count."""
    parent = registry.by_revision(db, spec.parent)
    rows = snapshots.data_of(db, spec, parent, snapshots.chat_of(db, data_dir))
    with db.reading():
        voices = voices_in(rows)
    counts, left_out = rows.counts, LeftOut()
    left_out.take(rows.left_out)
    unit = snapshots.unit_of(spec)
    return Preview(counts["train"], counts["held-out"], left_out, parent.revision, unit, noise_of(db, voices))


def rows_of(db: Database, spec: TrainingSpec) -> Iterator[Mapping[str, Any]]:
    """The rows that `submit` would freeze for this spec, and those that the chat template refuses, one by one."""
    with db.reading():
        yield from snapshots.data_of(db, spec, registry.by_revision(db, spec.parent))


def submit(db: Database, data_dir: Path, spec: Spec, requested_by: str, terms: Terms | None = None) -> int:
    """Freeze everything the spec leaves open (data, parent, base) and queue the job; returns its id.

    With `terms`, to which somebody has agreed, it is for rented hardware. Raises UserError where there is too little
    data, or settings that can't work.
    """
    if terms is not None and not isinstance(spec, TrainingSpec):
        raise UserError("Only trainings can be sent to rented hardware.")
    spec = freeze(db, data_dir, spec, here=terms is None)
    return (
        job_store.enqueue(db, spec, requested_by)
        if terms is None
        else rental_store.enqueue(db, spec, requested_by, terms)
    )


def freeze(db: Database, data_dir: Path, spec: Spec, here: bool = True) -> Spec:
    """The spec with revisions for names, the method's learning rate, and its data's sha256. Raises UserError.

    The data is frozen outside of any write transaction: it may take seconds, and annotators must not wait for it.
    """
    base = registry.by_revision(db, "base")
    if spec.model not in ("base", base.base) and not (spec.model == EMBEDDED and base.base == EMBEDDED_NAME):
        raise UserError(f"This data directory belongs to the base model {base.base}; the spec asks for {spec.model}.")
    spec = replace(spec, model=base.base)
    if isinstance(spec, TrainingSpec):
        return freeze_training(db, data_dir, spec, here)
    if isinstance(spec, EvaluateSpec):
        return freeze_evaluation(db, data_dir, spec)
    if isinstance(spec, JudgeSpec):
        return freeze_judging(db, spec)
    if isinstance(spec, AnswerSpec):
        return prompt_sets.freeze(db, spec)
    if isinstance(spec, MeasureSpec):
        measured = from_json(spec.training)
        if not isinstance(measured, TrainingSpec):
            raise UserError("Only training jobs can be measured.")
        return replace(spec, training=to_json(freeze_training(db, data_dir, measured)))
    if isinstance(spec, MergeSpec):
        return freeze_merge(db, spec)
    return spec


Trainable = TypeVar("Trainable", bound=TrainingSpec)


def freeze_training(db: Database, data_dir: Path, spec: Trainable, here: bool = True) -> Trainable:
    """The spec with its parent's revision, its learning rate and its data's sha256. Raises UserError."""
    spec = with_defaults(spec)
    for sentence in preconditions.check(db, spec, here):
        raise UserError(sentence)
    base, parent = registry.by_revision(db, "base"), registry.by_revision(db, spec.parent)
    spec = replace(spec, parent=parent.revision, model=base.base)
    if spec.snapshot:
        return spec
    rows = snapshots.data_of(db, spec, parent, snapshots.chat_of(db, data_dir))
    snapshot = snapshots.store_snapshot(db, data_dir, rows, snapshots.AT_LEAST[spec.kind], snapshots.unit_of(spec))
    return replace(spec, snapshot=snapshot)


def freeze_merge(db: Database, spec: MergeSpec) -> MergeSpec:
    """The spec with the adapter's revision. Raises UserError for what can't be merged."""
    policy = registry.by_revision(db, spec.revision)
    for sentence in preconditions.merge_trouble(db, policy):
        raise UserError(sentence)
    return replace(spec, revision=policy.revision)


def delete_policy(db: Database, data_dir: Path, revision: str, decided_by: str) -> int:
    """Delete a policy's or reward model's files, and keep its row; returns the bytes that are free now.

    Raises UserError, and deletes nothing, while it serves or others need it.
    """
    with db.transaction():
        policy = registry.by_revision(db, revision)
        for sentence in preconditions.needed_by(db, policy):
            raise UserError(sentence)
        registry.mark_deleted(db, policy.id)
        registry.record_decision(db, policy.id, registry.serving(db).id, "delete", decided_by)
    directory = data_dir / str(policy.path)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    shutil.rmtree(directory, ignore_errors=True)
    return size


def promote(db: Database, data_dir: Path, revision: str, decided_by: str, reason: str = "") -> Policy:
    """Let a policy serve, whatever the rule says, if its files are whole. Raises UserError; then nothing has changed.

    People and the gate decide by `rlhf.evaluation.gate_decisions`.
    """
    policy = registry.by_revision(db, revision)
    verify(data_dir, policy)
    return registry.promote(db, policy.revision, decided_by, reason)


def verify(data_dir: Path, policy: Policy) -> None:
    """Read a policy's files through. Raises UserError where they are damaged or missing."""
    if policy.path is not None and policy.sha256 is not None and not policy.deleted:
        verify_directory(data_dir / policy.path, policy.sha256, f"adapter {policy.revision}")


def freeze_evaluation(db: Database, data_dir: Path, spec: EvaluateSpec) -> EvaluateSpec:
    """The spec with names for what stands for them, and with its data's sha256. Raises UserError for unknown ones."""
    candidate, against = registry.by_revision(db, spec.candidate), registry.by_revision(db, spec.against)
    snapshot = spec.snapshot or snapshots.store_snapshot(
        db, data_dir, snapshots.collect(db, candidate, "new", 100_000, judges_too=False)
    )
    panel = judge_store.judges(db, active=True) if spec.judges == "active" else judge_store.named(db, spec.judges)
    return replace(
        spec,
        candidate=candidate.revision,
        against=against.revision,
        snapshot=snapshot,
        prompt_set=spec.prompt_set or held_out_sets.name_of_current(db, data_dir, spec.prompts),
        judges=", ".join(judge.name for judge in panel),
    )


def freeze_judging(db: Database, spec: JudgeSpec) -> JudgeSpec:
    """The spec with the judge's name and the candidate's revision. Raises UserError for unknown ones."""
    candidate = registry.by_revision(db, spec.candidate).revision if spec.scope == "candidate" else ""
    return replace(spec, judge=judge_store.by_name(db, spec.judge).name, candidate=candidate)
