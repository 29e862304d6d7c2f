"""A causal language model's shapes, from the headers of its files: exact, and read without loading a weight."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from annotation.records import UserError
from annotation.translation import _
from rlhf.models.model_files import OUTPUTS, of_text, read_header, read_object, weight_files

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


def ends(weight: str, end: str) -> bool:
    """Whether the layer of this weight has this name, or one that ends in it, as PEFT compares them."""
    return f".{weight.removesuffix('.weight')}".endswith(f".{end}")


def packed_in(tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters that NF4 holds in 4 bits: not those of experts, which are held together in memory, as parameters that
    bitsandbytes leaves as they are."""
    return sum(math.prod(shape) for name, shape in linear_in(tensors).items() if OF_EXPERTS not in name)


def share_in_nf4(tensors: Mapping[str, tuple[int, ...]], width: int) -> float:
    """Bytes of weights in NF4 over those where each parameter takes `width`."""
    packed, total = packed_in(tensors), sum(map(math.prod, tensors.values()))
    return 1 - packed / total * (1 - NF4_BYTES / width)
