"""How far a policy has moved from where its training began, measured while it is trained, and when that is enough.

A rule about length is learnt in eight steps, one about content asks for twenty of the same rate: no number of steps
suits both. So training ends where the policy has moved by so much; further on, answers of the first kind are soon no
longer the base's language for the gate (docs/benchmarks.md, the recipe). PPO's early stopping by KL (`target_kl` of the
common implementations) is the like for one batch.

KL of whole distributions, after the words of some of the answers that are trained on. On these a policy moves by a
fifth more than on its own answers to other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import torch
from torch import Tensor

from rlhf.algorithms.trainer import mean_of_processes
from rlhf.models.hidden_states import completions, head_of
from rlhf.models.packing import pad

# Answers, one of a comparison: a sixth of the passes of a step of four rankings of four. Positions in them at most: of
# each the whole vocabulary is kept in 16 bits, 25 MB at 49,000 words, 134 MB at 262,000.
ANSWERS: Final = 8
POSITIONS: Final = 256


@dataclass
class DriftMeter:
    """Measures from the moment it is made: before the first step, with the weights that training starts from."""

    trainer: Any
    items: Sequence[Any]
    log: Callable[[str], None]
    """Writes to the run's log."""
    beginning_NV: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.batch = answers_of(self.items, self.trainer.spec.seed, self.trainer.processing_class.pad_token_id)
        self.beginning_NV = self.logps().to(torch.float16)

    @torch.no_grad()
    def logps(self) -> Tensor:
        """Log-probabilities of all words at N positions of the answers, (N, V)."""
        model, device = self.trainer.model, self.trainer.accelerator.device
        with self.trainer.accelerator.autocast():
            ids_BT, attention_BT, completion_BT = (part.to(device) for part in self.batch)
            states_NH = completions(model, ids_BT, attention_BT, completion_BT).before_NH
        every = -(-len(states_NH) // POSITIONS)
        return head_of(model, float32=True).logits(states_NH[::every]).log_softmax(-1)

    def kl(self) -> float:
        """Nats a token from the beginning to now; the same in all processes, which must all ask."""
        now_NV = self.logps()
        kl = (now_NV.exp() * (now_NV - self.beginning_NV.float())).sum(-1).mean()
        return mean_of_processes(self.trainer.accelerator, float(kl))

    def enough(self, kl: float, step: int, steps: int) -> bool:
        """Whether that is as far as the policy is to move."""
        most = self.trainer.spec.stop_kl
        if kl >= most and step < steps:
            self.log(f"ends after step {step} of {steps}: {kl:.2f} nats a token from where it began (stop_kl {most:g})")
        return bool(kl >= most)


def answers_of(items: Sequence[Any], seed: int, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """An answer of each of some comparisons, drawn by the seed, as a right-padded batch."""
    drawn = Random(seed)
    told = [item for item in items if any(item["answers"])]
    chosen = drawn.sample(told, min(ANSWERS, len(told)))
    return pad([(item["prompt_ids"], drawn.choice([ids for ids in item["answers"] if ids])) for item in chosen], pad_id)
