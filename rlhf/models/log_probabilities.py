"""Log-probabilities of tokens from the last hidden states and the output embedding, chunk by chunk, for all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
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
