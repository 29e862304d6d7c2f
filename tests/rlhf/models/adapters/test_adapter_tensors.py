"""The names of an adapter's tensors, which may be anybody's."""

from __future__ import annotations

import pytest

from rlhf.models.adapters import adapter_tensors


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.0.q_proj.lora_A.weight", ("model.layers.0.q_proj", "lora_A")),
        ("wte.lora_embedding_B", ("wte", "lora_embedding_B")),
        ("wte.base_layer.token_adapter.trainable_tokens_delta", ("wte", "trainable_tokens_delta")),
        ("up.base_layer.base_layer.lora_B.bias", ("up", "lora_B")),
        ("base_layer.lora_A.weight", None),
        ("lora_A.weight", None),
        ("model.norm.weight", None),
        ("weight", None),
        ("", None),
        ("a" + ".base_layer" * 300_000 + "!", None),
        ("a" + ".base_layer" * 300_000 + ".lora_A.weight", ("a", "lora_A")),
    ],
)
def test_a_tensors_name_is_taken_apart_however_long_it_is(name: str, part: tuple[str, str] | None) -> None:
    """What is quadratic in a name would keep the token process from its copies for hours."""
    assert adapter_tensors.part_of(f"base_model.model.{name}") == part
    assert adapter_tensors.part_of(f"other.{name}") is None


@pytest.mark.parametrize(
    ("layer", "tail"),
    [
        ("model.layers.0.q_proj", "layers.0.q_proj"),
        ("transformer.h.11.attn", "h.11.attn"),
        ("model.embed", "embed"),
        ("lm_head", "lm_head"),
        ("0.1.up", "0.1.up"),
        (".0.up", "up"),
        ("a" * 3_000_000, "a" * 3_000_000),
        ("a." * 1_000_000 + "b", "b"),
    ],
)
def test_a_layer_is_named_from_before_its_number_on(layer: str, tail: str) -> None:
    assert adapter_tensors.numbered(layer) == tail
