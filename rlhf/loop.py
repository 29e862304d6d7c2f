"""The iteration: what would be trained, freezing it into a job, and when the next step is due. Torch-free."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from annotation import store
from annotation.consensus import REASONS
from annotation.database import Database
from annotation.examples import EXAMPLES, read_example
from annotation.measuring import quality
from annotation.records import UserError, now
from annotation.snapshots import Freezing, line_of
from rlhf import jobs, policies
from rlhf.artifacts import verify_directory, write_lines
from rlhf.base_model import EMBEDDED, EMBEDDED_NAME
from rlhf.policies import Policy
from rlhf.specs import (
    DPOSpec,
    EvaluateSpec,
    MeasureSpec,
    MergeSpec,
    PPOSpec,
    RewardModelSpec,
    Scope,
    SFTSpec,
    Spec,
    TrainingSpec,
    from_json,
    impossible,
    to_json,
    with_defaults,
)

MIN_PAIRS = 8
MIN_DEMONSTRATIONS = 8
MIN_PROMPTS = 4
AT_LEAST = {"sft": MIN_DEMONSTRATIONS, "reward_model": MIN_PAIRS, "dpo": MIN_PAIRS, "ppo": MIN_PROMPTS}
# Kinds of job that wait in the queue; one of them runs at a time.
TRAINING = ("sft", "reward_model", "dpo", "ppo", "evaluate", "measure", "merge")
# PPO against a reward model that is right less often than this on held-out comparisons needs a person's word.
REWARD_THRESHOLD = 0.6
AUTO_TRAIN_DEFAULT: Mapping[str, Any] = {"on": False, "every": 60}
Frozen = Iterable[Mapping[str, Any]]


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
    freezing = data_of(db, spec, parent)
    with db.reading():
        flips = [row["flip"] for row in freezing if row["split"] == "train" and "flip" in row]
    counts, left_out = freezing.counts, dict(freezing.left_out)
    flip = fmean(flips) if flips else None
    return Preview(counts["train"], counts["held-out"], left_out, parent.revision, unit_of(spec), flip)


def rows_of(db: Database, spec: TrainingSpec) -> Iterator[Mapping[str, Any]]:
    """The rows that `submit` would freeze for this spec, one by one."""
    with db.reading():
        yield from data_of(db, spec, policies.by_revision(db, spec.parent))


def unit_of(spec: TrainingSpec) -> str:
    """What a kind of job trains on, in the plural."""
    return {"sft": "demonstrations", "ppo": "prompts"}.get(spec.kind, "pairs")


def data_of(db: Database, spec: TrainingSpec, parent: Policy) -> Freezing | Listing:
    """The rows that a job trains on and is checked with, read as they are iterated over."""
    if isinstance(spec, SFTSpec):
        return demonstrations(db, spec.source)
    if isinstance(spec, PPOSpec):
        return Listing(prompt_rows(db))
    assert isinstance(spec, DPOSpec | RewardModelSpec)
    return collect(db, parent, spec.scope, spec.max_length)


@dataclass
class Listing:
    """Rows with a split, counted as they are iterated over; like `Freezing`, for data that no judgement made."""

    rows: Frozen
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    last_judgement_id: int = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """The rows, once."""
        for row in self.rows:
            self.counts[row["split"]] += 1
            yield row


def demonstrations(db: Database, source: str) -> Listing:
    """Demonstrations as rows: messages, text, split. Raises UserError for a source that there is not."""
    if source == "demonstrations":
        return Listing(demonstration_rows(db))
    if source.startswith("example:"):
        shown = read_example(source.removeprefix("example:"))
        return Listing(
            {
                "split": row.split,
                "messages": [dict(message) for message in row.messages],
                "text": row.completion,
                "origin": "example",
                **({"label": row.label} if row.label is not None else {}),
            }
            for row in shown
        )
    known = ", ".join(["demonstrations", *(f"example:{name}" for name in EXAMPLES)])
    raise UserError(f"There is no data '{source}' to learn from. Known: {known}.")


def demonstration_rows(db: Database) -> Iterator[Mapping[str, Any]]:
    """Imported and written demonstrations, then mended answers."""
    for shown in (*store.demonstrations(db), *store.mended_answers(db)):
        yield {
            "split": shown.split,
            "messages": [dict(message) for message in shown.messages],
            "text": shown.text,
            "origin": shown.origin,
            "response": shown.id,
        }


def prompt_rows(db: Database) -> Iterator[Mapping[str, Any]]:
    """Every prompt to train on."""
    for prompt in store.prompts(db, "train"):
        yield {"prompt_id": prompt.id, "split": "train", "messages": [dict(message) for message in prompt.messages]}


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
    snapshot = spec.snapshot if isinstance(spec, TrainingSpec) else ""
    seen = int(db.value("SELECT last_judgement_id FROM snapshot WHERE sha256 = ?", (snapshot,)) or 0)
    if seen or policy.parent_id is None:
        return seen
    return trained_until(db, policies.by_id(db, policy.parent_id))  # it learnt from no judgement, or was merged


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
    for sentence in check(db, spec):
        raise UserError(sentence)
    base, parent = policies.by_revision(db, "base"), policies.by_revision(db, spec.parent)
    spec = replace(spec, parent=parent.revision, model=base.base)
    if spec.snapshot:
        return spec
    snapshot = store_snapshot(db, data_dir, data_of(db, spec, parent), AT_LEAST[spec.kind], unit_of(spec))
    return replace(spec, snapshot=snapshot)


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


def shape_trouble(db: Database, spec: TrainingSpec, parent: Policy) -> list[str]:
    """Why the parent's adapter can't be continued: its weights would not fit, or would mean another policy."""
    made = None if parent.job_id is None else jobs.get(db, parent.job_id).spec
    if not isinstance(made, TrainingSpec):
        return []
    names = SHAPE[parent.form]
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
    differing = [name for name in names if getattr(made, name) != getattr(spec, name)]
    if not differing:
        return []
    has = " and ".join(f"{name} {getattr(made, name)}" for name in differing)
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
    if accuracy is not None and accuracy >= REWARD_THRESHOLD:
        return []
    if accuracy is not None and spec.accepted_accuracy and abs(spec.accepted_accuracy - accuracy) < 0.005:
        return []
    measured = "has no held-out accuracy" if accuracy is None else f"is right on {accuracy:.1%} of held-out comparisons"
    word = 0.01 if accuracy is None else max(round(accuracy, 3), 0.001)
    if accuracy is None and spec.accepted_accuracy:
        return []
    return [
        f"The reward model {reward.revision} {measured}, and under {REWARD_THRESHOLD:.0%} PPO mostly learns its "
        f"mistakes. Collect more judgements, or confirm that you accept it (accepted_accuracy {word})."
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


def freeze_merge(db: Database, spec: MergeSpec) -> MergeSpec:
    """The spec with the adapter's revision. Raises UserError for what can't be merged."""
    policy = policies.by_revision(db, spec.revision)
    for what in (policy.kind, policy.form):
        if what in NOT_MERGED:
            raise UserError(f"{policy.revision} {NOT_MERGED[what]}")
    if policy.deleted:
        raise UserError(f"The files of {policy.revision} were deleted on {policy.deleted[:10]}.")
    return replace(spec, revision=policy.revision)


def resume(db: Database, job_id: int) -> None:
    """Queue a job again to go on from its last checkpoint. Raises UserError for one that has not ended early."""
    jobs.resume(db, job_id)


def delete_policy(db: Database, data_dir: Path, revision: str, decided_by: str) -> int:
    """Delete a policy's or reward model's files, and keep its row; returns the bytes that are free now.

    Raises UserError, and deletes nothing, while it serves or others need it.
    """
    with db.transaction():
        policy = policies.by_revision(db, revision)
        for sentence in needed_by(db, policy):
            raise UserError(sentence)
        policies.mark_deleted(db, policy.id)
        policies.record_decision(db, policy.id, policies.serving(db).id, "delete", decided_by)
    directory = data_dir / str(policy.path)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    shutil.rmtree(directory, ignore_errors=True)
    return size


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
    users = [job.id for job in jobs.active(db, TRAINING) if policy.revision in named_in(job.spec)]
    return [f"Job {users[0]} needs {policy.revision}: wait for it, or cancel it."] if users else []


def named_in(spec: Spec) -> set[str]:
    """The revisions that a job reads."""
    inner = from_json(spec.training) if isinstance(spec, MeasureSpec) else spec
    names = ("parent", "reward_model", "candidate", "against", "revision")
    return {getattr(inner, name) for name in names if hasattr(inner, name)}


def promote(db: Database, data_dir: Path, revision: str, decided_by: str) -> Policy:
    """Let a policy serve after checking that its files are whole. Raises UserError; then nothing has changed."""
    policy = policies.by_revision(db, revision)
    if policy.path is not None and policy.sha256 is not None and not policy.deleted:
        verify_directory(data_dir / policy.path, policy.sha256, f"adapter {policy.revision}")
    return policies.promote(db, policy.revision, decided_by)


def freeze_evaluation(db: Database, data_dir: Path, spec: EvaluateSpec) -> EvaluateSpec:
    """The spec with revisions for names and its data's sha256."""
    candidate, against = policies.by_revision(db, spec.candidate), policies.by_revision(db, spec.against)
    snapshot = spec.snapshot or store_snapshot(db, data_dir, collect(db, candidate, "new", 100_000))
    return replace(spec, candidate=candidate.revision, against=against.revision, snapshot=snapshot)


def store_snapshot(
    db: Database, data_dir: Path, freezing: Freezing | Listing, at_least: int = 0, unit: str = "pairs"
) -> str:
    """Write data to its file and row as it is frozen; returns its sha256. The same data is stored once.

    Raises UserError, and keeps nothing, if there is less to train on than `at_least`.
    """
    directory = data_dir / "snapshots"
    with db.reading():  # the rows are read while they are written
        name = write_lines(directory, enough(map(line_of, freezing), freezing, at_least, unit), ".jsonl")
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


def enough(lines: Iterable[bytes], freezing: Freezing | Listing, at_least: int, unit: str = "pairs") -> Iterator[bytes]:
    """The same lines. Raises UserError at their end if they hold less to train on than `at_least`."""
    yield from lines
    found = freezing.counts["train"]
    if found < at_least:
        raise UserError(f"{too_few(unit, found, at_least)} {MORE[unit]}{left_out_sentence(freezing.left_out)}")


MORE = {
    "pairs": "Judge more comparisons first.",
    "demonstrations": "Import some on the Data tab, mend answers while annotating, or choose an example set.",
    "prompts": "Import prompts on the Data tab.",
}


def too_few(unit: str, found: int, at_least: int) -> str:
    """How much there is, and how much is needed."""
    name = "preference pairs" if unit == "pairs" else unit
    return f"There are {found} {name} to train on, and at least {at_least} are needed."


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """What is left out and why, after a blank; empty if nothing is."""
    reasons = ", ".join(f"{count} {REASONS.get(reason, reason)}" for reason, count in sorted(left_out.items()) if count)
    return f" Left out: {reasons}." if reasons else ""


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
    latest = next(iter(jobs.recent(db, ("dpo", "ppo"), 1)), None)
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
        if policy.status != "candidate" or policy.job_id is None or policy.revision in asked or policy.deleted:
            continue
        job = jobs.get(db, policy.job_id)
        if job.status == "finished" and getattr(job.spec, "evaluate", False):
            return policy.revision
    return None
