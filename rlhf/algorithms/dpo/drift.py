"""How far a policy has moved from where its training began, measured while it is trained, and when that is enough.

A rule about length is learnt in a few steps, one about content asks for many of the same rate: no number of steps suits
both. So training ends where the policy has moved by so much; further on, answers of the first kind are soon no longer
the base's language for the gate (docs/benchmarks.md, the recipe). A rule of the second kind moves a policy to words
that were likely before, and would be cut short by as little: there it may move further (`far_enough`). PPO's early
stopping by KL (`target_kl` of the common implementations) is the like for one batch. It never ends before the first
pass over the data is made, whose steps are so large that there are few of them (`DPOSpec.over`): what counts as learnt
has been learnt from.

Of whole distributions, at the first tokens of some of the answers that are trained on: a policy that answers shorter
moves most where an answer begins and may end, and its own answers have no more than these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from transformers import TrainerCallback

from rlhf.algorithms.dpo.spec import STEPS_A_PASS, far_enough
from rlhf.algorithms.trainer import mean_of_processes
from rlhf.models.hidden_states import completions, head_of
from rlhf.models.log_probabilities import entropy, exact_kl
from rlhf.models.memory.run_memory import BEGINNING_BYTES
from rlhf.models.packing import pad

# Answers, one of a comparison, and tokens of each: a quarter of the passes of a step of four rankings of four.
ANSWERS: Final = 16
FIRST: Final = 12
# Positions that meet the vocabulary at once.
TOGETHER: Final = 32


@dataclass(frozen=True)
class Drift:
    """Where a policy has come to from where its training began."""

    kl: float
    """Nats a token from the beginning."""
    surprise: float
    """How much what it says surprises the beginning, over how much the beginning's own words do: cross-entropy over
    entropy."""


class DriftMeter(TrainerCallback):
    """Notes how far a policy has moved since this was made: before the first step, with the weights it starts from.

    Of the beginning all words' log-probabilities are kept in 16 bits, at as many positions as are counted in the
    estimate of memory.
    """

    def __init__(self, trainer: Any, items: Sequence[Any], most: float, log: Callable[[str], None]) -> None:
        self.trainer, self.most, self.log = trainer, most, log
        self.batch = answers_of(items, trainer.spec.seed, trainer.processing_class.pad_token_id)
        self.beginning = [part_NV.to(torch.float16) for part_NV in self.logps()]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Each comparison has its say, also where fewer would be enough; but for small steps, that somebody asked for.
        if state.epoch < 1 and state.global_step < STEPS_A_PASS and math.isfinite(self.most):
            return
        moved, step, steps = self.measure(), state.global_step, state.max_steps
        for name, value in asdict(moved).items():
            self.trainer.note(name, torch.tensor(value, dtype=torch.float64), torch.ones(()))
        if far_enough(moved.kl, moved.surprise, self.most) and step < steps:
            self.log(
                f"ends after step {step} of {steps}: {moved.kl:.2f} nats a token from where it began "
                f"(stop_kl {self.most:g}), where its words surprise {moved.surprise:.2f} times as much as those "
                "it began with"
            )
            control.should_training_stop = True

    def logps(self) -> Iterator[Tensor]:
        """Log-probabilities of all words at positions of the answers, (N, V), some positions at a time."""
        with torch.no_grad():
            states_NH = torch.cat([self.states(part) for part in self.trainer.parts_of(self.batch)])
            head = head_of(self.trainer.model, float32=True)
            most = max(1, BEGINNING_BYTES // (2 * head.weight_VH.shape[0]))
            chosen_NH = states_NH[:: -(-len(states_NH) // most)]
            for start in range(0, len(chosen_NH), TOGETHER):
                yield head.logits(chosen_NH[start : start + TOGETHER]).log_softmax(-1)

    def states(self, part: Mapping[str, Tensor]) -> Tensor:
        """The last hidden states of a part of the answers, (N, H)."""
        names, device = ("input_ids", "attention_mask", "completion_mask"), self.trainer.accelerator.device
        ids_BT, attention_BT, completion_BT = (part[name].to(device) for name in names)
        with self.trainer.accelerator.autocast():
            return completions(self.trainer.model, ids_BT, attention_BT, completion_BT).before_NH

    def measure(self) -> Drift:
        """From the beginning to now; the same in all processes, which must all ask."""
        parts = []
        for now_NV, then_NV in zip(self.logps(), self.beginning, strict=True):
            kl_N = exact_kl(now_NV, then_NV)
            parts.append(torch.stack([kl_N, kl_N + entropy(now_NV), entropy(then_NV)]))
        means = torch.cat(parts, 1).mean(1).tolist()
        kl, crossed, own = (mean_of_processes(self.trainer.accelerator, mean) for mean in means)
        return Drift(kl, crossed / own)


def answers_of(items: Sequence[Any], seed: int, pad_id: int) -> dict[str, Tensor]:
    """The beginning of an answer of each of some comparisons, drawn by the seed, as a right-padded batch."""
    drawn = Random(seed)
    told = [item for item in items if any(item["answers"])]
    chosen = drawn.sample(told, min(ANSWERS, len(told)))
    answers = [(item["prompt_ids"], drawn.choice([ids for ids in item["answers"] if ids])[:FIRST]) for item in chosen]
    return dict(zip(("input_ids", "attention_mask", "completion_mask"), pad(answers, pad_id), strict=True))
