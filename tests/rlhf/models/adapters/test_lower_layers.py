"""Layers below the lowest adapter: computed once for each sequence, with the same results and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from rlhf.models.hidden_states import backbone, inner_model, lower_layers, summed_logps
from rlhf.models.packing import pad
from tests.architectures import built
from tests.rlhf.models.test_architectures import FAMILIES

PROMPTS = [5, 6, 7, 8], [5, 6, 9], [14, 15]
# By comparison: prompts that begin alike, answers of several lengths, one without a token.
ITEMS = [(PROMPTS[0], [[9, 10, 11], [12, 13]]), (PROMPTS[1], [[9, 10, 11], []]), (PROMPTS[2], [[16, 17, 18, 19]])]


# They can't be packed, carry more than one state from layer to layer, or have layers that make several things.
UNCUT = {
    *("bamba", "bloom", "falcon_h1", "gemma3n_text", "gpt_neo", "gptj", "granitemoehybrid", "lfm2", "llama4_text"),
    *("mamba", "mpt", "nemotron_h", "openai-gpt", "qwen3_5_text", "qwen3_next"),
}


def upper(family: str, **changes: Any) -> Any:
    """A tiny model of this type with a random adapter in its last layer."""
    model = built(family)
    last = str(model.config.get_text_config().num_hidden_layers - 1)
    inside = (name for name, part in model.named_modules() if last in name.split(".") and is_linear(part))
    where = {"target_modules": [next(inside).rpartition(".")[2]], "layers_to_transform": [int(last)], **changes}
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **where))
    random = torch.Generator().manual_seed(1)
    for _, value in sorted(adapted.named_parameters()):
        if value.requires_grad:
            value.data = 0.2 * torch.randn(value.shape, generator=random)
    return adapted


def is_linear(part: Any) -> bool:
    return isinstance(part, torch.nn.Linear | Conv1D)


def fill(model: Any, items: list[Any] = ITEMS) -> Any:
    """Have what lies below the adapter computed, a comparison at a time."""
    lower = lower_layers(model)
    if lower is not None:
        with lower.filling():
            for prompt, answers in items:
                summed_logps(model, *pad([(prompt, ids) for ids in answers], 0), [0] * len(answers))
    return lower


def computed(model: Any, *places: int) -> list[Tensor]:
    """Log-probabilities of the answers of these comparisons in one batch, and the gradients of their sum."""
    model.zero_grad()
    sequences = [(ITEMS[place][0], ids, place) for place in places for ids in ITEMS[place][1]]
    batch = pad([(prompt, ids) for prompt, ids, _ in sequences], 0)
    logps = summed_logps(model, *batch, [place for *_, place in sequences])
    logps.sum().backward()
    return [logps.detach(), *(value.grad.clone() for value in model.parameters() if value.grad is not None)]


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_the_batch_results_and_gradients_stay(family: str) -> None:
    """A model that can't be cut there is computed whole."""
    model = upper(family)
    expected = [computed(model, 0, 1), computed(model, 2, 1, 0)]
    assert (fill(model) is None) == (family in UNCUT)
    torch.testing.assert_close([computed(model, 0, 1), computed(model, 2, 1, 0)], expected, rtol=1e-4, atol=1e-5)


def test_lower_layers_compute_each_sequence_once() -> None:
    model = upper("llama")
    lower = fill(model)
    assert len(lower.kept) == sum(len(answers) for _, answers in ITEMS)
    calls = []
    backbone(inner_model(model)).layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    computed(model, 0, 1, 2)
    assert not calls
    summed_logps(model, *pad([([5, 6], [7])], 0))
    assert calls, "what was not among them is computed as ever"


def test_what_there_is_no_room_for_is_computed_each_time() -> None:
    """Also beside others in their row that are kept."""
    model = upper("llama")
    expected = computed(model, 0, 1)
    lower = lower_layers(model)
    lower.room = 4 * sum(len(ids) for ids in (PROMPTS[0], *ITEMS[0][1])) * model.config.hidden_size  # the first row's
    with lower.filling():
        for prompt, answers in ITEMS[:2]:
            summed_logps(model, *pad([(prompt, ids) for ids in answers], 0), [0] * len(answers))
    assert lower.full
    assert list(lower.kept) == [(*PROMPTS[0], *ids) for ids in ITEMS[0][1]]
    torch.testing.assert_close(computed(model, 0, 1), expected)


def test_layers_are_kept_where_nothing_below_is_trained() -> None:
    """Not with adapters in every layer or beside the layers, with trained embeddings or virtual tokens."""
    assert len(upper_layers(upper("llama"))) == built("llama").config.num_hidden_layers - 1
    assert not upper_layers(upper("llama", target_modules="all-linear", layers_to_transform=None))
    assert not upper_layers(upper("llama", modules_to_save=["embed_tokens"]))
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert not upper_layers(get_peft_model(built("llama"), virtual))


def upper_layers(model: Any) -> Any:
    lower = lower_layers(model)
    return [] if lower is None else lower.layers
