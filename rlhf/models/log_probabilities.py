"""Log-probabilities of tokens from hidden states, chunk by chunk over the vocabulary; entropy and KL of distributions.

Shapes stand in the names: N positions of completions, H hidden units, V words of the vocabulary, B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Positions projected onto the vocabulary at once; bounds memory at CHUNK x vocabulary x 4 bytes.
CHUNK = 512


def token_logps(
    hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, chunk: int = CHUNK, temperature: float = 1.0
) -> Tensor:
    """log p(label) at N positions, from the last hidden states and the output embedding. Returns (N,), float32.

    Only these positions meet the vocabulary, and their logits are recomputed in the backward pass instead of kept. At
    a temperature, p is the distribution that answers are drawn from at it.
    """
    if len(labels_N) <= chunk:
        return chunk_logps(hidden_NH, head_VH, labels_N, temperature)
    parts = [
        checkpoint(
            chunk_logps, hidden_NH[i : i + chunk], head_VH, labels_N[i : i + chunk], temperature, use_reentrant=False
        )
        for i in range(0, len(labels_N), chunk)
    ]
    return torch.cat(parts)


def chunk_logps(hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, temperature: float = 1.0) -> Tensor:
    """`token_logps` of one chunk."""
    logits_NV = scaled_logits(hidden_NH, head_VH, temperature)
    return logits_NV.gather(-1, labels_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def scaled_logits(hidden_NH: Tensor, head_VH: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, float32. Returns (N, V)."""
    logits_NV = F.linear(hidden_NH.to(head_VH.dtype), head_VH).float()
    return logits_NV if temperature == 1 else logits_NV / temperature


def sum_by_row(values_N: Tensor, rows_N: Tensor, rows: int) -> Tensor:
    """Sum N values into `rows` sums, each value into the row that rows_N names. Returns (rows,)."""
    return torch.zeros(rows, dtype=values_N.dtype, device=values_N.device).index_add(0, rows_N, values_N)


def exact_kl(policy_logits_NV: Tensor, base_logits_NV: Tensor) -> Tensor:
    """KL(policy || base) over the whole vocabulary at each position, in nats. Returns (N,).

    Averaged over the policy's own samples this estimates the per-token KL with less variance than the sampled
    log-ratio, whose expectation it is (Rao-Blackwell).
    """
    policy_NV, base_NV = policy_logits_NV.float().log_softmax(-1), base_logits_NV.float().log_softmax(-1)
    return (policy_NV.exp() * (policy_NV - base_NV)).sum(-1)


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of the softmax of N rows of logits, in nats. Returns (N,)."""
    logps_NV = logits_NV.float().log_softmax(-1)
    return -(logps_NV.exp() * logps_NV).sum(-1)


def token_entropy(hidden_NH: Tensor, head_VH: Tensor, temperature: float, chunk: int = CHUNK) -> Tensor:
    """Entropy at N positions from the last hidden states and the output embedding, chunk by chunk. Returns (N,)."""

    def of_chunk(part_NH: Tensor) -> Tensor:
        return entropy(scaled_logits(part_NH, head_VH, temperature))

    parts = [
        checkpoint(of_chunk, hidden_NH[i : i + chunk], use_reentrant=False) for i in range(0, len(hidden_NH), chunk)
    ]
    return torch.cat(parts)
