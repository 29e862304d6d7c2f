"""The chance of an order: Plackett and Luce's model of answers by their scores, of orders that are known in part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rankings:
    """What is known of the order of the answers of C comparisons, of up to K answers each.

    `above_CKK[c, i, j]` says that answer i is better than j. It need not say so of every two: answers may be tied, or
    only the best of them be known; but it goes round in no circle. `offset_CKK[c, i, j]` is by how much more i is to
    score where it is better. Comparison c has the first `size_C[c]` answers, the rest of K is padding.
    """

    above_CKK: Tensor
    offset_CKK: Tensor
    size_C: Tensor

    def turned(self) -> Rankings:
        return replace(self, above_CKK=self.above_CKK.mT, offset_CKK=self.offset_CKK.mT)


def plackett_luce(scores_CK: Tensor, rankings: Rankings) -> Tensor:
    """-log of the chance that Plackett and Luce's model draws an order that agrees with each comparison. Returns (C,).

    The model (Plackett 1975) places one answer after the other, each by a softmax of the scores of those left. What
    people leave open (ties, all but the best) is summed over: the chance is that of all orders which keep what they
    said (partial orders under this model: Liu et al. 2019, "Learning Plackett-Luce Mixtures from Partial
    Preferences"), by a recursion over the 2^K sets of answers left instead of the K! orders. Of two answers it is the
    Bradley-Terry loss; where all are tied, 0. With an offset, which Amini et al. 2024 ("Direct Preference Optimization
    with an Offset") give to pairs, an answer competes with those it is better than as if they scored so much more.
    """
    chances = [torch.zeros_like(scores_CK[:, :1])]  # their logarithms, by the number of answers left: (C, sets)
    for members_SN, without_SN in sets_left(scores_CK.shape[1]):
        firsts_SN1, others_S1N = members_SN[:, :, None], members_SN[:, None, :]
        scores_CSN = scores_CK[:, members_SN]
        left_CSNN = scores_CSN[:, :, None, :] + rankings.offset_CKK[:, firsts_SN1, others_S1N]
        placed_CSN = scores_CSN - left_CSNN.logsumexp(-1) + chances[-1][:, without_SN]
        waits_CSN = rankings.above_CKK[:, firsts_SN1, others_S1N].any(2)  # one that is better is left
        chances.append(placed_CSN.masked_fill(waits_CSN, -torch.inf).logsumexp(-1))
    return -torch.stack([chances[size][row, 0] for row, size in enumerate(rankings.size_C.tolist())])


@cache
def sets_left(size: int) -> list[tuple[Tensor, Tensor]]:
    """The sets of 1, 2, ... up to `size` answers: members (S, N), and the place of the set without each, (S, N).

    Sets of one size are in lexicographic order, so that the first is that of the first answers.
    """
    found = []
    before: dict[tuple[int, ...], int] = {(): 0}
    for number in range(1, size + 1):
        sets = list(combinations(range(size), number))
        without = [[before[one[:place] + one[place + 1 :]] for place in range(number)] for one in sets]
        found.append((torch.tensor(sets), torch.tensor(without)))
        before = {one: place for place, one in enumerate(sets)}
    return found
