"""An adapter's configuration as a record: what PEFT writes computes the same; what is odd has a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from annotation.records import UserError
from rlhf.models.adapters.stored_adapter import StoredLora, StoredPrompt, read_adapter, write_settings
from rlhf.models.loading.base_weights import load_plain
from rlhf.models.loading.loaded_policies import LoadedWeights

Q, FIRST = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"
PATTERNS = {"rank_pattern": {"up_proj": 2, "^model.layers.0.self_attn.q_proj": 3}, "alpha_pattern": {"up_proj": 0.5}}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "up_proj"]}
KINDS: Mapping[str, LoraConfig | PromptTuningConfig] = {
    "plain": LoraConfig(**LORA),
    "of no task": LoraConfig(**{**LORA, "task_type": None}),
    "everywhere": LoraConfig(**{**LORA, "target_modules": "all-linear"}),
    "dora": LoraConfig(**LORA, use_dora=True),
    "rslora": LoraConfig(**LORA, use_rslora=True),
    "patterns": LoraConfig(**LORA, **PATTERNS),
    "upper": LoraConfig(**LORA, layers_to_transform=[1], layers_pattern="layers"),
    "one layer": LoraConfig(**LORA, layers_to_transform=1),
    "left out": LoraConfig(**LORA, exclude_modules=["up_proj"]),
    "by a pattern": LoraConfig(**{**LORA, "target_modules": r".*\.(q|k)_proj"}),
    "beside it": LoraConfig(**LORA, modules_to_save=["norm"]),
    "biased": LoraConfig(**LORA, lora_bias=True),
    "words": LoraConfig(**LORA, trainable_token_indices=[5, 6]),
    "virtual": PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


def stored(tiny_model: Path, directory: Path, kind: str) -> Path:
    """An adapter with random weights, as PEFT writes it."""
    torch.manual_seed(0)
    model = get_peft_model(load_plain(tiny_model, torch.float32), replace(KINDS[kind]))
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * value.requires_grad * torch.randn_like(value)
    model.save_pretrained(directory, save_embedding_layers=False)
    return directory


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[3, 4, 5]])).logits
    return found


def told(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "adapter_config.json").read_text("utf-8"))
    return found


def tell(directory: Path, **changes: Any) -> None:
    """Change an adapter's configuration."""
    (directory / "adapter_config.json").write_text(json.dumps({**told(directory), **changes}), "utf-8")


@pytest.mark.filterwarnings("ignore:.*lora_bias=True")
@pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape")
@pytest.mark.filterwarnings("ignore:.*use_rslora")
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_writes_computes_the_same_from_its_record_and_from_what_is_written_anew(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """As an older data directory has it, and as it lies in one once it was pulled."""
    directory = stored(tiny_model, tmp_path / "adapter", kind)
    plain = load_plain(tiny_model, torch.float32).eval()
    by_peft = logits(PeftModel.from_pretrained(load_plain(tiny_model, torch.float32), directory).eval())
    assert not torch.equal(by_peft, logits(plain))
    loaded = LoadedWeights(plain)

    def here(revision: str) -> torch.Tensor:
        loaded.attach(directory, revision)
        return logits(loaded.with_prompt(revision) if kind == "virtual" else loaded.with_lora(revision))

    torch.testing.assert_close(here("as-it-was"), by_peft, rtol=1e-5, atol=1e-5)
    record = read_adapter(directory)
    write_settings(directory, record)
    assert read_adapter(directory) == record
    torch.testing.assert_close(here("anew"), by_peft, rtol=1e-5, atol=1e-5)
    again = logits(PeftModel.from_pretrained(load_plain(tiny_model, torch.float32), directory).eval())
    torch.testing.assert_close(again, by_peft, rtol=1e-5, atol=1e-5)


@pytest.fixture
def lora(tiny_model: Path, tmp_path: Path) -> Path:
    return stored(tiny_model, tmp_path / "adapter", "plain")


@pytest.fixture
def virtual(tiny_model: Path, tmp_path: Path) -> Path:
    return stored(tiny_model, tmp_path / "virtual", "virtual")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"r": "8"}, "adapter_config.json's 'r' must be of type int, not '8'. Have PEFT write"),
    ({"r": True}, "'r' must be of type int, not True"),
    ({"r": 0}, "'r' must be above zero, not 0"),
    ({"r": 16}, ": r 16"),
    ({"lora_alpha": []}, "'lora_alpha' must be of type float, not []"),
    ({"lora_alpha": -1}, "'lora_alpha' must be above zero, not -1"),
    ({"lora_alpha": float("nan")}, "'lora_alpha' must be above zero, not nan"),
    ({"target_modules": 3}, "'target_modules' must be a list, not 3"),
    ({"target_modules": [3]}, "'target_modules.0' must be of type str, not 3"),
    ({"target_modules": ["q_proj"]}, f"{FIRST}: target_modules ['q_proj']"),
    ({"exclude_modules": {"a": 1}}, "'exclude_modules' must be a list"),
    ({"exclude_modules": ["q_proj"]}, f"{Q}: exclude_modules ['q_proj']"),
    ({"layers_to_transform": "x"}, "'layers_to_transform' must be a list, not 'x'"),
    ({"layers_to_transform": ["x"]}, "'layers_to_transform.0' must be of type int, not 'x'"),
    ({"layers_to_transform": [-1]}, "'layers_to_transform.0' must not be negative, not -1"),
    ({"layers_to_transform": [99]}, f"{FIRST}: layers_to_transform [99]"),
    ({"layers_to_transform": [0, 1], "layers_pattern": "blocks"}, f"{FIRST}: layers_to_transform [0, 1]"),
    ({"layers_to_transform": [0], "layers_pattern": 7}, "'layers_pattern' must be a list, not 7"),
    ({"rank_pattern": [4]}, "'rank_pattern' must be an object, not [4]"),
    ({"rank_pattern": {"q_proj": "4"}}, "'rank_pattern.q_proj' must be of type int, not '4'"),
    ({"rank_pattern": {"q_proj": 2}}, f"{Q}: rank_pattern {{'q_proj': 2}}"),
    ({"rank_pattern": {"(a+)+!": 4}}, "says by patterns which layers it has (rank_pattern)"),
    ({"alpha_pattern": 7}, "'alpha_pattern' must be an object, not 7"),
    ({"alpha_pattern": {"q_proj": 0}}, "'alpha_pattern.q_proj' must be above zero, not 0"),
    ({"modules_to_save": "norm"}, "'modules_to_save' must be a list, not 'norm'"),
    ({"modules_to_save": ["norm"]}, "norm: modules_to_save ['norm']"),
    ({"target_parameters": {}}, "'target_parameters' must be a list"),
    ({"trainable_token_indices": 5}, "'trainable_token_indices' must be an object, not 5"),
    ({"trainable_token_indices": [5]}, "trainable_tokens_delta: trainable_token_indices"),
    ({"use_dora": "yes"}, "'use_dora' must be of type bool, not 'yes'"),
    ({"use_dora": True}, ": use_dora True"),
    ({"use_rslora": 1}, "'use_rslora' must be of type bool, not 1"),
    ({"lora_bias": True}, ": lora_bias True"),
    ({"fan_in_fan_out": "no"}, "'fan_in_fan_out' must be of type bool, not 'no'"),
    ({"base_model_name_or_path": 7}, "'base_model_name_or_path' must be of type str, not 7"),
    ({"revision": ["main"]}, "'revision' must be of type str, not ['main']"),
    ({"bias": 7}, "settings that can't be used here (bias)"),
    ({"bias": "lora_only"}, "(bias=lora_only)"),
    ({"init_lora_weights": "pissa"}, "(init_lora_weights=pissa)"),
    ({"init_lora_weights": 3}, "(init_lora_weights)"),
    ({"use_qalora": True, "megatron_config": {"a": 1}}, "(megatron_config, use_qalora)"),
    ({"gated_by_depth": 0.5}, "(gated_by_depth)"),
    ({"another_config": {}}, "(another_config)"),
    ({"task_type": "SEQ_CLS"}, "score.weight: task_type SEQ_CLS"),
    ({"task_type": ["CAUSAL_LM"]}, "of type LORA for ['CAUSAL_LM']"),
    ({"peft_type": {}}, "is an adapter of type {} for CAUSAL_LM"),
    ({"peft_type": "PROMPT_TUNING"}, "settings that can't be used here"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=lambda value: str(value)[:50])
def test_a_setting_that_is_not_what_its_tensors_are_has_a_sentence(
    lora: Path, changes: dict[str, Any], sentence: str
) -> None:
    tell(lora, **changes)
    with pytest.raises(UserError) as refused:
        read_adapter(lora)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(str(lora))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_virtual_tokens": -1}, "'num_virtual_tokens' must be above zero, not -1"),
        ({"num_virtual_tokens": "3"}, "'num_virtual_tokens' must be of type int, not '3'"),
        ({"num_virtual_tokens": 4}, "prompt_embeddings (3, 64): num_virtual_tokens 4"),
        ({"token_dim": 7}, "prompt_embeddings (3, 64): token_dim 7"),
        ({"num_layers": []}, "'num_layers' must be of type int, not []"),
        ({"num_transformer_submodules": 2}, "can't be used here (num_transformer_submodules)"),
        ({"modules_to_save": ["norm"]}, "can't be used here (modules_to_save)"),
        ({"task_type": "SEQ_CLS"}, "is an adapter of type PROMPT_TUNING for SEQ_CLS"),
    ],
)
def test_virtual_tokens_that_are_not_what_they_say_have_a_sentence(
    virtual: Path, changes: dict[str, Any], sentence: str
) -> None:
    tell(virtual, **changes)
    with pytest.raises(UserError) as refused:
        read_adapter(virtual)
    assert sentence in str(refused.value)


def test_nothing_foreign_is_left_in_what_is_written_anew(lora: Path, virtual: Path) -> None:
    """What tells how an adapter was made or named code says nothing of what it computes, and a newer PEFT's defaults
    don't, either."""
    newer = {"a_newer_setting": None, "another": False, "a_third": [], "a_pattern": {}, "lora_dropout": "much"}
    tell(lora, **newer, auto_mapping={"parent_library": "os"}, runtime_config={"a": 1}, velora_config={"scale": 2.0})
    tell(virtual, **newer, tokenizer_name_or_path="/home/ann/model", prompt_tuning_init="TEXT")
    for directory, kind in ((lora, StoredLora), (virtual, StoredPrompt)):
        record = read_adapter(directory)
        assert type(record) is kind
        write_settings(directory, replace(record, base_model_name_or_path="ann/base", revision="main"))
        found = told(directory)
        assert {*found} == {"peft_type", *(field.name for field in fields(kind))}
        assert (found["base_model_name_or_path"], found["revision"]) == ("ann/base", "main")


def test_a_rank_that_none_of_its_tensors_has_takes_no_memory(tiny_model: Path, tmp_path: Path) -> None:
    """PEFT makes matrices also for layers that an adapter has none for."""
    directory = stored(tiny_model, tmp_path / "adapter", "plain")
    name = next(iter(load_file(directory / "adapter_model.safetensors")))
    only = name.removeprefix("base_model.model.").rpartition(".lora_")[0]
    weights = load_file(directory / "adapter_model.safetensors")
    save_file({key: value for key, value in weights.items() if only in key}, directory / "adapter_model.safetensors")
    tell(directory, rank_pattern={f"^{only}": 4, "q_proj": 10**9, "up_proj": 10**9}, r=10**9)
    record = read_adapter(directory)
    assert isinstance(record, StoredLora)
    assert {record.r, *record.rank_pattern.values()} == {4}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("layers", [["elsewhere"], "all-linear"])
def test_an_adapter_none_of_whose_layers_the_weights_have_is_refused_by_a_sentence(
    tiny_model: Path, lora: Path, layers: Any
) -> None:
    file = lora / "adapter_model.safetensors"
    weights = {name.replace("q_proj", "elsewhere"): value for name, value in load_file(file).items() if "q_p" in name}
    save_file(weights, file, {"format": "pt"})
    tell(lora, target_modules=layers)
    loaded = LoadedWeights(load_plain(tiny_model, torch.float32).eval())
    with pytest.raises(UserError, match=r"is on layers that the weights under it have not \(.*elsewhere"):
        loaded.attach(lora, "odd")
