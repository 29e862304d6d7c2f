"""A job in words: what it does, the settings that make it the run it is, and what came of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from annotation.translation import N_, _, numeral
from annotation.ui.formatting import NOT_MEASURED, short_number, size
from annotation.ui.invisible import visible
from rlhf.data.snapshots import SnapshotCounts, left_out_list
from rlhf.jobs.descriptions import UNITS, Facts
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, to_json
from rlhf.jobs.job_store import Job
from rlhf.submission.form_fields import choice_label, in_labels

STATUS_WORDS: Mapping[str, str] = {
    "queued": N_("queued"),
    "running": N_("running"),
    "cancelling": N_("cancelling"),
    "cancelled": N_("cancelled"),
    "finished": N_("finished"),
    "failed": N_("failed"),
    "lost": N_("lost"),
}
# The colour of a state; the others have none.
STATUS_COLOURS: Mapping[str, str] = {
    "queued": "open",
    "running": "open",
    "cancelling": "open",
    "finished": "good",
    "failed": "bad",
    "lost": "bad",
}


def about(job: Job) -> str:
    said = job.spec.about()
    return _("{about}, on rented {flavor}").format(about=said, flavor=job.flavor) if job.flavor else said


def message(job: Job) -> str:
    """What a job said last, with settings as pages call them."""
    return in_labels(_(job.message), job.spec)


def title(job: Job, name: str = "") -> str:
    """A job in a list to choose from, behind what people call it."""
    return " · ".join(filter(None, (visible(name), str(job.id), about(job), _(STATUS_WORDS[job.status]))))


def spec_facts(spec: JobSpec) -> Facts:
    """What identifies a run, for the page; `spec_text` has every setting."""
    if isinstance(spec, TrainingSpec):
        return [*origin_facts(spec), *spec.facts(), *pace_facts(spec), *adapter_facts(spec)]
    training = spec.trains()
    if training is None:
        return spec.facts()
    method = choice_label(type(training), "method", training.method)
    return [*spec.facts(), (_("Of"), _(training.title)), (_("Method"), method)]


def origin_facts(spec: TrainingSpec) -> Facts:
    return [
        (_("Method"), choice_label(type(spec), "method", spec.method)),
        (_("Parent"), spec.parent),
        (_("Data snapshot"), spec.snapshot[:12] or _("frozen at the start")),
        (_("Seed"), str(spec.seed)),
    ]


def pace_facts(spec: TrainingSpec) -> Facts:
    rate = short_number(spec.learning_rate) if spec.learning_rate else _("the method's default")
    found = [(_("Learning rate"), rate), spec.pace_fact()]
    if spec.precision != "auto":
        found.append((_("Precision"), spec.precision))
    return [*found, (_("Processes"), str(spec.processes))] if spec.processes > 1 else found


def adapter_facts(spec: TrainingSpec) -> Facts:
    if spec.method == "prompt":
        said = _("{virtual_tokens}, from {virtual_init}")
        return [(_("Virtual tokens"), said.format(virtual_tokens=spec.virtual_tokens, virtual_init=spec.virtual_init))]
    if spec.method == "full":
        return []
    more = [name for name, on in (("DoRA", spec.dora), ("rsLoRA", spec.rslora)) if on]
    more += [spec.lora_init] if spec.lora_init != "default" else []
    layers = spec.lora_layers or spec.lora_targets
    shape = " · ".join([str(spec.lora_r), str(spec.lora_alpha), layers, *more])
    return [(_("LoRA rank · alpha · layers"), shape)]


def spec_text(spec: JobSpec) -> str:
    """Every setting of a run, as the JSON that `python -m rlhf run` takes."""
    return json.dumps(json.loads(to_json(spec)), indent=2)


def data_facts(job: Job, data: SnapshotCounts) -> Facts:
    """What a training job works on, and what was left out when its data was frozen or tokenised.

    `data` are the counts stored with its snapshot.
    """
    if not isinstance(job.spec, TrainingSpec) or data == SnapshotCounts():
        return []
    data = data.learnt(FinishedTraining.of(job.result))
    told = counted(data.train)
    if job.spec.items.to_check_with:
        told = _("{train} to train, {held_out} held-out").format(train=told, held_out=counted(data.held_out))
    return [(_(UNITS[job.spec.unit].heading), told), (_("Left out"), left_out_list(data.left_out) or _("nothing"))]


def counted(number: int | None) -> str:
    return _(NOT_MEASURED) if number is None else str(number)


SIZE_ON_DISK = N_("Size on disk")


def result_facts(done: FinishedTraining) -> Facts:
    """What a job cost and what it left: parameters, memory, time, size on disk."""
    found: Facts = []
    if done.trainable:
        count = numeral(done.trainable)
        if done.trainable_percent is not None:
            count = _("{count} ({share:.3g}% of all)").format(count=count, share=done.trainable_percent)
        found.append((_("Trainable parameters"), count))
    if done.seconds_per_step is not None:
        found.append((_("Time for a step"), f"{numeral(done.seconds_per_step, '.2f')} s"))
    if done.peak_memory_mb is not None:
        found.append((_("Peak memory"), size(1e6 * done.peak_memory_mb)))
    if done.checkpoint_bytes is not None:
        found.append((_(SIZE_ON_DISK), size(done.checkpoint_bytes)))
    return found


def final_figures(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in metrics:
        found |= {name: value for name, value in entry.items() if name != "step" and value is not None}
    return found
