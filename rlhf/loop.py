"""The iteration: what would be trained, freezing it into a job, and when the next step is due. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from annotation import exporting, store
from annotation.database import Database
from annotation.exporting import Frozen
from annotation.records import UserError, now
from rlhf import jobs, policies
from rlhf.artifacts import write_file
from rlhf.jobs import Job
from rlhf.policies import Policy
from rlhf.specs import DPOSpec, EvaluateSpec, Scope, Spec

MIN_PAIRS = 8
TRAINING = ("dpo", "evaluate")
AUTO_TRAIN_DEFAULT: Mapping[str, Any] = {"on": False, "every": 60}


@dataclass(frozen=True)
class Preview:
    """What a training job would use if it were made now."""

    train_pairs: int
    held_out_pairs: int
    left_out: dict[str, int]
    parent: str


def preview(db: Database, data_dir: Path, spec: DPOSpec) -> Preview:
    """Count what `submit` would freeze for this spec."""
    parent = policies.by_revision(db, spec.parent)
    frozen = collect(db, parent, spec.scope, spec.max_length)
    return Preview(frozen.count("train"), frozen.count("held-out"), dict(frozen.left_out), parent.revision)


def collect(db: Database, parent: Policy, scope: Scope, max_length: int) -> Frozen:
    """The preference pairs of today's judgements: all, or those made since the parent's data was frozen."""
    until = trained_until(db, parent) if scope == "new" else 0
    return exporting.freeze(store.judged_comparisons(db), max_length, until)


def trained_until(db: Database, policy: Policy) -> int:
    """The last judgement that the policy, or one that it grew from, has seen; 0 for the base."""
    if policy.job_id is None:
        return 0
    spec = jobs.get(db, policy.job_id).spec
    assert isinstance(spec, DPOSpec)
    return int(db.value("SELECT last_judgement_id FROM snapshot WHERE sha256 = ?", (spec.snapshot,)) or 0)


def submit(db: Database, data_dir: Path, spec: Spec, requested_by: str) -> int:
    """Freeze everything the spec leaves open (data, parent, base) and queue the job; returns its id.

    Raises UserError where there is too little data, or a training job is at work already.
    """
    base = policies.by_revision(db, "base")
    if spec.model not in ("base", base.base):
        raise UserError(f"This data directory belongs to the base model {base.base}; the spec asks for {spec.model}.")
    spec = replace(spec, model=base.base)
    if isinstance(spec, DPOSpec):
        if jobs.active(db, TRAINING):
            raise UserError("A training or checking job is at work already. Wait for it, or cancel it first.")
        spec = freeze_dpo(db, data_dir, spec)
    elif isinstance(spec, EvaluateSpec):
        spec = freeze_evaluation(db, data_dir, spec)
    return jobs.enqueue(db, spec, requested_by)


def resume(db: Database, job_id: int) -> None:
    """Queue a job again to go on from its last checkpoint. Raises UserError while another training is at work."""
    busy = jobs.active(db, TRAINING)
    if busy and jobs.get(db, job_id).kind in TRAINING:
        raise UserError(f"Job {busy[0].id} is {busy[0].status}: wait for it or cancel it, then resume job {job_id}.")
    jobs.resume(db, job_id)


def freeze_dpo(db: Database, data_dir: Path, spec: DPOSpec) -> DPOSpec:
    """The spec with its parent's revision and its data's sha256."""
    parent = policies.by_revision(db, spec.parent)
    if spec.snapshot:
        return replace(spec, parent=parent.revision)
    frozen = collect(db, parent, spec.scope, spec.max_length)
    if frozen.count("train") < MIN_PAIRS:
        raise UserError(
            f"There are {frozen.count('train')} preference pairs to train on, and at least {MIN_PAIRS} are needed. "
            "Judge more comparisons first."
        )
    return replace(spec, parent=parent.revision, snapshot=store_snapshot(db, data_dir, frozen))


def freeze_evaluation(db: Database, data_dir: Path, spec: EvaluateSpec) -> EvaluateSpec:
    """The spec with revisions for names and its data's sha256."""
    candidate, against = policies.by_revision(db, spec.candidate), policies.by_revision(db, spec.against)
    snapshot = spec.snapshot or store_snapshot(db, data_dir, collect(db, candidate, "new", 100_000))
    return replace(spec, candidate=candidate.revision, against=against.revision, snapshot=snapshot)


def store_snapshot(db: Database, data_dir: Path, frozen: Frozen) -> str:
    """Write frozen data to its file and row; returns its sha256. The same data is stored once."""
    path = f"snapshots/{frozen.sha256}.jsonl"
    write_file(data_dir / path, frozen.content)
    counts = {"train": frozen.count("train"), "held-out": frozen.count("held-out"), "left_out": frozen.left_out}
    with db.transaction() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO snapshot (sha256, path, rows, counts, last_judgement_id, created) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (frozen.sha256, path, len(frozen.rows), json.dumps(counts), frozen.last_judgement_id, now()),
        )
    return frozen.sha256


def snapshot_counts(db: Database, sha256: str) -> dict[str, Any]:
    """The counts stored with frozen data: pairs by split and what was left out, by reason."""
    stored = db.value("SELECT counts FROM snapshot WHERE sha256 = ?", (sha256,))
    return {} if stored is None else dict(json.loads(stored))


@dataclass(frozen=True)
class Step:
    """What the loop does next without being asked: check a candidate, or train."""

    action: str
    candidate: str = ""


def next_step(auto_train: Mapping[str, Any], new_pairs: int, active: int, unchecked: str | None) -> Step | None:
    """The next step of the iteration, if one is due. Pure.

    A fresh candidate is checked first; then, when switched on, every N new preference pairs start a training.
    """
    if active:
        return None
    if unchecked:
        return Step("evaluate", unchecked)
    if auto_train.get("on") and new_pairs >= max(int(auto_train.get("every", 60)), MIN_PAIRS):
        return Step("train")
    return None


def advance(db: Database, data_dir: Path) -> int | None:
    """Do the step that is due, if any; returns the new job's id."""
    finished = next(iter(jobs.recent(db, ("dpo",), 1)), None)
    unchecked = unchecked_candidate(db, finished) if finished else None
    auto_train = store.setting(db, "auto_train", AUTO_TRAIN_DEFAULT)
    since = last_trained_judgement(db, finished)
    new = store.judgement_count(db, after=since) if auto_train.get("on") else 0
    step = next_step(auto_train, new, len(jobs.active(db, TRAINING)), unchecked)
    if step is None:
        return None
    if step.action == "evaluate":
        return submit(db, data_dir, EvaluateSpec(candidate=step.candidate), "the loop")
    try:
        return submit(db, data_dir, DPOSpec(), "the loop")
    except UserError:
        return None  # enough judgements, but too few of them are pairs: wait for more


def last_trained_judgement(db: Database, job: Job | None) -> int:
    """The last judgement in the newest training's data, whatever became of it: automatic training counts from there."""
    if job is None or not isinstance(job.spec, DPOSpec):
        return 0
    return int(db.value("SELECT last_judgement_id FROM snapshot WHERE sha256 = ?", (job.spec.snapshot,)) or 0)


def unchecked_candidate(db: Database, job: Job) -> str | None:
    """The candidate of a finished training that wants a check and has had none."""
    if job.status != "finished" or not isinstance(job.spec, DPOSpec) or not job.spec.evaluate:
        return None
    policy = policies.of_job(db, job.id)
    if policy is None or policy.status != "candidate":
        return None
    checks = [check.spec for check in jobs.recent(db, ("evaluate",), 200)]
    asked = any(isinstance(spec, EvaluateSpec) and spec.candidate == policy.revision for spec in checks)
    return None if asked else policy.revision
