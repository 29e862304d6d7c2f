"""Estimates before a run: parameters against PEFT's count, memory against what autograd keeps."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from annotation.records import UserError
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs.job_spec import Precision, TrainingSpec
from rlhf.models.memory import fitting, machines, model_shapes, parameter_counts, run_memory
from rlhf.models.memory.machines import Machine
from rlhf.models.memory.model_shapes import Shapes
from rlhf.models.memory.run_memory import NOTHING_KNOWN, RunMemory, Workload
from rlhf.submission.preconditions import adapter_problem
from tests.architectures import EXPERTS, VOCABULARY, built
from tests.machine_fixtures import ROOT
from tests.rlhf.models.test_architectures import FAMILIES

PROCESSOR = Machine("8 processors", 16_000_000_000, 12_000_000_000, bf16=True)
# Hidden 8, MLP 16, 2 layers, 2 heads of which 1 for keys and values, 10 tokens, an output embedding of its own.
LAYER = {
    "self_attn.q_proj.weight": (8, 8),
    "self_attn.k_proj.weight": (4, 8),
    "self_attn.v_proj.weight": (4, 8),
    "self_attn.o_proj.weight": (8, 8),
    "mlp.gate_proj.weight": (16, 8),
    "mlp.up_proj.weight": (16, 8),
    "mlp.down_proj.weight": (8, 16),
    "input_layernorm.weight": (8,),
}
SMALL = Shapes(
    tensors={
        "model.embed_tokens.weight": (10, 8),
        **{f"model.layers.{number}.{name}": shape for number in range(2) for name, shape in LAYER.items()},
        "model.norm.weight": (8,),
        "lm_head.weight": (10, 8),
    },
    hidden=8,
    layers=2,
    inner=16,
    key_value=4,
    vocabulary=10,
    heads=2,
)


# ---------------------------------------------------------------------------------------------------------- parameters
def counted(model: Any) -> tuple[int, int]:
    """(trainable, all) parameters, as PEFT counts them; of a model without an adapter as torch does."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    own = list(model.parameters())
    return sum(one.numel() for one in own if one.requires_grad), sum(one.numel() for one in own)


METHODS: list[TrainingSpec] = [
    SFTSpec(),
    SFTSpec(lora_r=3, lora_targets="attention"),
    SFTSpec(dora=True),
    SFTSpec(dora=True, rslora=True, lora_targets="attention"),
    SFTSpec(lora_targets="upper-half"),
    SFTSpec(lora_targets="named", lora_layers="q_proj, mlp.down_proj"),
    SFTSpec(lora_targets="named", lora_layers="model.layers.1.self_attn.v_proj"),
    DPOSpec(method="qlora"),
    SFTSpec(method="prompt", virtual_tokens=7),
    SFTSpec(method="prompt", virtual_init="random"),
    SFTSpec(method="full"),
]


@pytest.mark.parametrize(
    "spec", METHODS, ids=lambda spec: f"{spec.method}-{spec.lora_targets}{spec.lora_layers}-{spec.dora}"
)
def test_parameters_are_those_that_peft_reports(tiny_model: Path, spec: TrainingSpec) -> None:
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config
    from rlhf.models.loading.base_weights import load_for_training

    model = load_for_training(tiny_model, spec)
    config = adapter_config(spec, tiny_model)
    found = parameter_counts.parameters(model_shapes.read_shapes(tiny_model), spec)
    assert (found.trainable, found.total) == counted(model if config is None else get_peft_model(model, config))
    assert found.percent == pytest.approx(100 * found.trainable / found.total)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_that_is_quantised_already_has_the_parameters_of_the_plain_one(
    tiny_model: Path, tmp_path: Path, bits: int
) -> None:
    """Its files hold packed weights, and what unpacks them; in memory it takes what its files take."""
    from tests.quantised_model import build

    plain, packed = (
        model_shapes.read_shapes(tiny_model),
        model_shapes.read_shapes(build(tmp_path / "packed", tiny_model, bits)),
    )
    assert packed.tensors == plain.tensors
    stored = sum(file.stat().st_size for file in (tmp_path / "packed").glob("*.safetensors"))
    for method in ("lora", "qlora", "prompt"):
        parts = RunMemory(packed, SFTSpec(method=method), PROCESSOR).components()
        assert {part.size for part in parts if part.name == "Frozen weights"} == {stored}
    assert model_shapes.read_shapes(tiny_model).stored == 0


def gpt2(directory: Path) -> Any:
    """A tiny GPT-2: its attention has other names, and its layers hold their weights the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=50))
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize(
    ("named", "shape", "places"),
    [
        ("model.embed_positions.weight", (66, 64), 66),
        ("model.audio_tower.embed_positions.weight", (1500, 64), 0),
        ("model.vision_tower.embeddings.position_embeddings.weight", (577, 64), 0),
        ("model.embeddings.position_embeddings", (1, 577, 64), 0),
        ("model.position_embeddings.bias", (64,), 0),
    ],
)
def test_places_are_those_of_a_text(
    tiny_model: Path, tmp_path: Path, named: str, shape: tuple[int, ...], places: int
) -> None:
    """Not those of a picture or a sound, beside a text whose places are computed."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text("utf-8"))
    del config["max_position_embeddings"]
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    weights = model / "model.safetensors"
    save_file({**load_file(weights), named: torch.zeros(shape)}, weights)
    assert model_shapes.read_shapes(model).positions == places


def test_layers_with_other_names_are_missed_and_can_be_named(tmp_path: Path) -> None:
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config

    model, shapes = gpt2(tmp_path), model_shapes.read_shapes(tmp_path)
    assert parameter_counts.missing_targets(shapes, SFTSpec()) == []
    attention = SFTSpec(lora_targets="attention")
    assert parameter_counts.missing_targets(shapes, attention) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert parameter_counts.parameters(shapes, attention).trainable == 0
    named = SFTSpec(lora_targets="named", lora_layers="c_attn, mlp.c_proj, attn", lora_r=2)
    assert parameter_counts.missing_targets(shapes, named) == ["attn"], "a module, but no layer with a weight"
    named = replace(named, lora_layers="c_attn, mlp.c_proj")
    assert parameter_counts.missing_targets(shapes, named) == []
    found = parameter_counts.parameters(shapes, named)
    assert (found.trainable, found.total) == counted(get_peft_model(model, adapter_config(named, tmp_path)))


@pytest.mark.parametrize("family", ["dbrx", "gpt_neo", "mamba", "mpt", "nemotron_h", "openai-gpt", "xglm"])
def test_a_model_is_counted_whatever_its_configuration_calls_its_sizes(tmp_path: Path, family: str) -> None:
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config

    model = built(family)
    model.save_pretrained(tmp_path)
    shapes = model_shapes.read_shapes(tmp_path)
    assert (shapes.hidden, shapes.layers, shapes.vocabulary) == (32, 2, VOCABULARY)
    takes_virtual = family != "mamba"
    for spec in (DPOSpec(method="lora"), *[DPOSpec(method="prompt", virtual_init="random")] * takes_virtual):
        adapted = get_peft_model(copy.deepcopy(model), adapter_config(spec, tmp_path))
        assert parameter_counts.parameters(shapes, spec).trainable == counted(adapted)[0]


@pytest.mark.parametrize("family", ["gemma3n_text", "gemma4_text"])
def test_a_table_of_what_layers_add_to_words_is_counted_as_one(tmp_path: Path, family: str) -> None:
    """It gets no adapter and is not held in 4 bits, and has nearly half the parameters of a Gemma 3n."""
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config
    from rlhf.models.loading.base_weights import load_quantised

    built(family).save_pretrained(tmp_path)
    shapes, spec = model_shapes.read_shapes(tmp_path), DPOSpec(method="qlora")
    model = load_quantised(tmp_path, torch.bfloat16)
    held = [value for value in model.parameters() if type(value).__name__ == "Params4bit"]
    assert model_shapes.packed_in(shapes.tensors) == sum(math.prod(value.quant_state.shape) for value in held)
    adapted = get_peft_model(model, adapter_config(spec, tmp_path))
    assert parameter_counts.parameters(shapes, spec).trainable == counted(adapted)[0]


@pytest.mark.parametrize(("family", "left_out"), [("falcon_h1", "out_proj"), ("phimoe", "router")])
def test_layers_that_can_have_no_adapter_get_none(tmp_path: Path, family: str, left_out: str) -> None:
    """PEFT refuses them, or their router's result would be taken for a product."""
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config

    built(family).save_pretrained(tmp_path)
    shapes = model_shapes.read_shapes(tmp_path)
    model = get_peft_model(built(family), adapter_config(DPOSpec(method="lora"), tmp_path))
    assert left_out not in {name.split(".")[-1] for name in model.targeted_module_names}
    model(input_ids=torch.tensor([[3, 4, 5]]))
    assert not any(
        model_shapes.ends(name, left_out) for name in parameter_counts.targets(shapes, DPOSpec(method="lora"))
    )
    named = DPOSpec(method="lora", lora_targets="named", lora_layers=f"{left_out}, o_proj")
    assert parameter_counts.missing_targets(shapes, named) == [left_out]


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_in_the_upper_half_are_where_they_are_counted(tmp_path: Path, family: str) -> None:
    """Or are refused in words, where experts can have none there."""
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config

    built(family).save_pretrained(tmp_path)
    shapes, spec = model_shapes.read_shapes(tmp_path), DPOSpec(method="lora", lora_targets="upper-half")
    if problems := [*adapter_problem(shapes, spec)]:
        assert "in all layers or in none" in problems[0]
        return
    adapted = get_peft_model(built(family), adapter_config(spec, tmp_path))
    assert parameter_counts.parameters(shapes, spec).trainable == counted(adapted)[0]


SOME_LAYERS_DENSE = {**EXPERTS, "mlp_only_layers": [0]}
# PEFT looks for the layers with twice the rank among modules only, and finds them among parameters all the same.
RANKS_OF_PARAMETERS = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")


@RANKS_OF_PARAMETERS
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen3_moe", EXPERTS),
        ("qwen3_moe", SOME_LAYERS_DENSE),
        ("mixtral", EXPERTS),
        ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 24}),
        ("granitemoe", EXPERTS),
        ("phimoe", EXPERTS),
        ("gpt_oss", EXPERTS),
        ("granitemoehybrid", {}),
    ],
)
def test_experts_have_the_adapters_that_peft_gives_them(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    """Some kinds' get them, two layers in one of twice the rank, and what is no expert's has none; others' get none."""
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config

    model = built(family, **settings)
    model.save_pretrained(tmp_path)
    shapes = model_shapes.read_shapes(tmp_path)
    for spec in (DPOSpec(method="lora"), DPOSpec(method="lora", lora_r=3, lora_targets="attention")):
        adapted = get_peft_model(copy.deepcopy(model), adapter_config(spec, tmp_path))
        found = parameter_counts.parameters(shapes, spec)
        assert (found.trainable, found.total) == counted(adapted)
        names = [name for name, value in adapted.named_parameters() if value.requires_grad and ".experts." in name]
        assert bool(names) == bool(parameter_counts.adapted_experts(shapes, spec))


@RANKS_OF_PARAMETERS
@pytest.mark.parametrize(("family", "layers"), [("qwen3_moe", "gate_proj, q_proj"), ("mixtral", "w3")])
def test_adapters_that_peft_refuses_on_experts_are_refused_in_words(tmp_path: Path, family: str, layers: str) -> None:
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config

    model = built(family, **EXPERTS)
    model.save_pretrained(tmp_path)
    shapes = model_shapes.read_shapes(tmp_path)
    plain = DPOSpec(method="lora", lora_r=4)
    half = replace(plain, lora_targets="named", lora_layers=layers)
    gate = replace(plain, lora_targets="named", lora_layers="gate", dora=True)
    for spec, sentence in (
        (replace(plain, dora=True), "DoRA can't be put on the experts"),
        (gate, "DoRA can't be put on the experts"),
        (half, "as one layer: name both in lora_layers"),
        (replace(plain, lora_targets="upper-half"), "in all layers or in none"),
    ):
        if spec.lora_targets != "upper-half":  # which PEFT takes, and gives all layers' experts adapters
            with pytest.raises(ValueError, match=r"use_dora|without also targeting"):
                get_peft_model(copy.deepcopy(model), adapter_config(spec, tmp_path))
        (problem,) = adapter_problem(shapes, spec)
        assert sentence in problem
    both = replace(plain, lora_targets="named", lora_layers=", ".join(shapes.experts[:2]))
    for spec in (plain, both, replace(plain, lora_targets="attention", dora=True)):
        get_peft_model(copy.deepcopy(model), adapter_config(spec, tmp_path))
        assert not [*adapter_problem(shapes, spec)]


@RANKS_OF_PARAMETERS
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_copy_of_the_experts_is_kept_where_they_get_adapters(tmp_path: Path, precision: Precision) -> None:
    """For each row, so layers are computed again; then it is that of one layer, and its gradient."""
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config, hold_in_float32
    from rlhf.models.loading.base_weights import load_for_training

    built("qwen3_moe", **EXPERTS).save_pretrained(tmp_path)
    shapes, spec = model_shapes.read_shapes(tmp_path), SFTSpec(method="lora", precision=precision, lora_r=4)
    model = get_peft_model(load_for_training(tmp_path, spec), adapter_config(spec, tmp_path))
    hold_in_float32(model)
    experts = [value for name, value in model.named_parameters() if name.endswith(("down_proj", "gate_up_proj"))]
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        of_experts = tensor.dim() == 3 and tensor.numel() in {value.numel() for value in experts}
        if of_experts and all(tensor.data_ptr() != value.data_ptr() for value in experts):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model(input_ids=torch.tensor([[3, 4, 5]], device=model.device))
    layer, width = parameter_counts.adapted_experts(shapes, spec), 2 if precision == "bf16" else 4
    assert layer == 4 * 3 * 32 * 16
    assert sum(kept.values()) == shapes.layers * layer * width
    assert RunMemory(shapes, spec, PROCESSOR).recomputes
    assert not RunMemory(shapes, replace(spec, lora_targets="attention"), PROCESSOR).recomputes
    parts = {part.name: part.size for part in RunMemory(shapes, spec, PROCESSOR).components()}
    assert parts["Experts with adapters"] == 2 * width * layer


def test_experts_that_are_held_together_are_not_held_in_four_bits(tmp_path: Path) -> None:
    from rlhf.models.loading.base_weights import load_quantised

    built("qwen3_moe").save_pretrained(tmp_path)
    held = load_quantised(tmp_path, torch.bfloat16).named_parameters()
    plain = [value.numel() for name, value in held if type(value).__name__ != "Params4bit" and "norm" not in name]
    parts = RunMemory(model_shapes.read_shapes(tmp_path), SFTSpec(method="qlora"), PROCESSOR).components()
    (size,) = (part.size for part in parts if part.name == "Frozen weights")
    assert 0.9 * 2 * sum(plain) < size


def test_a_reward_models_head_is_counted(tiny_model: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    from rlhf.models.loading.adapter_loading import adapter_config
    from rlhf.models.loading.base_weights import load_for_training

    spec = RewardModelSpec(method="lora", lora_r=5)
    model = load_for_training(tiny_model, spec, AutoModelForSequenceClassification, num_labels=1)
    found = parameter_counts.parameters(model_shapes.read_shapes(tiny_model), spec)
    assert (found.trainable, found.total) == counted(get_peft_model(model, adapter_config(spec, tiny_model, "SEQ_CLS")))


def test_ppo_trains_a_policy_and_a_critic_of_the_reward_models_shape(tiny_model: Path) -> None:
    from peft import get_peft_model

    from rlhf.models.loading.adapter_loading import adapter_config
    from rlhf.models.loading.base_weights import load_for_training

    spec, reward = PPOSpec(method="lora", lora_r=4), RewardModelSpec(method="lora", lora_r=6, lora_targets="attention")
    model = get_peft_model(load_for_training(tiny_model, spec), adapter_config(spec, tiny_model))
    model.add_adapter("critic", adapter_config(reward, tiny_model))
    model.add_adapter("reward", adapter_config(reward, tiny_model))
    names = ("default", "critic")
    own = [value.numel() for name, value in model.named_parameters() if any(f".{part}." in name for part in names)]
    found = parameter_counts.parameters(model_shapes.read_shapes(tiny_model), spec, reward)
    assert found.trainable == sum(own) + 64 + 1  # and the critic's head: a weight for each hidden unit, and a bias
    assert found.total == sum(value.numel() for value in model.parameters())


def test_a_tied_embedding_is_counted_once(tiny_model: Path, tmp_path: Path) -> None:
    """Whether its file holds it once or twice."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    config = json.loads((tiny_model / "config.json").read_text("utf-8")) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copy(tiny_model / "model.safetensors", tmp_path)
    twice = model_shapes.read_shapes(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    once = model_shapes.read_shapes(tmp_path)
    assert counted(AutoModelForCausalLM.from_pretrained(tmp_path)) == (once.total, once.total)
    assert twice.tensors.keys() == once.tensors.keys()
    assert model_shapes.read_shapes(tiny_model).total == once.total + 320 * 64


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("config", "inner"),
    [
        ({"text_config": SIZES}, 24),  # Gemma 3, whose words are as many as usual for it
        ({**SIZES, "text_config": None, "vocab_size": 32}, 24),
        ({**SIZES, "intermediate_size": [8, 24]}, 24),  # Gemma 3n: by layer
        ({**SIZES, "num_attention_heads": [4, 2], "num_key_value_heads": [2, 1]}, 24),
        ({**SIZES, "intermediate_size": None}, 64),
        ({**SIZES, "num_attention_heads": "four"}, None),
    ],
)
def test_sizes_are_found_however_a_configuration_says_them(
    tmp_path: Path, config: dict[str, Any], inner: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = {"model.embed_tokens.weight": torch.zeros(32, 16), "model.layers.0.q.weight": torch.zeros(16, 16)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="names no num_attention_heads") if inner is None else nullcontext():
        found = model_shapes.read_shapes(tmp_path)
        assert (found.hidden, found.heads, found.inner, found.vocabulary) == (16, 4, inner, 32)


def test_weights_in_several_files_are_read_by_their_index(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    (tmp_path / "consolidated.safetensors").write_bytes(b"another copy, in another form")
    assert model_shapes.read_shapes(tmp_path).tensors == model_shapes.read_shapes(tiny_model).tensors


def test_files_that_changed_are_read_again_and_missing_ones_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no safetensors"):
        model_shapes.read_shapes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"vocab_size": 320}', "utf-8")
    with pytest.raises(UserError, match="hidden_size"):
        model_shapes.read_shapes(tmp_path)


# -------------------------------------------------------------------------------------------------------------- memory
def sizes(spec: TrainingSpec, machine: Machine = PROCESSOR, load: Workload = NOTHING_KNOWN) -> dict[str, float]:
    """Bytes by component."""
    return {part.name: part.size for part in RunMemory(SMALL, spec, machine, load).components()}


def test_memory_is_worked_out_by_component() -> None:
    """A LoRA of rank 2 on attention: 2 layers x 2 x (16 + 12 + 12 + 16) = 224 weights in 32 bits, AdamW twice that."""
    spec = SFTSpec(lora_r=2, lora_targets="attention", batch_size=3, max_length=5)
    assert SMALL.total == 80 + 2 * (64 + 32 + 32 + 64 + 3 * 128 + 8) + 8 + 80
    found = sizes(spec)
    assert found["Frozen weights"] == 2 * SMALL.total
    assert (found["Trained weights"], found["Gradients"], found["Optimiser state"]) == (896, 896, 1792)
    assert found["Activations"] == pytest.approx(2 * 15 * (14.7 * 8 + 6.3 * 16 + 2 * 2 * 5))
    assert found["Scores of the vocabulary"] == 15 * 10 * 14
    assert "Weights in 16 bits" not in found
    shorter = sizes(spec, load=Workload(item_tokens=2))
    assert shorter["Scores of the vocabulary"] == 6 * 10 * 14
    in_fp32 = sizes(replace(spec, precision="fp32"))
    assert in_fp32["Frozen weights"] == 4 * SMALL.total
    assert sizes(spec, replace(PROCESSOR, bf16=False)) == in_fp32


def test_four_bits_hold_the_linear_layers_and_full_training_everything_several_times() -> None:
    linear = 2 * (64 + 32 + 32 + 64 + 3 * 128)
    quantised = sizes(SFTSpec(method="qlora"))
    assert quantised["Frozen weights"] == pytest.approx(0.51587 * linear + 2 * (SMALL.total - linear), rel=1e-4)
    full = sizes(SFTSpec(method="full"))
    assert "Frozen weights" not in full
    assert full["Trained weights"] == full["Gradients"] == 4 * SMALL.total
    assert (full["Optimiser state"], full["Weights in 16 bits"]) == (8 * SMALL.total, 2 * SMALL.total)
    assert sizes(SFTSpec(method="full", optimiser="adamw-8bit"))["Optimiser state"] < 2.1 * SMALL.total
    assert "Weights in 16 bits" not in sizes(SFTSpec(method="full", precision="fp32"))


def test_both_answers_count_and_a_reward_model_meets_no_vocabulary() -> None:
    single = sizes(SFTSpec(method="qlora", batch_size=2))
    pair = sizes(DPOSpec(batch_size=1), load=Workload(answers=2))
    assert pair["Activations"] == pytest.approx(single["Activations"], rel=0.01), "but for what attention keeps"
    assert "Scores of the vocabulary" not in sizes(RewardModelSpec())


@pytest.mark.parametrize("kind", [RewardModelSpec, DPOSpec])
def test_all_answers_of_a_comparison_are_read_together(kind: type[TrainingSpec]) -> None:
    """As many as the largest has; where that is not known, as many as a comparison can have."""
    spec = kind(batch_size=1, max_length=100)
    by_answers = {answers: sizes(spec, load=Workload(answers=answers))["Activations"] for answers in (2, 4, 8)}
    for answers, found in by_answers.items():
        tokens = answers * 100
        attention = 2 * 2 * tokens if tokens <= 512 else 2 * (tokens + 2.5 * 8)
        assert found == pytest.approx(2 * tokens * (16.7 * 8 + 8.3 * 16 + attention))
    assert sizes(spec)["Activations"] == by_answers[8]
    assert sizes(spec, load=Workload(item_tokens=200, answers=8))["Activations"] == by_answers[2], (
        "what is known counts"
    )


def test_what_sees_what_is_kept_for_rows_of_bounded_length() -> None:
    """In one row, 8 items of 1024 tokens would take 8192 x 8192 numbers a layer."""
    spec = SFTSpec(batch_size=8, max_length=1024)
    per_token = 16.7 * 8 + 8.3 * 16 + 2 * 2.5 * 8
    assert sizes(spec)["Activations"] == pytest.approx(2 * 8192 * (per_token + 2 * 1024))
    long = replace(spec, batch_size=1, max_length=3000)
    assert sizes(long)["Activations"] == pytest.approx(2 * 3000 * (per_token + 2 * 3000)), "an item is not cut"


def test_more_tokens_than_memory_holds_are_computed_in_passes() -> None:
    """By all the memory of the machine, less what the weights take; never less than a row, and no item is cut."""
    spec = SFTSpec(batch_size=64, max_length=1024)
    tight = replace(PROCESSOR, total=1_240_000_000)
    per_token = 2 * (16.7 * 8 + 8.3 * 16 + 2 * (1024 + 2.5 * 8))
    beside = sum(size for name, size in sizes(spec, tight).items() if name != "Activations")
    tokens = RunMemory(SMALL, spec, tight).pass_tokens
    assert tokens == int((620_000_000 - beside) / per_token)
    assert 1024 < tokens < 64 * 1024
    assert sizes(spec, tight)["Activations"] == pytest.approx(tokens * per_token)
    assert sizes(spec)["Activations"] == pytest.approx(64 * 1024 * per_token), "all at once where memory is large"
    none_left = replace(PROCESSOR, total=100_000_000)
    assert RunMemory(SMALL, spec, none_left).pass_tokens == 1024
    assert (
        RunMemory(SMALL, replace(spec, max_length=3000), none_left, NOTHING_KNOWN)
        .activations()
        .why.startswith("up to 3,000")
    )


def test_ppo_holds_four_roles() -> None:
    found = sizes(PPOSpec(method="lora"))
    alone = sizes(SFTSpec())
    head = 4 * (8 + 1)
    assert found["Reward model"] == alone["Trained weights"]
    assert found["Trained weights"] == 2 * alone["Trained weights"] + head
    wide = replace(SMALL, key_value=4000)
    drawing = {part.name: part for part in RunMemory(wide, PPOSpec(method="lora"), PROCESSOR).components()}
    assert drawing["Keys and values"].size == 4 * 4 * 512 * 2 * 2 * 4000 * 2


@pytest.mark.parametrize(("gpu", "row"), [(True, 4096), (False, 1024)])
def test_layers_are_computed_again_where_memory_does_not_hold_what_a_row_keeps(gpu: bool, row: int) -> None:
    """On a card and on a processor, by all of its memory; then what goes into each layer is kept, and one layer."""
    real = replace(SMALL, hidden=512, inner=1536, heads=8, layers=8)
    spec = SFTSpec(max_length=512, batch_size=64)
    roomy = Machine("a machine", 80_000_000_000, 1, bf16=True, gpu=gpu)
    attention = 2 * (4096 + 2.5 * 512) if gpu else 2 * 8 * 512
    layer = 16.7 * 512 + 8.3 * 1536 + attention
    beside = sum(part.size for part in RunMemory(real, spec, roomy).beside_activations())
    enough = (beside + row * 8 * layer) / run_memory.KEEPING_SHARE
    for total, again in ((enough * 1.01, False), (enough * 0.99, True)):
        machine = replace(roomy, total=int(total))
        assert RunMemory(real, spec, machine).recomputes == again
        assert RunMemory(real, spec, replace(machine, free=int(total))).recomputes == again
        per_token = layer + 8 * 512 * 2 if again else 8 * layer
        assert RunMemory(real, spec, machine).bytes_per_token(row, 512) == pytest.approx(per_token)
        assert not RunMemory(real, replace(spec, batch_size=1), machine).recomputes, "half a row or less"
        assert RunMemory(real, replace(spec, max_length=8192), machine).recomputes, "an item is not cut"
        assert RunMemory(real, replace(spec, processes=2), machine).recomputes == (again or not gpu)


def test_a_gpu_holds_one_process() -> None:
    gpu = Machine("A card", 80_000_000_000, 70_000_000_000, bf16=True, devices=2, gpu=True)
    spec = SFTSpec(processes=2)
    assert fitting.fit(SMALL, spec, gpu).processes == 1
    both = fitting.fit(SMALL, spec, PROCESSOR)
    assert both.total == pytest.approx(2 * sum(part.size for part in both.components))


def test_activations_are_about_what_autograd_keeps(tiny_model: Path) -> None:
    """Counted on the tiny model for each method and precision, without the tensors that are weights."""
    shapes = model_shapes.read_shapes(tiny_model)
    for method, targets in (("lora", "all-linear"), ("lora", "attention"), ("prompt", "all-linear"), ("full", "")):
        for precision in ("bf16", "fp32"):
            spec = replace(SFTSpec(method=method, precision=precision), lora_targets=targets or "all-linear")
            kept = kept_by_autograd(tiny_model, spec, rows=2, tokens=100)
            load = Workload(item_tokens=100)
            named = RunMemory(shapes, replace(spec, batch_size=2), PROCESSOR, load).activations().size
            assert 0.6 < named / kept < 1.7, f"{method} {targets} {precision}: {named:.0f} named, {kept} kept"


def kept_by_autograd(model_path: Path, spec: TrainingSpec, rows: int, tokens: int) -> int:
    """Bytes that a forward pass over so many rows of so many tokens keeps for the backward pass."""
    import torch
    from peft import get_peft_model

    from rlhf.models.adapters.low_rank import compute_adapters_at_once
    from rlhf.models.hidden_states import completions
    from rlhf.models.loading.adapter_loading import adapter_config, hold_in_float32
    from rlhf.models.loading.base_weights import dtype_of, load_for_training

    model = load_for_training(model_path, spec)
    config = adapter_config(spec, model_path)
    model = model if config is None else get_peft_model(model, config)
    hold_in_float32(model)
    compute_adapters_at_once(model)
    model.train()
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Rounded copies of weights are held for the forward pass only; they have a weight's shape.
        if storage.data_ptr() not in weights and tensor.shape not in {one.shape for one in model.parameters()}:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids_BT = torch.randint(0, 300, (rows, tokens))
    completion_BT = torch.zeros_like(ids_BT)
    completion_BT[:, tokens // 2 :] = 1
    bf16 = dtype_of(spec.precision) == torch.bfloat16
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        states = completions(model, ids_BT, torch.ones_like(ids_BT), completion_BT)
    assert states.before_NH.requires_grad
    return sum(kept.values())


def test_what_does_not_fit_is_said_with_what_to_lower() -> None:
    tight = replace(PROCESSOR, free=700_000_000)
    fits = fitting.fit(SMALL, SFTSpec(batch_size=1, max_length=64), tight)
    assert fits.fits
    assert "0.6 GB of the 0.7 GB" in fits.sentence
    wide = fitting.fit(SMALL, SFTSpec(batch_size=64), tight)
    assert not wide.fits
    assert "does not fit" in wide.sentence
    assert "Lower batch_size (64) or max_length (512), and raise accumulation as much" in wide.sentence
    big = replace(SMALL, tensors={**SMALL.tensors, "model.layers.0.mlp.big.weight": (10_000, 100_000)})
    assert "use the method QLoRA" in fitting.fit(big, SFTSpec(), tight).sentence
    assert "train an adapter" in fitting.fit(big, SFTSpec(method="full"), tight).sentence
    assert "a smaller base model" in fitting.fit(big, DPOSpec(method="qlora", lora_r=1), tight).sentence
    close = fitting.fit(SMALL, SFTSpec(), replace(PROCESSOR, free=math.ceil(1.01 * fit_total(SFTSpec()))))
    assert "may not fit" in close.sentence


def fit_total(spec: TrainingSpec) -> float:
    """Bytes that a spec takes."""
    return fitting.fit(SMALL, spec, PROCESSOR).total


def test_this_machine_is_described_as_torch_sees_it() -> None:
    import torch

    from rlhf.models.loading.base_weights import compute_dtype

    machine = machines.this_machine()
    assert 0 < machine.free <= machine.total
    assert machine.bf16 == (compute_dtype() == torch.bfloat16)
    assert machine.gpu == torch.cuda.is_available()


def test_the_graphics_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real program of that name that answers like the driver's, and one that fails."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'Some Card, 81559, 80994, 9.0'\necho 'Some Card, 81559, 80994, 9.0'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine = machines.this_machine()
    assert (machine.name, machine.devices, machine.gpu, machine.bf16) == ("Some Card", 2, True, True)
    assert machine.total == 81559 * 1024**2
    driver.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert not machines.this_machine().gpu


def test_the_page_estimates_without_torch() -> None:
    code = "import sys, rlhf.models.memory.fitting, rlhf.submission.step_time, rlhf.models.chat_template\n"
    code += "print(*({'torch', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_all_of_a_container_s_copies_of_files_make_room(tmp_path: Path) -> None:
    """Weights that were read twice, by the trial and by a job, are copies in use, as the system counts them."""
    statistics = tmp_path / "memory.stat"
    statistics.write_text("anon 100\nfile 70\nactive_file 40\ninactive_file 25\nshmem 5\n", "utf-8")
    assert machines.page_cache(statistics) == 65
