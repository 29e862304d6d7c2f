"""Small heads on a model's states that score answers as people order them: fitted in seconds, and unlike each other.

Each is a linear score of an answer's mean state in a middle layer, with the loss of the order that people gave. Where
several that were fitted to the same judgements disagree, these do not say yet which answer is better. They differ by a
random prior, from which a head is pulled away by data alone (Osband et al. 2018, "Randomized Prior Functions for Deep
Reinforcement Learning"), and by weighing comparisons at random (the Bayesian bootstrap: Rubin 1981).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from rlhf.models.orders.plackett_luce import Rankings, plackett_luce

HEADS = 8
# Of the layers, the one whose states are taken: those in the middle say more of an answer than the last.
DEPTH = 0.5
STEPS, RATE = 60, 0.05
# The pull to the prior; chosen with a rule and seeds that `benchmarks.acts` does not report.
RIDGE = 0.5


@dataclass(frozen=True)
class StateScale:
    """By which states become numbers that differ by about 1 between answers, whatever the model."""

    mean_H: Tensor
    spread_H: Tensor

    @classmethod
    def of(cls, states_NH: Tensor) -> StateScale:
        """Taken from the states of some answers."""
        spread_H = states_NH.std(0, correction=0).clamp(min=1e-6)
        return cls(states_NH.mean(0), spread_H * sqrt(states_NH.shape[1]))

    def scaled(self, states_NH: Tensor) -> Tensor:
        """States of whatever answers."""
        return (states_NH - self.mean_H) / self.spread_H


Order = Iterable[tuple[int, int]]


def rankings_of(states: Sequence[Tensor], orders: Sequence[Order]) -> tuple[Tensor, Rankings]:
    """Comparisons of any sizes as one batch: scaled states (C, K, H) with padding, and what is known of their order.

    An order is pairs of places, the better answer first.
    """
    most = max(map(len, states))
    padded = [torch.cat([one_KH, one_KH.new_zeros(most - len(one_KH), one_KH.shape[1])]) for one_KH in states]
    above = torch.zeros(len(states), most, most, dtype=torch.bool)
    for row, order in enumerate(orders):
        for better, worse in order:
            above[row, better, worse] = True
    sizes = torch.tensor([len(one_KH) for one_KH in states])
    return torch.stack(padded), Rankings(above, torch.zeros(above.shape), sizes)


def fitted(
    states_CKH: Tensor,
    rankings: Rankings,
    priors_MH: Tensor,
    source: torch.Generator | None = None,
    ridge: float = RIDGE,
    between: Callable[[], object] = lambda: None,
) -> Tensor:
    """The weights of M heads, (M, H): of least loss and distance from their priors.

    With a source each head weighs the comparisons by its own exponential numbers. `between` is called after each step.
    """
    shape = len(priors_MH), len(states_CKH)
    repeated = Rankings(
        rankings.above_CKK.repeat(shape[0], 1, 1),
        rankings.offset_CKK.repeat(shape[0], 1, 1),
        rankings.size_C.repeat(shape[0]),
    )
    weights_MC = torch.ones(shape) if source is None else torch.empty(shape).exponential_(generator=source)
    heads_MH = priors_MH.clone().requires_grad_()
    optimiser = torch.optim.Adam([heads_MH], lr=RATE)
    for _step in range(STEPS):
        with torch.enable_grad():
            scores = torch.einsum("mh,ckh->mck", heads_MH, states_CKH).flatten(0, 1)
            loss = (weights_MC * plackett_luce(scores, repeated).view(shape)).sum()
            loss = loss + ridge / 2 * (heads_MH - priors_MH).square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        between()
    return heads_MH.detach()


def ensemble(
    states_CKH: Tensor,
    rankings: Rankings,
    source: torch.Generator,
    ridge: float = RIDGE,
    between: Callable[[], object] = lambda: None,
) -> Tensor:
    """The weights of HEADS heads that agree where comparisons tell them to, (HEADS, H)."""
    priors_MH = torch.randn(HEADS, states_CKH.shape[-1], generator=source) / sqrt(ridge)
    return fitted(states_CKH, rankings, priors_MH, source, ridge, between)


def votes(heads_MH: Tensor, states_KH: Tensor) -> list[int]:
    """How many of the heads find each of K answers the best."""
    best_M = (heads_MH @ states_KH.T).argmax(-1)
    counts: list[int] = best_M.bincount(minlength=len(states_KH)).tolist()
    return counts
