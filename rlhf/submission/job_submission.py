"""Jobs asked for: what would be trained, freezing a spec into a job, deleting what a job made. Torch-free."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from annotation.database import Database
from annotation.exports.frozen_rows import FrozenRow
from annotation.records import UserError
from annotation.translation import _
from rlhf.data import snapshots
from rlhf.data.label_noise import Noise, noise_of, voices_in
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.artifacts import bytes_within, checkpoints_directory
from rlhf.jobs.descriptions import LeftOut, Unit
from rlhf.jobs.job_spec import JobSpec, Training, TrainingSpec
from rlhf.jobs.rental_store import Terms
from rlhf.models import decision_store, registry
from rlhf.models.base.base_files import EMBEDDED, EMBEDDED_NAME
from rlhf.submission import preconditions


@dataclass(frozen=True)
class TrainingPreview:
    """What a training job would use if it were made now."""

    train: int
    """Items to train on: pairs, comparisons' pairs, demonstrations or prompts."""
    held_out: int
    left_out: LeftOut
    parent: str
    unit: Unit
    """What is counted, in the plural."""
    noise: Noise | None = None
    """How many pairs to train on are labelled wrong, as far as that is known; None without pairs."""


def preview(db: Database, data_dir: Path, spec: TrainingSpec) -> TrainingPreview:
    """Count what `submit` would freeze for this spec. Raises UserError where there is nothing to count."""
    parent = registry.by_revision(db, spec.parent)
    rows = snapshots.data_of(db, spec, snapshots.chat_of(db, data_dir))
    with db.reading():
        voices = voices_in(rows)
    counts, left_out = rows.counts, LeftOut()
    left_out.take(rows.left_out)
    return TrainingPreview(
        train=counts["train"],
        held_out=counts["held-out"],
        left_out=left_out,
        parent=parent.revision,
        unit=spec.unit,
        noise=noise_of(db, voices),
    )


def shortage_of(db: Database, data_dir: Path, spec: TrainingSpec) -> str:
    """Why `submit` would find too little to train on; empty where there is enough."""
    rows = snapshots.data_of(db, spec, snapshots.chat_of(db, data_dir))
    with db.reading():
        for _row in rows:  # which counts them
            pass
    return snapshots.shortage(spec.unit, rows.counts["train"], spec.at_least, rows.left_out)


def rows_of(db: Database, spec: TrainingSpec) -> Iterator[FrozenRow]:
    """The rows that `submit` would freeze for this spec, and those that the chat template refuses, one by one."""
    with db.reading():
        yield from snapshots.data_of(db, spec)


def submit(db: Database, data_dir: Path, spec: JobSpec, requested_by: str, terms: Terms | None = None) -> int:
    """Freeze everything the spec leaves open (data, parent, base) and queue the job; returns its id.

    With `terms`, to which somebody has agreed, it is for rented hardware. Raises UserError where there is too little
    data, or settings that can't work, or another job does the same already.
    """
    if terms is not None and not isinstance(spec, TrainingSpec):
        raise UserError(_("Only trainings can be sent to rented hardware."))
    spec = freeze(db, data_dir, spec, here=terms is None)
    with db.transaction():  # two people may press the same button at once
        before = job_store.doing(db, spec)
        if before is not None:
            said = _("Job {number} ({about}) waits or runs already. Nothing was queued now.")
            raise UserError(said.format(number=before.id, about=before.spec.about()))
        if terms is None:
            return job_store.enqueue(db, spec, requested_by)
        return rental_store.enqueue(db, spec, requested_by, terms)


def freeze(db: Database, data_dir: Path, spec: JobSpec, here: bool = True) -> JobSpec:
    """The spec with revisions for names, the method's learning rate, and its data's sha256. Raises UserError.

    The data is frozen outside of any write transaction: it may take seconds, and annotators must not wait for it.
    """
    base = registry.by_revision(db, "base")
    if spec.model not in ("base", base.base) and not (spec.model == EMBEDDED and base.base == EMBEDDED_NAME):
        said = _("This data directory belongs to the base model {base}; the spec asks for {model}.")
        raise UserError(said.format(base=base.base, model=spec.model))
    spec = replace(spec, model=base.base)
    if isinstance(spec, TrainingSpec):
        return freeze_training(db, data_dir, spec, here)
    return spec.frozen(db, data_dir)


def freeze_training(db: Database, data_dir: Path, spec: Training, here: bool = True) -> Training:
    """The spec with its parent's revision and shape, its method, its learning rate and its data's sha256.

    Raises UserError.
    """
    base, parent = registry.by_revision(db, "base"), registry.by_revision(db, spec.parent)
    spec = preconditions.on_parent(db, spec, parent).filled()
    for sentence in preconditions.check(db, spec, here):
        raise UserError(sentence)
    spec = replace(spec, parent=parent.revision, model=base.base)
    if spec.snapshot:
        return spec
    rows = snapshots.data_of(db, spec, snapshots.chat_of(db, data_dir))
    snapshot = snapshots.store_snapshot(db, data_dir, rows, spec.at_least, spec.unit)
    return replace(spec, snapshot=snapshot)


def delete_policy(db: Database, data_dir: Path, revision: str, decided_by: str) -> int:
    """Delete a policy's or reward model's files, and keep its row; returns the bytes that are free now.

    Raises UserError, and deletes nothing, while it serves or others need it.
    """
    with db.transaction():
        policy = registry.by_revision(db, revision)
        if needed := preconditions.needed_by(db, policy):
            raise UserError(needed)
        decision_store.mark_deleted(db, policy, decided_by)
    return registry.remove_files(data_dir, policy)


def delete_checkpoints(db: Database, data_dir: Path, job_id: int) -> int:
    """Delete the checkpoints of a run that ended early; returns the bytes that are free now.

    Raises UserError for one that waits or runs.
    """
    with db.transaction():  # nobody resumes it meanwhile
        if job_store.get(db, job_id).is_open:
            said = _("Job {job_id} has not ended and needs its checkpoints: cancel it first.")
            raise UserError(said.format(job_id=job_id))
        directory = checkpoints_directory(data_dir, job_id)
        freed = bytes_within(directory)
        shutil.rmtree(directory, ignore_errors=True)
    return freed
