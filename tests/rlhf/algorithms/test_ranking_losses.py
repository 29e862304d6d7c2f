"""The loss of a ranking against the sum over all orders, for every ranking of up to four answers and more."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations, permutations, product

import pytest
import torch
from torch import Tensor

from annotation.metrics.rankings import bits
from rlhf.algorithms.comparisons import expected_loss
from rlhf.algorithms.dpo.losses import PairLogps
from rlhf.models.orders.plackett_luce import Rankings, plackett_luce
from tests.rlhf.algorithms.pair_losses import dpo

Pairs = Collection[tuple[int, int]]


def of_ranks(ranks: Sequence[int]) -> Pairs:
    """The preferences of a ranking with ties: 1 is best."""
    pairs = permutations(range(len(ranks)), 2)
    return {(better, worse) for better, worse in pairs if ranks[better] < ranks[worse]}


def rankings_of(sizes: Sequence[int], said: Sequence[Pairs], offsets: Sequence[float] = ()) -> Rankings:
    """Comparisons of these sizes, padded to the largest."""
    most = max(sizes)
    above, offset = torch.zeros(len(sizes), most, most, dtype=torch.bool), torch.zeros(len(sizes), most, most)
    for row, pairs in enumerate(said):
        for better, worse in pairs:
            above[row, better, worse] = True
            offset[row, better, worse] = offsets[row] if offsets else 0.0
    return Rankings(above, offset, torch.tensor(sizes))


def slow_loss(scores: Sequence[float], pairs: Pairs, offset: float = 0.0) -> float:
    """-log of the sum over all orders that keep the pairs, each by the product of its choices."""
    total = 0.0
    for order in permutations(range(len(scores))):
        if any(order.index(better) > order.index(worse) for better, worse in pairs):
            continue
        chance = 1.0
        for place, chosen in enumerate(order):
            left = [scores[other] + (offset if (chosen, other) in pairs else 0.0) for other in order[place:]]
            chance *= math.exp(scores[chosen]) / sum(map(math.exp, left))
        total += chance
    return -math.log(total)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_it_is_the_sum_over_all_orders_for_every_ranking_with_ties(size: int) -> None:
    scores = [0.7, -1.3, 2.1, 0.2][:size]
    said = [of_ranks(ranks) for ranks in product(range(1, size + 1), repeat=size)]
    for offset in (0.0, 0.6):
        rankings = rankings_of([size] * len(said), said, [offset] * len(said))
        loss = plackett_luce(torch.tensor([scores] * len(said)), rankings)
        assert loss.tolist() == pytest.approx([slow_loss(scores, pairs, offset) for pairs in said], abs=1e-5)


def test_preferences_that_are_no_ranking_and_comparisons_of_several_sizes_in_one_batch() -> None:
    """Padding has no say, whatever its scores are."""
    sizes, said = [2, 5, 3], [{(1, 0)}, {(0, 3), (1, 3), (1, 4)}, {(0, 1), (0, 2)}]
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(4)) * 2
    expected = [slow_loss(row[:size].tolist(), pairs) for row, size, pairs in zip(scores, sizes, said, strict=True)]
    assert plackett_luce(scores, rankings_of(sizes, said)).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_ranking_of_four_worked_out_by_hand() -> None:
    # Scores ln 4, ln 3, ln 2, 0: 4/10 x 3/6 x 2/3 = 2/15. The best of four: 4/10. The first two tied before the others:
    # 4/10 x 3/6 + 3/10 x 4/7 = 0.2 + 0.171429.
    scores = torch.tensor([[math.log(4), math.log(3), math.log(2), 0.0]] * 3)
    found = plackett_luce(
        scores, rankings_of([4] * 3, [of_ranks(ranks) for ranks in ([1, 2, 3, 4], [1, 2, 2, 2], [1, 1, 2, 2])])
    )
    assert found.exp().reciprocal().tolist() == pytest.approx([2 / 15, 0.4, 0.3714286])


def test_of_two_answers_it_is_the_pair_loss_with_margin_and_chance_of_error() -> None:
    """The expected Bradley-Terry loss from its definition, and DPO's of implicit rewards."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(20, 2, generator=generator, dtype=torch.float64) * 3
    flip, margin = (torch.rand(20, generator=generator, dtype=torch.float64) for _ in range(2))
    rankings = rankings_of([2] * 20, [{(0, 1)}] * 20, margin.tolist())
    better, worse = scores.T
    said, turned = ((1 + (margin - gap).exp()).log() for gap in (better - worse, worse - better))
    expected = (1 - flip) * said + flip * turned
    assert expected_loss(scores, rankings, flip).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    pairs, plain = (
        PairLogps(*(10 * scores.T), *torch.zeros(2, 20), *torch.ones(2, 20)),
        rankings_of([2] * 20, [{(0, 1)}] * 20),
    )
    assert plackett_luce(scores, plain).tolist() == pytest.approx(dpo(pairs, 0.1).tolist())


def test_where_all_are_tied_there_is_nothing_to_learn() -> None:
    scores = torch.tensor([[3.0, -2.0, 0.5]], requires_grad=True)
    loss = plackett_luce(scores, rankings_of([3], [set()]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert scores.grad is not None
    assert scores.grad.tolist()[0] == pytest.approx([0.0] * 3, abs=1e-6)


def test_tied_answers_are_not_told_apart_and_both_rise_over_the_worse_one() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    plackett_luce(scores, rankings_of([3], [of_ranks([1, 1, 2])])).sum().backward()
    assert scores.grad is not None
    first, second, worst = scores.grad[0].tolist()
    assert first == pytest.approx(second)
    assert first < 0 < worst


def test_at_equal_scores_it_costs_ln_2_for_each_bit_that_is_decided() -> None:
    said = [of_ranks(ranks) for ranks in product(range(1, 5), repeat=4)]
    loss = plackett_luce(torch.zeros(len(said), 4), rankings_of([4] * len(said), said))
    assert loss.tolist() == pytest.approx([math.log(2) * bits(4, pairs) for pairs in said], abs=1e-5)


def test_gradients_stay_finite_far_out_and_for_the_largest_comparison() -> None:
    scores = (torch.arange(10.0) * 200).requires_grad_()
    loss = plackett_luce(scores[None], rankings_of([10], [set(combinations(range(10), 2))]))
    loss.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert loss.item() == pytest.approx(sum(200 * (9 - place) for place in range(9)))


def test_a_turned_ranking_is_that_of_the_worst_first() -> None:
    scores: Tensor = torch.tensor([[0.3, -0.4, 1.1]])
    turned = rankings_of([3], [of_ranks([1, 2, 3])]).turned()
    assert plackett_luce(scores, turned).item() == pytest.approx(
        slow_loss([0.3, -0.4, 1.1], of_ranks([3, 2, 1])), abs=1e-6
    )
