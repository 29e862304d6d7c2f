"""When memory runs out: the same training in smaller pieces, or what a person can lower. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal, TypeAlias

from annotation.translation import N_, _, joined
from rlhf.jobs.job_spec import JobSpec

MemoryReason: TypeAlias = Literal["out-of-memory", "killed"]
# How a job that ended for want of memory says so.
MEMORY_RAN_OUT = N_("Memory ran out.")
KILLED = N_("The worker was killed, often because memory ran out.")


def difference(old: JobSpec, new: JobSpec) -> str:
    """What was changed in a training that goes on, old → new: 'batch_size 8 → 4, accumulation 1 → 2'."""
    before, after = asdict(old), asdict(new)
    changed = [name for name in ("batch_size", "accumulation", "learning_rate") if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before[name]} → {after[name]}" for name in changed)


def advice(job: JobSpec) -> str:
    """What to lower in a job that ran out of memory, in sentences that name the fields and what they are now."""
    spec = job.trains()
    if spec is None:
        return _("Close other programs, or take a smaller base model.")
    said = [_("Close other programs, or start it anew with one of these changes.")]
    if spec.batch_size > 1:
        said.append(_("Set batch_size below {size}.").format(size=spec.batch_size))
    said.append(_("Set max_length below {length}.").format(length=spec.max_length))
    if spec.drawn_tokens():
        said.append(_("Set sampling.max_new_tokens below {tokens}.").format(tokens=spec.drawn_tokens()))
    if spec.method != "qlora" and "qlora" in spec.methods:
        said.append(_("Take the method QLoRA, which holds the base in 4 bits."))
    if spec.method not in ("prompt", "full") and spec.lora_targets == "all-linear":
        said.append(_("Train adapters on fewer layers (lora_targets)."))
    if spec.batch_size > 1 and not spec.halve_batch:
        said.append(_("Tick halve_batch: a run lowers its batch_size by itself."))
    return joined(*said)
