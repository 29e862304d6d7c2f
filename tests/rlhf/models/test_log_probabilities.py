"""Log-probabilities of tokens against numbers worked out by hand and a loop over the definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.models import log_probabilities
from rlhf.models.hidden_states import head_of
from rlhf.models.log_probabilities import Head, entropy, exact_kl, kl_and_logps, label_logps, sum_by_row, token_logps
from tests.architectures import built


def slow_token_logp(hidden: list[float], head: list[list[float]], label: int) -> float:
    """log softmax(head · hidden)[label] in plain Python."""
    logits = [sum(h * w for h, w in zip(hidden, row, strict=True)) for row in head]
    return logits[label] - math.log(sum(math.exp(logit) for logit in logits))


def random_tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal tensors from one seed."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


# ------------------------------------------------------------------------------------------------------- token_logps
def test_a_token_log_probability_worked_out_by_hand() -> None:
    # Logits ln 1, ln 2, ln 5: the probabilities are 1/8, 2/8 and 5/8.
    head_VH = torch.tensor([[1.0], [2.0], [5.0]]).log()
    logps_N = token_logps(torch.ones(3, 1), Head(head_VH), torch.tensor([0, 1, 2]))
    assert logps_N.tolist() == pytest.approx([math.log(1 / 8), math.log(2 / 8), math.log(5 / 8)])


def test_token_log_probabilities_equal_a_loop_over_the_definition() -> None:
    hidden_NH, head_VH = random_tensors((7, 5), (11, 5))
    labels_N = torch.tensor([0, 10, 3, 3, 7, 1, 9])
    expected = [slow_token_logp(hidden_NH[i].tolist(), head_VH.tolist(), int(labels_N[i])) for i in range(7)]
    assert token_logps(hidden_NH, Head(head_VH), labels_N).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("positions", [1, 3, 7, 9])
def test_chunks_change_neither_the_values_nor_the_gradients(positions: int) -> None:
    """Positions that fill chunks of three exactly, leave a rest, or fit into one."""
    results = []
    for chunk in (3, 512):
        hidden_NH, head_VH, weights_N = random_tensors((positions, 5), (11, 5), (positions,))
        hidden_NH.requires_grad_()
        labels_N = torch.arange(positions) % 11
        logps_N = token_logps(hidden_NH, Head(head_VH), labels_N, chunk)
        (logps_N * weights_N).sum().backward()
        results.append((logps_N.detach(), hidden_NH.grad))
    torch.testing.assert_close(results[0], results[1])


def test_log_probabilities_of_16_bit_states_are_computed_in_float32() -> None:
    """In bfloat16 a sum over a few hundred tokens would be off by whole nats."""
    hidden_NH, head_VH = (tensor.bfloat16() for tensor in random_tensors((4, 64), (300, 64)))
    logps_N = token_logps(hidden_NH, Head(head_VH), torch.tensor([1, 2, 3, 4]))
    assert logps_N.dtype == torch.float32
    logits_NV = (hidden_NH.double() @ head_VH.double().T).bfloat16().double()
    expected_N = logits_NV.log_softmax(-1)[range(4), [1, 2, 3, 4]]
    # The logits themselves are rounded to bfloat16 (three digits); the normaliser must not be rounded again.
    assert logps_N.tolist() == pytest.approx(expected_N.tolist(), abs=0.07)


# --------------------------------------------------------------------------------------------------------------- Head
def test_logits_are_scaled_then_capped_then_divided_by_the_temperature() -> None:
    # 2 * (3 * 0.5 + 1) = 5, of which 4 tanh(5 / 4); the second row only pads.
    head = Head(torch.tensor([[0.5], [7.0]]), torch.tensor([1.0, 0.0]), scale=2.0, softcap=4.0, words=1)
    assert head.logits(torch.tensor([[3.0]]), 0.5).tolist() == [pytest.approx([4 * math.tanh(5 / 4) / 0.5])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [4, 100])
def test_a_float32_head_rounds_nothing_of_16_bit_weights_nor_of_their_gradients(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int
) -> None:
    """Under autocast too; 30 rows in pieces of four, the last one shorter, or in one."""
    monkeypatch.setattr(log_probabilities, "LIFTED_ROWS", rows)
    hidden_NH, weight_VH, bias_V = (part.to(dtype) for part in random_tensors((3, 8), (30, 8), (30,)))
    ours, exact = [part.clone().requires_grad_() for part in (hidden_NH, weight_VH)], []
    with torch.autocast("cpu", torch.bfloat16):
        logits_NV = Head(ours[1], bias_V, float32=True).logits(ours[0])
    exact = [part.double().requires_grad_() for part in (hidden_NH, weight_VH)]
    exact_NV = exact[0] @ exact[1].T + bias_V.double()
    torch.testing.assert_close(logits_NV.double(), exact_NV, rtol=1e-5, atol=1e-5)
    for result in (logits_NV, exact_NV):
        (result.logsumexp(-1) - result[:, 0]).sum().backward()
    for found, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(found.grad, expected.grad.to(dtype))  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_large_enough_for_the_processors_16_bit_units_are_as_exact(dtype: torch.dtype) -> None:
    """Of factors that have 16 bits nothing is rounded, of others neither, and what is set for the process stays.

    Only a processor with such units would round.
    """
    before = torch.backends.mkldnn.matmul.fp32_precision
    hidden_NH, weight_VH = random_tensors((64, 512), (1000, 512))
    weight_VH = weight_VH.bfloat16()
    hidden_NH = hidden_NH.to(dtype)
    found_NV = Head(weight_VH, float32=True).logits(hidden_NH)
    torch.testing.assert_close(found_NV.double(), hidden_NH.double() @ weight_VH.double().T, rtol=1e-5, atol=2e-4)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest float32 tensor had that was made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        made = function(*arguments, **(keywords or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float32:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_no_float32_copy_of_a_whole_16_bit_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probabilities, "LIFTED_ROWS", 8)
    hidden_NH, weight_VH = (part.bfloat16() for part in random_tensors((2, 50), (64, 50)))
    with Largest() as largest:
        Head(weight_VH, float32=True).logits(hidden_NH.requires_grad_()).sum().backward()
    assert largest.numbers == 8 * 50


def test_an_adapter_on_the_output_matrix_takes_part() -> None:
    model = get_peft_model(built("llama"), LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False))
    ids_BT = torch.tensor([[5, 9, 31, 2, 17]])
    for adapted in (True, False):
        model.base_model.enable_adapter_layers() if adapted else model.base_model.disable_adapter_layers()
        with torch.no_grad():
            hidden_NH = model.base_model.model.model(ids_BT).last_hidden_state[0]
            torch.testing.assert_close(head_of(model).logits(hidden_NH), model(ids_BT).logits[0])
    model.base_model.enable_adapter_layers()
    head_of(model).logits(hidden_NH).logsumexp(-1).sum().backward()
    trained = [name for name, value in model.named_parameters() if "lm_head.lora" in name and value.grad is not None]
    assert len(trained) == 2


@pytest.mark.parametrize("positions", [0, 3, 7])
def test_the_kl_of_states_is_that_of_their_logits_chunk_by_chunk(positions: int) -> None:
    """Two models with heads of their own."""
    own_NH, base_NH, own_VH, base_VH = random_tensors((positions, 5), (positions, 5), (11, 5), (11, 5))
    own, base = Head(own_VH, softcap=2.0), Head(base_VH, scale=0.5)
    labels_N = torch.arange(positions)
    kl_N, logps_N = kl_and_logps(own_NH, own, base_NH, base, labels_N, 3)
    torch.testing.assert_close(kl_N, exact_kl(own.logits(own_NH), base.logits(base_NH)))
    torch.testing.assert_close(logps_N, token_logps(base_NH, base, labels_N))


# ---------------------------------------------------------------------------------------------------------- exact_kl
def slow_kl(policy: list[float], base: list[float]) -> float:
    """KL between the softmaxes of two rows of logits, from the definition."""
    p, q = ([math.exp(logit) / sum(map(math.exp, row)) for logit in row] for row in (policy, base))
    return sum(p_i * math.log(p_i / q_i) for p_i, q_i in zip(p, q, strict=True))


def test_kl_of_two_coins_worked_out_by_hand() -> None:
    # KL(3/4, 1/4 || 1/2, 1/2) = 3/4 ln 3/2 + 1/4 ln 1/2.
    policy_NV, base_NV = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert exact_kl(policy_NV, base_NV).item() == pytest.approx(by_hand)
    # The other direction is another number: 1/2 ln 2/3 + 1/2 ln 2.
    assert exact_kl(base_NV, policy_NV).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_kl_equals_a_loop_over_the_definition_and_is_zero_for_equal_policies() -> None:
    policy_NV, base_NV = random_tensors((6, 9), (6, 9))
    expected = [slow_kl(policy, base) for policy, base in zip(policy_NV.tolist(), base_NV.tolist(), strict=True)]
    assert exact_kl(policy_NV, base_NV).tolist() == pytest.approx(expected, rel=1e-4)
    # Adding a constant to the logits is the same policy.
    assert exact_kl(policy_NV, policy_NV + 3.0).abs().max().item() < 1e-6


def test_kl_is_the_expectation_of_the_sampled_log_ratio() -> None:
    policy_NV, base_NV = random_tensors((1, 9), (1, 9))
    draws = torch.multinomial(policy_NV.softmax(-1)[0], 200_000, True, generator=torch.Generator().manual_seed(0))
    log_ratio = policy_NV.log_softmax(-1)[0] - base_NV.log_softmax(-1)[0]
    sampled = log_ratio[draws]
    standard_error = sampled.std().item() / math.sqrt(len(draws))
    assert abs(sampled.mean().item() - exact_kl(policy_NV, base_NV).item()) < 4 * standard_error


@pytest.mark.parametrize("numbers", [1, 22, 40])
def test_rows_say_a_few_at_a_time_what_they_say_together(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, whether or not the last ones are fewer."""
    own_NV, base_NV = random_tensors((7, 11), (7, 11))

    def found() -> Tensor:
        logps_N = label_logps(own_NV, torch.arange(7))
        return torch.stack([exact_kl(own_NV, base_NV), entropy(own_NV), logps_N])

    together = found()
    monkeypatch.setattr(log_probabilities, "CACHED", numbers)
    assert torch.equal(found(), together)


# -------------------------------------------------------------------------------------------------------- sum_by_row
def test_values_are_summed_into_the_row_that_owns_them() -> None:
    sums = sum_by_row(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([2, 0, 2, 0]), 4)
    assert sums.tolist() == [10.0, 0.0, 5.0, 0.0]


def test_the_gradient_of_a_row_sum_reaches_every_value_of_that_row_only() -> None:
    values_N = torch.zeros(4, requires_grad=True)
    sum_by_row(values_N, torch.tensor([0, 1, 1, 2]), 3)[1].backward()
    assert values_N.grad is not None
    assert values_N.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
