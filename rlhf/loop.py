"""The iteration: what would be trained, freezing it into a job, and when the next step is due. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from annotation import store
from annotation.database import Database
from annotation.measuring import quality
from annotation.records import UserError, now
from annotation.snapshots import Freezing, line_of
from rlhf import jobs, policies
from rlhf.artifacts import verify_directory, write_lines
from rlhf.base_model import EMBEDDED, EMBEDDED_NAME
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
    flip: float | None
    """Mean estimated chance that a pair to train on is the wrong way round; None without pairs."""


def preview(db: Database, data_dir: Path, spec: DPOSpec) -> Preview:
    """Count what `submit` would freeze for this spec."""
    parent = policies.by_revision(db, spec.parent)
    freezing = collect(db, parent, spec.scope, spec.max_length)
    with db.reading():
        flips = [row["flip"] for row in freezing if row["split"] == "train"]
    counts = freezing.counts
    flip = fmean(flips) if flips else None
    return Preview(counts["train"], counts["held-out"], dict(freezing.left_out), parent.revision, flip)


def collect(db: Database, parent: Policy, scope: Scope, max_length: int) -> Freezing:
    """The preference pairs of today's judgements: all, or those made since the parent's data was frozen.

    Each has its chance of error by its annotators' reliability as it is estimated today.
    """
    until = trained_until(db, parent) if scope == "new" else 0
    reliability = {name: measured.estimate for name, measured in quality.reliabilities(db).items()}
    return Freezing(store.judged_comparisons(db), max_length, until, reliability, store.excluded_annotators(db))


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
    if spec.model not in ("base", base.base) and not (spec.model == EMBEDDED and base.base == EMBEDDED_NAME):
        raise UserError(f"This data directory belongs to the base model {base.base}; the spec asks for {spec.model}.")
    spec = replace(spec, model=base.base)
    refuse_second(db, spec)
    # The data is frozen before the transaction below: it may take seconds, and annotators must not wait for it.
    if isinstance(spec, DPOSpec):
        spec = freeze_dpo(db, data_dir, spec)
    elif isinstance(spec, EvaluateSpec):
        spec = freeze_evaluation(db, data_dir, spec)
    with db.transaction():
        refuse_second(db, spec)  # two people who press the button at once must not both find nothing at work
        return jobs.enqueue(db, spec, requested_by)


def refuse_second(db: Database, spec: Spec) -> None:
    """Raises UserError where a training or checking job is at work and this would be another."""
    if spec.kind in TRAINING and jobs.active(db, TRAINING):
        raise UserError("A training or checking job is at work already. Wait for it, or cancel it first.")


def resume(db: Database, job_id: int) -> None:
    """Queue a job again to go on from its last checkpoint. Raises UserError while another training is at work."""
    with db.transaction():
        busy = jobs.active(db, TRAINING)
        if busy and jobs.get(db, job_id).kind in TRAINING:
            state = f"Job {busy[0].id} is {busy[0].status}"
            raise UserError(f"{state}: wait for it or cancel it, then resume job {job_id}.")
        jobs.resume(db, job_id)


def promote(db: Database, data_dir: Path, revision: str, decided_by: str) -> Policy:
    """Let a policy serve after checking that its files are whole. Raises UserError; then nothing has changed."""
    policy = policies.by_revision(db, revision)
    if policy.path is not None and policy.sha256 is not None:
        verify_directory(data_dir / policy.path, policy.sha256, f"adapter {policy.revision}")
    return policies.promote(db, policy.revision, decided_by)


def freeze_dpo(db: Database, data_dir: Path, spec: DPOSpec) -> DPOSpec:
    """The spec with its parent's revision and its data's sha256."""
    parent = policies.by_revision(db, spec.parent)
    refuse_other_shape(db, parent, spec)
    if spec.snapshot:
        return replace(spec, parent=parent.revision)
    freezing = collect(db, parent, spec.scope, spec.max_length)
    return replace(spec, parent=parent.revision, snapshot=store_snapshot(db, data_dir, freezing, MIN_PAIRS))


def refuse_other_shape(db: Database, parent: Policy, spec: DPOSpec) -> None:
    """Raises UserError where the parent's weights would not fit, or would mean another policy than the parent."""
    if parent.job_id is None:
        return
    made = jobs.get(db, parent.job_id).spec
    assert isinstance(made, DPOSpec)
    if (made.lora_r, made.lora_alpha) != (spec.lora_r, spec.lora_alpha):
        raise UserError(
            f"The parent {parent.revision} has lora_r {made.lora_r} and lora_alpha {made.lora_alpha}. "
            "Use the same to continue it, or start from the base."
        )


def freeze_evaluation(db: Database, data_dir: Path, spec: EvaluateSpec) -> EvaluateSpec:
    """The spec with revisions for names and its data's sha256."""
    candidate, against = policies.by_revision(db, spec.candidate), policies.by_revision(db, spec.against)
    snapshot = spec.snapshot or store_snapshot(db, data_dir, collect(db, candidate, "new", 100_000))
    return replace(spec, candidate=candidate.revision, against=against.revision, snapshot=snapshot)


def store_snapshot(db: Database, data_dir: Path, freezing: Freezing, at_least: int = 0) -> str:
    """Write data to its file and row as it is frozen; returns its sha256. The same data is stored once.

    Raises UserError, and keeps nothing, if there are fewer pairs to train on than `at_least`.
    """
    directory = data_dir / "snapshots"
    with db.reading():  # the rows are read while they are written
        name = write_lines(directory, enough(map(line_of, freezing), freezing, at_least), ".jsonl")
    counts = {"train": freezing.counts["train"], "held-out": freezing.counts["held-out"], "left_out": freezing.left_out}
    with db.transaction() as connection:
        connection.execute(
            "INSERT INTO snapshot (sha256, path, rows, counts, last_judgement_id, created) VALUES (?, ?, ?, ?, ?, ?) "
            # Judgements that give no pair may have come since: the rows are the same, what was left out is not.
            "ON CONFLICT DO UPDATE SET counts = excluded.counts, last_judgement_id = excluded.last_judgement_id",
            (
                name,
                f"snapshots/{name}.jsonl",
                freezing.counts.total(),
                json.dumps(counts),
                freezing.last_judgement_id,
                now(),
            ),
        )
    return name


def enough(lines: Iterable[bytes], freezing: Freezing, at_least: int) -> Iterator[bytes]:
    """The same lines. Raises UserError at their end if they hold fewer pairs to train on than `at_least`."""
    yield from lines
    found = freezing.counts["train"]
    if found < at_least:
        raise UserError(
            f"There are {found} preference pairs to train on, and at least {at_least} are needed. "
            "Judge more comparisons first."
        )


def snapshot_counts(db: Database, sha256: str) -> dict[str, Any]:
    """The counts stored with frozen data: pairs by split and what was left out, by reason."""
    stored = db.value("SELECT counts FROM snapshot WHERE sha256 = ?", (sha256,))
    return {} if stored is None else dict(json.loads(stored))


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
    if auto_train.get("on") and new_judgements >= max(int(auto_train.get("every", 60)), MIN_PAIRS):
        return Step("train")
    return None


def advance(db: Database, data_dir: Path) -> int | None:
    """Do the step that is due, if any; returns the new job's id."""
    active = len(jobs.active(db, TRAINING))
    if active:
        return None
    auto_train = store.setting(db, "auto_train", AUTO_TRAIN_DEFAULT)
    latest = next(iter(jobs.recent(db, ("dpo",), 1)), None)
    new = store.judgement_count(db, since=latest.created if latest else "") if auto_train.get("on") else 0
    step = next_step(auto_train, new, active, unchecked_candidate(db))
    if step is None:
        return None
    if step.action == "evaluate":
        return submit(db, data_dir, EvaluateSpec(candidate=step.candidate), "the loop")
    try:
        return submit(db, data_dir, DPOSpec(), "the loop")
    except UserError:
        return None  # enough judgements, but too few of them are pairs: wait for more


def unchecked_candidate(db: Database) -> str | None:
    """The oldest candidate whose training asked for a check and which has had none."""
    checks = [check.spec for check in jobs.recent(db, ("evaluate",), 1000)]
    asked = {spec.candidate for spec in checks if isinstance(spec, EvaluateSpec)}
    for policy in policies.everything(db):
        if policy.status != "candidate" or policy.job_id is None or policy.revision in asked:
            continue
        job = jobs.get(db, policy.job_id)
        if job.status == "finished" and isinstance(job.spec, DPOSpec) and job.spec.evaluate:
            return policy.revision
    return None
