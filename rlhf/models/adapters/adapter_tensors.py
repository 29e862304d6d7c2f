"""The tensors of an adapter's file: which layer each belongs to, and what of it each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlhf.models.model_files import read_header

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
# So many may be there without a layer for each.
FEW: Final = 20
# What stands before the name of a layer in an adapter's file, and what PEFT may put after it.
WRAPPED: Final = "base_model.model."
WRAPPERS: Final = ("base_layer", "token_adapter")
TOKENS: Final = "trainable_tokens_delta"
PARTS: Final = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", TOKENS)
KINDS_OF_VALUES: Final = ("weight", "bias")
Shape = tuple[int, ...]
TensorShapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Matrices:
    """The tensors of a LoRA adapter."""

    layers: Sequence[tuple[str, TensorShapes]]
    """Each layer with its parts: A, B, B.bias, magnitude_vector. Experts held together are one with two entries."""
    tokens: TensorShapes
    """Layers with rows of their own for some tokens."""

    @classmethod
    def of(cls, tensors: TensorShapes) -> Matrices:
        layers: dict[tuple[str, str], dict[str, Shape]] = {}
        tokens: dict[str, Shape] = {}
        for name, shape in tensors.items():
            layer, part = part_of(name) or ("", "")
            if part == TOKENS:
                tokens[layer] = shape
            elif part:
                kind = part.removeprefix("lora_").removeprefix("embedding_")
                kind += ".bias" if name.endswith(".bias") else ""
                layers.setdefault((layer, name.rpartition(part)[0]), {})[kind] = shape
        return cls([(layer, parts) for (layer, _holder), parts in layers.items()], tokens)

    @property
    def named(self) -> list[str]:
        return sorted({layer for layer, _parts in self.layers})

    @property
    def most(self) -> int:
        """How many names it may be said by which layers these are."""
        return max(FEW, len({*map(numbered, self.named)}))


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """The shape of each tensor of a file. Raises UserError where it is not whole."""
    return {name: tensor.shape for name, tensor in read_header(path).items()}


def part_of(name: str) -> tuple[str, str] | None:
    """The layer that a tensor of a LoRA adapter belongs to, and which of its parts it is; None for other tensors."""
    if not name.startswith(WRAPPED):
        return None
    words = name.removeprefix(WRAPPED).split(".")
    if words[-1] in KINDS_OF_VALUES:
        words.pop()
    part = words.pop() if words else ""
    while words and words[-1] in WRAPPERS:
        words.pop()
    return (".".join(words), part) if words and part in PARTS else None


def numbered(layer: str) -> str:
    """A layer's name from the word before the first number on: models differ in what stands before. Else its last."""
    words = layer.split(".")
    places = (place for place in range(1, len(words)) if words[place][:1].isdigit() and words[place - 1])
    return ".".join(words[next(places, len(words)) - 1 :])


def ends_in(layer: str, names: Sequence[str]) -> bool:
    """Whether a layer has one of these names, or ends in one."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)
