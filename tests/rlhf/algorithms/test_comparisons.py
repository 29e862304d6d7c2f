"""A comparison's answers computed once: the loss and the gradient of its pairs one by one, in several families."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from annotation.records import UserError
from rlhf.algorithms.comparisons import collate, order_loss, part_of, with_noise, with_targets
from rlhf.algorithms.dpo.losses import PairLogps, implicit_rewards
from rlhf.algorithms.dpo.train import logps_of
from rlhf.algorithms.reference import answer_logps, collate_answers
from rlhf.models.hidden_states import summed_logps
from rlhf.models.packing import pad
from rlhf.models.tokenise import OrderedPair
from tests.architectures import VOCABULARY, built
from tests.rlhf.algorithms.pair_losses import dpo, slow_order_loss

BETA = 0.1
# Three that can be packed, one of them with sliding windows, and one that can't.
FAMILIES = ("llama", "gpt2", "gemma3_text", "lfm2")
# A ranking of four with a tie between the last two, as pairs by place, and a comparison of two.
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)], [(1, 0)]
LENGTHS = (11, (7, 4, 13, 9)), (6, (8, 5))


def comparisons() -> list[dict[str, Any]]:
    """Random comparisons as `tokenise_comparisons` makes them, with what the reference would say of each answer."""
    random = torch.Generator().manual_seed(3)

    def ids(length: int) -> list[int]:
        return [int(one) for one in torch.randint(3, VOCABULARY, (length,), generator=random)]

    items = [
        {
            "prompt_ids": ids(prompt),
            "answers": [ids(length) for length in answers],
            "comparison": number,
            "pairs": [OrderedPair(better, worse, None, 0.1 * worse, False) for better, worse in pairs],
        }
        for number, ((prompt, answers), pairs) in enumerate(zip(LENGTHS, PAIRS, strict=True))
    ]
    made = with_targets(items, "smooth")
    return [{**item, "reference_logps": [-30.0 - place for place, _ in enumerate(item["answers"])]} for item in made]


def pair_by_pair(model: Any, item: dict[str, Any]) -> Tensor:
    """The losses of a comparison's pairs, each with its prompt and its two answers computed anew."""
    losses = []
    for better, worse, flip in zip(item["better"], item["worse"], item["flip"], strict=True):
        both = [item["answers"][better], item["answers"][worse]]
        logps = summed_logps(model, *pad([(item["prompt_ids"], ids) for ids in both], 0), packed=False)
        reference = [torch.tensor([item["reference_logps"][place]]) for place in (better, worse)]
        lengths = [torch.tensor([len(ids)]) for ids in both]
        pair = PairLogps(*logps.chunk(2), *reference, *lengths)
        losses.append(dpo(pair, BETA, flip))
    return torch.cat(losses)


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    """What the loss asks of every weight."""
    model.zero_grad()
    loss.backward()
    return [value.grad.clone() for value in model.parameters() if value.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_pairs_of_a_comparison_together_are_the_pairs_one_by_one(family: str) -> None:
    """Loss and gradient, though four answers of five pairs are computed once each, and their prompt once."""
    model, items = built(family), comparisons()
    slow_P = torch.cat([pair_by_pair(model, item) for item in items])
    expected = gradients(model, slow_P.mean())
    batch = collate(items, 0)
    assert len(batch["input_ids"]) == 6
    pairs = logps_of(model, batch).pairs(batch["better"], batch["worse"])
    fast_P = dpo(pairs, BETA, batch["flip"])
    torch.testing.assert_close(fast_P, slow_P, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(model, fast_P.mean()), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_that_are_all_bad_lose_against_a_score_of_zero(family: str) -> None:
    """No answer has no tokens, so its reward is 0; beside a ranking, whether sequences are packed or not."""
    model, ranking = built(family), comparisons()[0]
    bad = [OrderedPair(0, place, None, 0.0, False) for place in (1, 2)]
    (outside,) = with_targets([{"prompt_ids": [5, 6, 7], "answers": [[], [8, 9], [10]], "pairs": bad}])
    batch = collate([ranking, {**outside, "reference_logps": [0.0, -9.0, -4.0]}], 0)
    answers = logps_of(model, batch)
    rewards_B = implicit_rewards("sigmoid", answers, BETA)
    assert rewards_B[4].item() == 0
    assert rewards_B[:4].all()
    loss = order_loss(rewards_B, batch, 0.0)[1]
    assert loss.item() == pytest.approx(torch.log1p(rewards_B[5:].exp().sum()).item(), rel=1e-5)
    assert batch["share"][-2:].sum().item() == pytest.approx(math.log2(3))
    assert implicit_rewards("length-normalised", answers, BETA)[4].item() == 0
    grown = torch.autograd.grad(loss, rewards_B)[0]
    assert (grown[5:] > 0).all(), "the loss falls where they become less likely"


def test_the_loss_of_a_batch_is_that_of_its_orders_each_with_its_own_size_weight_and_chance_of_error() -> None:
    items = with_targets(
        [
            {"prompt_ids": [1], "answers": [[2]] * size, "pairs": [OrderedPair(*pair) for pair in pairs]}
            for size, pairs in (
                (2, [(1, 0, 3.0, 0.1, False)]),
                (4, [(2, other, None, 0.2, False) for other in (0, 1, 3)]),
                (3, [(0, 2, None, 0.3, False), (1, 2, None, 0.1, False)]),
            )
        ],
        "smooth",
    )
    items[1]["weight"] = [0.5] * 3
    scores = torch.randn(9, generator=torch.Generator().manual_seed(1))
    first, found = 0, []
    for item, flip in zip(items, (0.1, 0.2, 0.2), strict=True):
        own = list(scores[first : first + len(item["answers"])])
        pairs = list(zip(item["better"], item["worse"], item["strength"], strict=True))
        above = {(better, worse): 0.6 * strength / 3 for better, worse, strength in pairs}
        below = {(worse, better): margin for (better, worse), margin in above.items()}
        loss = (1 - flip) * slow_order_loss(own, above) + flip * slow_order_loss(own, below)
        found.append((item["weight"][0] * loss).item())
        first += len(item["answers"])
    assert order_loss(scores, collate(items, 0), 0.6).tolist() == pytest.approx(found, abs=1e-5)
    assert collate(items, 0)["share"].sum().item() == pytest.approx(1 + 2 + math.log2(3))


def test_a_ranking_weighs_by_what_it_decides_and_weights_have_the_mean_1_over_that() -> None:
    """A sure pair and a doubted ranking of three: log2(6) bits, not three pairs."""
    items = [
        {"prompt_ids": [1], "answers": [[2]] * 2, "pairs": [OrderedPair(0, 1, None, 0.0, False)]},
        {
            "prompt_ids": [1],
            "answers": [[2]] * 3,
            "pairs": [OrderedPair(a, b, None, 0.4, False) for a, b in ((0, 1), (0, 2), (1, 2))],
        },
    ]
    pair, ranking = with_targets(items, "weight")
    assert (pair["bits"], ranking["bits"]) == pytest.approx((1.0, math.log2(6)))
    assert pair["weight"][0] / ranking["weight"][0] == pytest.approx(5)
    assert pair["weight"][0] + math.log2(6) * ranking["weight"][0] == pytest.approx(1 + math.log2(6))


@torch.no_grad()
def test_answers_to_one_prompt_share_it_whichever_comparison_they_belong_to() -> None:
    """As the reference takes them: sorted, so that those of a prompt lie together."""
    model, items = built("llama"), comparisons()
    answers = sorted((tuple(item["prompt_ids"]), tuple(ids)) for item in items for ids in item["answers"])
    batch = collate_answers(answers, 0)
    assert sorted(batch["group"].tolist()) == [0, 0, 0, 0, 1, 1] or batch["group"].tolist() == [0, 0, 1, 1, 1, 1]
    alone = torch.cat([answer_logps(model, collate_answers([answer], 0)) for answer in answers])
    torch.testing.assert_close(answer_logps(model, batch), alone, rtol=0, atol=1e-4)


def test_a_part_of_a_batch_is_the_batch_of_its_comparisons() -> None:
    """In every column, so that whatever a loss asks of it is right."""
    ranking, pair = comparisons()
    batch = collate([ranking, pair, ranking], 0)
    for items, places in (([ranking], range(4)), ([pair], range(4, 6)), ([pair, ranking], range(4, 10))):
        found, alone = part_of(batch, places), collate(items, 0)
        assert found.keys() == alone.keys()
        for name, column in found.items():
            assert torch.equal(column, alone[name]), name


# ----------------------------------------------------------------------------------------------------- annotator noise
def pair_of(flip: float | None, ai: bool = False) -> OrderedPair:
    return OrderedPair(0, 1, None, flip, ai=ai)


FLIPS = [pair_of(flip) for flip in (0.1, 0.3, 0.5)]


def test_weights_worked_out_by_hand() -> None:
    """1 - 2 flip is 0.8, 0.4 and 0, on average 0.4; a coin's pair weighs nothing, and the mean weight is 1."""
    pairs = with_noise(FLIPS, "weight")
    assert [pair.weight for pair in pairs] == pytest.approx([2.0, 1.0, 0.0])
    assert [pair.flip for pair in pairs] == [0.0, 0.0, 0.0], "a pair that is weighed is not smoothed as well"


def test_pairs_that_are_equally_sure_weigh_the_same() -> None:
    assert [pair.weight for pair in with_noise([pair_of(0.27)] * 3, "weight")] == pytest.approx([1.0] * 3)


def test_smoothing_leaves_weights_alone_and_ignoring_leaves_both() -> None:
    smoothed, ignored = with_noise(FLIPS, "smooth"), with_noise(FLIPS, "ignore")
    assert smoothed == [(0.1, 1.0), (0.3, 1.0), (0.5, 1.0)]
    assert ignored == [(0.0, 1.0)] * 3


def test_data_without_an_estimate_or_without_a_sure_pair_is_refused_in_words() -> None:
    """Data frozen by an earlier version has no estimate; where noise is ignored it needs none."""
    old = [pair_of(None)]
    assert with_noise(old, "ignore") == [(0.0, 1.0)]
    for noise in ("weight", "smooth"):
        with pytest.raises(UserError, match="says nothing of annotators' reliability"):
            with_noise(old, noise)
    with pytest.raises(UserError, match="every pair is a guess"):
        with_noise([pair_of(0.5)], "weight")


def test_what_ai_judges_alone_prefer_weighs_as_much_as_the_spec_says() -> None:
    """Weights 1, 1 and 1/2, on average 5/6; with noise 0.8, 0.4 and 0 / 2, on average 0.4."""
    pairs = [pair_of(0.1), pair_of(0.3), pair_of(0.5, ai=True)]
    assert [pair.weight for pair in with_noise(pairs, "ignore", 0.5)] == pytest.approx([1.2, 1.2, 0.6])
    assert [pair.weight for pair in with_noise(pairs, "weight", 0.5)] == pytest.approx([2.0, 1.0, 0.0])
    with pytest.raises(UserError, match="All pairs are AI judges'"):
        with_noise([pair_of(None, ai=True)], "ignore", 0.0)
