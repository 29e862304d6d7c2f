"""A job in words: what it does, the settings that make it the run it is, and what came of it. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from annotation.metrics.aggregation import REASONS
from rlhf.generation import prompt_sets
from rlhf.jobs.job_store import Job
from rlhf.jobs.specs import (
    AnswerSpec,
    DPOSpec,
    EvaluateSpec,
    GenerateSpec,
    JudgeSpec,
    MeasureSpec,
    MergeSpec,
    PPOSpec,
    RewardModelSpec,
    SFTSpec,
    Spec,
    TrainingSpec,
    to_json,
)
from rlhf.tabs.runs.curves import short_number

NOT_MEASURED = "not measured"
Facts = list[tuple[str, str]]

KIND_WORDS = {
    "sft": "supervised training",
    "reward_model": "reward model training",
    "dpo": "preference training (DPO)",
    "ppo": "PPO",
    "evaluate": "check",
    "judge": "judging",
    "answer": "answers to a prompt set",
    "measure": "measuring",
    "merge": "merging",
    "generate": "answering",
}
METHOD_WORDS = {
    "qlora": "QLoRA (adapter on 4-bit weights)",
    "lora": "LoRA (adapter)",
    "prompt": "prompt tuning (virtual tokens)",
    "full": "full (every weight)",
}
SHORT_METHODS = {"qlora": "QLoRA", "lora": "LoRA", "prompt": "prompt tuning", "full": "full"}
REFERENCES = {"base": "the base model", "parent": "the parent adapter"}
SCOPES = {"new": "judgements since the parent's data", "all": "all judgements"}
NOISE = {"ignore": "ignored", "weight": "weighs pairs", "smooth": "smooths labels"}


def kind_word(job: Job) -> str:
    """What a job does, in a word or two."""
    return KIND_WORDS.get(job.kind, job.kind)


def about(job: Job) -> str:
    """What a job does and with which method or policy, for lists: 'preference training (DPO), QLoRA'."""
    spec = job.spec
    if isinstance(spec, TrainingSpec):
        where = f", on rented {job.flavor}" if job.flavor else ""
        return f"{kind_word(job)}, {SHORT_METHODS[spec.method]}{where}"
    if isinstance(spec, MeasureSpec):
        kind, method = measured(spec)
        return ", ".join(filter(None, (f"measuring {KIND_WORDS.get(kind, '')}".strip(), SHORT_METHODS.get(method))))
    if isinstance(spec, EvaluateSpec):
        return f"check of {spec.candidate}"
    if isinstance(spec, JudgeSpec):
        return f"judging by {spec.judge}"
    if isinstance(spec, AnswerSpec):
        return f"answers by {spec.revision} to prompts {prompt_sets.described(spec)}"
    return f"merging {spec.revision}" if isinstance(spec, MergeSpec) else kind_word(job)


def title(job: Job) -> str:
    """A job's name in lists of choices."""
    return f"{job.id} · {about(job)} · {job.status}"


# ---------------------------------------------------------------------------------------------------------- settings
def spec_facts(spec: Spec) -> Facts:
    """What identifies a run, for the page; `spec_text` has every setting."""
    if isinstance(spec, TrainingSpec):
        return [*origin_facts(spec), *kind_facts(spec), *pace_facts(spec), *adapter_facts(spec)]
    if isinstance(spec, EvaluateSpec):
        return [
            ("Candidate", spec.candidate),
            ("Against", spec.against),
            ("Held-out prompts", spec.prompt_set[:12] or f"up to {spec.prompts}"),
            ("Judges", spec.judges or "none"),
            ("Data snapshot", spec.snapshot[:12] or "frozen at the start"),
            ("First seed", str(spec.seed)),
        ]
    if isinstance(spec, JudgeSpec):
        judged = {"open": "open comparisons", "judged": "what people have judged", "candidate": spec.candidate}
        return [("Judge", spec.judge), ("Judges", judged[spec.scope]), ("At most", str(spec.comparisons))]
    if isinstance(spec, AnswerSpec):
        count = f"{spec.each} to each prompt"
        return [("Policy", spec.revision), ("Prompts", prompt_sets.described(spec)), ("Answers", count)]
    if isinstance(spec, MergeSpec):
        return [("Adapter", spec.revision)]
    if isinstance(spec, MeasureSpec):
        return [("Steps", str(spec.steps)), *measured_facts(spec)]
    assert isinstance(spec, GenerateSpec)
    return [("Buffer", str(spec.buffer)), ("Seed", str(spec.seed))]


def origin_facts(spec: TrainingSpec) -> Facts:
    """Where a training starts and what it changes."""
    return [
        ("Method", METHOD_WORDS[spec.method]),
        ("Parent", spec.parent),
        ("Data snapshot", spec.snapshot[:12] or "frozen at the start"),
        ("Seed", str(spec.seed)),
    ]


def kind_facts(spec: TrainingSpec) -> Facts:
    """The settings that only this kind of training has."""
    if isinstance(spec, DPOSpec):
        loss = spec.loss if not spec.flip_rate else f"{spec.loss}, flip rate {spec.flip_rate:g}"
        beta = f"{spec.beta:g}" if spec.beta else "the loss's default"
        return [
            ("Reference", REFERENCES[spec.reference]),
            ("Data", SCOPES[spec.scope]),
            ("Loss", loss),
            ("β · SFT weight", f"{beta} · {spec.sft_weight:g}"),
            ("Annotator noise", NOISE[spec.annotator_noise]),
        ]
    if isinstance(spec, RewardModelSpec):
        return [
            ("Data", SCOPES[spec.scope]),
            ("Margin by strength", "yes" if spec.margin else "no"),
            ("Centring weight", f"{spec.centre:g}"),
            ("Annotator noise", NOISE[spec.annotator_noise]),
        ]
    if isinstance(spec, PPOSpec):
        target = f", target {spec.kl_target:g} nats" if spec.kl_control == "adaptive" else ""
        return [
            ("Reward model", spec.reward_model or NOT_MEASURED),
            ("Reference", REFERENCES[spec.reference]),
            ("KL penalty", f"{spec.kl_control}, from {spec.kl_coefficient:g}{target}"),
            ("Clip: policy · value", f"{spec.clip:g} · {spec.value_clip:g}"),
            ("γ · λ", f"{spec.gamma:g} · {spec.lam:g}"),
        ]
    return [("Data", spec.source), ("Packing", "yes" if spec.packing else "no")] if isinstance(spec, SFTSpec) else []


def pace_facts(spec: TrainingSpec) -> Facts:
    """How fast a training goes, and in what precision."""
    if isinstance(spec, PPOSpec):
        pace = ("Rounds · answers a round", f"{spec.steps} · {spec.rollouts}")
    else:
        step = spec.batch_size * getattr(spec, "accumulation", 1) * spec.processes
        items = {"sft": "demonstrations", "reward_model": "comparisons"}.get(spec.kind, "pairs")
        pace = (f"Epochs · {items} a step", f"{spec.epochs} · {step}")
    rate = short_number(spec.learning_rate) if spec.learning_rate else "the method's default"
    found = [("Learning rate", rate), pace]
    if spec.precision != "auto":
        found.append(("Precision", spec.precision))
    return [*found, ("Processes", str(spec.processes))] if spec.processes > 1 else found


def adapter_facts(spec: TrainingSpec) -> Facts:
    """The shape of what is trained, where it is an adapter."""
    if spec.method == "prompt":
        return [("Virtual tokens", f"{spec.virtual_tokens}, from {spec.virtual_init}")]
    if spec.method == "full":
        return []
    more = [name for name, on in (("DoRA", spec.dora), ("rsLoRA", spec.rslora)) if on]
    more += [spec.lora_init] if spec.lora_init != "default" else []
    layers = spec.lora_layers or spec.lora_targets
    shape = " · ".join([str(spec.lora_r), str(spec.lora_alpha), layers, *more])
    return [("LoRA rank · alpha · layers", shape)]


def measured_facts(spec: MeasureSpec) -> Facts:
    """What is measured, for the page."""
    kind, method = measured(spec)
    words = (("Of", KIND_WORDS.get(kind, "")), ("Method", METHOD_WORDS.get(method, "")))
    return [(label, text) for label, text in words if text]


def measured(spec: MeasureSpec) -> tuple[str, str]:
    """The kind and method of the training whose first steps are measured; empty where it does not say them."""
    training = json.loads(spec.training or "{}")
    return training.get("kind", ""), training.get("method", "")


def spec_text(spec: Spec) -> str:
    """Every setting of a run, as the JSON that `python -m rlhf run` takes."""
    return json.dumps(json.loads(to_json(spec)), indent=2)


# ------------------------------------------------------------------------------------------------------------ results
def data_facts(job: Job, data: Mapping[str, Any]) -> Facts:
    """What a training job works on, and what was left out when its data was frozen or tokenised.

    `data` are the counts stored with its snapshot.
    """
    if not isinstance(job.spec, TrainingSpec) or not data:
        return []
    result = job.result or {}
    left_out = Counter(data.get("left_out", {})) + Counter(result.get("left_out", {}))
    named = ", ".join(f"{count} {REASONS.get(reason, reason)}" for reason, count in sorted(left_out.items()))
    items = {"sft": "Demonstrations", "ppo": "Prompts"}.get(job.kind, "Pairs")
    trained = trained_on(result)
    counted = str(data.get("train", NOT_MEASURED) if trained is None else trained)
    if job.kind != "ppo":  # prompts to answer; what is held out is asked in the check
        counted += f" to train, {data.get('held-out', NOT_MEASURED)} held-out"
    return [(items, counted), ("Left out", named or "nothing")]


# The name under which each kind of training says how much it was trained on.
TRAINED_ON = ("train_pairs", "train_items", "train_prompts")


def trained_on(result: Mapping[str, Any]) -> int | None:
    """How many items a finished training saw, if it says so."""
    return next((int(result[name]) for name in TRAINED_ON if result.get(name) is not None), None)


def result_facts(result: Mapping[str, Any]) -> Facts:
    """What a job cost and what it left: parameters, memory, time, size on disk."""
    found: Facts = []
    if result.get("trainable"):
        share = result.get("trainable_percent")
        of_all = "" if share is None else f" ({share:.3g}% of all)"
        found.append(("Trainable parameters", f"{result['trainable']:,}{of_all}"))
    if result.get("seconds_per_step") is not None:
        found.append(("Time for a step", f"{result['seconds_per_step']:.2f} s"))
    if result.get("peak_rss_mb") is not None:
        found.append(("Peak memory", megabytes(result["peak_rss_mb"])))
    if result.get("checkpoint_bytes") is not None:
        found.append(("Size on disk", size(result["checkpoint_bytes"])))
    return found


def megabytes(number: float) -> str:
    """Memory in words: '640 MB', '5.2 GB'."""
    return f"{number:.0f} MB" if number < 1000 else f"{number / 1000:.1f} GB"


def size(count: float) -> str:
    """The size of files in words: '812 bytes', '19.6 MB', '0.54 GB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor / (2 if unit == "GB" else 1):
            return f"{count / factor:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count:.0f} bytes"


def final_figures(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last value that a run reported of each metric."""
    found: dict[str, float] = {}
    for entry in metrics:
        found |= {name: value for name, value in entry.items() if name != "step" and value is not None}
    return found
