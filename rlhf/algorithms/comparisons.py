"""Comparisons as preference training and reward models take them: each answer once, their pairs by index.

However many pairs a ranking has, its prompt and its answers are computed once (Ouyang et al. 2022, "Training language
models to follow instructions with human feedback", section 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.jobs.job_spec import Noise
from rlhf.models.packing import pad
from rlhf.models.tokenize import with_noise

Item = dict[str, Any]
# What is known of each pair of a comparison beside its places, and of each answer, where an algorithm adds it.
OF_PAIRS, OF_ANSWERS = ("strength", "flip", "weight"), ("reference_logps",)


def with_targets(items: Sequence[Item], noise: Noise = "ignore", ai_weight: float = 1.0) -> list[Item]:
    """Comparisons with their pairs as columns: `better` and `worse` place in `answers`, `strength`, `flip`, `weight`.

    A strength that nobody gave is 0. Raises UserError where the data has not the chances of error that are to be used.
    """
    known: list[Item] = [
        {"ai": ai} if flip is None else {"flip": flip, "ai": ai} for item in items for *_, flip, ai in item["pairs"]
    ]
    noisy = iter(with_noise(known, noise, ai_weight))
    made = []
    for item in items:
        better, worse, strengths, *_ = zip(*item["pairs"], strict=True)
        own = [next(noisy) for _ in better]
        columns = {name: [float(pair[name]) for pair in own] for name in ("flip", "weight")}
        columns["strength"] = [float(strength or 0) for strength in strengths]
        kept = {name: item[name] for name in ("prompt_ids", "answers")}
        made.append({**kept, "better": list(better), "worse": list(worse), **columns})
    return made


def collate(items: Sequence[Item], pad_id: int) -> dict[str, Tensor]:
    """Ids, attention mask and completion mask of a right-padded batch of all answers, each (B, T), and the comparison
    of each as `group`, (B,). Of each pair among them, (P,): `better` and `worse` (rows of the batch), `strength`,
    `flip`, `weight`, and `share` of its comparison; of each answer, (B,), its `reference_logps` where they are known.
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
    batch["share"] = torch.tensor([1 / len(item["better"]) for item in items for _ in item["better"]])
    return batch
