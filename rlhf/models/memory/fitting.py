"""Whether a training fits into what is free, and what to lower where it does not, as a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from annotation.translation import N_, _, figures, joined
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models.memory.machines import GB, Machine
from rlhf.models.memory.model_shapes import Shapes
from rlhf.models.memory.run_memory import NOTHING_KNOWN, Component, RunMemory, Workload

# What is estimated may be off by this much before it is said to fit.
MARGIN = 1.15


@dataclass(frozen=True)
class Fit:
    """A run's memory against what the machine has; `sentence` says what to lower where it does not fit."""

    components: Sequence[Component]
    total: float
    processes: int
    fits: bool
    sentence: str


def fit(shapes: Shapes, spec: TrainingSpec, machine: Machine, load: Workload = NOTHING_KNOWN) -> Fit:
    """Whether a run fits into what is free: on a processor all its processes together, on GPUs one in each."""
    components = RunMemory(shapes, spec, machine, load).components()
    processes = 1 if machine.gpu else spec.processes
    total = processes * sum(component.size for component in components)
    fits = total * MARGIN <= machine.free
    fits_here, may_not, does_not = ON_GPU if machine.gpu else ON_PROCESSOR
    said = _(fits_here if fits else may_not if total <= machine.free else does_not).format(
        need=figures("{size:.1f} GB", size=total / GB),
        free=figures("{size:.1f} GB", size=machine.free / GB),
        machine=machine.name,
    )
    return Fit(
        components=components,
        total=total,
        processes=processes,
        fits=fits,
        sentence=said if fits else joined(said, what_to_lower(components, spec)),
    )


ON_GPU = (
    N_("It fits: about {need} of the {free} that are free on {machine}."),
    N_("It may not fit: about {need}, and {free} are free on {machine}."),
    N_("It does not fit: about {need}, and {free} are free on {machine}."),
)
ON_PROCESSOR = (
    N_("It fits: about {need} of the {free} that are free on this machine."),
    N_("It may not fit: about {need}, and {free} are free on this machine."),
    N_("It does not fit: about {need}, and {free} are free on this machine."),
)


def what_to_lower(components: Sequence[Component], spec: TrainingSpec) -> str:
    largest = max((entry for entry in components if entry.grows_with != "nothing"), key=lambda entry: entry.size)
    if largest.grows_with == "answers":
        return _(
            "Most of it is the answers that are drawn together: lower batch_size ({batch}) or max_length ({length})."
        ).format(batch=spec.batch_size, length=spec.max_length)
    if largest.grows_with == "tokens":
        lower = _("Most of it is for: {largest}. Lower max_length ({length}).")
        if spec.batch_size > 1:
            lower = _("Most of it is for: {largest}. Lower batch_size ({batch}) or max_length ({length}).")
        if spec.batch_size > 1 and spec.accumulation is not None:
            lower = _(
                "Most of it is for: {largest}. Lower batch_size ({batch}) or max_length ({length}), and raise "
                "accumulation as much."
            )
        return lower.format(largest=_(largest.name), batch=spec.batch_size, length=spec.max_length)
    if spec.method == "full":
        return _(
            "Most of it is the weights with their gradients and optimiser: train an adapter (LoRA or QLoRA) instead."
        )
    if spec.method != "qlora" and "qlora" in spec.methods:
        return _(
            "Most of it is the base's weights: use the method QLoRA, which holds them in 4 bits, or a smaller model."
        )
    return _("Most of it is the base's weights: close other programs, or take a smaller base model.")
