"""Which of `rlhf.algorithms.losses` a spec's loss is, by its name."""

from __future__ import annotations

from torch import Tensor

from rlhf.algorithms.dpo.spec import PairwiseLoss, PreferenceLoss
from rlhf.algorithms.losses import AnswerLogps, PairLogps, implicit_reward, ipo, robust_dpo


def pairwise_loss(name: PairwiseLoss, pairs: PairLogps, beta: float, flip_rate: float) -> Tensor:
    """The loss of this name for each pair: those that are defined for pairs, not for a ranking. Returns (P,).

    Others, DPO's own among them, are the `expected_loss` of a ranking's `implicit_rewards`. `flip_rate` is the one rate
    of wrong labels that 'robust' expects.
    """
    return ipo(pairs, beta) if name == "ipo" else robust_dpo(pairs, beta, flip_rate)


def implicit_rewards(name: PreferenceLoss, answers: AnswerLogps, beta: float) -> Tensor:
    """`implicit_reward` of each answer as the loss of this name sees it, for some per token. Returns (B,).

    That of no answer at all, which is better than answers that are all bad, is 0: of its no tokens policy and reference
    say the same. Per token a longer answer has no larger say (TRL's 'sigmoid_norm'). The normalisation is that of Meng
    et al. 2024 (SimPO, equation 4), which has no reference; beta must be larger than for sums by about an answer's
    length.
    """
    reward_B = implicit_reward(answers.policy_B, answers.reference_B, beta)
    return reward_B / answers.tokens_B.clamp(min=1) if name in ("ipo", "length-normalised") else reward_B
