"""The mathematics of PPO against numbers worked out by hand, exact enumeration, and slow versions of definitions."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.algorithms.ppo.losses import (
    AdaptiveKL,
    clipped_policy_loss,
    clipped_value_loss,
    compare_policies,
    explained_variance,
    gae,
    k1,
    last_of_row,
    shaped_rewards,
    whiten,
)
from rlhf.models.log_probabilities import Head, entropy, exact_kl, token_entropy, token_logps


def random_tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal tensors from one seed."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


# ----------------------------------------------------------------------------------------------------- KL estimators
def two_policies(distance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities (5,) of two policies over a vocabulary of five tokens."""
    first, second = random_tensors((5,), (5,))
    return first.double().log_softmax(0), (first + distance * second).double().log_softmax(0)


def test_the_expectation_of_k1_over_the_vocabulary_is_the_kl() -> None:
    p_V, q_V = two_policies()
    kl = sum(math.exp(p) * (p - q) for p, q in zip(p_V.tolist(), q_V.tolist(), strict=True))
    assert (p_V.exp() * k1(p_V, q_V)).sum().item() == pytest.approx(kl, rel=1e-9)
    assert exact_kl(p_V[None], q_V[None]).item() == pytest.approx(kl, rel=1e-5)


def test_the_estimate_of_one_token_worked_out_by_hand_and_of_equal_policies() -> None:
    # p = 1/2, q = 1/4: ln 2.
    logps, ref_logps = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert k1(logps, ref_logps).item() == pytest.approx(0.6931472)
    assert k1(logps, logps).item() == 0


def test_sampled_estimates_agree_with_the_exact_kl() -> None:
    p_V, q_V = two_policies(0.5)
    kl = (p_V.exp() * (p_V - q_V)).sum().item()
    draws = torch.multinomial(p_V.exp(), 100_000, True, generator=torch.Generator().manual_seed(0))
    sampled = k1(p_V, q_V)[draws]
    assert abs(sampled.mean().item() - kl) < 4 * sampled.std().item() / math.sqrt(len(draws))


# ------------------------------------------------------------------------------------- entropy and comparing policies
def test_entropy_worked_out_by_hand() -> None:
    # Four equal tokens: ln 4. 3/4 and 1/4: -3/4 ln 3/4 - 1/4 ln 1/4.
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))
    by_hand = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert entropy(torch.tensor([[0.75, 0.25]]).log()).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_entropy_in_chunks_equals_the_whole_in_value_and_gradient(temperature: float) -> None:
    results = []
    for whole in (True, False):
        hidden_NH, head_VH, weights_N = random_tensors((7, 5), (11, 5), (7,))
        hidden_NH.requires_grad_()
        if whole:
            entropy_N = entropy(hidden_NH @ head_VH.T / temperature)
        else:
            entropy_N = token_entropy(hidden_NH, Head(head_VH), temperature, chunk=3)
        (entropy_N * weights_N).sum().backward()
        results.append((entropy_N.detach(), hidden_NH.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [3, 512])
def test_compared_policies_equal_the_definitions_over_the_whole_vocabulary(temperature: float, chunk: int) -> None:
    hidden_NH, ref_NH, head_VH = random_tensors((7, 5), (7, 5), (11, 5))
    labels_N = torch.tensor([0, 10, 3, 3, 7, 1, 9])
    terms = compare_policies(hidden_NH, Head(head_VH), ref_NH, Head(head_VH), labels_N, temperature, chunk)
    p_NV, q_NV = (
        (states.double() @ head_VH.double().T / temperature).log_softmax(-1) for states in (hidden_NH, ref_NH)
    )
    expected = (
        p_NV[range(7), labels_N],
        q_NV[range(7), labels_N],
        -(p_NV.exp() * p_NV).sum(-1),
        (p_NV.exp() * (p_NV - q_NV)).sum(-1),
    )
    torch.testing.assert_close(astuple(terms), tuple(value.float() for value in expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_while_comparing_are_those_of_training_to_the_bit(
    dtype: torch.dtype, temperature: float
) -> None:
    """Otherwise the first ratio would not be exactly 1."""
    hidden_NH, ref_NH, head_VH = (part.to(dtype) for part in random_tensors((40, 64), (40, 64), (300, 64)))
    labels_N = torch.arange(40)
    terms = compare_policies(hidden_NH, Head(head_VH), ref_NH, Head(head_VH), labels_N, temperature, chunk=16)
    hidden_NH.requires_grad_()
    trained_N = token_logps(hidden_NH, Head(head_VH), labels_N, 16, temperature)
    assert torch.equal(terms.logps_N, trained_N.detach())


def test_a_policy_compared_with_itself_has_no_kl_at_all() -> None:
    hidden_NH, head_VH = random_tensors((9, 5), (11, 5))
    terms = compare_policies(
        hidden_NH, Head(head_VH), hidden_NH.clone(), Head(head_VH), torch.zeros(9, dtype=torch.long), 0.7
    )
    assert terms.kl_N.abs().max().item() == 0
    assert torch.equal(terms.logps_N, terms.ref_logps_N)


# ----------------------------------------------------------------------------------------------------- shaped_rewards
def test_the_score_is_placed_on_the_last_token_and_the_kl_penalty_on_every_one() -> None:
    mask_BT = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    kl_BT = torch.tensor([[1.0, -2.0, 0.5, 99.0], [3.0, 99.0, 99.0, 99.0], [0.0, 0.0, 0.0, 1.0]])
    rewards_BT = shaped_rewards(torch.tensor([5.0, -1.0, 2.0]), kl_BT, mask_BT, 0.1)
    expected = [[-0.1, 0.2, 4.95, 0.0], [-1.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.9]]
    torch.testing.assert_close(rewards_BT, torch.tensor(expected))


def test_the_last_token_is_found_in_every_row_that_has_one() -> None:
    mask_BT = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert last_of_row(mask_BT).tolist() == [[False, True, False], [False] * 3, [False, False, True]]


def test_the_rewards_of_an_answer_add_up_to_the_papers_reward() -> None:
    """Score minus coefficient times the log-ratio of the whole answer (Ziegler et al. 2019, equation 2)."""
    logps_BT, ref_logps_BT = random_tensors((3, 6), (3, 6))
    mask_BT = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    scores_B = torch.tensor([1.0, -2.0, 0.3])
    rewards_BT = shaped_rewards(scores_B, k1(logps_BT, ref_logps_BT), mask_BT, 0.3)
    whole = [
        scores_B[i].item() - 0.3 * (logps_BT[i, :n].sum() - ref_logps_BT[i, :n].sum()).item()
        for i, n in enumerate((6, 2, 4))
    ]
    assert rewards_BT.sum(1).tolist() == pytest.approx(whole, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------- gae
def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The weighted mean of all k-step advantages of one finished episode, which the paper starts from."""
    steps = len(rewards)
    advantages = []
    for t in range(steps):
        left = steps - t
        k_step = []
        for k in range(1, left + 1):
            discounted = sum(gamma**i * rewards[t + i] for i in range(k))
            following = values[t + k] if t + k < steps else 0.0
            k_step.append(discounted + gamma**k * following - values[t])
        weights = [(1 - lam) * lam ** (k - 1) for k in range(1, left)] + [lam ** (left - 1)]
        advantages.append(sum(weight * advantage for weight, advantage in zip(weights, k_step, strict=True)))
    return advantages


episodes = st.lists(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=8), min_size=1, max_size=4
)


@given(episodes, st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_gae_equals_the_weighted_mean_of_k_step_advantages(
    rows: list[list[tuple[float, float]]], gamma: float, lam: float, padding: int
) -> None:
    """Whatever stands in the padding."""
    width = max(map(len, rows)) + padding
    rewards_BT, values_BT = torch.full((2, len(rows), width), 7e3, dtype=torch.float64)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        mask_BT[i, : len(row)] = True
        rewards_BT[i, : len(row)], values_BT[i, : len(row)] = torch.tensor(row, dtype=torch.float64).T
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, gamma, lam)
    for i, row in enumerate(rows):
        rewards, values = zip(*row, strict=True)
        expected = slow_gae(list(rewards), list(values), gamma, lam)
        assert advantages_BT[i, : len(row)].tolist() == pytest.approx(expected, abs=1e-9)
        assert (returns_BT - values_BT)[i, : len(row)].tolist() == pytest.approx(expected, abs=1e-9)
    assert not advantages_BT[~mask_BT].any()
    assert not returns_BT[~mask_BT].any()


def test_gae_of_three_tokens_worked_out_by_hand() -> None:
    # Rewards 0 0 1, values 0.5 0.25 0.75, gamma 1, lambda 0.5: TD residuals -0.25 0.5 0.25 (the end is worth nothing);
    # advantages from the end: 0.25; 0.5 + 0.5 x 0.25 = 0.625; -0.25 + 0.5 x 0.625 = 0.0625.
    rewards, values, mask = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.5, 0.25, 0.75]]), torch.ones(1, 3)
    advantages_BT, returns_BT = gae(rewards, values, mask, 1.0, 0.5)
    assert advantages_BT.tolist() == [[0.0625, 0.625, 0.25]]
    assert returns_BT.tolist() == [[0.5625, 0.875, 1.0]]


def test_at_lambda_1_returns_are_rewards_to_go_and_at_0_one_step() -> None:
    rewards_BT, values_BT = random_tensors((2, 5), (2, 5))
    mask_BT = torch.ones(2, 5, dtype=torch.bool)
    to_go = rewards_BT.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gae(rewards_BT, values_BT, mask_BT, 1.0, 1.0)[1], to_go)
    following = torch.cat([values_BT[:, 1:], torch.zeros(2, 1)], 1)
    torch.testing.assert_close(gae(rewards_BT, values_BT, mask_BT, 0.9, 0.0)[1], rewards_BT + 0.9 * following)


# ------------------------------------------------------------------------------------------------------------- whiten
def test_whitening_worked_out_by_hand() -> None:
    # 1, 2 and 3: mean 2, variance 2/3 (of the values themselves), so ±1 becomes ±1.2247449.
    values_BT, mask_BT = torch.tensor([[1.0, 3.0], [2.0, 100.0]]), torch.tensor([[1, 1], [1, 0]])
    assert whiten(values_BT, mask_BT).flatten().tolist() == pytest.approx([-1.2247449, 1.2247449, 0, 0], abs=1e-6)
    kept = whiten(values_BT, mask_BT, shift_mean=False).flatten().tolist()
    assert kept == pytest.approx([0.7752551, 3.2247449, 2, 0], abs=1e-6)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20).filter(lambda values: max(values) - min(values) > 0.1))
def test_whitened_values_have_mean_0_or_their_own_and_variance_1(values: list[float]) -> None:
    row = torch.tensor([values], dtype=torch.float64)
    for shift_mean in (True, False):
        whitened = whiten(row, torch.ones_like(row), shift_mean)
        assert whitened.mean().item() == pytest.approx(0 if shift_mean else row.mean().item(), abs=1e-9)
        assert whitened.var(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_equal_values_whiten_to_zero_instead_of_dividing_by_it() -> None:
    assert whiten(torch.full((1, 4), 3.0), torch.ones(1, 4)).tolist() == [[0.0] * 4]


# ------------------------------------------------------------------------------------------------- the clipped losses
@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "cut", "slope"),
    [
        # What was good is made likelier up to 1.2 times, what was bad less likely down to 0.8 times, and no further;
        # the way back is always open.
        (1.0, 1.5, -1.2, True, 0.0),
        (1.0, 1.1, -1.1, False, -1.0),
        (1.0, 0.5, -0.5, False, -1.0),
        (-2.0, 0.5, 1.6, True, 0.0),
        (-2.0, 0.9, 1.8, False, 2.0),
        (-2.0, 1.5, 3.0, False, 2.0),
    ],
)
def test_the_policy_loss_worked_out_by_hand(
    advantage: float, ratio: float, loss: float, cut: bool, slope: float
) -> None:
    ratio_N = torch.tensor([ratio], requires_grad=True)
    loss_N, cut_N = clipped_policy_loss(ratio_N, torch.tensor([advantage]), 0.2)
    loss_N.sum().backward()
    assert (loss_N.item(), cut_N.item()) == (pytest.approx(loss), cut)
    assert ratio_N.grad is not None
    assert ratio_N.grad.item() == pytest.approx(slope)


def test_at_a_ratio_of_1_the_loss_is_minus_the_mean_advantage_and_its_gradient_the_policy_gradient() -> None:
    """d loss / d logits = -mean of A (1[drawn] - p), the gradient of A log p under a softmax, worked out on paper."""
    logits_NV, advantages_N = random_tensors((6, 4), (6,))
    logits_NV.requires_grad_()
    drawn_N = torch.tensor([0, 3, 1, 1, 2, 0])
    logps_N = logits_NV.log_softmax(-1)[range(6), drawn_N]
    ratio_N = (logps_N - logps_N.detach()).exp()
    assert ratio_N.tolist() == [1.0] * 6
    loss = clipped_policy_loss(ratio_N, advantages_N, 0.2)[0].mean()
    loss.backward()
    assert loss.item() == pytest.approx(-advantages_N.mean().item(), abs=1e-7)
    p_NV = logits_NV.detach().softmax(-1)
    one_NV = torch.eye(4)[drawn_N]
    torch.testing.assert_close(logits_NV.grad, -advantages_N[:, None] * (one_NV - p_NV) / 6)


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        # From 0 the value may move by 0.2: beyond, towards the target, its gradient ends (0.8^2 / 2) ...
        (0.5, 1.0, 0.32, 0.0),
        # ... and away from it, it is pulled back in full (1.5^2 / 2).
        (0.5, -1.0, 1.125, 1.5),
        (0.1, 1.0, 0.405, -0.9),
    ],
)
def test_the_value_loss_worked_out_by_hand(value: float, target: float, loss: float, slope: float) -> None:
    value_N = torch.tensor([value], requires_grad=True)
    loss_N = clipped_value_loss(value_N, torch.zeros(1), torch.tensor([target]), 0.2)
    loss_N.sum().backward()
    assert loss_N.item() == pytest.approx(loss)
    assert value_N.grad is not None
    assert value_N.grad.item() == pytest.approx(slope)


def test_explained_variance_worked_out_by_hand() -> None:
    returns_N = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns_N + 7, returns_N).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(4), returns_N).item() == pytest.approx(0.0)
    assert explained_variance(-returns_N, returns_N).item() == pytest.approx(-3.0)
    assert explained_variance(returns_N, torch.full((4,), 0.1)).item() == 0, "nothing to explain"


# --------------------------------------------------------------------------------------------------------- AdaptiveKL
@pytest.mark.parametrize(("kl", "coefficient"), [(6.0, 0.1), (6.6, 0.101), (5.7, 0.0995), (60.0, 0.102), (0.0, 0.098)])
def test_the_kl_controller_worked_out_by_hand(kl: float, coefficient: float) -> None:
    """A tenth of the relative error, which is cut at a fifth: 2% at most."""
    assert AdaptiveKL(0.1, 6.0).after(kl).coefficient == pytest.approx(coefficient)


def test_the_kl_controller_settles_where_the_kl_is_at_its_target() -> None:
    """With a policy whose KL is 1 / coefficient, the target of 4 asks for 0.25."""
    controller = AdaptiveKL(1.0, 4.0)
    for _ in range(500):
        controller = controller.after(1 / controller.coefficient)
    assert controller.coefficient == pytest.approx(0.25, rel=1e-3)
