"""The losses of preferences but the default: tensors in, tensors out; shapes in the names, equations beside the lines.

The default, that of an order, is shared with reward models: `rlhf.algorithms.comparisons.order_loss`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rlhf.algorithms.dpo.spec import PER_TOKEN, PairwiseLoss, PreferenceLoss


@dataclass(frozen=True)
class AnswerLogps:
    """Summed log-probabilities of B answers under policy and reference, and their lengths in tokens."""

    policy_B: Tensor
    reference_B: Tensor
    tokens_B: Tensor

    def pairs(self, better_P: Tensor, worse_P: Tensor) -> PairLogps:
        """Those of P pairs, by the places of the better and the worse answer."""
        sides = [
            side_B[places_P]
            for side_B in (self.policy_B, self.reference_B, self.tokens_B)
            for places_P in (better_P, worse_P)
        ]
        return PairLogps(*sides)


@dataclass(frozen=True)
class PairLogps:
    """Summed log-probabilities of P pairs under policy and reference, and the lengths of their answers in tokens."""

    chosen_P: Tensor
    rejected_P: Tensor
    ref_chosen_P: Tensor
    ref_rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor


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
    return reward_B / answers.tokens_B.clamp(min=1) if name in PER_TOKEN else reward_B


def ipo(pairs: PairLogps, beta: float) -> Tensor:
    """IPO loss of each pair (Azar et al. 2024, equation 17, with beta for their tau). Returns (P,).

    Log-ratios are averaged over an answer's tokens, as in TRL and, by what its authors told TRL's, in the paper's own
    experiments: sums would make the square grow with the length of the answers.
    """
    chosen_mean_P = (pairs.chosen_P - pairs.ref_chosen_P) / pairs.chosen_tokens_P
    rejected_mean_P = (pairs.rejected_P - pairs.ref_rejected_P) / pairs.rejected_tokens_P
    return (chosen_mean_P - rejected_mean_P - 1 / (2 * beta)) ** 2


def robust_dpo(pairs: PairLogps, beta: float, flip_rate: float) -> Tensor:
    """DPO loss that wrong labels, at one rate below 1/2, leave unbiased (Chowdhury et al. 2024, eq. 11). Returns (P,).

    Its expectation over flipped labels is the DPO loss of the right ones. It has no lower bound: past a margin of
    log((1 - flip_rate) / flip_rate) a single pair would still be pushed on, more slowly.
    """
    chosen_P = implicit_reward(pairs.chosen_P, pairs.ref_chosen_P, beta)
    margin_P = chosen_P - implicit_reward(pairs.rejected_P, pairs.ref_rejected_P, beta)
    as_said_P, flipped_P = -F.logsigmoid(margin_P), -F.logsigmoid(-margin_P)
    return ((1 - flip_rate) * as_said_P - flip_rate * flipped_P) / (1 - 2 * flip_rate)


def expected_better(chosen_P: Tensor, rejected_P: Tensor, flip_P: Tensor) -> Tensor:
    """What each pair's better answer has, be it log-probability or length: the chosen one's but for `flip`. (P,).

    Log-probabilities over lengths, summed, are what the likelihood term beside the DPO loss raises (Pang et al. 2024,
    equation 1).
    """
    return (1 - flip_P) * chosen_P + flip_P * rejected_P


def implicit_reward(policy_P: Tensor, reference_P: Tensor, beta: float) -> Tensor:
    """beta log(pi(y|x) / pi_ref(y|x)), the reward a DPO policy implies up to a term of x (equation 5). Returns (P,)."""
    return beta * (policy_P - reference_P)
