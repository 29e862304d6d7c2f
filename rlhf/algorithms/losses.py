"""The mathematics of training: tensors in, tensors out; shapes in the names, equations beside the lines.

By algorithm: preferences (DPO); rankings (DPO and reward model); reward model; policies compared; PPO.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.models.log_probabilities import CHUNK, Head, label_logps
from rlhf.models.orders.plackett_luce import Rankings, plackett_luce


# ----------------------------------------------------------------------------------------- preferences: DPO and its kin
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


# ----------------------------------------------------------------------------- rankings: preferences and reward models
def expected_loss(scores_CK: Tensor, rankings: Rankings, flip_C: Tensor) -> Tensor:
    """`plackett_luce` of comparisons whose order is, with chance `flip`, the opposite one. Returns (C,).

    Of two answers' implicit rewards it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences &
    relationship to IPO", equation 3, with an epsilon for each comparison), without a chance of error DPO itself
    (Rafailov et al. 2023, equation 7). It pulls the margin to log((1 - flip) / flip) and no further, and from zero by
    1/2 - flip: unsure ones pull less. The unbiased estimator of Chowdhury et al. 2024 ("Provably Robust DPO") divides
    by 1 - 2 flip: right for one error rate of many pairs, but here those that are nearly a coin's would pull the
    hardest, and without an end. Of two scores it is the loss of Ouyang et al. 2022, equation 1, and the offset the
    margin of Touvron et al. 2023, equation 2.
    """
    loss_C = plackett_luce(scores_CK, rankings)
    if not flip_C.any():
        return loss_C
    return (1 - flip_C) * loss_C + flip_C * plackett_luce(scores_CK, rankings.turned())


# ------------------------------------------------------------------------------------------------------ reward models
def centring(better_P: Tensor, worse_P: Tensor) -> Tensor:
    """(r_w + r_l)^2, which keeps scores about zero (Eisenstein et al. 2023). Returns (P,).

    Bradley-Terry fixes only differences. It ties each pair's mean, not each score, to zero.
    """
    return (better_P + worse_P) ** 2


# ---------------------------------------------------------------------------------------------------- policies compared
def k1(logps_N: Tensor, ref_logps_N: Tensor) -> Tensor:
    """log(p / q) of samples of p: estimates KL(p || q) without bias, may be negative (Schulman 2020). (N,)."""
    return logps_N - ref_logps_N


@dataclass(frozen=True)
class PolicyTerms:
    """What PPO has to know of N drawn tokens under the policy p that drew them and the reference q; each (N,), float32.

    `kl_N` is KL(p || q) of the whole next-token distributions, `entropy_N` that of p.
    """

    logps_N: Tensor
    ref_logps_N: Tensor
    entropy_N: Tensor
    kl_N: Tensor


@torch.no_grad()
def compare_policies(
    hidden_NH: Tensor,
    head: Head,
    ref_hidden_NH: Tensor,
    ref_head: Head,
    labels_N: Tensor,
    temperature: float,
    chunk: int = CHUNK,
) -> PolicyTerms:
    """`PolicyTerms` from the last hidden states and the heads of both, chunk by chunk."""
    parts = []
    for i in range(0, len(labels_N), chunk):
        here, labels_n = slice(i, i + chunk), labels_N[i : i + chunk]
        p_NV, q_NV = head.logits(hidden_NH[here], temperature), ref_head.logits(ref_hidden_NH[here], temperature)
        p_log_sum_N, q_log_sum_N = p_NV.logsumexp(-1), q_NV.logsumexp(-1)
        logps_N, ref_logps_N = label_logps(p_NV, labels_n), label_logps(q_NV, labels_n)
        mass_NV = (p_NV - p_log_sum_N[:, None]).exp_()
        p_mean_N, q_mean_N = (torch.einsum("nv,nv->n", mass_NV, logits_NV) for logits_NV in (p_NV, q_NV))
        parts.append(
            (logps_N, ref_logps_N, p_log_sum_N - p_mean_N, (p_mean_N - q_mean_N) - (p_log_sum_N - q_log_sum_N))
        )
    return PolicyTerms(*(torch.cat(terms) for terms in zip(*parts, strict=True)))


# --------------------------------------------------------------------------------------------------------------- PPO
def last_of_row(mask_BT: Tensor) -> Tensor:
    """Where each row's last token is: True at one position of every row that has one. Returns (B, T), bool."""
    later_BT = mask_BT.flip(-1).cumsum(-1).flip(-1)
    return mask_BT.bool() & (later_BT == 1)


def shaped_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, coefficient: float) -> Tensor:
    """Reward of every token: minus its KL penalty, plus, at an answer's last token, the answer's score. (B, T).

    Ziegler et al. 2019, equation 2, whose log-ratio is a sum over tokens. Nothing outside of the mask.
    """
    return last_of_row(mask_BT) * scores_B[:, None] - coefficient * kl_BT * mask_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns of every token (Schulman et al. 2016, equation 16). (B, T) and (B, T), 0 out of the mask.

    `values_BT` are of the state before a token. An answer's tokens are contiguous; its end is the end of the episode,
    also where the answer was cut off: nothing of value follows.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_advantage_B = next_value_B = torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]  # TD residual
        advantage_B = delta_B + gamma * lam * next_advantage_B
        advantages_BT[:, t] = next_advantage_B = advantage_B * mask_BT[:, t]
        next_value_B = values_BT[:, t] * mask_BT[:, t]
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(values_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale what the mask shows to a variance of 1, and to a mean of 0 or leave the mean as it was. 0 out of the mask.

    The variance is that of the values themselves (divided by their number n, not n - 1), as in Ziegler et al. 2019.
    """
    kept_N = values_BT[mask_BT.bool()]
    mean, variance = kept_N.mean(), kept_N.var(correction=0)
    whitened_BT = (values_BT - mean) * (variance + 1e-8).rsqrt()
    return (whitened_BT if shift_mean else whitened_BT + mean) * mask_BT


def clipped_policy_loss(ratio_N: Tensor, advantages_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """PPO's loss of each token and whether the clip cut its gradient (Schulman et al. 2017, equation 7). (N,), (N,)."""
    free_N = -advantages_N * ratio_N
    cut_N = -advantages_N * ratio_N.clamp(1 - clip, 1 + clip)
    return torch.maximum(free_N, cut_N), cut_N > free_N


def clipped_value_loss(values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float) -> Tensor:
    """Half the squared error of each token's value, or of the value held within `clip` of the old one if larger. (N,).

    Not in the PPO paper; OpenAI's baselines and Ziegler et al. 2019 have it (Huang et al. 2024).
    """
    held_N = old_N + (values_N - old_N).clamp(-clip, clip)
    return torch.maximum((values_N - returns_N) ** 2, (held_N - returns_N) ** 2) / 2


def explained_variance(values_N: Tensor, returns_N: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant, below for worse. Scalar.

    0 also where all returns are the same: there is nothing to explain.
    """
    variance, unexplained = returns_N.var(correction=0), (returns_N - values_N).var(correction=0)
    return torch.where(variance > 1e-8, 1 - unexplained / variance.clamp(min=1e-8), 0.0)


@dataclass(frozen=True)
class AdaptiveKL:
    """The KL penalty's coefficient, moved in proportion to the KL's distance from a target (Ziegler et al. 2019, 2.2).

    `gain` is the paper's K_beta; the relative error is clipped, so that one round moves the coefficient by 2% at most.
    """

    coefficient: float
    target: float
    gain: float = 0.1
    clip: float = 0.2

    def after(self, kl: float) -> AdaptiveKL:
        """The controller after a round whose answers had this KL on average, in nats."""
        error = min(max((kl - self.target) / self.target, -self.clip), self.clip)
        return replace(self, coefficient=self.coefficient * (1 + self.gain * error))
