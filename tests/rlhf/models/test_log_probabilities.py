"""Log-probabilities of tokens against numbers worked out by hand and a loop over the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf.models.log_probabilities import sum_by_row, token_logps


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
    logps_N = token_logps(torch.ones(3, 1), head_VH, torch.tensor([0, 1, 2]))
    assert logps_N.tolist() == pytest.approx([math.log(1 / 8), math.log(2 / 8), math.log(5 / 8)])


def test_token_log_probabilities_equal_a_loop_over_the_definition() -> None:
    hidden_NH, head_VH = random_tensors((7, 5), (11, 5))
    labels_N = torch.tensor([0, 10, 3, 3, 7, 1, 9])
    expected = [slow_token_logp(hidden_NH[i].tolist(), head_VH.tolist(), int(labels_N[i])) for i in range(7)]
    assert token_logps(hidden_NH, head_VH, labels_N).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("positions", [1, 3, 7, 9])
def test_chunks_change_neither_the_values_nor_the_gradients(positions: int) -> None:
    """Positions that fill chunks of three exactly, leave a rest, or fit into one."""
    results = []
    for chunk in (3, 512):
        hidden_NH, head_VH, weights_N = random_tensors((positions, 5), (11, 5), (positions,))
        hidden_NH.requires_grad_()
        labels_N = torch.arange(positions) % 11
        logps_N = token_logps(hidden_NH, head_VH, labels_N, chunk)
        (logps_N * weights_N).sum().backward()
        results.append((logps_N.detach(), hidden_NH.grad))
    torch.testing.assert_close(results[0], results[1])


def test_log_probabilities_of_16_bit_states_are_computed_in_float32() -> None:
    """In bfloat16 a sum over a few hundred tokens would be off by whole nats."""
    hidden_NH, head_VH = (tensor.bfloat16() for tensor in random_tensors((4, 64), (300, 64)))
    logps_N = token_logps(hidden_NH, head_VH, torch.tensor([1, 2, 3, 4]))
    assert logps_N.dtype == torch.float32
    logits_NV = (hidden_NH.double() @ head_VH.double().T).bfloat16().double()
    expected_N = logits_NV.log_softmax(-1)[range(4), [1, 2, 3, 4]]
    # The logits themselves are rounded to bfloat16 (three digits); the normaliser must not be rounded again.
    assert logps_N.tolist() == pytest.approx(expected_N.tolist(), abs=0.07)


# -------------------------------------------------------------------------------------------------------- sum_by_row
def test_values_are_summed_into_the_row_that_owns_them() -> None:
    sums = sum_by_row(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([2, 0, 2, 0]), 4)
    assert sums.tolist() == [10.0, 0.0, 5.0, 0.0]


def test_the_gradient_of_a_row_sum_reaches_every_value_of_that_row_only() -> None:
    values_N = torch.zeros(4, requires_grad=True)
    sum_by_row(values_N, torch.tensor([0, 1, 1, 2]), 3)[1].backward()
    assert values_N.grad is not None
    assert values_N.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
