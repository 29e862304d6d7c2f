"""DPO and its kin against numbers worked out by hand and independent slow implementations."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from rlhf.algorithms.dpo.losses import PairLogps, expected_better, implicit_reward
from tests.rlhf.algorithms.pair_losses import conservative_dpo, dpo


def random_tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal tensors from one seed."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


# --------------------------------------------------------------------------------------------------------------- dpo
def pairs_of(*sums: Tensor) -> PairLogps:
    """Pairs of these log-probabilities (chosen, rejected, and under the reference); their answers have one token."""
    return PairLogps(*sums, torch.ones_like(sums[0]), torch.ones_like(sums[0]))


def pair(chosen: float, rejected: float, ref_chosen: float, ref_rejected: float) -> PairLogps:
    """One pair."""
    return pairs_of(*(torch.tensor([value]) for value in (chosen, rejected, ref_chosen, ref_rejected)))


def default_loss(pairs: PairLogps, beta: float) -> Tensor:
    """The loss of a run by default, of pairs whose labels are certain."""
    return conservative_dpo(pairs, beta, torch.zeros(len(pairs.chosen_P)))


def test_dpo_is_ln_2_where_policy_and_reference_agree() -> None:
    chosen, rejected = torch.tensor([-12.0, -3.5]), torch.tensor([-40.0, -0.25])
    assert default_loss(pairs_of(chosen, rejected, chosen, rejected), 0.1).tolist() == pytest.approx([math.log(2)] * 2)


def test_dpo_of_a_pair_worked_out_by_hand() -> None:
    # The chosen answer gained 10 nats and the rejected one lost 5: margin 0.1 × 15 = 1.5, -ln σ(1.5) = 0.20141.
    loss = default_loss(pair(-20.0, -25.0, -30.0, -20.0), 0.1)
    assert loss.item() == pytest.approx(0.2014133, abs=1e-6)
    # With the answers exchanged, -ln σ(-1.5) = 1.5 more.
    loss = default_loss(pair(-25.0, -20.0, -20.0, -30.0), 0.1)
    assert loss.item() == pytest.approx(1.7014133, abs=1e-6)


def test_dpo_equals_the_definition_over_a_grid_and_stays_finite_far_out() -> None:
    for chosen, rejected, ref_chosen, ref_rejected, beta in product(
        (-3.0, 0.5), (-1.0, 2.0), (-2.0,), (1.5,), (0.05, 2)
    ):
        expected = -math.log(1 / (1 + math.exp(-beta * (chosen - ref_chosen - rejected + ref_rejected))))
        loss = default_loss(pair(chosen, rejected, ref_chosen, ref_rejected), beta)
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    far = default_loss(pair(-9000.0, 0.0, 0.0, 0.0), 0.1)
    assert far.item() == pytest.approx(900.0)


def test_the_gradient_of_dpo_is_that_of_the_paper() -> None:
    """∇ = -β σ(-margin) (∇ log π(chosen) - ∇ log π(rejected)), the equation below equation 7."""
    chosen, rejected = torch.tensor([-20.0], requires_grad=True), torch.tensor([-25.0], requires_grad=True)
    default_loss(pairs_of(chosen, rejected, torch.tensor([-30.0]), torch.tensor([-20.0])), 0.1).sum().backward()
    weight = 0.1 / (1 + math.exp(1.5))
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-weight, weight), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- conservative_dpo
def with_margin(margin: float) -> PairLogps:
    """A pair whose margin at beta 0.1 is this one."""
    return pair(-20.0 + 10 * margin, -25.0, -20.0, -25.0)


def slow_expected_loss(margin: float, flip: float) -> float:
    """The loss of the label that is right, in expectation over which one that is, from Bradley-Terry's probability."""
    probability = 1 / (1 + math.exp(-margin))
    labels = ((1 - flip, probability), (flip, 1 - probability))
    return sum(chance * -math.log(said) for chance, said in labels)


def test_conservative_dpo_of_a_pair_worked_out_by_hand() -> None:
    # Margin 1.5: 0.2014133 as said and 1.7014133 the other way round; 0.8 x 0.2014133 + 0.2 x 1.7014133 = 0.5014133.
    loss = conservative_dpo(with_margin(1.5), 0.1, torch.tensor([0.2]))
    assert loss.item() == pytest.approx(0.5014133, abs=1e-6)
    # The same with the answers and the chance exchanged.
    turned = conservative_dpo(pair(-25.0, -5.0, -25.0, -20.0), 0.1, torch.tensor([0.8]))
    assert turned.item() == pytest.approx(0.5014133, abs=1e-6)


def test_conservative_dpo_equals_the_expectation_over_a_grid() -> None:
    for margin, flip in product((-4.0, -0.3, 0.0, 0.7, 5.0), (0.0, 0.01, 0.27, 0.5)):
        loss = conservative_dpo(with_margin(margin), 0.1, torch.tensor([flip]))
        assert loss.item() == pytest.approx(slow_expected_loss(margin, flip), rel=1e-4)


def test_where_nothing_is_doubted_conservative_dpo_is_dpo() -> None:
    pairs = pairs_of(*(part[:, 0] for part in random_tensors((50, 1), (50, 1), (50, 1), (50, 1))))
    torch.testing.assert_close(conservative_dpo(pairs, 0.3, torch.zeros(50)), dpo(pairs, 0.3), rtol=1e-6, atol=1e-6)


def test_each_pair_has_its_own_chance_of_error() -> None:
    pairs = pairs_of(*(torch.tensor([value, value]) for value in (-5.0, -25.0, -20.0, -25.0)))
    assert conservative_dpo(pairs, 0.1, torch.tensor([0.0, 0.5])).tolist() == pytest.approx([0.2014133, 0.9514133])


@pytest.mark.parametrize(
    ("margin", "flip", "pull"),
    [
        # -beta (σ(-margin) - flip): half of beta at the start for a sure pair, less for a doubted one, none for a coin.
        (0.0, 0.0, -0.05),
        (0.0, 0.2, -0.03),
        (0.0, 0.5, 0.0),
        # Where the policy is as sure as the annotators the pull ends; beyond, it turns. ln(0.8 / 0.2) = 1.3862944.
        (1.3862944, 0.2, 0.0),
        (3.0, 0.2, 0.1 * (0.2 - 0.0474259)),
    ],
)
def test_the_pull_on_a_doubted_pair_worked_out_by_hand(margin: float, flip: float, pull: float) -> None:
    pairs = with_margin(margin)
    pairs.chosen_P.requires_grad_()
    conservative_dpo(pairs, 0.1, torch.tensor([flip])).sum().backward()
    assert pairs.chosen_P.grad is not None
    assert pairs.chosen_P.grad.item() == pytest.approx(pull, abs=1e-6)


def test_the_likelihood_of_the_better_answer_worked_out_by_hand() -> None:
    # With chance 0.25 the rejected answer is the better one: 0.75 x -8 + 0.25 x -20 = -11 over 0.75 x 4 + 0.25 x 8 = 5.
    logps, tokens = torch.tensor([[-8.0], [-20.0]]), torch.tensor([[4.0], [8.0]])
    for flip, found in ((0.25, (-11.0, 5.0)), (0.0, (-8.0, 4.0))):
        assert tuple(expected_better(*sides, torch.tensor([flip])).item() for sides in (logps, tokens)) == found


# --------------------------------------------------------------------------------------------------- implicit_reward
def test_implicit_reward_worked_out_by_hand_and_its_difference_is_the_dpo_margin() -> None:
    chosen, rejected = torch.tensor([-20.0, -7.0]), torch.tensor([-25.0, -6.0])
    ref_chosen, ref_rejected = torch.tensor([-30.0, -7.0]), torch.tensor([-20.0, -8.0])
    reward_chosen, reward_rejected = (
        implicit_reward(chosen, ref_chosen, 0.1),
        implicit_reward(rejected, ref_rejected, 0.1),
    )
    assert reward_chosen.tolist() == pytest.approx([1.0, 0.0])
    assert reward_rejected.tolist() == pytest.approx([-0.5, 0.2])
    loss_P = default_loss(pairs_of(chosen, rejected, ref_chosen, ref_rejected), 0.1)
    expected = [math.log1p(math.exp(-margin)) for margin in (reward_chosen - reward_rejected).tolist()]
    assert loss_P.tolist() == pytest.approx(expected)
