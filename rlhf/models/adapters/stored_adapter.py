"""An adapter's settings as a strict record: read from its files, which may be anybody's, checked, and written anew.

The record has what this program computes with, and nothing else: PEFT is given it, and never what a stranger wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from annotation.records import UserError
from annotation.translation import N_, _, joined
from annotation.validation import NonNegativeInt, PositiveFloat, PositiveInt, read, whole_if_it_can
from rlhf.jobs.descriptions import Made
from rlhf.models.adapters import adapter_tensors
from rlhf.models.adapters.adapter_tensors import ADAPTER_WEIGHTS, TOKENS, Matrices, TensorShapes
from rlhf.models.model_files import ADAPTER_CONFIG, LONGEST_NAME, read_object
from rlhf.models.registry import PolicyForm

ALL_LINEAR: Final = "all-linear"
# Which layers have matrices; the tensors say it, too.
CHOOSING: Final = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
# What says how an adapter was made or is loaded, and not what it computes.
LEFT_OUT: Final = frozenset(
    (
        *("peft_type", "peft_version", "auto_mapping", "inference_mode", "runtime_config", "megatron_core"),
        *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
        *("qalora_group_size", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path"),
        "tokenizer_kwargs",
    )
)
# How an adapter may have begun without changing the weights under it whenever it is loaded. Not "orthogonal": it leaves
# them alone, too, but PEFT can't begin so on weights in 4 bits.
HARMLESS_BEGINNINGS: Final = ("gaussian", "eva", "mica")
# Names that PEFT takes for patterns, and tries on every layer's: also as it writes those of experts. One in which
# something else repeats may take for ever, and so may many of them.
PLAIN: Final = re.compile(r"(\^|\.\*\\\.)?[\w.-]+")
BY_PATTERNS: Final = N_(
    "{source} says by patterns which layers it has ({named}): a pattern can keep a program busy without end. Ask its "
    "owner for an adapter that names them."
)
# Layers that a reward model brings along.
SCORES: Final = ("score", "classifier")


@dataclass(frozen=True)
class StoredAdapter:
    """What all adapters say, by PEFT's names."""

    peft_type: ClassVar[str]
    form: ClassVar[PolicyForm]
    task_type: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM"
    base_model_name_or_path: str = ""
    revision: str = ""

    @property
    def kind(self) -> Made:
        return "policy" if self.task_type == "CAUSAL_LM" else "reward-model"

    def settings(self) -> dict[str, Any]:
        """As PEFT takes them, and writes them."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        said = {name: value if isinstance(value, bool) else value or None for name, value in told.items()}
        return {"peft_type": self.peft_type, **said}


@dataclass(frozen=True)
class StoredPrompt(StoredAdapter):
    """Virtual tokens before the prompt."""

    peft_type = "PROMPT_TUNING"
    form = "prompt"
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    num_virtual_tokens: PositiveInt = 0
    token_dim: PositiveInt | None = None
    num_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None

    def unmet(self, tensors: TensorShapes) -> Iterator[tuple[str, str]]:
        """The settings for which there are other tensors, and these."""
        for name, shape in tensors.items():
            if name != "prompt_embeddings" or len(shape) != 2 or shape[0] != self.num_virtual_tokens:
                yield "num_virtual_tokens", f"{name} {shape}"
            elif shape[1] != (self.token_dim or shape[1]):
                yield "token_dim", f"{name} {shape}"


@dataclass(frozen=True)
class StoredLora(StoredAdapter):
    """Low-rank matrices beside layers."""

    peft_type = "LORA"
    form = "lora"
    r: PositiveInt = 8
    lora_alpha: PositiveFloat = 8
    target_modules: Sequence[str] = ()
    exclude_modules: Sequence[str] = ()
    layers_to_transform: Sequence[NonNegativeInt] = ()
    layers_pattern: Sequence[str] = ()
    target_parameters: Sequence[str] = ()
    rank_pattern: Mapping[str, PositiveInt] = field(default_factory=dict)
    alpha_pattern: Mapping[str, PositiveFloat] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    use_dora: bool = False
    use_rslora: bool = False
    lora_bias: bool = False
    modules_to_save: Sequence[str] = ()
    trainable_token_indices: Mapping[str, Sequence[NonNegativeInt]] = field(default_factory=dict)

    @property
    def all_linear(self) -> bool:
        return [*self.target_modules] == [ALL_LINEAR]

    def settings(self) -> dict[str, Any]:
        patterns = {name: dict(getattr(self, name)) for name in ("rank_pattern", "alpha_pattern")}
        return {**super().settings(), **patterns, **({"target_modules": ALL_LINEAR} if self.all_linear else {})}

    def held_to(self, matrices: Matrices) -> StoredLora:
        """The same with no rank above those of its tensors: PEFT makes matrices also where it has none for a layer."""
        most = max(parts["A"][0] for _layer, parts in matrices.layers)
        ranks = {name: min(rank, most) for name, rank in self.rank_pattern.items()}
        return replace(self, r=min(self.r, most), rank_pattern=ranks, lora_alpha=whole_if_it_can(self.lora_alpha))

    def refuse_patterns(self, most: int, source: str) -> None:
        """Raises UserError for names that as patterns could take for ever, or more than there are layers."""
        named = ("rank_pattern", "alpha_pattern", "modules_to_save")
        odd = [name for name in named if not all(map(PLAIN.fullmatch, getattr(self, name)))]
        odd += [name for name in (*named, "target_parameters") if name not in odd and len(getattr(self, name)) > most]
        if odd:
            raise UserError(_(BY_PATTERNS).format(source=source, named=", ".join(odd)))

    def unmet(self, tensors: TensorShapes) -> Iterator[tuple[str, str]]:
        """The settings for which there are other tensors or none, and what of them."""
        matrices = Matrices.of(tensors)
        for layer, parts in matrices.layers:
            for name in self.unmet_in(layer, parts):
                yield name, layer
        if not matrices.layers:
            yield "peft_type", "lora_A"
        saved = [f"{name}." for name in tensors if adapter_tensors.part_of(name) is None]
        heads = SCORES if self.kind == "reward-model" else ()
        for module in self.modules_to_save:
            if module not in heads and not any(f"{module}." in name for name in saved):
                yield "modules_to_save", module
        if heads and [shape[:1] for name, shape in tensors.items() if name.endswith("score.weight")] != [(1,)]:
            yield "task_type", "score.weight"
        rows = sorted(shape[0] for shape in matrices.tokens.values() if shape)
        if rows != sorted(map(len, self.trainable_token_indices.values())):
            yield "trainable_token_indices", TOKENS

    def unmet_in(self, layer: str, parts: TensorShapes) -> Iterator[str]:
        """The settings that are not those of a layer's tensors."""
        first, second = parts.get("A", ()), parts.get("B", ())
        side = first[:1]
        if side in ((), (0,)) or side != second[1:2] or not (self.target_parameters or side == (self.rank_of(layer),)):
            yield "rank_pattern" if self.rank_pattern else "r"
            return
        magnitudes = [prod(shape) for part, shape in parts.items() if part == "magnitude_vector"]
        if magnitudes not in ([[second[0]], [*first[1:2]]] if self.use_dora else [[]]):
            yield "use_dora"
        if ("B.bias" in parts) != self.lora_bias:
            yield "lora_bias"
        if not self.chooses(layer):
            yield next(name for name in reversed(CHOOSING[:3]) if getattr(self, name))

    def rank_of(self, layer: str) -> int:
        return next((rank for pattern, rank in self.ranks if pattern.match(layer)), self.r)

    @cached_property
    def ranks(self) -> Sequence[tuple[re.Pattern[str], int]]:
        return [(re.compile(rf"(.*\.)?({name})$"), rank) for name, rank in self.rank_pattern.items()]

    def chooses(self, layer: str) -> bool:
        """Whether PEFT would put matrices on a layer of this name."""
        if self.target_parameters or self.all_linear:
            return True
        if adapter_tensors.ends_in(layer, self.exclude_modules) or not adapter_tensors.ends_in(
            layer, self.target_modules
        ):
            return False
        if not self.layers_to_transform or layer in self.target_modules:
            return True
        before = [rf"(?:^|.*?\.){name}" for name in self.layers_pattern] or [r".*?\.[^.]*"]
        places = (re.match(rf"{one}\.(\d+)\.", layer) for one in before)
        place = next((found for found in places if found), None)
        return place is not None and int(place[1]) in self.layers_to_transform


# ------------------------------------------------------------------------------------------------- reading and writing
KINDS: Final[Mapping[str, type[StoredLora] | type[StoredPrompt]]] = {
    kind.peft_type: kind for kind in (StoredLora, StoredPrompt)
}


def read_adapter(directory: Path, source: str = "") -> StoredLora | StoredPrompt:
    """The adapter in a directory, compared with its tensors; sentences call it `source`, or else by where it lies.

    Raises UserError where it is not whole, or none that this program computes with.
    """
    source = source or str(directory)
    told = {name: value for name, value in read_object(directory / ADAPTER_CONFIG).items() if value is not None}
    kind, task = KINDS.get(str(told.get("peft_type"))), told.get("task_type")
    if kind is None or task not in ("CAUSAL_LM", "SEQ_CLS", None) or (kind is StoredPrompt and task != "CAUSAL_LM"):
        said = _(
            "{source} is an adapter of type {kind} for {task}; Prefloop uses LORA for CAUSAL_LM and SEQ_CLS, and "
            "PROMPT_TUNING for CAUSAL_LM."
        )
        raise UserError(said.format(source=source, kind=str(told.get("peft_type"))[:40], task=str(task)[:40]))
    known = {one.name for one in fields(kind)}
    refuse_settings({name: value for name, value in told.items() if name not in known}, source)
    tensors = adapter_tensors.tensor_shapes(directory / ADAPTER_WEIGHTS)
    matrices = Matrices.of(tensors)
    told = {name: value for name, value in told.items() if name in known}
    if kind is StoredLora:
        told = with_names(told, matrices, source)
    try:
        found = read(kind, told, f"{source}/{ADAPTER_CONFIG}")
    except UserError as error:
        raise UserError(joined(str(error), _("Have PEFT write the adapter again, or restore its files."))) from error
    if isinstance(found, StoredLora):
        found.refuse_patterns(matrices.most, source)
    for name, where in found.unmet(tensors):
        said = _(
            "{source} is not whole: its tensors are not what its configuration says ({told}). Fetch it again, or have "
            "it published again."
        )
        raise UserError(said.format(source=source, told=f"{where}: {name} {getattr(found, name)}"[:LONGEST_NAME]))
    return found.held_to(matrices) if isinstance(found, StoredLora) else found


def refuse_settings(told: Mapping[str, Any], source: str) -> None:
    """Raises UserError for settings by which an adapter would compute otherwise than a record of it can say."""
    odd = []
    for name, value in told.items():
        began = name == "init_lora_weights" and (value is True or str(value).lower() in HARMLESS_BEGINNINGS)
        plain = name == "num_transformer_submodules" and value == 1
        unset = value in (False, "", "none", []) or (value == {} and not name.endswith("_config"))
        if not (began or plain or unset or name in LEFT_OUT):
            odd.append(f"{name[:40]}={value[:40]}" if isinstance(value, str) else name[:40])
    if odd:
        said = _(
            "{source} has settings that can't be used here ({named}): loading it would change the weights under "
            "it, which other policies share, or it would compute something else. Ask its owner for a plain LoRA "
            "adapter, or for merged weights."
        )
        raise UserError(said.format(source=source, named=", ".join(odd)[:200]))


def with_names(told: Mapping[str, Any], matrices: Matrices, source: str) -> dict[str, Any]:
    """Settings that say by a few names which layers an adapter has, and which ones' rows of tokens are its own.

    Where a pattern, or more names than there are layers, or nothing chose them, the tensors say it. Raises UserError
    where these can't.
    """
    made = {name: [value] if is_one(name, value) else value for name, value in told.items()}
    indices = made.get("trainable_token_indices")
    if isinstance(indices, list):
        made["trainable_token_indices"] = dict.fromkeys(matrices.tokens or ("",), indices) if indices else {}
    chosen = {name: value for name in CHOOSING if (value := made.pop(name, [])) != []}
    if "layers_to_transform" not in chosen:
        chosen.pop("layers_pattern", None)
    by_pattern = [name for name, value in chosen.items() if is_pattern(name, value, matrices.most)]
    everywhere = chosen.get("target_modules") == [ALL_LINEAR] and "layers_to_transform" in chosen
    if made.get("target_parameters"):  # its layers are no modules
        if by_pattern:
            raise UserError(_(BY_PATTERNS).format(source=source, named=", ".join(by_pattern)))
    elif by_pattern or everywhere or "target_modules" not in chosen:
        chosen = {"target_modules": matrices.named}
    return {**made, **chosen}


def is_one(name: str, value: object) -> bool:
    """Whether PEFT takes a value for a list of it alone."""
    if name == "target_modules":
        return value == ALL_LINEAR
    return (name, type(value)) in (("layers_to_transform", int), ("layers_pattern", str))


def is_pattern(name: str, value: object, most: int) -> bool:
    """Whether layers are chosen by a pattern, or by more than so many names."""
    if isinstance(value, list):
        odd = name == "layers_pattern" and not all(isinstance(one, str) and PLAIN.fullmatch(one) for one in value)
        return odd or len(value) > most
    return isinstance(value, str) and name in ("target_modules", "exclude_modules")


def write_settings(directory: Path, adapter: StoredLora | StoredPrompt) -> None:
    """Write an adapter's configuration anew: nothing of the one before is left."""
    (directory / ADAPTER_CONFIG).write_bytes(settings_file(adapter))


def settings_file(adapter: StoredLora | StoredPrompt) -> bytes:
    return json.dumps(adapter.settings(), indent=2, sort_keys=True).encode()
