"""The files of a model, which may be anybody's: read with a sentence for what is wrong, and checked to be whole."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from annotation.records import UserError
from annotation.translation import N_, _
from annotation.validation import PARSING

# More than any configuration or index has; vocabularies and weights are not read whole here.
LARGEST_FILE: Final = 16_000_000
LARGEST_HEADER: Final = 32_000_000
LONGEST_NAME: Final = 300
# How counts are called of parts of a model that each have weights, or a slice of some.
COUNTS: Final = re.compile(r"(?:layers?|experts|depth|num_labels)$")
# Those of parts that each have weights; beside them, a bound and a size in each layer.
WHOLE_PARTS: Final = re.compile(r"(?!max_).*(?:(?<!per_)layers?|depth)$")
CONFIG: Final = "config.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "model.safetensors"
DESERIALISING: Final = "Error while deserializing header: "
INDEX: Final = "model.safetensors.index.json"
# Layers by which the words come out: where they are tied to the embeddings, files need not have them.
OUTPUTS: Final = ("lm_head", "embed_out", "output_projection")
# What stays whole where the other layers are held in 4 bits, in a list as bitsandbytes takes it: outputs, a scalar
# head, which is trained, and LongCat's routers, whose weights are taken past their layer.
WHOLE: Final = [*OUTPUTS, "score", "router.classifier"]
UNKNOWN_KIND: Final = N_(
    "The installed transformers can't load a '{kind}' model as a causal language model: it has none. Choose another "
    "model, or update Prefloop."
)
ENCODER: Final = N_(
    "A '{kind}' model reads with an encoder and writes with a decoder, and Prefloop takes models that go on writing "
    "what they read (causal language models). Choose another model."
)
SCORES: Final = N_(
    "This model was trained to score texts ('{architecture}'), not to write them. Choose the one that it was made of, "
    "or another."
)
# How transformers names what has a head for scores in the place of one for words.
SCORING: Final = re.compile(r"(?:Classification|RewardModel)$")
# By what transformers computes where a configuration says nothing else, and what is part of it.
COMPUTED: Final = (None, "eager", "sdpa", "grouped_mm", "batched_mm")
# Settings by which it loads other weights than those that were looked at, pickled ones too, or fetches what computes.
ELSEWHERE: Final = ("transformers_weights",)
COMPUTING: Final = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
NEEDS_CODE: Final = N_(
    "The installed transformers can't load a '{kind}' model as a causal language model: it needs code that comes with "
    "it, and Prefloop runs none. Choose another model, or update Prefloop."
)


# ---------------------------------------------------------------------------------------------------------------- texts
@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file that may be anybody's into a sentence."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = str(error)[:LONGEST_NAME] or type(error).__name__
        unread = _("{path} can't be read ({said}). Restore it, or choose another model.")
        raise UserError(unread.format(path=path, said=said)) from error


def read_text(path: Path) -> str:
    """A file's text. Raises UserError if it is none, or too long for what it is."""
    with explained(path):
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(_("it has over {most:,} bytes").format(most=LARGEST_FILE))
        return path.read_text("utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError for anything else."""
    with explained(path):
        value = json.loads(read_text(path))
        if not isinstance(value, dict):
            raise TypeError(_("it is no JSON object"))
        return value


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; an empty one where there is no file. Raises UserError for anything else."""
    return read_object(path) if path.is_file() else {}


def parts_of(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A configuration and all that it says of parts of the model."""
    parts = [config]
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, Mapping)]
        yield part


def of_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of a model's part for texts; one that also sees or hears has it in one of its own."""
    text = config.get("text_config")
    return {**config, **(text if isinstance(text, Mapping) else {})}


# -------------------------------------------------------------------------------------------------------------- weights
SCALED: Final = re.compile(r"[IU]\d|BOOL|F8_")


@dataclass(frozen=True)
class Tensor:
    """What a safetensors file says of a tensor; its bytes are those from `begin` to `end` in the file."""

    shape: tuple[int, ...]
    begin: int
    end: int
    dtype: str


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises UserError where the file is not whole, or its header lies."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > LARGEST_HEADER:
                raise ValueError(_("its header would have {size:,} bytes").format(size=size))
            header = file.read(size)
        with safe_open(path, framework="numpy"):  # that each byte belongs to one tensor, of the size of its shape
            pass
        entries = json.loads(header, object_pairs_hook=unique)
        found = {name: tensor_of(entry, 8 + size) for name, entry in entries.items() if name != "__metadata__"}
        longest = max(map(len, found), default=0)
        if longest > LONGEST_NAME:
            raise ValueError(_("the name of a tensor has {longest:,} characters").format(longest=longest))
        if not found:
            raise ValueError(_("it has no tensor"))
        return found
    except (OSError, ValueError, struct.error, SafetensorError, RecursionError) as error:
        said = _("{name} is no safetensors file that can be used: {error}. Fetch it again.")
        raise UserError(
            said.format(name=path.name, error=str(error).removeprefix(DESERIALISING)[:LONGEST_NAME])
        ) from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a name stands twice in it: readers would differ in which one they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(_("a name stands twice in its header"))
    return found


def tensor_of(entry: Mapping[str, Any], start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    return Tensor(shape=tuple(entry["shape"]), begin=start + begin, end=start + end, dtype=str(entry["dtype"]))


def is_tied(directory: Path) -> bool:
    """Whether a model's words come out by its embeddings: its files have no output matrix, or it says so.

    Raises UserError where its files can't be read.
    """
    if of_text(read_json(directory / CONFIG)).get("tie_word_embeddings"):
        return True
    return not any(
        part in OUTPUTS for file in weight_files(directory) for name in read_header(file) for part in name.split(".")
    )


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers loads from a model's directory. Raises UserError if there are none."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        return sorted({directory / name for name in read_index(directory).values()})
    others = sorted(directory.glob("*.safetensors"))
    if others:
        said = _(
            "{directory} has {name}, and no {weights} nor {index}, by which weights are found. Fetch the "
            "whole model again, or convert it with save_pretrained."
        )
        raise UserError(said.format(directory=directory, name=others[0].name, weights=WEIGHTS, index=INDEX))
    gguf = next(iter(sorted(directory.glob("*.gguf"))), None)
    raise UserError(
        is_gguf(gguf)
        if gguf is not None
        else _(
            "{directory} has no safetensors weights, and Prefloop loads no other kind. Convert the model with "
            "save_pretrained, or choose another one."
        ).format(directory=directory)
    )


def is_gguf(path: Path) -> str:
    """Why such a file is refused."""
    return _(
        "{path} is a GGUF file, and Prefloop loads safetensors weights only. Convert it: load it in transformers with "
        "gguf_file=… and GgufConfig(dequantize=True), write model and tokenizer with save_pretrained, and give that "
        "directory."
    ).format(path=path)


def read_index(directory: Path) -> dict[str, str]:
    """In which file each tensor of a model is. Raises UserError where one would be elsewhere than in the directory."""
    with explained(directory / INDEX):
        found = dict(read_object(directory / INDEX)["weight_map"])
        if not found:
            raise ValueError(_("it names no file"))
        for name in found.values():
            if Path(name).name != name:
                raise ValueError(_("{name!r} is no name of a file in this directory").format(name=name))
    return found


def check_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a model. Raises UserError where a file is missing or not whole, or lacks what the index names."""
    files = weight_files(directory)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        named = ", ".join([*missing[:3], *(["…"] if missing[3:] else [])])
        said = _("{directory} lacks {missing} of its weights. Fetch the whole model again.")
        raise UserError(said.format(directory=directory, missing=named))
    by_file = {path.name: read_header(path) for path in files}
    if files != [directory / WEIGHTS]:
        for tensor, name in read_index(directory).items():
            if tensor not in by_file[name]:
                said = _(
                    "{directory} has no tensor {tensor}, which {index} says is there. Fetch the whole model again."
                )
                raise UserError(said.format(directory=directory / name, tensor=tensor[:LONGEST_NAME], index=INDEX))
    found = {name: tensor for held in by_file.values() for name, tensor in held.items()}
    config = read_json(directory / CONFIG)
    refuse_more_parts(config, found)
    refuse_unscaled(config, found)
    return found


def refuse_unscaled(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError for weights in 8-bit or whole numbers without a word of what one stands for.

    Transformers would compute with them as they are.
    """
    if "quantization_config" in of_text(config):
        return
    bare = [(name, one.dtype) for name, one in tensors.items() if name.endswith(".weight") and SCALED.match(one.dtype)]
    if bare:
        said = _(
            "{name} holds {dtype} numbers, and {config} does not say by what to multiply them (quantization_config). "
            "Fetch the model in 16 or 32 bits, or choose another one."
        )
        raise UserError(said.format(name=bare[0][0], dtype=bare[0][1], config=CONFIG))


def refuse_more_parts(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError where a configuration counts more layers or experts than there can be weights of.

    Transformers would make them all, one by one, before it looked: until no memory is left.
    """
    held = [tensor.shape for tensor in tensors.values() if tensor.end > tensor.begin]
    largest = max(len(held), *(size for shape in held for size in shape), 0)
    for part in parts_of(config):
        for name, value in part.items():
            most = len(held) if WHOLE_PARTS.match(name) else largest
            if COUNTS.search(name) and isinstance(value, int | float) and value > most:
                said = _(
                    "{config} says {name} {value}, and the weights beside it have nothing of that number. Fetch the "
                    "whole model again, or choose another one."
                )
                raise UserError(said.format(config=CONFIG, name=name[:LONGEST_NAME], value=str(value)[:20]))


# --------------------------------------------------------------------------------------------------------- architecture
def tokens_known(directory: Path) -> int | None:
    """How many tokens a model's weights have a row for, by its configuration; None where that does not say."""
    known = of_text(read_json(directory / CONFIG)).get("vocab_size")
    return known if isinstance(known, int) else None


def check_architecture(directory: Path) -> None:
    """Raises UserError where transformers has no causal language model of this kind, and for what gives scores."""
    config = read_object(directory / CONFIG)
    kind, known = config.get("model_type"), kinds_in(CAUSAL)
    if not isinstance(kind, str) or not kind:
        said = _("{directory} names no model_type, so nobody can tell what to load. Restore it.")
        raise UserError(said.format(directory=directory / CONFIG))
    refuse_elsewhere(config)
    if config.get("is_encoder_decoder"):
        raise UserError(_(ENCODER).format(kind=kind[:80]))
    named = config.get("architectures")
    scoring = [str(one) for one in named if SCORING.search(str(one))] if isinstance(named, list) else []
    if scoring:
        raise UserError(_(SCORES).format(architecture=scoring[0][:80]))
    if known and kind not in known:
        raise UserError(_(NEEDS_CODE if config.get("auto_map") else UNKNOWN_KIND).format(kind=kind[:80]))


def refuse_elsewhere(config: Mapping[str, Any]) -> None:
    """Raises UserError where a configuration has other weights loaded, or another program compute."""
    for part in parts_of(config):
        for name, value in part.items():
            if name in ELSEWHERE or (name in COMPUTING and value not in COMPUTED):
                said = _(
                    "{config} says {name} {value}: other weights or code than what was looked at would be loaded. Take "
                    "that out of it, or choose another model."
                )
                raise UserError(said.format(config=CONFIG, name=name, value=str(value)[:80]))


def refuse_adapter(directory: Path) -> None:
    """Raises UserError where an adapter is, also beside weights: transformers would load its base in their place."""
    if not (directory / ADAPTER_CONFIG).is_file():
        return
    base = str(read_object(directory / ADAPTER_CONFIG).get("base_model_name_or_path"))[:LONGEST_NAME]
    said = _(
        "{directory} holds an adapter ({config}) for {base}, and a base is whole weights: merge it into these with "
        "PEFT's merge_and_unload, and give what save_pretrained makes of that. If whole weights are there, too, "
        "take the adapter's files away from them."
    )
    raise UserError(said.format(directory=directory, config=ADAPTER_CONFIG, base=base))


def has_scores(directory: Path) -> bool:
    """Whether the installed transformers can put a scalar head on a model of this kind; also where it isn't installed.

    Raises UserError where its configuration can't be read.
    """
    known = kinds_in(SCORED)
    return not known or read_object(directory / CONFIG).get("model_type") in known


@lru_cache
def kinds_in(mapping: str) -> frozenset[str]:
    """The `model_type`s for which transformers has a model by this mapping; none where it is not installed.

    Read from its source: importing it would load torch, which a process that serves pages does without.
    """
    found = importlib.util.find_spec("transformers")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(place) / "models" / "auto" / "modeling_auto.py"
        with PARSING:
            tree = ast.parse(path.read_text("utf-8")) if path.is_file() else ast.Module([], [])
        for node in tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == [mapping]:
                assert isinstance(node.value, ast.Call)
                return frozenset(kind for kind, _ in ast.literal_eval(node.value.args[0]))
    return frozenset()


CAUSAL: Final = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
SCORED: Final = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
