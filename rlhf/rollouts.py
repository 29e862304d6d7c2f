"""The answers of a round: to which prompts, with which seeds, in which minibatches, and what is noted of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from rlhf.roles import Answer
from rlhf.specs import PPOSpec


@dataclass(frozen=True)
class Rollouts:
    """The answers of a round in all processes, with what each role said of them while the policy was still the one that
    drew them. (B, T) by answer and token, zero beyond an answer's end, or (B,)."""

    answers: list[Answer]
    scores_B: Tensor
    mask_BT: Tensor
    logps_BT: Tensor
    ref_logps_BT: Tensor
    values_BT: Tensor
    kl_BT: Tensor
    entropy_BT: Tensor

    def tokens(self, values_BT: Tensor, rows: Sequence[int]) -> Tensor:
        """The values of some answers' tokens, one after the other, as the forward passes give them. (N,)."""
        chosen = list(rows)
        return values_BT[chosen][self.mask_BT[chosen]]


def collate(parts: Sequence[tuple[Answer, Mapping[str, Tensor]]], device: torch.device) -> Rollouts:
    """`Rollouts` of answers and what was noted of each: its score, and (T,) for every token."""
    answers, noted = [answer for answer, _ in parts], [values for _, values in parts]

    def padded(name: str) -> Tensor:
        return nn.utils.rnn.pad_sequence([values[name] for values in noted], batch_first=True).to(device)

    lengths_B = torch.tensor([len(answer.ids) for answer in answers])
    mask_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    scores_B = torch.stack([values["score"] for values in noted]).to(device)
    names = ("logps", "ref_logps", "values", "kl", "entropy")
    return Rollouts(answers, scores_B, mask_BT.to(device), **{f"{name}_BT": padded(name) for name in names})


@lru_cache(maxsize=8)
def shuffled(count: int, key: str) -> tuple[int, ...]:
    """The numbers below `count` in an order that the key decides."""
    return tuple(random.Random(key).sample(range(count), count))


def minibatch(spec: PPOSpec, step: int, update: int) -> Sequence[int]:
    """The answers of a round's optimiser step: as they were drawn in the first epoch, then shuffled anew in each."""
    epoch, part = divmod(update, spec.minibatches)
    order = shuffled(spec.rollouts, f"order {spec.seed} {step} {epoch}") if epoch else range(spec.rollouts)
    size = spec.rollouts // spec.minibatches
    return order[part * size : (part + 1) * size]


def prompt_of(count: int, spec: PPOSpec, step: int, index: int) -> int:
    """Which of `count` prompts an answer of a round is to: all in turn, shuffled anew each time."""
    turn, place = divmod(step * spec.rollouts + index, count)
    return shuffled(count, f"prompts {spec.seed} {turn}")[place]


def seed_of(spec: PPOSpec, step: int, index: int) -> int:
    """The seed that an answer is drawn with, of 62 bits."""
    return random.Random(f"answer {spec.seed} {step} {index}").getrandbits(62)
