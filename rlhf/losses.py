"""The mathematics of preference training: tensors in, tensors out; shapes in the names, equations beside the lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Positions projected onto the vocabulary at once; bounds memory at CHUNK x vocabulary x 4 bytes.
CHUNK = 512


def token_logps(hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, chunk: int = CHUNK) -> Tensor:
    """log p(label) at N positions, from the last hidden states and the output embedding. Returns (N,), float32.

    Only these positions meet the vocabulary, and their logits are recomputed in the backward pass instead of kept.
    """
    if len(labels_N) <= chunk:
        return chunk_logps(hidden_NH, head_VH, labels_N)
    parts = [
        checkpoint(chunk_logps, hidden_NH[i : i + chunk], head_VH, labels_N[i : i + chunk], use_reentrant=False)
        for i in range(0, len(labels_N), chunk)
    ]
    return torch.cat(parts)


def chunk_logps(hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor) -> Tensor:
    """`token_logps` of one chunk."""
    logits_NV = F.linear(hidden_NH.to(head_VH.dtype), head_VH).float()
    return logits_NV.gather(-1, labels_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def sum_by_row(values_N: Tensor, rows_N: Tensor, rows: int) -> Tensor:
    """Sum N values into `rows` sums, each value into the row that rows_N names. Returns (rows,)."""
    return torch.zeros(rows, dtype=values_N.dtype, device=values_N.device).index_add(0, rows_N, values_N)


def dpo(chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, beta: float) -> Tensor:
    """DPO loss of each pair from summed log-probabilities (Rafailov et al. 2023, equation 7). Returns (P,)."""
    margin_P = beta * ((chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P))  # r(x, y_w) - r(x, y_l), eq. 5
    return -F.logsigmoid(margin_P)


def conservative_dpo(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, beta: float, flip_P: Tensor
) -> Tensor:
    """DPO loss of pairs that are the wrong way round with chance `flip` (Mitchell 2023, equation 3). Returns (P,).

    "A note on DPO with noisy preferences & relationship to IPO", with an epsilon for each pair: the expected loss of
    the right label, given what the annotators said. It pulls the margin to log((1 - flip) / flip) and no further, and
    from zero by 1/2 - flip: unsure pairs pull less. The unbiased estimator of Chowdhury et al. 2024 ("Provably Robust
    DPO") divides by 1 - 2 flip: right for one error rate of many pairs, but here pairs that are nearly a coin's would
    pull the hardest, and without an end.
    """
    as_said_P = dpo(chosen_P, rejected_P, ref_chosen_P, ref_rejected_P, beta)
    flipped_P = dpo(rejected_P, chosen_P, ref_rejected_P, ref_chosen_P, beta)
    return (1 - flip_P) * as_said_P + flip_P * flipped_P


def likelihood(
    chosen_P: Tensor, rejected_P: Tensor, chosen_tokens_P: Tensor, rejected_tokens_P: Tensor, flip_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Expected log-probability and length of each pair's better answer: the chosen one but for `flip`. (P,) and (P,).

    The ratio of their sums is what the likelihood term beside the DPO loss raises (Pang et al. 2024, equation 1).
    """
    expected_P = (1 - flip_P) * chosen_P + flip_P * rejected_P
    return expected_P, (1 - flip_P) * chosen_tokens_P + flip_P * rejected_tokens_P


def implicit_reward(policy_P: Tensor, reference_P: Tensor, beta: float) -> Tensor:
    """beta log(pi(y|x) / pi_ref(y|x)), the reward a DPO policy implies up to a term of x (equation 5). Returns (P,)."""
    return beta * (policy_P - reference_P)


def exact_kl(policy_logits_NV: Tensor, base_logits_NV: Tensor) -> Tensor:
    """KL(policy || base) over the whole vocabulary at each position, in nats. Returns (N,).

    Averaged over the policy's own samples this estimates the per-token KL with less variance than the sampled
    log-ratio, whose expectation it is (Rao-Blackwell).
    """
    policy_NV, base_NV = policy_logits_NV.float().log_softmax(-1), base_logits_NV.float().log_softmax(-1)
    return (policy_NV.exp() * (policy_NV - base_NV)).sum(-1)
