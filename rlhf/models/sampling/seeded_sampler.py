"""The random numbers of a draw: each token by the seed of its answer, whatever else is in the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from annotation.records import Sampling, UserError
from annotation.translation import _
from rlhf.models.log_probabilities import rows_in_cache

# Of the likeliest token's probability: what less likely ones come to is a few in a thousand of a model's draws.
PLAUSIBLE = 1e-5


class SeededSampler(LogitsProcessor):
    """Sampling by the Gumbel-max trick, each row with random numbers of its own (Gumbel 1954; Maddison et al. 2014).

    argmax(logit / T + g) with Gumbel noise g is a sample from softmax(logit / T). The noise is a function of the
    answer's seed, the step and the token, so an answer can be drawn again without its batch, and two policies given
    the same seeds share their random numbers: their answers differ only where the policies do.

    Tokens of less than PLAUSIBLE of the likeliest are first drawn as one: the largest of their perturbed logits has
    Gumbel noise around the logarithm of what they come to (Maddison et al. 2014, section 3). Only where they win are
    they told apart, so that noise costs next to nothing however large the vocabulary.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self.seeds_B = torch.tensor(seeds, dtype=torch.int64)
        self.steps_B = torch.zeros_like(self.seeds_B)
        self.sampling = sampling

    def enter(self, others: SeededSampler) -> None:
        """Draw for the rows of another one, too, after the present ones."""
        self.seeds_B, self.steps_B = (
            torch.cat(both) for both in ((self.seeds_B, others.seeds_B), (self.steps_B, others.steps_B))
        )

    def leave(self, going: Tensor) -> None:
        """Draw for these rows only."""
        self.seeds_B, self.steps_B = self.seeds_B[going], self.steps_B[going]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (rows, vocabulary) → perturbed scores whose argmax is the sample."""
        states_B = mix(self.seeds_B + self.steps_B * GOLDEN).to(scores.device)
        rows = rows_in_cache(scores)
        parts = zip(torch.split(scores, rows), torch.split(states_B, rows), strict=True)
        perturbed_BV = torch.cat([self.perturbed(scores_RV.float(), states_R) for scores_RV, states_R in parts])
        self.steps_B += 1
        return perturbed_BV

    def perturbed(self, scores_RV: Tensor, states_R: Tensor) -> Tensor:
        """Of some rows: scores with noise, of tokens that may win. Raises UserError where scores are no numbers."""
        logits_RV = scores_RV / self.sampling.temperature
        likeliest_R1 = logits_RV.amax(dim=-1, keepdim=True)
        if not likeliest_R1.isfinite().all():
            raise UserError(
                _(
                    "What the model says of the next word are no numbers, so nothing can be drawn. Its weights are "
                    "damaged, or too large for the precision that it is held in: hold the base in fp32, or take "
                    "another policy."
                )
            )
        floor_R1 = likeliest_R1 + math.log(max(self.sampling.min_p, PLAUSIBLE))
        rows_N, tokens_N = (logits_RV >= floor_R1).nonzero(as_tuple=True)
        logits_N = logits_RV[rows_N, tokens_N]
        perturbed_RV = torch.full_like(logits_RV, -math.inf)
        perturbed_RV[rows_N, tokens_N] = logits_N + gumbel(states_R[rows_N], tokens_N)
        if self.sampling.min_p < PLAUSIBLE:
            all_R = logits_RV.logsumexp(dim=-1)
            tail_R = 1 - torch.zeros_like(all_R).index_add_(0, rows_N, (logits_N - all_R[rows_N]).exp())
            beyond_R = torch.full_like(states_R, logits_RV.shape[-1])  # the noise of a tail is that of one token more
            best_R = all_R + tail_R.clamp(min=0).log() + gumbel(states_R, beyond_R)
            for row in (best_R > perturbed_RV.amax(dim=-1)).nonzero().flatten().tolist():
                unlikely_V = (logits_RV[row] < floor_R1[row]) & (logits_RV[row] > -math.inf)
                tokens_N = unlikely_V.nonzero().flatten()
                if not len(tokens_N):
                    continue  # the tail was rounding
                noise_N = gumbel(states_R[row].expand_as(tokens_N), tokens_N)
                perturbed_RV[row, tokens_N[(logits_RV[row, tokens_N] + noise_N).argmax()]] = math.inf
        return perturbed_RV


def gumbel(states_N: Tensor, tokens_N: Tensor) -> Tensor:
    """Gumbel noise as a pure function of (seed, step, token): counter-based random numbers (Salmon et al. 2011).

    A state is seed + step * GOLDEN, mixed, as in SplitMix64 (Steele et al. 2014), whose second round a token begins;
    all in wrapping 64-bit arithmetic. Returns (N,).
    """
    bits_N = mix(states_N + tokens_N * GOLDEN)
    uniform_N = (shift(bits_N, 11).double() + 0.5) * 2.0**-53
    return -(-uniform_N.log()).log().float()


# 2^64 / golden ratio, and SplitMix64's multipliers, as signed 64-bit numbers.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def mix(x_N: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    x_N = (x_N ^ shift(x_N, 30)) * FIRST
    x_N = (x_N ^ shift(x_N, 27)) * SECOND
    return x_N ^ shift(x_N, 31)


def shift(x_N: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's keeps the sign."""
    return (x_N >> bits) & ((1 << (64 - bits)) - 1)
