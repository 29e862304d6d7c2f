"""Adapted layers computed at once: PEFT's output and gradients, and PEFT itself for what is no plain LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rlhf.models.adapters import low_rank
from rlhf.models.adapters.low_rank import AdaptedProduct, compute_adapters_at_once
from rlhf.models.hidden_states import summed_logps
from rlhf.models.packing import pad
from rlhf.models.sampling.laid_out_weights import weights_laid_out
from tests.architectures import built

SEQUENCES = [([5, 6, 7, 8], [9, 10, 11]), ([5, 6, 7, 8], [12, 13]), ([14, 15], [16, 17, 18, 19])]
# With biases in its layers, with windows, and with layers of another class, which PEFT goes on to compute.
FAMILIES = ("llama", "phi", "gemma3_text", "gpt2")


def adapted(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A tiny model of this type with a random adapter, held in float32, on every linear layer."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **changes)
    model = get_peft_model(built(family).to(dtype), config)
    random = torch.Generator().manual_seed(1)
    for _, value in sorted(model.named_parameters()):
        if value.requires_grad:
            value.data = 0.2 * torch.randn(value.shape, generator=random)
    return model


def computed(model: Any) -> list[Tensor]:
    """Log-probabilities of sequences and the gradients of their sum."""
    model.zero_grad()
    logps = summed_logps(model, *pad(SEQUENCES, 0), [0, 0, 1])
    logps.sum().backward()
    return [logps.detach(), *(value.grad for value in model.parameters() if value.grad is not None)]


@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_gradients_are_pefts(family: str) -> None:
    model = adapted(family)
    expected = computed(model)
    compute_adapters_at_once(model)
    torch.testing.assert_close(computed(model), expected, rtol=1e-4, atol=1e-5)


def test_in_16_bits_the_gradients_are_pefts_up_to_rounding() -> None:
    model = adapted("llama", torch.bfloat16)
    found = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(torch.cat([part.flatten() for part in computed(model)]))
        compute_adapters_at_once(model)
    assert found[0].dtype == found[1].dtype == torch.float32
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_answers_computes_as_in_training(family: str, dtype: torch.dtype) -> None:
    """Also with its weights laid out, which none of the adapter's are, and whatever is hung on it later."""
    model = adapted(family, dtype)
    compute_adapters_at_once(model)
    trained = computed(model)[0]
    model.add_adapter("other", LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear"))
    compute_adapters_at_once(model)
    with torch.no_grad():
        found = [summed_logps(model, *pad(SEQUENCES, 0), [0, 0, 1])]
        with weights_laid_out(model):
            assert not any("forward" in vars(layer) for name, layer in model.named_modules() if "lora_" in name)
            found.append(summed_logps(model, *pad(SEQUENCES, 0), [0, 0, 1]))
        model.set_adapter("other")
        other = summed_logps(model, *pad(SEQUENCES, 0), [0, 0, 1])
    apart = 3e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, [trained] * 2, rtol=apart, atol=apart)
    assert (other - trained).abs().max() > apart


def test_what_an_adapter_multiplies_by_is_made_anew_once_it_may_have_changed() -> None:
    model = adapted("llama", torch.bfloat16)
    compute_adapters_at_once(model)

    def now() -> Tensor:
        with torch.no_grad(), weights_laid_out(model):
            twice = [summed_logps(model, *pad(SEQUENCES, 0), [0, 0, 1]) for _ in range(2)]
            assert torch.equal(*twice)
            return twice[0]

    before = now()
    changed = [value for value in model.parameters() if value.requires_grad]
    for value in changed:
        value.data = 2 * value.data
    assert (now() - before).abs().max() > 3e-2
    for value in changed:
        value.data = value.data / 2
    assert torch.equal(now(), before)


@pytest.mark.filterwarnings("ignore:`lora_bias=True`")
def test_plain_adapters_are_computed_at_once_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Counted(AdaptedProduct):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            calls.append(1)
            return AdaptedProduct.forward(ctx, *arguments)

    monkeypatch.setattr(low_rank, "AdaptedProduct", Counted)

    def used(model: Any) -> int:
        calls.clear()
        computed(model)
        return len(calls)

    model, others = adapted("llama"), (adapted("llama", use_dora=True), adapted("llama", lora_bias=True))
    for one in (model, *others):
        computed(one)  # and found out whether it can be packed
        compute_adapters_at_once(one)
    assert [used(other) for other in others] == [0, 0]
    assert used(model) == 2 * 7
    expected = computed(model)
    with model.disable_adapter():
        calls.clear()
        summed_logps(model, *pad(SEQUENCES, 0))
        assert not calls
    torch.testing.assert_close(computed(model), expected)
