"""The mathematics of PPO: tensors in, tensors out; shapes in the names, equations beside the lines."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf.models.log_probabilities import CHUNK, Head, by_rows, label_logps


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
        here = slice(i, i + chunk)
        p_NV, q_NV = head.logits(hidden_NH[here], temperature), ref_head.logits(ref_hidden_NH[here], temperature)
        parts.append(by_rows(terms_of_rows, p_NV, q_NV, labels_N[here]))
    return PolicyTerms(*torch.cat(parts, -1))


def terms_of_rows(p_RV: Tensor, q_RV: Tensor, labels_R: Tensor) -> Tensor:
    """The terms of `PolicyTerms` from the logits of both. Returns (4, R)."""
    p_log_sum_R, q_log_sum_R = p_RV.logsumexp(-1), q_RV.logsumexp(-1)
    mass_RV = (p_RV - p_log_sum_R[:, None]).exp_()
    p_mean_R, q_mean_R = (torch.einsum("nv,nv->n", mass_RV, logits_RV) for logits_RV in (p_RV, q_RV))
    kl_R = (p_mean_R - q_mean_R) - (p_log_sum_R - q_log_sum_R)
    return torch.stack([label_logps(p_RV, labels_R), label_logps(q_RV, labels_R), p_log_sum_R - p_mean_R, kl_R])


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
