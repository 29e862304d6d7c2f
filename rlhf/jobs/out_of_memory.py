"""When memory runs out: the same training in smaller pieces, or what a person can lower. Pure."""

from __future__ import annotations

from rlhf.jobs.job_spec import JobSpec

# How a job that ended for want of memory says so.
MEMORY_RAN_OUT = "Memory ran out."
KILLED = "The worker was killed, often because memory ran out."


def difference(old: JobSpec, new: JobSpec) -> str:
    """What was changed in a training that goes on, old → new: 'batch_size 8 → 4, accumulation 1 → 2'."""
    names = ("batch_size", "accumulation", "learning_rate")
    pairs = [(name, getattr(old, name, None), getattr(new, name, None)) for name in names]
    return ", ".join(f"{name} {before} → {after}" for name, before, after in pairs if before != after)


def advice(job: JobSpec) -> str:
    """What to lower in a job that ran out of memory, as a sentence that names the fields and what they are now."""
    spec = job.trains()
    if spec is None:
        return "Close other programs, or take a smaller base model."
    choices = [f"a batch_size below {spec.batch_size}"] if spec.batch_size > 1 else []
    choices.append(f"a max_length below {spec.max_length}")
    if spec.drawn_tokens():
        choices.append(f"a sampling.max_new_tokens below {spec.drawn_tokens()}")
    if spec.method != "qlora" and "qlora" in spec.methods:
        choices.append("the method qlora, which holds the base in 4 bits")
    if spec.method in ("lora", "qlora") and spec.lora_targets == "all-linear":
        choices.append("adapters on fewer layers (lora_targets)")
    sentence = f"Close other programs, or start it anew with {', '.join(choices[:-1])} or {choices[-1]}."
    if not spec.halve_batch and spec.batch_size > 1:
        sentence += " With halve_batch a run does the first of these by itself."
    return sentence
