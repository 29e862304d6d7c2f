"""The parameters that a run would train, of how many, counted as PEFT counts them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from rlhf.jobs.job_spec import TrainingSpec, first_adapted, target_layers
from rlhf.models.memory.model_shapes import OF_EXPERTS, Shapes, ends


@dataclass(frozen=True)
class Parameters:
    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total


def parameters(shapes: Shapes, spec: TrainingSpec, reward: TrainingSpec | None = None) -> Parameters:
    """What a run trains, counted as PEFT counts it: the total includes what the method adds.

    A critic has the shape of the reward model, which was trained as `reward` says; without that, the policy's.
    """
    adapter = adapter_parameters(shapes, spec)
    if spec.method == "full":
        return Parameters(shapes.total, shapes.total)
    if spec.makes == "reward-model":
        # The scalar head takes the place of the output embedding; PEFT keeps an untouched copy of it beside.
        return Parameters(adapter + shapes.hidden, shapes.total - shapes.own_head + adapter + 2 * shapes.hidden)
    judge = adapter_parameters(shapes, reward or spec)
    # The critic's head is held beside the model, as is the reward model's.
    critic = (judge + shapes.hidden + 1) * spec.beside.count("trained")
    return Parameters(adapter + critic, shapes.total + adapter + len(spec.beside) * judge)


def adapter_parameters(shapes: Shapes, spec: TrainingSpec) -> int:
    """Parameters of the adapter that a spec asks for; 0 for full fine-tuning.

    A linear layer's update is B A with A (r, inputs) and B (outputs, r) (Hu et al. 2022, equation 3); DoRA adds a
    magnitude for each output (Liu et al. 2024, equation 5).
    """
    if spec.method == "full":
        return 0
    if spec.method == "prompt":
        return spec.virtual_tokens * shapes.hidden
    fused = shapes.experts[:2]
    return sum(
        spec.lora_r * (outputs * (2 if name.split(".")[-2] in fused else 1) + inputs) + (outputs if spec.dora else 0)
        for name, (outputs, inputs) in targets(shapes, spec).items()
    )


def targets(shapes: Shapes, spec: TrainingSpec) -> dict[str, tuple[int, int]]:
    wanted, first = target_layers(spec), first_adapted(spec, shapes.layers)
    return {
        name: shape
        for name, shape in shapes.adaptable.items()
        if not wanted or any(ends(name, end) for end in wanted)
        if not first or shapes.in_layers_from(name, first)
    }


def adapted_experts(shapes: Shapes, spec: TrainingSpec) -> int:
    """Parameters of one layer's experts that get adapters, in the largest layer; 0 where none do."""
    layers = Counter[str]()
    for name, shape in targets(shapes, spec).items() if spec.method in ("lora", "qlora") else ():
        layer, experts, _name = name.partition(OF_EXPERTS)
        layers[layer] += math.prod(shape) if experts else 0
    return max(layers.values(), default=0)


def missing_targets(shapes: Shapes, spec: TrainingSpec) -> list[str]:
    """What a spec wants adapters on and the model has no linear layer of that can have one."""
    return [end for end in target_layers(spec) if not any(ends(name, end) for name in shapes.adaptable)]
