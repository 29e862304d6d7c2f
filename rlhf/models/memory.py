"""Before a run: what would be trained, the memory it takes by component, and how long it takes. Torch-free.

Parameters are counted from the headers of the weights' files, exactly. Memory is an estimate: what a parameter takes is
known; the activations' sizes were counted on Llama layers of several shapes, from what autograd keeps for the backward
pass (`LAYER_BYTES`).
"""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import psutil

from annotation.records import UserError, seconds_between
from annotation.translation import N_, _, figures, joined, ngettext
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import COMPARISONS
from rlhf.jobs.devices import query_graphics
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import ATTENTION, TrainingSpec, first_adapted, target_layers
from rlhf.jobs.job_store import Job
from rlhf.models.model_files import OUTPUTS, of_text, read_header, read_object, weight_files

GB = 1e9
INPUT_EMBEDDINGS = (
    *("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "embed_positions", "embeddings"),
    *("tokens_embed", "positions_embed", "embed_tokens_per_layer"),
)
# The ends of the names of tables with a row for each word.
TABLES = (["embed_tokens"], ["wte"], ["embed_in"], ["word_embeddings"], ["embeddings"], ["tokens_embed"])
# What files hold besides parameters: rotary frequencies, which are computed, and how quantised weights are unpacked.
BESIDES = ("inv_freq", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")
# Where bitsandbytes writes the shape of a weight that it packed into 4 bits.
PACKED = ".quant_state.bitsandbytes__"
# Linear layers that get no adapter, by the kind of model: PEFT refuses what Mamba's kernels compute by themselves, and
# routers return more than their product.
WITHOUT_ADAPTER: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), ("out_proj",)),
    **dict.fromkeys(("gpt_oss", "llama4", "llama4_text"), ("router",)),
    "qwen2_moe": ("mlp.gate",),
    # In modules and in files.
    **dict.fromkeys(("granitemoe", "granitemoehybrid"), ("router", "router.layer")),
    "phimoe": ("router", "block_sparse_moe.gate"),
}
# By the kind of model, the names in files of experts' layers that PEFT gives adapters though they are held together in
# memory, all of one kind in one parameter, the first two in the same (peft.utils.transformers_weight_conversion): these
# get twice the rank together. Layers of these names that are no experts' get none there, and experts of other models.
EXPERTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), ("w1", "w3", "w2")),
    **dict.fromkeys(
        (
            *("afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe"),
            *("exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe"),
            *("longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text"),
            *("qwen3_omni_moe_thinker", "solar_open"),
        ),
        ("gate_proj", "up_proj", "down_proj"),
    ),
}
# What is in the name of an expert's layer.
OF_EXPERTS = ".experts."
# Tables with a row for each place in a text.
POSITIONS = ("wpe", "embed_positions", "position_embeddings", "positions_embed")
# Kinds of rotary embeddings that turn all places of a batch otherwise once one text in it is longer than those that the
# model was trained on first: then what is computed of a text depends on what is beside it.
TURNED_BY_LENGTH = ("longrope", "su", "dynamic")
# What names of layers have that look at a picture or hear a sound.
SENSES = ("vision", "visual", "image", "audio")
# NF4 with double quantisation: 4 bits and, per block of 64, a scale of 8 bits, itself scaled per 256 blocks by 32 bits
# (Dettmers et al. 2023, section 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
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
# The kind of job that runs a few steps of a training.
MEASURING = "measure"
# Python, torch, transformers, and the buffers of an idle process; more where a GPU has its own.
LIBRARIES = 600_000_000
# What is estimated may be off by this much before it is said to fit.
MARGIN = 1.15
MEGABYTE = 1 << 20


# --------------------------------------------------------------------------------------------------------- the weights
@dataclass(frozen=True)
class Shapes:
    """A causal language model as its files describe it."""

    tensors: Mapping[str, tuple[int, ...]]
    """Shape of each parameter by name; a tied output embedding is not among them."""
    hidden: int
    layers: int
    inner: int
    """Units of an MLP's hidden layer."""
    key_value: int
    """Width of a token's keys (and of its values) in one layer."""
    vocabulary: int
    heads: int = 1
    """Of attention, in one layer."""
    stored: int = 0
    """Bytes of its files, where its weights are quantised already and are loaded as they are; else 0."""
    without_adapter: tuple[str, ...] = ()
    """Names of linear layers that get no adapter."""
    experts: tuple[str, ...] = ()
    """Names of experts' layers that get adapters, as in `EXPERTS`."""
    positions: int = 0
    """Tokens of a text, where it has learnt its places one by one, or computes them by the longest; else 0."""

    @property
    def total(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors.values())

    @cached_property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of the linear layers between the embeddings."""
        return linear_in(self.tensors)

    @cached_property
    def adaptable(self) -> dict[str, tuple[int, int]]:
        """The linear layers that may get an adapter."""
        others = self.without_adapter
        return {
            name: shape
            for name, shape in self.linear.items()
            if (name.split(".")[-2] in self.experts) == (OF_EXPERTS in name)
            and not any(ends(name, other) for other in others)
        }

    @cached_property
    def list_of_layers(self) -> str:
        """What the list of the layers is called in the names of tensors: most have a number in it."""
        pairs = (pair for name in self.adaptable for pair in pairwise(name.split(".")))
        return Counter(part for part, number in pairs if number.isdigit()).most_common(1)[0][0]

    def in_layers_from(self, name: str, first: int) -> bool:
        """Whether a tensor belongs to this layer or to one above it."""
        return any(
            part == self.list_of_layers and number.isdigit() and int(number) >= first
            for part, number in pairwise(name.split("."))
        )

    @property
    def own_head(self) -> int:
        """Parameters of an output embedding that is not the input embedding."""
        named = (name for name in self.tensors if any(part in OUTPUTS for part in name.split(".")))
        return sum(math.prod(self.tensors[name]) for name in named)


def linear_in(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the linear layers between the embeddings."""
    others = (*INPUT_EMBEDDINGS, *OUTPUTS)
    return {
        name: (shape[0], shape[1])
        for name, shape in tensors.items()
        if len(shape) == 2 and name.endswith(".weight") and not any(part in others for part in name.split("."))
    }


def read_shapes(directory: Path) -> Shapes:
    """The shapes of the model in this directory. Raises UserError if its files are gone or can't be read."""
    files = weight_files(directory)
    marks = tuple((file, file.stat().st_mtime_ns) for file in files)
    return shapes_of_files(directory / "config.json", marks)


@lru_cache(maxsize=8)
def shapes_of_files(config_file: Path, files: tuple[tuple[Path, int], ...]) -> Shapes:
    """The shapes in files that were last changed at these times: read once."""
    config = read_object(config_file)
    text = of_text(config)
    tensors: dict[str, tuple[int, ...]] = {}
    for file, _size in files:
        tensors |= shapes_in(file)
    if text.get("tie_word_embeddings"):
        tensors = {
            name: shape for name, shape in tensors.items() if not any(part in OUTPUTS for part in name.split("."))
        }
    hidden = first_of(text, "hidden_size", "n_embd", "d_model")
    heads = first_of(text, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
    per_head = number_in(text, "head_dim") or hidden // heads
    words = [shape[0] for name, shape in tensors.items() if name.split(".")[-2:-1] in TABLES and len(shape) == 2]
    learnt = [shape[0] for name, shape in tensors.items() if is_places_table(name, shape)]
    return Shapes(
        tensors=tensors,
        hidden=hidden,
        layers=number_in(text, "num_hidden_layers", "n_layer") or layers_in(tensors),
        inner=number_in(text, "intermediate_size", "n_inner") or 4 * hidden,
        key_value=(number_in(text, "num_key_value_heads") or heads) * per_head,
        vocabulary=max(words, default=0) or first_of(text, "vocab_size"),
        heads=heads,
        without_adapter=WITHOUT_ADAPTER.get(str(config.get("model_type")), ()),
        experts=EXPERTS.get(str(config.get("model_type")), ()),
        # A table may have rows besides, as OPT's has.
        positions=number_in(text, "n_positions", "max_position_embeddings") or learnt[0]
        if learnt
        else steady_places(text),
        stored=sum(file.stat().st_size for file, _ in files) if config.get("quantization_config") else 0,
    )


def steady_places(config: Mapping[str, Any]) -> int:
    """How many tokens a text may have whose places are computed by the longest in the batch; 0 where none are."""
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rotary.get("rope_type", rotary.get("type")) not in TURNED_BY_LENGTH:
        return 0
    return number_in({**config, **rotary}, "original_max_position_embeddings", "max_position_embeddings")


def layers_in(tensors: Mapping[str, tuple[int, ...]]) -> int:
    numbers = [next(filter(str.isdigit, name.split(".")), "") for name in tensors]
    return max((int(number) + 1 for number in numbers if number), default=1)


def is_places_table(name: str, shape: tuple[int, ...]) -> bool:
    *parts, last = name.split(".")
    senses = any(sense in name for sense in SENSES)
    return len(shape) == 2 and last == "weight" and any(part in POSITIONS for part in parts) and not senses


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of parameters by name, from the header of a safetensors file; of packed ones from what lies beside."""
    header = read_header(file)
    shapes = {name: tensor.shape for name, tensor in header.items() if not name.endswith(BESIDES)}
    with file.open("rb") as handle:
        for name in [name for name in shapes if PACKED in name]:
            handle.seek(header[name].begin)
            del shapes[name]
            packed = json.loads(handle.read(header[name].end - header[name].begin))
            shapes[name.partition(PACKED)[0]] = tuple(packed["shape"])
    return shapes


def first_of(config: Mapping[str, Any], *names: str) -> int:
    """The number under the first of these names that a configuration has. Raises UserError if it has none."""
    found = number_in(config, *names)
    if found:
        return found
    raise UserError(_("The model's config.json names no {names}, so nothing can be estimated.").format(names=names[0]))


def number_in(config: Mapping[str, Any], *names: str) -> int:
    """The number under the first of these names that a configuration has, of several by layer the largest; else 0."""
    for name in names:
        values = config.get(name)
        numbers = [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, int)]
        if any(numbers):
            return max(numbers)
    return 0


# ---------------------------------------------------------------------------------------------------------- parameters
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


def ends(weight: str, end: str) -> bool:
    """Whether the layer of this weight has this name, or one that ends in it, as PEFT compares them."""
    return f".{weight.removesuffix('.weight')}".endswith(f".{end}")


# --------------------------------------------------------------------------------------------------------- the machine
@dataclass(frozen=True)
class Machine:
    """What a training process can use: a GPU's memory, or this machine's."""

    name: str
    """Of its GPU; empty for processors, which have none."""
    total: int
    """Bytes of memory."""
    free: int
    """Bytes that nobody uses now."""
    bf16: bool
    devices: int = 1
    gpu: bool = False
    processors: int = 1

    @property
    def called(self) -> str:
        count = ngettext("{cpu_count} processor", "{cpu_count} processors", self.processors)
        return self.name or count.format(cpu_count=self.processors)


def this_machine() -> Machine:
    """The GPU that trains if there is one, else the processor and what this program may have of the memory."""
    graphics = query_graphics()
    if graphics:
        name, total, free, capability = (field.strip() for field in graphics[0].split(","))
        bf16 = float(capability) >= 8.0
        return Machine(
            name=name,
            total=int(total) * MEGABYTE,
            free=int(free) * MEGABYTE,
            bf16=bf16,
            devices=len(graphics),
            gpu=True,
        )
    total = min(psutil.virtual_memory().total, container_limit()[0])
    return Machine("", total, free_memory(), processor_has_bf16(), processors=psutil.cpu_count() or 1)


def free_memory() -> int:
    """Bytes of this machine's memory, or of its container's, that nobody uses now."""
    limit, used = container_limit()
    return int(min(psutil.virtual_memory().available, max(0, limit - used)))


def container_limit() -> tuple[int, int]:
    """(limit, in use) of the memory of the container that this runs in; no limit outside of one."""
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if not limit.is_file() or not used.is_file() or limit.read_text().strip() == "max":
        return 1 << 62, 0
    return int(limit.read_text()), int(used.read_text()) - page_cache(group / "memory.stat")


def page_cache(statistics: Path) -> int:
    """Bytes of a container's use that are copies of files, which make room when it is wanted."""
    lines = dict(line.split() for line in statistics.read_text().splitlines()) if statistics.is_file() else {}
    return sum(int(lines.get(name, 0)) for name in ("active_file", "inactive_file"))


@lru_cache(maxsize=1)
def processor_has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16, as rlhf.models.loading.compute_dtype asks torch."""
    information = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not information.is_file():
        return False
    flags = next((line for line in information.read_text().splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_tile" in flags


# -------------------------------------------------------------------------------------------------------------- memory
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
        positions = 0 if spec.makes == "reward-model" else min(LOGIT_POSITIONS, self.batch_tokens)
        each, scores = (
            _("{per_state:g} bytes for each trained weight"),
            _("{positions} positions at a time, {vocabulary:,} tokens in the vocabulary"),
        )
        return [
            Component(N_("Libraries"), LIBRARIES, _("Python, torch and what a process keeps for itself"), "nothing"),
            self.frozen_weights(),
            Component(N_("Trained weights"), trained * FP32_BYTES, _("{trained:,} in 32 bits").format(trained=trained)),
            Component(N_("Reward model"), scorer * FP32_BYTES, _("an adapter on the same base, in 32 bits")),
            Component(N_("Weights in 16 bits"), copied, _("the copy that is computed with")),
            Component(N_("Gradients"), trained * FP32_BYTES, _("one for each trained weight, in 32 bits")),
            Component(N_("Optimiser state"), trained * per_state, each.format(per_state=per_state)),
            Component(N_("Experts with adapters"), experts, _("those of one layer, and their gradient")),
            Component(
                N_("Scores of the vocabulary"),
                positions * shapes.vocabulary * LOGIT_BYTES,
                scores.format(positions=positions, vocabulary=shapes.vocabulary),
                "tokens",
            ),
            Component(
                N_("Lower layers"),
                LOWER_BYTES if self.kept_layers < shapes.layers and not spec.drawn_tokens() else 0,
                _("at most, what they make of the data"),
            ),
            Component(
                N_("Where it began"),
                BEGINNING_BYTES if spec.ends_early() else 0,
                _("at most, to measure how far the policy moves"),
            ),
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


def packed_in(tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters that NF4 holds in 4 bits: not those of experts, which are held together in memory, as parameters that
    bitsandbytes leaves as they are."""
    return sum(math.prod(shape) for name, shape in linear_in(tensors).items() if OF_EXPERTS not in name)


def share_in_nf4(tensors: Mapping[str, tuple[int, ...]], width: int) -> float:
    """Bytes of weights in NF4 over those where each parameter takes `width`."""
    packed, total = packed_in(tensors), sum(map(math.prod, tensors.values()))
    return 1 - packed / total * (1 - NF4_BYTES / width)


def trained_part(spec: TrainingSpec) -> str:
    """What of a layer is trained, in the words of `LAYER_BYTES`; layers outside of the attention stand for all."""
    if spec.method in ("prompt", "full"):
        return spec.method
    wanted = target_layers(spec)
    return "attention" if wanted and set(wanted) <= set(ATTENTION) else "all-linear"


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


# ---------------------------------------------------------------------------------------------------------------- time
@dataclass(frozen=True)
class StepTime:
    """Seconds a step, as a job measured them, and when; its peak of memory where it says."""

    seconds_per_step: float
    beside: float
    """Seconds that it took beside its steps: to load, to measure what is held out, to write samples, to save."""
    measured: str
    job_id: int
    peak_memory_mb: float | None

    def seconds(self, steps: int) -> float:
        """About how long a run of so many steps takes."""
        return self.beside + self.seconds_per_step * steps


def step_time_of(spec: TrainingSpec, finished: Sequence[Job], items: int = 0) -> StepTime | None:
    """The newest pace measured with these settings: by a measurement, else by a run. `finished` has newest first.

    A step over so many items may take another number of forward passes than theirs did.
    """
    wanted = spec.comparable()
    like = [job for job in finished if (own := job.spec.trains()) is not None and own.comparable() == wanted]
    measured = [job for job in like if job.kind != spec.kind]
    for job in (*measured, *(job for job in like if job.kind == spec.kind)):
        done = FinishedTraining.of(job.result)
        if job.status == "finished" and done.seconds_per_step:
            passes = spec.over(items).accumulated() / (done.accumulation or spec.accumulated()) if items else 1.0
            return StepTime(
                seconds_per_step=done.seconds_per_step * passes,
                beside=seconds_beside(job, done.seconds_per_step * (done.steps or 0)),
                measured=job.finished or job.created,
                job_id=job.id,
                peak_memory_mb=done.peak_memory_mb,
            )
    return None


def seconds_beside(job: Job, in_steps: float) -> float:
    """What the attempt that ended a job took beside its steps."""
    if job.started is None or job.finished is None:
        return 0.0
    return max(0.0, seconds_between(job.started, job.finished) - in_steps)


def finished_jobs(db: Any, spec: TrainingSpec, limit: int = 200) -> list[Job]:
    """Jobs whose pace on this machine may be that of this spec, newest first."""
    kinds = (MEASURING, spec.kind)
    return [job for job in job_store.recent(db, kinds, limit) if job.flavor is None]
