"""Comparisons as preference training and reward models take them: each answer once, their pairs by index.

However many pairs a ranking has, its prompt and its answers are computed once (Ouyang et al. 2022, "Training language
models to follow instructions with human feedback", section 3.5). It weighs by what it decides, in bits: one for a
pair, two for the best of four, 4.6 for a ranking of four, not by its pairs.

“All bad” is an order, too: no answer at all, whose score is 0, is better than each of those that were shown. So scores
have a zero that means something, as in Kahneman-Tversky optimisation (Ethayarajh et al. 2024), where a bad answer
is weighed against how far the policy has moved on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from annotation.metrics.rankings import bits
from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.descriptions import Item
from rlhf.jobs.job_spec import NoiseUse
from rlhf.models.orders.plackett_luce import Rankings, plackett_luce
from rlhf.models.packing import pad
from rlhf.models.tokenise import OrderedPair, TokenisedComparison

# The strongest preference that annotators can give.
MUCH = 3
# What is known of each pair of a comparison beside its places, and of each answer, where an algorithm adds it.
OF_PAIRS, OF_ANSWERS = ("strength", "flip", "weight"), ("reference_logps",)


class ComparisonColumns(TypedDict):
    """A comparison as its trainers take it, with its pairs as columns."""

    prompt_ids: list[int]
    answers: list[list[int]]
    ai: bool
    """Whether AI judges alone have judged it."""
    better: list[int]
    """Of each pair, the place in `answers`; so `worse`."""
    worse: list[int]
    bits: float
    """What all pairs decide together, by which a comparison weighs."""
    flip: list[float]
    weight: list[float]
    """Their mean is 1 over all bits."""
    strength: list[float]
    """0 where nobody gave one."""


def with_targets(
    items: Sequence[TokenisedComparison], noise: NoiseUse = "ignore", ai_weight: float = 1.0
) -> list[ComparisonColumns]:
    """Comparisons as columns. Raises UserError where the data has not the chances of error that are to be used."""
    used = iter(with_noise([pair for item in items for pair in item["pairs"]], noise, ai_weight))
    made: list[ComparisonColumns] = []
    for item in items:
        pairs, answers = item["pairs"], item["answers"]
        own = [next(used) for _ in pairs]
        made.append(
            {
                "prompt_ids": item["prompt_ids"],
                "answers": answers,
                "ai": all(pair.ai for pair in pairs),
                "better": [pair.better for pair in pairs],
                "worse": [pair.worse for pair in pairs],
                "bits": bits(len(answers), [(pair.better, pair.worse) for pair in pairs]),
                "flip": [one.flip for one in own],
                "weight": [one.weight for one in own],
                "strength": [float(pair.strength or 0) for pair in pairs],
            }
        )
    return weighing_one(made)


class PairUse(NamedTuple):
    """How the loss is to use a pair: with what chance it is the wrong way round, and what it weighs."""

    flip: float
    weight: float


def with_noise(pairs: Sequence[OrderedPair], noise: NoiseUse, ai_weight: float = 1.0) -> list[PairUse]:
    """How the loss is to use each of the pairs: with 0 and 1 where noise is ignored.

    Weights are 1 - 2 flip over their mean: what a coin would have said weighs nothing, and the mean is 1, so that the
    learning rate means the same as without weights. Pairs that AI judges alone prefer weigh `ai_weight` times as much.
    Raises UserError if every pair is a coin's, or has no estimate.
    """
    uses = noisy([pair.flip for pair in pairs], noise)
    if ai_weight == 1.0:
        return uses
    weights = [use.weight * (ai_weight if pair.ai else 1.0) for use, pair in zip(uses, pairs, strict=True)]
    mean = fmean(weights)
    if mean <= 0:
        raise UserError(_("All pairs are AI judges', and ai_weight is 0, so nothing is left to train with."))
    return [PairUse(use.flip, weight / mean) for use, weight in zip(uses, weights, strict=True)]


def noisy(flips: Sequence[float | None], noise: NoiseUse) -> list[PairUse]:
    """`with_noise` for judgements of people and judges alike."""
    if noise == "ignore":
        return [PairUse(0.0, 1.0) for _flip in flips]
    known = [flip for flip in flips if flip is not None]
    if len(known) < len(flips):
        raise UserError(_("This frozen data says nothing of annotators' reliability. Freeze it anew, in a new run."))
    if noise == "smooth":
        return [PairUse(flip, 1.0) for flip in known]
    mean = fmean(1 - 2 * flip for flip in known)
    if mean <= 0:
        raise UserError(_("By the annotators' reliability every pair is a guess, so no weight is left to train with."))
    return [PairUse(0.0, (1 - 2 * flip) / mean) for flip in known]


def weighing_one(items: Sequence[ComparisonColumns]) -> list[ComparisonColumns]:
    """The comparisons with their weights over the mean of these, each by what its comparison decides."""
    weight, decided = sum(item["bits"] * fmean(item["weight"]) for item in items), sum(item["bits"] for item in items)
    return [{**item, "weight": [one * decided / weight for one in item["weight"]]} for item in items]


def collate(items: Sequence[Item], pad_id: int) -> dict[str, Tensor]:
    """Ids, attention mask and completion mask of a right-padded batch of all answers, each (B, T), and the comparison
    of each as `group`, (B,). Of each pair among them, (P,): `better` and `worse` (rows of the batch), `strength`,
    `flip`, `weight`, and `share` of its comparison's bits; of each answer, (B,), its `reference_logps` where known.
    """
    parts = pad([(item["prompt_ids"], ids) for item in items for ids in item["answers"]], pad_id)
    batch = dict(zip(("input_ids", "attention_mask", "completion_mask"), parts, strict=True))
    batch["group"] = torch.tensor([place for place, item in enumerate(items) for _ in item["answers"]])
    starts = torch.tensor([0, *(len(item["answers"]) for item in items[:-1])]).cumsum(0).tolist()
    for side in ("better", "worse"):
        rows = [start + place for start, item in zip(starts, items, strict=True) for place in item[side]]
        batch[side] = torch.tensor(rows)
    for name in (*OF_PAIRS, *OF_ANSWERS):
        if name in items[0]:
            batch[name] = torch.tensor([value for item in items for value in item[name]])
    batch["share"] = torch.tensor([item["bits"] / len(item["better"]) for item in items for _ in item["better"]])
    return batch


def part_of(batch: Mapping[str, Tensor], places: Sequence[int]) -> dict[str, Tensor]:
    """The part of a batch that has these of its answers, all of a comparison together, without needless padding."""
    rows_B = torch.tensor(places, device=batch["input_ids"].device)
    width = int(batch["attention_mask"][rows_B].sum(-1).max())
    part = {name: batch[name][rows_B, :width] for name in ("input_ids", "attention_mask", "completion_mask")}
    if "group" not in batch:
        return part
    own_B = batch["group"][rows_B]
    own_P = torch.isin(batch["group"][batch["better"]], own_B)
    place_B = torch.full_like(batch["group"], -1)
    place_B[rows_B] = torch.arange(len(places), device=place_B.device)
    part["group"] = torch.unique(own_B, return_inverse=True)[1]
    part |= {side: place_B[batch[side][own_P]] for side in ("better", "worse")}
    part |= {name: batch[name][own_P] for name in (*OF_PAIRS, "share") if name in batch}
    return part | {name: batch[name][rows_B] for name in OF_ANSWERS if name in batch}


def of_comparisons(values_P: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The sums of pairs' values over each comparison of a batch, (C,)."""
    sums_C = values_P.new_zeros(int(batch["group"][-1]) + 1)
    return sums_C.index_add(0, batch["group"][batch["better"]], values_P)


def order_loss(scores_B: Tensor, batch: Mapping[str, Tensor], offset: float) -> Tensor:
    """The loss of the order of each comparison in a batch (`expected_loss`), times its weight. Returns (C,).

    `offset` is by how much more the better answer is to score where it is much better. A comparison's chance of error
    and weight are the means of its pairs'.
    """
    size_C = batch["group"].bincount()
    first_C, most = size_C.cumsum(0) - size_C, int(size_C.max())
    comparison_P = batch["group"][batch["better"]]
    pairs = comparison_P, batch["better"] - first_C[comparison_P], batch["worse"] - first_C[comparison_P]
    above_CKK = torch.zeros(len(size_C), most, most, dtype=torch.bool, device=scores_B.device)
    offset_CKK = torch.zeros_like(above_CKK, dtype=scores_B.dtype)
    above_CKK[pairs], offset_CKK[pairs] = True, offset * batch["strength"].to(offset_CKK.dtype) / MUCH
    places_CK = (first_C[:, None] + torch.arange(most, device=scores_B.device)).clamp(max=len(scores_B) - 1)
    bits_C = of_comparisons(batch["share"], batch)
    flip_C, weight_C = (of_comparisons(batch["share"] * batch[name], batch) / bits_C for name in ("flip", "weight"))
    return weight_C * expected_loss(scores_B[places_CK], Rankings(above_CKK, offset_CKK, size_C), flip_C)


def expected_loss(scores_CK: Tensor, rankings: Rankings, flip_C: Tensor) -> Tensor:
    """`plackett_luce` of comparisons whose order is, with chance `flip`, the opposite one. Returns (C,).

    Of two answers' implicit rewards it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences &
    relationship to IPO", equation 3, with an epsilon for each comparison), without a chance of error DPO itself
    (Rafailov et al. 2023, equation 7). It pulls the margin to log((1 - flip) / flip) and no further, and from zero by
    1/2 - flip: unsure ones pull less. The unbiased estimator of Chowdhury et al. 2024 ("Provably Robust DPO") divides
    by 1 - 2 flip: right for one error rate of many pairs, but here those that are nearly a coin's would pull the
    hardest, and without an end. Of two scores it is the loss of Ouyang et al. 2022, equation 1, and the offset the
    margin of Touvron et al. 2023, equation 2.
    """
    loss_C = plackett_luce(scores_CK, rankings)
    if not flip_C.any():
        return loss_C
    return (1 - flip_C) * loss_C + flip_C * plackett_luce(scores_CK, rankings.turned())
