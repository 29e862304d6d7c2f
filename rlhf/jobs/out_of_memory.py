"""When memory runs out: the same training in smaller pieces, or what a person can lower. Pure."""

from __future__ import annotations

from dataclasses import asdict

from annotation.translation import N_, _
from rlhf.jobs.job_spec import JobSpec

# How a job that ended for want of memory says so.
MEMORY_RAN_OUT = N_("Memory ran out.")
KILLED = N_("The worker was killed, often because memory ran out.")


def difference(old: JobSpec, new: JobSpec) -> str:
    """What was changed in a training that goes on, old → new: 'batch_size 8 → 4, accumulation 1 → 2'."""
    before, after = asdict(old), asdict(new)
    changed = [name for name in ("batch_size", "accumulation", "learning_rate") if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before[name]} → {after[name]}" for name in changed)


def advice(job: JobSpec) -> str:
    """What to lower in a job that ran out of memory, as a sentence that names the fields and what they are now."""
    spec = job.trains()
    if spec is None:
        return _("Close other programs, or take a smaller base model.")
    choices = [_("a batch_size below {size}").format(size=spec.batch_size)] if spec.batch_size > 1 else []
    choices.append(_("a max_length below {length}").format(length=spec.max_length))
    if spec.drawn_tokens():
        choices.append(_("a sampling.max_new_tokens below {tokens}").format(tokens=spec.drawn_tokens()))
    if spec.method != "qlora" and "qlora" in spec.methods:
        choices.append(_("the method qlora, which holds the base in 4 bits"))
    if spec.method not in ("prompt", "full") and spec.lora_targets == "all-linear":
        choices.append(_("adapters on fewer layers (lora_targets)"))
    one_of = choices[0]
    if len(choices) > 1:
        one_of = _("{choices} or {last}").format(choices=", ".join(choices[:-1]), last=choices[-1])
    if spec.halve_batch or spec.batch_size == 1:
        return _("Close other programs, or start it anew with {one_of}.").format(one_of=one_of)
    return _(
        "Close other programs, or start it anew with {one_of}. With halve_batch a run does the first of these by "
        "itself."
    ).format(one_of=one_of)
