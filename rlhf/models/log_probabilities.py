"""Log-probabilities of tokens from hidden states, chunk by chunk over the vocabulary; entropy and KL of distributions.

Shapes stand in the names: N positions of completions, H hidden units, V words of the vocabulary, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rlhf.models.memory.run_memory import LOGIT_POSITIONS

# Positions projected onto the vocabulary at once; bounds memory at CHUNK x vocabulary x 4 bytes.
CHUNK = LOGIT_POSITIONS
# Rows of a 16-bit output matrix that are lifted to float32 at once.
LIFTED_ROWS = 4096
# Numbers of which a few copies fit into the cache of a processor's core.
CACHED = 2**18


@dataclass(frozen=True)
class Head:
    """What makes a model's logits of its last hidden states: softcap(scale * (W h + b)).

    Gemma and nanochat cap their logits (Gemma Team 2024, "Gemma 2", section 2), Granite, Cohere, Falcon-H1 and others
    scale them, Phi and GPT-J add a bias.
    """

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    """Logits are kept within plus and minus this, by a hyperbolic tangent."""
    words: int | None = None
    """The first so many rows are words; further ones only pad the matrix."""
    float32: bool = False
    """Multiply in float32 also where the weights have 16 bits, whose logits are otherwise rounded to 16 bits: in
    bfloat16 a log-probability is then off by 0.02 nats, by up to 0.07. Otherwise in what autocast or the weights say.
    """

    def logits(self, hidden_NH: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits over the temperature, float32. Returns (N, V)."""
        if self.float32:
            with torch.autocast(hidden_NH.device.type, enabled=False):
                logits_NV = product_in_float32(hidden_NH, self.weight_VH)
                logits_NV = logits_NV if self.bias_V is None else logits_NV + self.bias_V.float()
        else:
            logits_NV = F.linear(hidden_NH.to(self.weight_VH.dtype), self.weight_VH, self.bias_V).float()
        if self.scale != 1:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = self.softcap * torch.tanh(logits_NV / self.softcap)
        if self.words is not None:
            logits_NV = logits_NV[:, : self.words]
        return logits_NV if temperature == 1 else logits_NV / temperature


def product_in_float32(hidden_NH: Tensor, weight_VH: Tensor) -> Tensor:
    """hidden @ weight.T in float32, with its gradients. Returns (N, V).

    No float32 copy of a whole 16-bit matrix is made, neither here nor for the backward pass: for a vocabulary of
    262,000 words it would take gigabytes.
    """
    if weight_VH.dtype == torch.float32:
        return F.linear(hidden_NH.float(), weight_VH)
    product_NV: Tensor = LiftedProduct.apply(hidden_NH, weight_VH)  # type: ignore[no-untyped-call]
    return product_NV


class LiftedProduct(torch.autograd.Function):
    """`product_in_float32` of 16-bit weights, some rows at a time."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor) -> Tensor:
        """Returns (N, V)."""
        ctx.save_for_backward(hidden_NH, weight_VH)
        product_NV = hidden_NH.new_empty(len(hidden_NH), len(weight_VH), dtype=torch.float32)
        lifted_NH = hidden_NH.float()
        with factors_in_bfloat16(hidden_NH, weight_VH):
            for rows in pieces(len(weight_VH)):
                product_NV[:, rows] = lifted_NH @ weight_VH[rows].float().T
        return product_NV

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Returns the gradients of hidden states and weights, (N, H) and (V, H)."""
        (hidden_NH, weight_VH), gradient_NV = ctx.saved_tensors, gradients[0]
        for_hidden_NH = for_weight_VH = None
        if ctx.needs_input_grad[0]:
            for_hidden_NH = torch.zeros_like(hidden_NH, dtype=torch.float32)
            for rows in pieces(len(weight_VH)):
                for_hidden_NH += gradient_NV[:, rows] @ weight_VH[rows].float()
            for_hidden_NH = for_hidden_NH.to(hidden_NH.dtype)
        if ctx.needs_input_grad[1]:
            for_weight_VH = torch.empty_like(weight_VH)
            for rows in pieces(len(weight_VH)):
                for_weight_VH[rows] = (gradient_NV[:, rows].T @ hidden_NH.float()).to(weight_VH.dtype)
        return for_hidden_NH, for_weight_VH


@contextmanager
def factors_in_bfloat16(*factors: Tensor) -> Iterator[None]:
    """Inside, oneDNN rounds float32 factors to bfloat16 and adds up in float32, if that is what all of these are.

    Then nothing is lost, and a processor that multiplies bfloat16 takes half of the time.
    """
    if any(factor.dtype != torch.bfloat16 for factor in factors):
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def pieces(length: int) -> list[slice]:
    """The rows of an output matrix, so many at a time as are lifted to float32."""
    return [slice(start, start + LIFTED_ROWS) for start in range(0, length, LIFTED_ROWS)]


def token_logps(
    hidden_NH: Tensor, head: Head, labels_N: Tensor, chunk: int = CHUNK, temperature: float = 1.0
) -> Tensor:
    """log p(label) at N positions, from the last hidden states. Returns (N,), float32.

    Only these positions meet the vocabulary, and their logits are recomputed in the backward pass instead of kept. At
    a temperature, p is the distribution that answers are drawn from at it.
    """
    if len(labels_N) <= chunk:
        return chunk_logps(hidden_NH, head, labels_N, temperature)
    parts = [
        checkpoint(
            chunk_logps, hidden_NH[i : i + chunk], head, labels_N[i : i + chunk], temperature, use_reentrant=False
        )
        for i in range(0, len(labels_N), chunk)
    ]
    return torch.cat(parts)


def chunk_logps(hidden_NH: Tensor, head: Head, labels_N: Tensor, temperature: float = 1.0) -> Tensor:
    """`token_logps` of one chunk."""
    return label_logps(head.logits(hidden_NH, temperature), labels_N)


def label_logps(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """log p(label) of N rows of logits, (N,).

    The first ratio of a policy to itself as it drew is 1 to the bit only because all go through here.
    """
    return by_rows(
        lambda logits_RV, labels_R: -F.cross_entropy(logits_RV, labels_R, reduction="none"), logits_NV, labels_N
    )


def sum_by_row(values_N: Tensor, rows_N: Tensor, rows: int) -> Tensor:
    """Sum N values into `rows` sums, each value into the row that rows_N names. Returns (rows,)."""
    return torch.zeros(rows, dtype=values_N.dtype, device=values_N.device).index_add(0, rows_N, values_N)


def rows_in_cache(logits_NV: Tensor) -> int:
    """How many rows to work on at once: those that stay in a processor's cache take a quarter of the time.

    A GPU gets all of them.
    """
    return max(1, CACHED // logits_NV.shape[-1] if logits_NV.device.type == "cpu" else len(logits_NV))


def by_rows(compute: Callable[..., Tensor], logits_NV: Tensor, *others_N: Tensor) -> Tensor:
    """What is computed of rows of logits and of what belongs to them, (..., N), a few rows at a time."""
    rows = rows_in_cache(logits_NV)
    parts = zip(*(torch.split(part, rows) for part in (logits_NV, *others_N)), strict=True)
    return torch.cat([compute(*of_rows) for of_rows in parts], -1)


def exact_kl(policy_logits_NV: Tensor, base_logits_NV: Tensor) -> Tensor:
    """KL(policy || base) over the whole vocabulary at each position, in nats. Returns (N,).

    Averaged over the policy's own samples this estimates the per-token KL with less variance than the sampled
    log-ratio, whose expectation it is (Rao-Blackwell).
    """

    def of_rows(policy_RV: Tensor, base_RV: Tensor) -> Tensor:
        policy_RV, base_RV = policy_RV.float().log_softmax(-1), base_RV.float().log_softmax(-1)
        return (policy_RV.exp() * (policy_RV - base_RV)).sum(-1)

    return by_rows(of_rows, policy_logits_NV, base_logits_NV)


def kl_and_logps(
    policy_NH: Tensor, policy_head: Head, base_NH: Tensor, base_head: Head, labels_N: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """`exact_kl` at each position and the base's log p(label), (N,) each, from the last hidden states of both.

    Chunk by chunk, and each model's logits once.
    """
    parts = []
    for i in range(0, max(len(policy_NH), 1), chunk):
        base_NV = base_head.logits(base_NH[i : i + chunk])
        kl_N = exact_kl(policy_head.logits(policy_NH[i : i + chunk]), base_NV)
        parts.append((kl_N, label_logps(base_NV, labels_N[i : i + chunk])))
    kl_N, logps_N = (torch.cat(part) for part in zip(*parts, strict=True))
    return kl_N, logps_N


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of the softmax of N rows of logits, in nats. Returns (N,)."""

    def of_rows(logits_RV: Tensor) -> Tensor:
        logps_RV = logits_RV.float().log_softmax(-1)
        return -(logps_RV.exp() * logps_RV).sum(-1)

    return by_rows(of_rows, logits_NV)


def token_entropy(hidden_NH: Tensor, head: Head, temperature: float, chunk: int = CHUNK) -> Tensor:
    """Entropy at N positions from the last hidden states, chunk by chunk. Returns (N,)."""

    def of_chunk(part_NH: Tensor) -> Tensor:
        return entropy(head.logits(part_NH, temperature))

    parts = [
        checkpoint(of_chunk, hidden_NH[i : i + chunk], use_reentrant=False) for i in range(0, len(hidden_NH), chunk)
    ]
    return torch.cat(parts)
