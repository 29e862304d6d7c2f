"""The losses of rankings: those of pairs, which are comparisons of two answers, and all of them slowly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.algorithms.comparisons import expected_loss
from rlhf.algorithms.dpo.losses import AnswerLogps, PairLogps, implicit_rewards, pairwise_loss
from rlhf.algorithms.dpo.spec import PreferenceLoss
from rlhf.models.orders.plackett_luce import Rankings


def bradley_terry(better_P: Tensor, worse_P: Tensor, margin_P: Tensor, flip_P: Tensor) -> Tensor:
    """The loss of each pair of scores. (P,)."""
    above_P22, offset_P22 = torch.zeros(len(better_P), 2, 2, dtype=torch.bool), better_P.new_zeros(len(better_P), 2, 2)
    above_P22[:, 0, 1], offset_P22[:, 0, 1] = True, margin_P
    rankings = Rankings(above_P22, offset_P22, torch.full((len(better_P),), 2))
    return expected_loss(torch.stack([better_P, worse_P], 1), rankings, flip_P)


def rewards_of(name: PreferenceLoss, pairs: PairLogps, beta: float) -> tuple[Tensor, Tensor]:
    """The implicit rewards of both answers of each pair. (P,), (P,)."""
    chosen = AnswerLogps(pairs.chosen_P, pairs.ref_chosen_P, pairs.chosen_tokens_P)
    rejected = AnswerLogps(pairs.rejected_P, pairs.ref_rejected_P, pairs.rejected_tokens_P)
    return implicit_rewards(name, chosen, beta), implicit_rewards(name, rejected, beta)


def preference_loss(name: PreferenceLoss, pairs: PairLogps, beta: float, flip_P: Tensor, flip_rate: float) -> Tensor:
    """The loss of this name for each pair. (P,)."""
    if name in ("ipo", "robust"):
        return pairwise_loss(name, pairs, beta, flip_rate)
    chosen_P, rejected_P = rewards_of(name, pairs, beta)
    return bradley_terry(chosen_P, rejected_P, torch.zeros_like(chosen_P), flip_P)


def conservative_dpo(pairs: PairLogps, beta: float, flip_P: Tensor) -> Tensor:
    """The sigmoid loss. (P,)."""
    return preference_loss("sigmoid", pairs, beta, flip_P, 0.0)


def dpo(pairs: PairLogps, beta: float, flip: float | Tensor = 0.0) -> Tensor:
    """DPO of each pair (Rafailov et al. 2023, equation 7), in expectation over which answer is better. (P,)."""
    margin_P = beta * ((pairs.chosen_P - pairs.ref_chosen_P) - (pairs.rejected_P - pairs.ref_rejected_P))
    return -(1 - flip) * F.logsigmoid(margin_P) - flip * F.logsigmoid(-margin_P)


def slow_order_loss(scores: Sequence[Tensor], above: Mapping[tuple[int, int], float]) -> Tensor:
    """-log of the sum over all orders that keep the preferences (with the margin of each) of the product of choices."""
    total = torch.zeros(())
    for order in permutations(range(len(scores))):
        if all(order.index(better) < order.index(worse) for better, worse in above):
            chances = [
                scores[one].exp() / sum((scores[other] + above.get((one, other), 0.0)).exp() for other in order[place:])
                for place, one in enumerate(order)
            ]
            total = total + torch.stack(chances).prod()
    return -total.log()
