"""Everything that can be known of a run before it: its data, what it costs, and why it can't be started. Torch-free.

A form asks on every change of a field, so what is dear to find out is kept until something that decides it changes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from annotation.database import Database
from annotation.records import Split, UserError
from annotation.store import training_data
from annotation.translation import _
from rlhf.data import held_out_sets, snapshots
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import Made
from rlhf.jobs.job_spec import Training, TrainingSpec
from rlhf.models import registry
from rlhf.models.base import base_files
from rlhf.models.chat_template import ChatTokenizer, chat_tokenizer
from rlhf.models.memory import fitting, machines, model_shapes, parameter_counts
from rlhf.models.memory.fitting import Fit
from rlhf.models.memory.machines import Machine
from rlhf.models.memory.model_shapes import Shapes
from rlhf.models.memory.parameter_counts import Parameters
from rlhf.models.memory.run_memory import Workload
from rlhf.models.precisions.precisions_spec import PrecisionMismatch, crossing
from rlhf.models.registry import Policy
from rlhf.submission import form_fields, inspect_rows, job_submission, preconditions, step_time
from rlhf.submission.form_fields import Form
from rlhf.submission.inspect_rows import DataSummary, InspectedItem
from rlhf.submission.job_submission import TrainingPreview
from rlhf.submission.step_time import StepTime

# Data that takes long to count is not counted on each new judgement: the rest is the annotators' time.
QUICK_SECONDS, REST_FACTOR = 0.1, 20
# How old what is known of the machine and of finished jobs may be.
MACHINE_SECONDS, JOBS_SECONDS = 30.0, 3.0
KEPT_DATA, KEPT_LENGTHS = 16, 64

Choices = list[tuple[str, str]]
Cached = TypeVar("Cached")


@dataclass(frozen=True)
class TrainingData:
    found: TrainingPreview
    items: int
    """What batches count, to train on: a reward model takes whole comparisons."""
    answers: int = 0
    """Answers of the largest comparison that a reward model takes; 0 for what is no reward model's."""
    unchecked: str = ""
    """What is to be known before it starts where nothing is held out to check it with; in English, as it is kept."""


@dataclass(frozen=True)
class CostEstimate:
    counted: Parameters
    fit: Fit
    machine: Machine
    step_time: StepTime | None
    steps: int
    counted_steps: Callable[[int], str]
    """How so many of its steps are said."""
    waiting: int
    """Jobs that run or wait before it."""
    longest: int
    """Tokens of the longest item, which the memory is estimated with; 0 where nobody has looked for it."""
    ends_early: bool = False
    """Whether it may be over before its last step."""


@dataclass(frozen=True)
class PlannedRun:
    """A run as it would be queued, but for its data, which is frozen then."""

    spec: TrainingSpec
    asked: TrainingSpec
    """The spec as the form has it: names such as 'serving', and a learning rate of 0 for the method's own."""
    problems: Sequence[str]
    """Why it can't be started; empty if it can."""
    data: TrainingData | None
    cost: CostEstimate | None
    unknown: str
    crossing: PrecisionMismatch | None = None
    """How it leaves the precision in which its parent answers."""


class Preflight:
    """Answers for one data directory, for all sessions of the page."""

    def __init__(self, db: Database, data_dir: Path, model: str) -> None:
        self.db, self.data_dir, self.model = db, data_dir, model
        self._counting = Lock()
        self._data: dict[Any, tuple[Any, float, TrainingData]] = {}
        self._lengths: dict[Any, int] = {}
        self._recent: dict[Any, tuple[float, Any]] = {}

    def of(self, asked: TrainingSpec) -> PlannedRun:
        """All that is known of this run now."""
        spec = resolved(self.db, asked)
        problems, data, cost, unknown = preconditions.check(self.db, spec), None, None, ""
        try:
            data = self.data(spec)
            problems += shortage(spec, data.found)
        except UserError as error:
            if str(error) not in problems:
                problems.append(str(error))
        try:
            cost = self.cost(spec, data)
        except UserError as error:
            unknown = form_fields.in_labels(str(error), spec)
        return PlannedRun(
            spec=spec,
            asked=asked,
            problems=[form_fields.in_labels(sentence, spec) for sentence in problems],
            data=data,
            cost=cost,
            unknown=unknown,
            crossing=crossing(self.db, spec, self.machine()),
        )

    # ------------------------------------------------------------------------------------------------------------ data
    def data(self, spec: TrainingSpec) -> TrainingData:
        """What it would learn from, as of now or, where counting takes long, of a while ago.

        Raises UserError where there is nothing to count.
        """
        key = spec.data_key()
        with self._counting:
            mark = training_data.data_mark(self.db)
            counted, rests_until, data = self._data.get(key, (None, 0.0, None))
            if data is not None and (counted == mark or time.monotonic() < rests_until):
                return data
            began = time.monotonic()
            found = job_submission.preview(self.db, self.data_dir, spec)
            unchecked = held_out_sets.nothing_to_check(self.db, spec, found.held_out)
            data = TrainingData(found, *inspect_rows.items_to_train(self.db, spec, found), unchecked)
            cache(self._data, key, (mark, rest_after(began, time.monotonic()), data), KEPT_DATA)
            return data

    def tokenizer(self) -> ChatTokenizer:
        """The base model's. Raises UserError if it has none that can be read here."""
        return chat_tokenizer(self.base_directory(), registry.no_thinking(self.db))

    def show(self, spec: TrainingSpec, split: Split, number: int) -> InspectedItem | None:
        """One item as it would be trained on. Raises UserError where there is no data or no tokenizer."""
        spec = resolved(self.db, spec)
        return inspect_rows.inspect(self.tokenizer(), spec, inspect_rows.items_of(self.db, spec), split, number)

    def survey(self, spec: TrainingSpec) -> DataSummary:
        """All items looked at; from then on the memory is estimated with the longest of them."""
        spec = resolved(self.db, spec)
        found = inspect_rows.summarise(self.tokenizer(), spec, inspect_rows.items_of(self.db, spec))
        if found.largest and found.seen <= inspect_rows.TOKENISED_ITEMS:
            cache(self._lengths, what_decides_lengths(spec), found.largest, KEPT_LENGTHS)
        return found

    # ------------------------------------------------------------------------------------------------------------ cost
    def cost(self, spec: TrainingSpec, data: TrainingData | None) -> CostEstimate:
        """Parameters, memory and time. Raises UserError where the model's files don't tell."""
        shapes, machine = self.shapes(spec), self.machine()
        reward = self.reward_spec(spec)
        longest = self._lengths.get(what_decides_lengths(spec), 0)
        items, answers = (0, 0) if data is None else (data.items, data.answers)
        fit = fitting.fit(shapes, spec, machine, Workload(longest, answers, reward))
        return CostEstimate(
            counted=parameter_counts.parameters(shapes, spec, reward),
            fit=replace(fit, sentence=form_fields.in_labels(fit.sentence, spec)),
            machine=machine,
            step_time=step_time.step_time_of(spec, self.finished_jobs(spec), items),
            steps=spec.steps_over(items),
            counted_steps=spec.counted_steps,
            waiting=len(job_store.at_work(self.db)) + len(job_store.queue(self.db)),
            longest=longest,
            ends_early=spec.ends_early(),
        )

    def shapes(self, spec: TrainingSpec) -> Shapes:
        """The model that the run's parent lies on, or is."""
        ground = registry.ground(self.db, registry.by_revision(self.db, spec.parent))
        return model_shapes.read_shapes(self.base_directory() if ground.path is None else self.data_dir / ground.path)

    def base_directory(self) -> Path:
        """Where the base model is; a name on the Hub is looked up once."""
        found: Path = self._keep("base", float("inf"), lambda: base_files.directory_of(self.data_dir, self.model))
        return found

    def machine(self) -> Machine:
        return self._keep("machine", MACHINE_SECONDS, machines.this_machine)

    def shares_steps(self) -> bool:
        """Whether several processes can share a run: on several GPUs, or several processors."""
        machine = self.machine()
        return (machine.devices if machine.gpu else os.cpu_count() or 1) > 1

    def finished_jobs(self, spec: TrainingSpec) -> list[job_store.Job]:
        return self._keep(("jobs", spec.kind), JOBS_SECONDS, lambda: step_time.finished_jobs(self.db, spec))

    def reward_spec(self, spec: TrainingSpec) -> TrainingSpec | None:
        """How the reward model was trained that scores its answers; None without one, and where that is not known."""
        scorers = [registry.by_revision(self.db, name) for name in spec.trained_against()]
        return next((registry.trained_as(self.db, scorer) for scorer in scorers), None)

    def _keep(self, key: Any, seconds: float, find: Callable[[], Cached]) -> Cached:
        """What was found less than so many seconds ago, or is found now."""
        until, found = self._recent.get(key, (0.0, None))
        if time.monotonic() >= until:
            found = find()
            self._recent[key] = time.monotonic() + seconds, found
        return found  # type: ignore[no-any-return]


def cache(kept: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Keep a value; beyond `most` the oldest is forgotten."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        kept.pop(next(iter(kept)), None)


def rest_after(began: float, ended: float) -> float:
    """When data may be counted again."""
    cost = ended - began
    return ended + (REST_FACTOR * cost if cost > QUICK_SECONDS else 0.0)


# -------------------------------------------------------------------------------------------------------------- a spec
def resolved(db: Database, spec: Training) -> Training:
    """The spec with its parent's revision and what it leaves to its method, as it will be queued."""
    parent = registry.serving(db).revision if spec.parent == "serving" else spec.parent
    known = registry.named(db, parent)
    return replace((spec if known is None else preconditions.on_parent(db, spec, known)).filled(), parent=parent)


def shortage(spec: TrainingSpec, found: TrainingPreview) -> list[str]:
    """Why there is too little data, as `job_submission.submit` would say it."""
    few = snapshots.shortage(found.unit, found.train, spec.at_least, found.left_out)
    return [few] if few else []


def what_decides_lengths(spec: TrainingSpec) -> tuple[Any, ...]:
    """The settings that decide how long the longest item is."""
    virtual = spec.virtual_tokens if spec.method == "prompt" else 0
    return *spec.data_key(), spec.max_length, virtual, spec.drawn_tokens()


def scorer_of(db: Database, spec: TrainingSpec) -> Policy | None:
    """The reward model that a job names to be trained against; None if it names none that there is."""
    known = (registry.named(db, name) for name in spec.trained_against())
    return next((one for one in known if one is not None and one.kind == "reward-model"), None)


# ------------------------------------------------------------------------------------------------- parents to choose
def parents(db: Database, form: Form) -> Choices:
    """(words, revision) of what a form's job can start from, newest first, behind what serves and the base."""
    known = [policy for policy in registry.all_policies(db) if fits(form, policy)]
    serves = _("What serves now: {description_of}")
    serving = [description_of(db, policy) for policy in known if policy.status == "serving"]
    first = [(serves.format(description_of=one), "serving") for one in serving]
    return [*first, *((description_of(db, policy), policy.revision) for policy in [known[0], *reversed(known[1:])])]


def fits(form: Form, policy: Policy) -> bool:
    """Whether a form's job could start from this policy or reward model."""
    if policy.deleted:
        return False
    whole = policy.form in ("base", "full")
    if form.spec_type.makes == "reward-model":
        return policy.kind == "reward-model" or whole
    return policy.kind == "policy" and (whole or form.methods != ("full",))


def models_of(db: Database, kind: Made) -> Choices:
    """(words, revision) of the policies or reward models, newest first."""
    known = [policy for policy in registry.all_policies(db) if policy.kind == kind and not policy.deleted]
    return [(description_of(db, policy), policy.revision) for policy in reversed(known)]


def description_of(db: Database, policy: Policy) -> str:
    """A policy or reward model as people know it: revision, how it was made, how good, since when."""
    if policy.form == "base":
        return f"base · {policy.base}"
    made = registry.trained_as(db, policy)
    others = _("merged") if policy.source is None else _("from the Hub")
    how = others if made is None else form_fields.choice_label(type(made), "method", made.method)
    accuracy = preconditions.accuracy_of(db, policy) if policy.kind == "reward-model" else None
    good = None if accuracy is None else _("right on {accuracy:.0%}").format(accuracy=accuracy)
    state = policy.status_word if policy.kind == "policy" else None
    return " · ".join(filter(None, (policy.revision, how, good, state, policy.created[:10])))


def adapter_fields(db: Database, form: Form, parent: Any) -> dict[str, Any]:
    """What a form's fields of the adapter are to say unless somebody wants another: the parent's own, if it is gone on
    from, else the defaults."""
    asked = form.spec_type(**{**form.layout.fixed, "parent": parent if isinstance(parent, str) else ""})
    spec = resolved(db, asked)
    shape = {name: getattr(spec, name) for name in preconditions.SHAPED if name in form.names}
    return shape | ({"method": "prompt" if spec.method == "prompt" else asked.method} if "method" in shape else {})


def continuing(db: Database, revision: str) -> tuple[Form, dict[str, Any]]:
    """The form that goes on from a policy or reward model, and what it fills in: the parent, and its shape."""
    policy = registry.by_revision(db, revision)
    made = registry.trained_as(db, policy)
    form = form_fields.form_for(policy.algorithm, "" if made is None else made.method)
    whole = {} if made is None else {"method": made.method}
    filled = {
        name: value for name, value in {**whole, **preconditions.shape_of(db, policy)}.items() if name in form.names
    }
    return form, {"parent": policy.revision, **filled}
