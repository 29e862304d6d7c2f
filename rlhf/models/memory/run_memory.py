"""The memory that a training takes at its peak, by component.

It is an estimate: what a parameter takes is known; the activations' sizes were counted on Llama layers of several
shapes, from what autograd keeps for the backward pass (`LAYER_BYTES`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from annotation.translation import N_, _, ngettext
from rlhf.jobs.descriptions import COMPARISONS
from rlhf.jobs.job_spec import ATTENTION, TrainingSpec, first_adapted, target_layers
from rlhf.models.memory.machines import Machine
from rlhf.models.memory.model_shapes import NF4_BYTES, Shapes, packed_in
from rlhf.models.memory.parameter_counts import adapted_experts, adapter_parameters, parameters

FP32_BYTES = 4
# AdamW's two moments; in 8 bits each with a scale per block (Dettmers et al. 2022).
ADAMW_BYTES, ADAMW_8BIT_BYTES = 8.0, 2.06
# Bytes that autograd keeps for each token in each layer, attention apart: (per hidden unit, per unit of the MLP), by
# what computes.
LAYER_BYTES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "bf16": {"prompt": (9.3, 6.6), "attention": (14.7, 6.3), "all-linear": (16.7, 8.3), "full": (28.3, 8.3)},
    "fp32": {"prompt": (10.5, 13.2), "attention": (14.5, 13.2), "all-linear": (18.5, 17.2), "full": (26.5, 17.2)},
}
# Further ones for each hidden unit, in 16 bits, where PEFT computes an adapter's layers, and not
# `rlhf.models.adapters.low_rank`.
PEFT_BYTES = 6.0
# Items of up to so many tokens have attention by two plain matrix products in 16 bits: on a processor twice as fast as
# the fused one of torch, but heads x tokens x tokens of it are kept for the backward pass. With other attention keys
# and values are repeated for their heads, in numbers for each hidden unit.
PRODUCTS_UP_TO, REPEATED = 512, 2.5
# Of a machine's memory, what a training's passes are cut to, and what a training may come to that keeps what its layers
# made for the backward pass.
PASS_SHARE, KEEPING_SHARE = 0.5, 0.8
# DoRA also keeps its direction and magnitude.
DORA_FACTOR = 2.0
# A position's logits in the backward pass: in float32, rounded, their softmax and its gradient; and how many positions
# meet the vocabulary at once.
LOGIT_BYTES, LOGIT_POSITIONS = 14, 512
# What is kept at most of where a run began, to measure how far its policy moves.
BEGINNING_BYTES = 64_000_000
# And of what the layers below the lowest adapter make of the data; what is read later is computed in each pass.
LOWER_BYTES = 256_000_000
# A batch is computed in packed rows of about so many tokens, on a processor and on a GPU, which wants larger pieces of
# work. A row's attention looks at every pair of them, also at those that the mask forbids: on a CPU eight long
# demonstrations in one row took nearly three times as long as padded, and less in rows of this many.
ROW_TOKENS, ROW_TOKENS_GPU = 1024, 4096
# Python, torch, transformers, and the buffers of an idle process; more where a GPU has its own.
LIBRARIES = 600_000_000


@dataclass(frozen=True)
class Component:
    """A part of a run's memory in bytes, and what it depends on."""

    name: str
    size: float
    why: str
    grows_with: Literal["nothing", "weights", "tokens", "answers"] = "weights"


@dataclass(frozen=True)
class Workload:
    """What a run works on, as far as it is known; what is not (0, None) is taken as large as the spec allows."""

    item_tokens: int = 0
    """Tokens of the largest item with all that belongs to it: a pair has both answers."""
    answers: int = 0
    """Answers of the largest comparison, all of which a reward model reads together."""
    reward: TrainingSpec | None = None
    """How the reward model was trained whose shape the critic has, where there is one."""


NOTHING_KNOWN = Workload()


def precision_of(spec: TrainingSpec, machine: Machine) -> str:
    """What a run computes in on this machine: 'bf16' or 'fp32'."""
    return spec.precision if spec.precision != "auto" else "bf16" if machine.bf16 else "fp32"


@dataclass(frozen=True)
class RunMemory:
    """What one process of a training holds in memory at its peak."""

    shapes: Shapes
    spec: TrainingSpec
    machine: Machine
    load: Workload = NOTHING_KNOWN

    @property
    def precision(self) -> str:
        return precision_of(self.spec, self.machine)

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.precision == "bf16" else FP32_BYTES

    @property
    def row_tokens(self) -> int:
        return ROW_TOKENS_GPU if self.machine.gpu else ROW_TOKENS

    @property
    def item_tokens(self) -> int:
        """Tokens of the largest item, or as many as max_length allows."""
        answers = (self.load.answers if self.spec.items == COMPARISONS else 0) or self.spec.answers_per_item
        return self.load.item_tokens or answers * self.spec.max_length

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch if every item were as large as the largest, or as max_length allows."""
        return self.spec.batch_size * self.item_tokens

    def components(self) -> list[Component]:
        found = self.beside_activations()
        found.insert(-1, self.activations())
        return [component for component in found if component.size]

    def beside_activations(self) -> list[Component]:
        """All of it but what grows with the tokens that are computed together."""
        shapes, spec = self.shapes, self.spec
        trained = parameters(shapes, spec, self.load.reward).trainable
        per_state = ADAMW_8BIT_BYTES if spec.optimiser == "adamw-8bit" else ADAMW_BYTES
        scorer = adapter_parameters(shapes, self.load.reward or spec) * spec.beside.count("frozen")
        copied = shapes.total * self.width if spec.method == "full" and self.precision == "bf16" else 0
        # With their adapters' updates added, as PEFT computes them. Those of all layers would be kept in each forward
        # pass if layers were not computed again.
        experts = 2 * self.width * adapted_experts(shapes, spec)
        each = _("{per_state:g} bytes for each trained weight")
        lower = LOWER_BYTES if self.kept_layers < shapes.layers and not spec.drawn_tokens() else 0
        beginning = BEGINNING_BYTES if spec.ends_early() else 0
        return [
            Component(N_("Libraries"), LIBRARIES, _("Python, torch and what a process keeps for itself"), "nothing"),
            self.frozen_weights(),
            Component(N_("Trained weights"), trained * FP32_BYTES, _("{trained:,} in 32 bits").format(trained=trained)),
            Component(N_("Reward model"), scorer * FP32_BYTES, _("an adapter on the same base, in 32 bits")),
            Component(N_("Weights in 16 bits"), copied, _("the copy that is computed with")),
            Component(N_("Gradients"), trained * FP32_BYTES, _("one for each trained weight, in 32 bits")),
            Component(N_("Optimiser state"), trained * per_state, each.format(per_state=per_state)),
            Component(N_("Experts with adapters"), experts, _("those of one layer, and their gradient")),
            self.scores_of_vocabulary(),
            Component(N_("Lower layers"), lower, _("at most, what they make of the data")),
            Component(N_("Where it began"), beginning, _("at most, to measure how far the policy moves")),
        ]

    def frozen_weights(self) -> Component:
        """The base under an adapter, in the precision that it is held in."""
        shapes, name, bits = self.shapes, N_("Frozen weights"), 8 * self.width
        if self.spec.method == "full":
            return Component(name, 0, "")
        if shapes.stored:
            return Component(name, shapes.stored, _("as they are stored, quantised"))
        if self.spec.method != "qlora":
            said = _("{total:,} in {width} bits").format(total=shapes.total, width=bits)
            return Component(name, shapes.total * self.width, said)
        packed = packed_in(shapes.tensors)
        rest = shapes.total - packed
        why = _("{packed:,} in 4 bits, the others ({rest:,}) in {width}")
        size = packed * NF4_BYTES + rest * self.width
        return Component(name, size, why.format(packed=packed, rest=rest, width=bits))

    def scores_of_vocabulary(self) -> Component:
        positions = 0 if self.spec.makes == "reward-model" else min(LOGIT_POSITIONS, self.batch_tokens)
        words = self.shapes.vocabulary
        said = _("{positions} positions at a time, {vocabulary:,} tokens in the vocabulary")
        why = said.format(positions=positions, vocabulary=words)
        return Component(N_("Scores of the vocabulary"), positions * words * LOGIT_BYTES, why, "tokens")

    def activations(self) -> Component:
        """What a forward pass keeps for the backward pass; at least the keys and values of answers being drawn."""
        spec, shapes = self.spec, self.shapes
        tokens = min(self.batch_tokens, max(self.pass_tokens, self.item_tokens))  # an item is whole
        size = tokens * self.bytes_per_token(tokens, self.item_tokens)
        if spec.drawn_tokens():
            drawn = spec.drawn_together * spec.batch_size
            cache = drawn * spec.max_length * shapes.layers * 2 * shapes.key_value * self.width
            if cache > size:
                together = ngettext("{drawn} answer drawn at a time", "{drawn} answers drawn together", drawn)
                return Component(N_("Keys and values"), cache, together.format(drawn=drawn), "answers")
        why = _("up to {tokens:,} tokens in a forward pass").format(tokens=tokens)
        return Component(N_("Activations"), size, why, "tokens")

    def bytes_per_token(self, tokens: int, item: int) -> float:
        """What a forward pass over so many tokens keeps for each, where an item has up to `item` of them.

        Where layers are computed again, that is what goes into each, and all that one of them makes.
        """
        per_layer = self.bytes_of_a_layer(tokens, item)
        if not self.recomputes:
            return self.kept_layers * per_layer
        return per_layer + self.kept_layers * self.shapes.hidden * self.width

    @property
    def kept_layers(self) -> int:
        """The layers from the lowest adapter on: of those below nothing is kept for the backward pass."""
        return self.shapes.layers - first_adapted(self.spec, self.shapes.layers)

    def bytes_of_a_layer(self, tokens: int, item: int) -> float:
        """What one layer makes for each token, where all of it is kept."""
        spec, shapes = self.spec, self.shapes
        hidden, inner = LAYER_BYTES[self.precision][trained_part(spec)]
        if self.precision == "bf16" and (spec.method == "qlora" or spec.dora):
            hidden += PEFT_BYTES
        per_layer = (hidden * shapes.hidden + inner * shapes.inner) * (DORA_FACTOR if spec.dora else 1.0)
        if self.precision == "bf16" and not self.machine.gpu and item <= PRODUCTS_UP_TO:
            # Attention is two plain products: each head's weights of all tokens of an item are kept.
            return per_layer + self.width * shapes.heads * item
        # Repeated keys and values, and each layer's own copy of the mask that says which tokens of a row see which.
        row = min(tokens, max(self.row_tokens, item))
        return per_layer + self.width * (row + REPEATED * shapes.hidden)

    # By all the memory of a machine, not by what is free, and by no data: a run that goes on later does the same.
    @cached_property
    def recomputes(self) -> bool:
        """Whether a training computes each layer again in the backward pass instead of keeping what it made.

        It does where the least that is computed together, a row or one item, is more than the machine's memory holds
        beside the weights. And where experts get adapters: each row would keep them all, with their updates added.
        """
        if adapted_experts(self.shapes, self.spec):
            return True
        anyhow = replace(self, load=NOTHING_KNOWN)
        tokens = max(anyhow.item_tokens, min(self.row_tokens, anyhow.batch_tokens))
        kept = tokens * self.kept_layers * self.bytes_of_a_layer(tokens, anyhow.item_tokens)
        return kept > self.room(KEEPING_SHARE)

    @cached_property
    def pass_tokens(self) -> int:
        """How many tokens are computed together: what PASS_SHARE of the machine's memory holds beside the weights and
        what is kept of them."""
        row = self.row_tokens
        return max(row, int(self.room(PASS_SHARE) / self.bytes_per_token(row, min(row, self.spec.max_length))))

    def room(self, share: float) -> float:
        """What this share of the machine's memory leaves for activations in each process."""
        beside = replace(self, load=NOTHING_KNOWN).beside_activations()
        processes = 1 if self.machine.gpu else self.spec.processes
        return share * self.machine.total / processes - sum(component.size for component in beside)


def trained_part(spec: TrainingSpec) -> str:
    """What of a layer is trained, in the words of `LAYER_BYTES`; layers outside of the attention stand for all."""
    if spec.method in ("prompt", "full"):
        return spec.method
    wanted = target_layers(spec)
    return "attention" if wanted and set(wanted) <= set(ATTENTION) else "all-linear"
