"""Losses of preferences and reward models beside plain DPO: numbers worked out by hand, and definitions in floats."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.algorithms.dpo.losses import PairLogps, ipo, robust_dpo
from rlhf.algorithms.dpo.spec import BETAS, PreferenceLoss
from rlhf.algorithms.reward_model.train import centring
from tests.rlhf.algorithms.pair_losses import bradley_terry, conservative_dpo, dpo, preference_loss, rewards_of

# The chosen answer gained 10 nats over 5 tokens, the rejected one lost 5 over 10: log-ratios 10 and -5, or 2 and -0.5.
PAIR = PairLogps(*(torch.tensor([value]) for value in (-20.0, -25.0, -30.0, -20.0, 5.0, 10.0)))

logps = st.floats(-60, -0.1)
lengths = st.integers(1, 40)


def ln_sigmoid(x: float) -> float:
    """ln(1 / (1 + e^-x)) from its definition."""
    return -math.log1p(math.exp(-x))


def slow_loss(
    name: str,
    sums: tuple[float, float, float, float],
    tokens: tuple[int, int],
    beta: float,
    flip_rate: float,
) -> float:
    """What TRL 1.16 computes for this name (there: sigmoid, ipo, robust with label_smoothing, sigmoid_norm)."""
    chosen, rejected, ref_chosen, ref_rejected = sums
    total = (chosen - ref_chosen) - (rejected - ref_rejected)
    per_token = (chosen - ref_chosen) / tokens[0] - (rejected - ref_rejected) / tokens[1]
    clean, flipped = -ln_sigmoid(beta * total), -ln_sigmoid(-beta * total)
    return {
        "sigmoid": clean,
        "ipo": (per_token - 1 / (2 * beta)) ** 2,
        "robust": ((1 - flip_rate) * clean - flip_rate * flipped) / (1 - 2 * flip_rate),
        "length-normalised": -ln_sigmoid(beta * per_token),
    }[name]


@given(
    name=st.sampled_from(get_args(PreferenceLoss)),
    sums=st.tuples(logps, logps, logps, logps),
    tokens=st.tuples(lengths, lengths),
    beta=st.floats(0.05, 2),
    flip_rate=st.floats(0, 0.45),
)
def test_every_named_loss_is_trls(
    name: PreferenceLoss,
    sums: tuple[float, float, float, float],
    tokens: tuple[int, int],
    beta: float,
    flip_rate: float,
) -> None:
    pairs = PairLogps(*(torch.tensor([value], dtype=torch.float64) for value in (*sums, *tokens)))
    loss_P = preference_loss(name, pairs, beta, torch.zeros(1), flip_rate)
    assert loss_P.tolist() == pytest.approx([slow_loss(name, sums, tokens, beta, flip_rate)], rel=1e-9, abs=1e-9)


def test_losses_of_rankings_smooth_by_each_pairs_own_chance_and_those_of_pairs_do_not() -> None:
    flip_P = torch.tensor([0.2])
    assert preference_loss("sigmoid", PAIR, 0.1, flip_P, 0.3).equal(conservative_dpo(PAIR, 0.1, flip_P))
    for name in get_args(PreferenceLoss):
        changed = not preference_loss(name, PAIR, 0.1, flip_P, 0.3).equal(
            preference_loss(name, PAIR, 0.1, torch.zeros(1), 0.3)
        )
        assert changed == (name in ("sigmoid", "length-normalised"))
        used = not preference_loss(name, PAIR, 0.1, flip_P, 0.3).equal(preference_loss(name, PAIR, 0.1, flip_P, 0.1))
        assert used == (name == "robust")


@pytest.mark.parametrize("name", get_args(PreferenceLoss))
def test_the_rewards_that_are_shown_have_the_margin_that_the_loss_sees(name: PreferenceLoss) -> None:
    chosen_P, rejected_P = rewards_of(name, PAIR, 0.2)
    margin = (chosen_P - rejected_P).item()
    seen = {"ipo": (margin / 0.2 - 1 / (2 * 0.2)) ** 2}.get(name, -ln_sigmoid(margin))
    assert preference_loss(name, PAIR, 0.2, torch.zeros(1), 0.0).item() == pytest.approx(seen, rel=1e-5)


def test_the_default_betas_pull_about_alike_on_answers_of_the_usual_length() -> None:
    """A beta for sums would leave a loss per token next to nothing beside the likelihood of the chosen answer."""
    pulls = {}
    for name, (beta, _) in BETAS.items():
        chosen_P = torch.tensor([-60.0], requires_grad=True)
        at_first = PairLogps(chosen_P, *(torch.tensor([value]) for value in (-60.0, -60.0, -60.0, 48.0, 48.0)))
        preference_loss(name, at_first, beta, torch.zeros(1), 0.1).sum().backward()
        assert chosen_P.grad is not None
        pulls[name] = -chosen_P.grad.item()
    assert pulls["sigmoid"] == pytest.approx(0.05)
    assert all(0.5 < pull / pulls["sigmoid"] < 5 for pull in pulls.values()), pulls


# --------------------------------------------------------------------------------------------------------------- ipo
def test_ipo_of_a_pair_worked_out_by_hand() -> None:
    # Per token 2 - (-0.5) = 2.5; the aim is 1 / (2 x 0.25) = 2; (2.5 - 2)^2.
    assert ipo(PAIR, 0.25).item() == pytest.approx(0.25)


def test_ipo_pulls_to_its_aim_from_both_sides_and_rests_there() -> None:
    for chosen, pull in ((-25.0, -1), (-20.0, 0), (-15.0, 1)):
        chosen_P = torch.tensor([chosen], requires_grad=True)
        ipo(replace(PAIR, chosen_P=chosen_P), 0.2).sum().backward()  # aim 2.5, which -20 has
        assert chosen_P.grad is not None
        assert chosen_P.grad.sign().item() == pull


# ------------------------------------------------------------------------------------------------------------ robust
def test_robust_dpo_of_a_pair_worked_out_by_hand() -> None:
    # Margin 1.5: 0.2014133 as said, 1.7014133 the other way round; (0.8 x 0.2014133 - 0.2 x 1.7014133) / 0.6.
    assert robust_dpo(PAIR, 0.1, 0.2).item() == pytest.approx(-0.2985867, abs=1e-6)


@given(margin=st.floats(-6, 6), flip_rate=st.floats(0, 0.45))
def test_wrong_labels_leave_the_robust_loss_unbiased(margin: float, flip_rate: float) -> None:
    right = PairLogps(*(torch.tensor([value], dtype=torch.float64) for value in (margin, 0.0, 0.0, 0.0, 1.0, 1.0)))
    turned = PairLogps(*(torch.tensor([value], dtype=torch.float64) for value in (0.0, margin, 0.0, 0.0, 1.0, 1.0)))
    expected = (1 - flip_rate) * robust_dpo(right, 1.0, flip_rate) + flip_rate * robust_dpo(turned, 1.0, flip_rate)
    assert expected.item() == pytest.approx(dpo(right, 1.0).item(), abs=1e-9)


# ------------------------------------------------------------------------------------------------- length-normalised
def test_length_normalised_dpo_of_a_pair_worked_out_by_hand() -> None:
    # 0.4 x 2.5 = 1 and -ln sigmoid(1) = 0.3132617.
    assert preference_loss("length-normalised", PAIR, 0.4, torch.zeros(1), 0.0).item() == pytest.approx(
        0.3132617, abs=1e-6
    )


def test_an_answer_twice_as_long_with_twice_the_log_ratio_has_no_larger_say() -> None:
    doubled = PairLogps(*(2 * value for value in vars(PAIR).values()))
    longer = preference_loss("length-normalised", doubled, 0.4, torch.zeros(1), 0.0)
    assert longer.item() == pytest.approx(preference_loss("length-normalised", PAIR, 0.4, torch.zeros(1), 0.0).item())
    plain, longer = (conservative_dpo(pairs, 0.1, torch.zeros(1)).item() for pairs in (PAIR, doubled))
    assert longer < plain


# ------------------------------------------------------------------------------------------------------ bradley_terry
def scores(*values: float) -> list[Tensor]:
    """One pair's numbers as tensors."""
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def test_bradley_terry_of_a_pair_worked_out_by_hand() -> None:
    # 1 - (-0.5) - 0.5 = 1 and -ln sigmoid(1) = 0.3132617.
    assert bradley_terry(*scores(1.0, -0.5, 0.5, 0.0)).item() == pytest.approx(0.3132617, abs=1e-7)
    # The other label asks for the margin too: -ln sigmoid(-1.5 - 0.5) = 2.1269280; 0.9 x 0.3132617 + 0.1 x 2.1269280.
    assert bradley_terry(*scores(1.0, -0.5, 0.5, 0.1)).item() == pytest.approx(0.4946283, abs=1e-7)


def test_equal_scores_cost_ln_2_without_a_margin() -> None:
    assert bradley_terry(*scores(0.7, 0.7, 0.0, 0.0)).item() == pytest.approx(math.log(2))


@given(
    better=st.floats(-5, 5),
    worse=st.floats(-5, 5),
    margin=st.floats(0, 3),
    flip=st.floats(0, 1),
    shift=st.floats(-9, 9),
)
def test_exchanged_answers_with_the_exchanged_chance_cost_the_same_and_only_the_difference_counts(
    better: float, worse: float, margin: float, flip: float, shift: float
) -> None:
    loss = bradley_terry(*scores(better, worse, margin, flip)).item()
    assert bradley_terry(*scores(worse, better, margin, 1 - flip)).item() == pytest.approx(loss, abs=1e-9)
    assert bradley_terry(*scores(better + shift, worse + shift, margin, flip)).item() == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("flip", [0.1, 0.3])
def test_label_smoothing_rests_where_the_scores_say_what_the_labels_do(flip: float) -> None:
    """Without a margin the loss is least at sigmoid(difference) = 1 - flip."""
    better, worse, margin, chance = scores(math.log((1 - flip) / flip), 0.0, 0.0, flip)
    better.requires_grad_()
    bradley_terry(better, worse, margin, chance).sum().backward()
    assert better.grad is not None
    assert better.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_a_margin_asks_for_more() -> None:
    """The pull at the same scores grows with it: sigmoid(margin - difference)."""
    pulls = []
    for margin in (0.0, 1.0, 2.0):
        better, worse, margin_P, flip = scores(1.0, 0.0, margin, 0.0)
        better.requires_grad_()
        bradley_terry(better, worse, margin_P, flip).sum().backward()
        assert better.grad is not None
        pulls.append(better.grad.item())
    assert pulls == pytest.approx([-1 / (1 + math.e), -0.5, -1 / (1 + math.exp(-1))])


def test_centring_worked_out_by_hand() -> None:
    assert centring(torch.tensor([1.0, 3.0]), torch.tensor([-0.5, -3.0])).tolist() == pytest.approx([0.25, 0.0])
