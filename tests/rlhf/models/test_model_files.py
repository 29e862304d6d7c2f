"""A model's files, which may be anybody's: headers that lie, weights that are not whole, architectures unknown."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from annotation.records import UserError
from rlhf.models.model_files import (
    CAUSAL,
    INDEX,
    LONGEST_NAME,
    SCORED,
    WEIGHTS,
    check_architecture,
    check_weights,
    kinds_in,
    read_header,
    read_object,
    weight_files,
)


def entry(shape: list[int], *offsets: int, dtype: str = "F32") -> dict[str, Any]:
    """A tensor in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def written(path: Path, header: Any, data: bytes = b"", size: int | None = None) -> Path:
    """A safetensors file with this header; `size` is what it says of the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


ONE = entry([1], 0, 4)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    tensors = {"a": entry([2, 1], 0, 8), "b": entry([], 8, 12), "c": entry([0], 12, 12)}
    path = written(tmp_path / WEIGHTS, {"__metadata__": {"format": "pt"}, **tensors}, b"x" * 8 + b"yyyy")
    found = read_header(path)
    assert {name: tensor.shape for name, tensor in found.items()} == {"a": (2, 1), "b": (), "c": (0,)}
    assert path.read_bytes()[found["b"].begin : found["b"].end] == b"yyyy"


@pytest.mark.parametrize(
    ("header", "data", "size"),
    [
        ({"a": ONE}, b"1234", 2**60),
        ({"a": ONE}, b"1234", 2**63),
        ({"a": ONE}, b"1234", 10_000_000),
        ({"a": ONE}, b"1234", 20),
        ({"a": ONE}, b"1234", 0),
        ({"a": ONE}, b"12", None),
        ({"a": ONE}, b"12345", None),
        ({"a": entry([2], 0, 4)}, b"1234", None),
        ({"a": entry([-1], 0, 4)}, b"1234", None),
        ({"a": entry([1], -4, 0)}, b"1234", None),
        ({"a": entry([1], 4, 0)}, b"1234", None),
        ({"a": entry([2**62, 8], 0, 4)}, b"1234", None),
        ({"a": entry([1], 0, 4, dtype="F33")}, b"1234", None),
        ({"a": ONE, "b": ONE}, b"1234", None),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"x" * 12, None),
        ({"a": ONE, "b": entry([1], 8, 12)}, b"x" * 12, None),
        (b'{"a": %(one)b, "a": %(one)b}' % {b"one": json.dumps(ONE).encode()}, b"1234", None),
        ({}, b"", None),
        ({"__metadata__": {"format": "pt"}}, b"", None),
        ({"__metadata__": {"format": 3}, "a": ONE}, b"1234", None),
        ({"a" * (LONGEST_NAME + 1): ONE}, b"1234", None),
        ({"a": {"shape": ["x"]}}, b"1234", None),
        ([ONE], b"1234", None),
        (b"[" * 100_000, b"", None),
        (b"no header", b"", None),
        (b"\xff\xfe", b"", None),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, data: bytes, size: int | None) -> None:
    with pytest.raises(UserError, match=r"^model\.safetensors is no safetensors file that .*Fetch it again"):
        read_header(written(tmp_path / WEIGHTS, header, data, size))


@pytest.mark.parametrize("content", [b"", b"abc", b"\x80\x04pickle and more"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match="is no safetensors file"):
        read_header(tmp_path / WEIGHTS)


# --------------------------------------------------------------------------------------------------------- whole models
def sharded(directory: Path, **places: Any) -> Path:
    """Weights in two files with their index; `places` change in which file it says that a tensor is."""
    for place, name in enumerate("ab", 1):
        written(directory / f"model-0000{place}-of-00002.safetensors", {name: ONE}, b"1234")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", **places}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def test_weights_in_several_files_are_those_of_the_index(tmp_path: Path) -> None:
    assert sorted(check_weights(sharded(tmp_path))) == ["a", "b"]
    written(tmp_path / "consolidated.safetensors", b"another form of the same weights")
    assert sorted(check_weights(tmp_path)) == ["a", "b"]
    written(tmp_path / WEIGHTS, {"whole": ONE}, b"1234")
    assert weight_files(tmp_path) == [tmp_path / WEIGHTS], "as transformers prefers it"


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 3},
        {"text_config": {"n_layer": 4}},
        {"vision_config": {"inner": {"depth": float("inf")}}},
        {"num_local_experts": 10**4000},
        {"num_labels": 10**9 + 1},
    ],
)
def test_more_layers_experts_or_labels_than_there_can_be_weights_of_are_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """Transformers would make each of them before it looked for its weights, in all the memory that there is."""
    sound = {
        "num_hidden_layers": 2,
        "max_window_layers": 3,
        "num_experts": 3,
        "num_labels": 2,
        "max_position_embeddings": 10**9,
    }
    tensors = {"a": entry([3, 1], 0, 12), "b": ONE | {"data_offsets": [12, 16]}, "c": entry([10**9, 0], 16, 16)}
    written(tmp_path / WEIGHTS, tensors, b"x" * 16)
    (tmp_path / "config.json").write_text(json.dumps(sound))
    check_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json says \w+ .*, and the weights beside it have nothing of that"):
        check_weights(tmp_path)


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3"])
def test_numbers_without_a_word_of_their_scales_are_refused(tmp_path: Path, dtype: str) -> None:
    """They would be computed with as they are, and what is said would be noise."""
    numbers = {"h.0.mlp.weight": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 4]}}
    mask = {"h.0.attn.bias": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}}
    config = tmp_path / "config.json"
    config.write_text("{}")
    written(tmp_path / WEIGHTS, mask, b"1234")
    check_weights(tmp_path)
    written(tmp_path / WEIGHTS, numbers, b"1234")
    with pytest.raises(UserError, match=rf"h\.0\.mlp\.weight holds {dtype} numbers, and config\.json does not say"):
        check_weights(tmp_path)
    for sound in ({"quantization_config": {}}, {"text_config": {"quantization_config": {}}}):
        config.write_text(json.dumps(sound))
        check_weights(tmp_path)


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ({"b": "model-00003-of-00003.safetensors"}, "lacks model-00003-of-00003.safetensors of its weights"),
        ({"c": "model-00001-of-00002.safetensors"}, "has no tensor c, which model.safetensors.index.json says"),
        ({"b": "../outside.safetensors"}, "is no name of a file in this directory"),
        ({"b": "/etc/passwd"}, "is no name of a file in this directory"),
        ({"b": 7}, "can't be read"),
    ],
)
def test_an_index_that_does_not_hold_is_refused(tmp_path: Path, places: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_weights(sharded(tmp_path, **places))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}', '{"weight_map": {}}', "{}", '{"weight_map": 1}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (sharded(tmp_path) / INDEX).write_text(text)
    with pytest.raises(UserError, match=r"index\.json can't be read"):
        check_weights(tmp_path)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    half = sharded(tmp_path) / "model-00002-of-00002.safetensors"
    half.write_bytes(half.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is no safetensors file that can be used"):
        check_weights(tmp_path)


def test_weights_under_another_name_are_named(tmp_path: Path) -> None:
    written(tmp_path / "weights.safetensors", {"a": ONE}, b"1234")
    with pytest.raises(UserError, match=r"has weights\.safetensors, and no model\.safetensors nor"):
        weight_files(tmp_path)
    (tmp_path / "weights.safetensors").rename(tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"is a GGUF file, and Prefloop loads safetensors weights only\. Convert it"):
        weight_files(tmp_path)


# --------------------------------------------------------------------------------------------------------- architecture
def test_the_models_that_transformers_knows_are_read_without_loading_it() -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    assert kinds_in(CAUSAL) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert kinds_in(SCORED) == set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "my-own", "auto_map": {"AutoModelForCausalLM": "x.Y"}}, "'my-own' .*: it needs code that"),
        ({"model_type": "my-own"}, "can't load a 'my-own' model as a causal language model: it has none"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "can't load a 't5' model"),
        ({"architectures": ["LlamaForCausalLM"]}, "names no model_type"),
        ({"model_type": ["llama"]}, "names no model_type"),
        ([], "is no JSON object"),
    ],
)
def test_an_architecture_that_transformers_does_not_have_is_refused(tmp_path: Path, config: Any, sentence: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        check_architecture(tmp_path)


@pytest.mark.parametrize(
    "name", ["LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaForRewardModel"]
)
def test_what_was_trained_to_score_is_no_model_that_answers(tmp_path: Path, name: str) -> None:
    """Where its words come out by its embeddings it lacks no weights, and it was never trained to say them."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": [name]}))
    with pytest.raises(UserError, match=f"was trained to score texts \\('{name}'\\)"):
        check_architecture(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "llama", "architectures": None},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM", 3]},
        {"model_type": "phi3", "auto_map": {"AutoModel": "x.Y"}},
        {"model_type": "llama", "attn_implementation": "sdpa", "_attn_implementation": None},
    ],
)
def test_an_architecture_of_transformers_own_is_taken(tmp_path: Path, config: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_architecture(tmp_path)


@pytest.mark.parametrize(
    "told",
    [
        {"transformers_weights": "adapter_model.bin"},
        {"transformers_weights": "other.safetensors"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"text_config": {"_attn_implementation": {"": "eager"}}},
        {"experts_implementation": "somebody/kernel"},
    ],
)
def test_a_configuration_that_names_other_weights_or_other_code_is_refused(tmp_path: Path, told: Any) -> None:
    """Transformers would load a pickle in the place of the weights that were looked at, or fetch what computes."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **told}))
    with pytest.raises(UserError, match=r"config\.json.* says (transformers_weights|_?(attn|experts)_implementation)"):
        check_architecture(tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"1", b"", b" " * 17_000_000])
def test_texts_that_are_no_objects_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json can't be read"):
        read_object(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"none\.json can't be read"):
        read_object(tmp_path / "none.json")
