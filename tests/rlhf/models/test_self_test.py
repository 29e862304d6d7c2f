"""That a model which can't be computed rightly is refused when it is set up, with the reason, and looked at once."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GenerationConfig, MllamaForConditionalGeneration

from annotation.records import UserError
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.trainer import start_of
from rlhf.models import self_test_results
from rlhf.models.base import base_model
from rlhf.models.loading.base_weights import leave_nothing_to_chance, load_whole
from rlhf.models.memory import machines
from rlhf.models.sampling.drawing import draw
from rlhf.models.self_test.trial import SAMPLING, Numbers, keeps_adapters, load_for_trial, try_loaded, try_model
from rlhf.models.self_test_results import COMPUTING, DIRECTORY, SelfTestResult, keep_result, kept_result
from rlhf.submission import preconditions
from tests import quantised_model
from tests.architectures import EXPERTS, SETTINGS, TINY, VOCABULARY, built
from tests.machine_fixtures import Machine
from tests.tiny_model import build_tokenizer

Change = Callable[[Any, Any, Any, Any], Any]


def hooked(change: Change) -> Any:
    """A Llama in train mode whose hidden states are changed: a function of the module, ids, keywords and states."""
    model = built("llama")

    def hook(module: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> Any:
        output.last_hidden_state = change(module, keywords["input_ids"], keywords, output.last_hidden_state)
        return output

    model.base_model.register_forward_hook(hook, with_kwargs=True)
    leave_nothing_to_chance(model.train())
    return model


def failing(*_: Any) -> Any:
    raise RuntimeError("no kernel of this kind\nand more")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda module, ids, keywords, states: states + torch.randn_like(states),
            "In training it computes something else each time",
        ),
        (
            lambda module, ids, keywords, states: states * (2 - module.training),
            "When it answers it computes something else",
        ),
        (lambda module, ids, keywords, states: states * (1 + (len(ids) > 1)), "Beside a longer answer it computes"),
        (
            lambda module, ids, keywords, states: states + 9 * (keywords.get("past_key_values") is not None),
            "What it draws with a cache is not what it says without",
        ),
        (failing, r"It fails \(no kernel of this kind\)"),
    ],
)
def test_what_is_computed_in_another_way_is_refused(change: Change, said: str) -> None:
    with pytest.raises(UserError, match=said):
        try_loaded(hooked(change))


def test_what_happens_behind_the_output_matrix_unknown_to_us_is_refused() -> None:
    model = built("llama")
    own = model.forward

    def doubled(**keywords: Any) -> Any:
        output = own(**keywords)
        output.logits = 2 * output.logits
        return output

    model.forward = doubled
    with pytest.raises(UserError, match="Its logits are not made of its hidden states in a way that Prefloop knows"):
        try_loaded(model.train())


def test_a_model_between_whose_last_layer_and_output_matrix_more_is_computed_is_refused() -> None:
    """Its output matrix takes states of another width."""
    model = built("electra")
    leave_nothing_to_chance(model.train())
    with pytest.raises(UserError, match=r"It fails \(mat1 and mat2 shapes cannot be multiplied"):
        try_loaded(model)


def test_a_model_that_draws_unlikely_tokens_now_and_then_is_not_refused_for_it() -> None:
    """Half of what it draws are words of which each is unlikely, as in a vocabulary of a hundred thousand."""
    model = built("llama", vocab_size=100_000)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias = torch.nn.Parameter(torch.cat([torch.zeros(1), torch.full((99_999,), -11.6)]))
    assert try_loaded(model.train()) == SelfTestResult(packs=True, shares_prompts=True)


SHAPING: dict[str, dict[str, Any]] = {
    "scores": {"repetition_penalty": 1.3},
    "words": {"suppress_tokens": [*range(5, 40)], "bad_words_ids": [[7], [8, 9]]},
    "places": {"no_repeat_ngram_size": 1, "min_length": 20, "begin_suppress_tokens": [*range(5, 40)]},
    "cache": {"use_cache": False},
    "kind of cache": {"cache_implementation": "static"},
    "search": {"num_beams": 2, "num_return_sequences": 2},
    "end": {"stop_strings": ["x"], "max_time": 1e-9},
    "result": {"return_dict_in_generate": True},
}


@pytest.mark.parametrize("settings", SHAPING.values(), ids=SHAPING)
def test_what_a_model_says_of_how_to_draw_from_it_changes_nothing_and_stays(settings: dict[str, Any]) -> None:
    """It would shape answers without being recorded; a file that is saved has it still."""
    prompt, seeds = "5 6 7 8 5 6 7", [[1, 2, 3]]
    model = built("llama")
    expected = draw(model, Numbers(), [prompt], seeds, SAMPLING)
    model = built("llama")
    model.generation_config = GenerationConfig(**{"eos_token_id": 2, "pad_token_id": 0, **settings})
    model.config.use_cache = settings.get("use_cache", True)
    said = model.generation_config.to_dict()
    assert draw(model, Numbers(), [prompt], seeds, SAMPLING) == expected
    leave_nothing_to_chance(model.train())
    assert try_loaded(model) == SelfTestResult(packs=True, shares_prompts=True)
    assert model.generation_config.to_dict() == said


def saved(directory: Path, family: str, **settings: Any) -> Path:
    """A tiny model of this family with a tokenizer."""
    tokenizer = build_tokenizer()
    built(family, vocab_size=len(tokenizer), **settings).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_model_is_tried_once_and_again_when_its_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data_dir = saved(tmp_path / "model", "granite"), tmp_path / "data"
    base_model.prepare(data_dir, str(model))
    assert kept_result(data_dir, model) == SelfTestResult(packs=True, shares_prompts=True)
    monkeypatch.setattr(base_model, "models_process", lambda *_: pytest.fail("tried again"))
    base_model.prepare(data_dir, str(model))
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "logits_scaling": 2.0}), "utf-8")
    os.utime(model / "config.json", (0, 0))
    monkeypatch.setattr(base_model, "models_process", lambda *_: (0, '{"packs": false, "shares_prompts": false}'))
    base_model.prepare(data_dir, str(model))
    assert kept_result(data_dir, model) == SelfTestResult(packs=False, shares_prompts=False)


def test_a_base_that_was_never_tried_here_is_tried_by_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data of a version without a self-test, or from before an upgrade of torch: no start waits for it."""
    model, data_dir = saved(tmp_path / "model", "llama"), tmp_path / "data"
    found = SelfTestResult(packs=True, shares_prompts=True)
    said = iter([(0, json.dumps(asdict(found))), (base_model.REFUSED, "It fails."), (base_model.NOT_HERE, "no GPU")])
    monkeypatch.setattr(base_model, "models_process", lambda *_: next(said))
    base_model.prepare(data_dir, str(model), known=True)
    assert kept_result(data_dir, model) is None
    for _ in range(2):
        base_model.ready(data_dir, str(model))
        assert kept_result(data_dir, model) == found
    versions = dict.fromkeys(COMPUTING, "9.9")
    monkeypatch.setattr(self_test_results, "version", versions.__getitem__)
    with pytest.raises(UserError, match=r"It fails\."):
        base_model.ready(data_dir, str(model))
    assert base_model.ready(data_dir, str(model)).untried == "no GPU"


@pytest.mark.own_start
def test_a_trial_that_the_system_killed_is_said_to_have_lacked_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n", "utf-8")
    killed.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(UserError, match=r"can't be loaded \(The process was killed, often because memory ran out\.\)"):
        base_model.self_test(tmp_path)


def test_a_model_with_more_embeddings_than_words_passes() -> None:
    """As a Llama 3.2 that also sees: eight stand for pictures, and are never said."""
    words = {**TINY, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    model = built("mllama", text_config={name: value for name, value in words.items() if name != "head_dim"})
    assert model.get_input_embeddings().weight.shape[0] > VOCABULARY == model.get_output_embeddings().weight.shape[0]
    leave_nothing_to_chance(model.train())
    assert try_loaded(model).packs


def test_a_model_of_which_nothing_whole_could_be_loaded_again_is_refused(tmp_path: Path) -> None:
    """Of a Llama 3.2 that also sees the part for words is stored, as what is no language model to transformers."""
    words = {name: value for name, value in TINY.items() if name != "head_dim"} | {"cross_attention_layers": []}
    eyes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_global_layers": 1}
    eyes |= {"attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_output_dim": 32, "max_num_tiles": 1}
    eyes |= {"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]}
    words["vocab_size"] = len(build_tokenizer())
    config = AutoConfig.for_model("mllama", text_config=words, vision_config=eyes)
    MllamaForConditionalGeneration(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is stored as a 'mllama_text_model', which transformers can't load"):
        try_model(tmp_path)


def test_a_model_that_cannot_be_computed_rightly_is_refused_when_it_is_set_up(tmp_path: Path) -> None:
    """BERT as a language model: layers stand between its hidden states and its output matrix."""
    model = saved(tmp_path / "model", "bert", is_decoder=True)
    with pytest.raises(UserError, match=r"This model can't be computed rightly here\. Its logits are not made"):
        base_model.prepare(tmp_path / "data", str(model))
    assert not (tmp_path / "data" / DIRECTORY).exists()


@pytest.mark.parametrize(
    ("settings", "said", "unread"),
    [
        ({"attention_bias": True}, {"attention_bias": False}, "model.layers.0.self_attn.k_proj.bias"),
        ({"num_hidden_layers": 4}, {"num_hidden_layers": 2}, "model.layers.2.input_layernorm.weight"),
    ],
)
def test_weights_that_the_model_would_be_computed_without_are_refused(
    tmp_path: Path, settings: dict[str, Any], said: dict[str, Any], unread: str
) -> None:
    """Its answers would be another model's, and nothing that it computes shows it."""
    model = saved(tmp_path / "model", "llama", **settings)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | said), "utf-8")
    with pytest.raises(UserError, match=rf"a model of its config\.json is computed without: {unread}, "):
        try_model(model)


@pytest.mark.parametrize("method", [None, {"quant_method": "of-tomorrow"}])
def test_weights_whose_scales_nothing_reads_are_refused(tmp_path: Path, method: dict[str, str] | None) -> None:
    """As of a checkpoint in 8 bits that lost what its configuration says of them, or is stored in an unknown way."""
    model = (
        saved(tmp_path / "model", "llama", quantization_config=method) if method else saved(tmp_path / "model", "llama")
    )
    weights = load_file(model / "model.safetensors")
    scales = {f"{name}_scale_inv": torch.ones(1) for name in weights if name.endswith("proj.weight")}
    save_file(weights | scales, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"is computed without: model\.layers\.0\.mlp\.down_proj\.weight_scale_inv, "):
        try_model(model)


def test_weights_of_parts_that_draw_no_answer_are_passed_over(tmp_path: Path) -> None:
    """As those that guess several tokens at once (DeepSeek), of a scalar head, and what older files noted of places."""
    model = saved(tmp_path / "model", "llama", num_nextn_predict_layers=1)
    weights = load_file(model / "model.safetensors")
    one = torch.ones(4)
    beside = ("mtp.layers.0.norm.weight", "model.layers.2.eh_proj.weight", "score.weight", "vision.layers.0.fc.weight")
    older = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.masked_bias")
    more = {name: one.clone() for name in (*beside, *older, "model.layers.0.self_attn.bias")}
    save_file(weights | more, model / "model.safetensors", {"format": "pt"})
    assert try_model(model).adapters


def test_a_size_that_the_weights_have_not_is_refused_before_memory_is_taken_for_it(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama")
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 10**12}), "utf-8")
    with pytest.raises(UserError, match="missing or of another size"):
        try_model(model)


def test_a_model_is_tried_in_32_bits_only_where_its_container_has_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built("llama").bfloat16().save_pretrained(tmp_path)
    assert load_for_trial(tmp_path).dtype == torch.float32
    monkeypatch.setattr(machines, "container_limit", lambda: (2_000_000, 1_990_000))
    assert load_for_trial(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize(("family", "trains"), [("laguna", False), ("gpt_oss", True), ("nemotron_h", True)])
def test_no_adapter_is_trained_that_could_not_be_used_once_it_was_stored(
    tmp_path: Path, family: str, trains: bool
) -> None:
    """Transformers reads the names of a Laguna's layers otherwise than PEFT has written them."""
    directory = saved(tmp_path / "model", family, **SETTINGS.get(family, EXPERTS))
    result = try_model(directory)
    assert result.adapters == trains
    assert [bool(result.problem(method)) for method in ("lora", "qlora", "full", "prompt")] == [
        *[not trains] * 2,
        *[False] * 2,
    ]


def test_large_activations_say_nothing_against_adapters(tmp_path: Path) -> None:
    """As models of several billion parameters have them, in float16, which ends at 65504."""
    model = built("llama").half()
    for name, value in model.named_parameters():
        value.data *= 200.0 if "post_attention_layernorm" in name else 0.1
    model.save_pretrained(tmp_path)
    assert keeps_adapters(model, tmp_path)


def test_a_disk_that_takes_no_adapter_says_nothing_against_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built("llama")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        keeps_adapters(model, tmp_path)


def test_a_training_by_adapters_is_refused_where_these_could_not_be_used(machine: Machine) -> None:
    keep_result(machine.data_dir, machine.model, SelfTestResult(packs=True, shares_prompts=True, adapters=False))
    with pytest.raises(UserError, match="LoRA on this base model's layers fails"):
        start_of(MagicMock(db=machine.db, data_dir=machine.data_dir), DPOSpec(model=str(machine.model), method="lora"))
    for method, refused in (("lora", 1), ("qlora", 1), ("full", 0), ("prompt", 0)):
        found = preconditions.check(machine.db, DPOSpec(method=method))  # type: ignore[arg-type]
        assert sum("LoRA on this base model's layers fails" in sentence for sentence in found) == refused


def test_a_model_that_is_stored_in_8_bits_is_tried_as_it_is(tmp_path: Path, tiny_model: Any) -> None:
    stored = quantised_model.build(tmp_path / "int8", tiny_model, bits=8)
    assert base_model.prepare(tmp_path / "data", str(stored)).untried == ""
    assert kept_result(tmp_path / "data", stored) is not None


def test_a_quantised_model_that_this_machine_cannot_compute_is_said_to_be_untried(tmp_path: Path) -> None:
    """Its packages, or a GPU, are missing: that says nothing against it, and it is tried where they are not."""
    model, data_dir = saved(tmp_path / "model", "llama"), tmp_path / "data"
    config = json.loads((model / "config.json").read_text("utf-8"))
    how = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": how}), "utf-8")
    base = base_model.prepare(data_dir, str(model))
    assert base.untried
    assert "could not be tried on this machine (" in base.remark
    assert kept_result(data_dir, model) is None


def test_what_is_stored_quantised_and_computed_wrongly_is_refused(tmp_path: Path, tiny_model: Any) -> None:
    model = load_whole(quantised_model.build(tmp_path / "int8", tiny_model, bits=8), dtype="auto")
    model.base_model.register_forward_hook(
        lambda module, arguments, output: setattr(
            output, "last_hidden_state", output.last_hidden_state * (1 + (len(output.last_hidden_state) > 1))
        )
    )
    leave_nothing_to_chance(model.train())
    with pytest.raises(UserError, match="Beside a longer answer it computes"):
        try_loaded(model)
