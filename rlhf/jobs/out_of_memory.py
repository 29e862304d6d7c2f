"""When memory runs out: the same training in smaller pieces, or what a person can lower. Pure."""

from __future__ import annotations

from dataclasses import replace

from rlhf.jobs.specs import (
    METHODS,
    DPOSpec,
    MeasureSpec,
    PPOSpec,
    RewardModelSpec,
    SFTSpec,
    Spec,
    TrainingSpec,
    from_json,
)

# How a job that ended for want of memory says so.
MEMORY_RAN_OUT = "Memory ran out."
KILLED = "The worker was killed, often because memory ran out."


def smaller(spec: Spec) -> Spec | None:
    """The same training with half as many items in a forward pass; None where there is but one, or nothing is trained.

    What the batch loses the accumulation gains, so an optimiser step sees as many items as before. PPO cuts its
    minibatches into passes by itself.
    """
    if not isinstance(spec, TrainingSpec) or spec.batch_size < 2:
        return None
    if isinstance(spec, SFTSpec | RewardModelSpec | DPOSpec):
        batch = largest_part(spec.batch_size)
        return replace(spec, batch_size=batch, accumulation=spec.accumulation * (spec.batch_size // batch))
    return replace(spec, batch_size=spec.batch_size // 2) if isinstance(spec, PPOSpec) else None


def largest_part(number: int) -> int:
    """The largest whole part of a number: its half if it is even, a third of 9, 1 of a prime."""
    return next(part for part in range(number // 2, 0, -1) if number % part == 0)


def difference(old: Spec, new: Spec) -> str:
    """What was changed in a training that goes on, old → new: 'batch_size 8 → 4, accumulation 1 → 2'."""
    names = ("batch_size", "accumulation", "learning_rate")
    pairs = [(name, getattr(old, name, None), getattr(new, name, None)) for name in names]
    return ", ".join(f"{name} {before} → {after}" for name, before, after in pairs if before != after)


def advice(spec: Spec) -> str:
    """What to lower in a job that ran out of memory, as a sentence that names the fields and what they are now."""
    if isinstance(spec, MeasureSpec):
        return advice(from_json(spec.training))  # a measured step takes what a step of the training would
    if not isinstance(spec, TrainingSpec):
        return "Close other programs, or take a smaller base model."
    choices = [f"a batch_size below {spec.batch_size}"] if spec.batch_size > 1 else []
    choices.append(f"a max_length below {spec.max_length}")
    if isinstance(spec, PPOSpec):
        choices.append(f"a sampling.max_new_tokens below {spec.sampling.max_new_tokens}")
    if spec.method != "qlora" and "qlora" in METHODS[spec.kind]:
        choices.append("the method qlora, which holds the base in 4 bits")
    if spec.method in ("lora", "qlora") and spec.lora_targets == "all-linear":
        choices.append("adapters on fewer layers (lora_targets)")
    sentence = f"Close other programs, or start it anew with {', '.join(choices[:-1])} or {choices[-1]}."
    if not spec.halve_batch and spec.batch_size > 1:
        sentence += " With halve_batch a run does the first of these by itself."
    return sentence
