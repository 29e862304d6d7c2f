"""Adapters that are hung on weights to answer: what fits nothing is refused, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from annotation.records import UserError
from rlhf.models.loading.base_weights import load_for_answering, load_plain, load_quantised
from rlhf.models.loading.loaded_policies import LoadedWeights
from rlhf.models.model_files import is_tied
from rlhf.models.self_test.trial import try_loaded
from tests.architectures import built


@pytest.fixture
def adapters(tiny_model: Path, tmp_path: Path) -> Path:
    """One that fits the tiny model, also in its embeddings and output, and one on layers of other names."""
    for name in ("whole", "elsewhere"):
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=2,
            target_modules=["q_proj", "embed_tokens"],
            modules_to_save=["norm"],
            init_lora_weights=False,
            use_dora=True,
        )
        get_peft_model(load_plain(tiny_model, torch.float32), config).save_pretrained(tmp_path / name)
    file = tmp_path / "elsewhere" / "adapter_model.safetensors"
    weights = {name.replace("q_proj", "q_projection"): value for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    settings = file.with_name("adapter_config.json")
    settings.write_text(settings.read_text("utf-8").replace("q_proj", "q_projection"), "utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_on_layers_that_the_weights_have_not_does_not_answer_as_they_do(
    tiny_model: Path, adapters: Path
) -> None:
    """PEFT leaves out what fits nothing, with a warning at most."""
    loaded = LoadedWeights(load_plain(tiny_model, torch.float32).eval())

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(input_ids=torch.tensor([[3, 4, 5]], device=model.device)).logits
        return found

    def refuse() -> None:
        with pytest.raises(UserError, match=r"The adapter elsewhere is on layers that .* not \(.*q_projecti"):
            loaded.attach(adapters / "elsewhere", "elsewhere")
        assert not loaded.has("elsewhere")

    plain = logits(loaded.plain())
    for _again in range(2):
        refuse()
    torch.testing.assert_close(logits(loaded.plain()), plain, rtol=0, atol=0)
    loaded.attach(adapters / "whole", "whole")
    answering = logits(loaded.with_lora("whole"))
    assert not torch.equal(answering, plain)
    refuse()
    torch.testing.assert_close(logits(loaded.with_lora("whole")), answering, rtol=0, atol=0)
    torch.testing.assert_close(logits(loaded.plain()), plain, rtol=0, atol=0)


def test_a_policy_with_an_adapter_answers_without_what_peft_computes_around_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(load_plain(tiny_model, torch.float32), config).save_pretrained(tmp_path / name)
    loaded = LoadedWeights(load_plain(tiny_model, torch.float32).eval())

    def logits() -> list[torch.Tensor]:
        with torch.no_grad():
            return [loaded.with_lora(name)(input_ids=torch.tensor([[3, 4, 5]])).logits for name in ("one", "other")]

    with monkeypatch.context() as patch:
        patch.setattr(Linear, "forward", lambda *arguments, **keywords: pytest.fail("PEFT computes"))
        for name in ("one", "other"):
            loaded.attach(tmp_path / name, name)
        found = logits()
    for layer in loaded.model.modules():
        vars(layer).pop("forward", None)
    torch.testing.assert_close(logits(), found)


def test_a_model_whose_files_ask_for_its_routers_logits_answers_all_the_same(tmp_path: Path) -> None:
    """For a loss of training that fails with a cache; so programs that train experts leave their files."""
    built("mixtral", output_router_logits=True).save_pretrained(tmp_path)
    try_loaded(load_plain(tmp_path, torch.float32))


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_of_another_name_is_held_whole_where_the_layers_are_in_4_bits(
    tmp_path: Path, tied: bool
) -> None:
    """As BioGPT's: its words come out by an `output_projection`."""
    built("biogpt", tie_word_embeddings=tied).save_pretrained(tmp_path)
    assert is_tied(tmp_path) == tied
    head = load_quantised(tmp_path, torch.float32).get_output_embeddings()
    assert type(head) is torch.nn.Linear


def test_routers_that_are_computed_past_their_layer_are_held_whole(tmp_path: Path) -> None:
    """As LongCat's."""
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2, "expert_ffn_hidden_size": 16}
    sizes = {"num_layers": 1, "ffn_hidden_size": 48, "num_key_value_heads": 4, **latent, **experts}
    built("longcat_flash", **sizes).save_pretrained(tmp_path)
    with torch.no_grad():
        load_quantised(tmp_path, torch.float32)(input_ids=torch.tensor([[3, 4, 5]]))


def test_a_model_none_of_whose_layers_can_be_held_in_4_bits_is_refused_in_them(tmp_path: Path) -> None:
    """As Falcon's, which are of a class of its own; nothing of it would be smaller, and it could not be unpacked."""
    config = AutoConfig.for_model("falcon", vocab_size=61, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    load_plain(tmp_path, torch.float32)
    with pytest.raises(UserError, match="None of the layers of this model can be held in 4 bits"):
        load_for_answering(tmp_path, "nf4")
