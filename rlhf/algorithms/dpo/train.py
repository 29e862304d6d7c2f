"""Direct preference optimisation, on TRL and PEFT, with LoRA, QLoRA, prompt tuning or every weight.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7; Dettmers et al. 2023, "QLoRA", sections 3 and 4.
Departures, besides those of all our TRL trainers (`rlhf.algorithms.trl_trainer`):

- The losses are ours (`rlhf.algorithms.dpo.losses`, tested against TRL's). An item is a comparison: its prompt and each
  of its answers are computed once, whatever the number of its pairs, batches carry no padding, and only answer
  positions meet the vocabulary; on a CPU that more than halves the time of a step. Metric names are TRL's.
- A ranking is learnt as one, ties as what they leave open (Plackett 1975; Tang et al. 2025, "Beyond Pairwise", for the
  policy's own loss): of two answers that is equation 7. Comparisons weigh by what they decide, in bits
  (`rlhf.algorithms.comparisons`). Stronger preferences can ask for more (Amini et al. 2024).
- Each pair has a chance of being the wrong way round, estimated from its annotators' reliability, that can weigh it or
  smooth its label (`annotator_noise`), or set the robust loss's rate; the likelihood term follows, so that it does not
  teach what is doubted.
- A likelihood term on the chosen answers, of a ranking the best, keeps the language (Pang et al. 2024, "Iterative
  Reasoning Preference Optimization", equation 1), per token over the batch as in TRL's "sft" loss.
- An answer that was cut off at the limit gets no end-of-text token, and one to which a longer answer was preferred
  keeps its own out of the loss (`spec.with_ends_to_learn`).
- The reference is computed before the first step, once for all runs (`rlhf.algorithms.reference`): with the
  parent's weights in the adapter if the parent is the reference, before they are if the base is. TRL would make the
  parent the reference in any case, and round it.
- The reference of virtual tokens is the model without them; of full fine-tuning, the model as it was at the start.
- Training ends early where the policy has moved far enough (`rlhf.algorithms.dpo.drift`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from annotation.exports.frozen_rows import PreferenceRow
from annotation.records import UserError
from annotation.translation import joined
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.comparisons import collate, order_loss, with_targets
from rlhf.algorithms.dpo.drift import DriftMeter
from rlhf.algorithms.dpo.losses import AnswerLogps, PairLogps, expected_better, implicit_rewards, pairwise_loss
from rlhf.algorithms.dpo.spec import DPOSpec, PairwiseLoss
from rlhf.algorithms.reference import answer_logps, start_from_reference
from rlhf.algorithms.trainer import Start, TokenisedData, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.snapshots import left_out_sentence, shortage
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.loading.adapter_loading import adapter_config
from rlhf.models.loading.base_weights import load_for_training
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.tokenise import load_snapshot, of_split


def run(run: Run, spec: DPOSpec) -> dict[str, Any]:
    """Train a policy from frozen preferences and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    data = read_data(run, spec, tokenizer)
    spec = settled(run, spec, data)
    pairs = sum(len(item["better"]) for item in data.items)
    run.log(
        joined(
            f"{pairs} pairs in {len(data.items)} comparisons; parent {start.parent.revision}; {spec.method}; reference "
            f"{spec.reference}; loss {spec.loss}; annotator noise: {spec.annotator_noise}.",
            left_out_sentence(data.left_out),
        )
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        trainer = build_trainer(spec, start, tokenizer, data, checkpoints_of(run), run)
        figures = learn(run, spec, trainer).result(spec.snapshot, pairs, data.left_out)
        trained = conclude(run, spec, start, trainer.save, figures)
    expected = spec.flip_rate if spec.loss == "robust" else None
    planned = spec.steps_over(len(data.items))
    trained = replace(trained, accumulation=spec.accumulation, planned_steps=planned, flip_rate=expected)
    return trained.to_json()


@dataclass(frozen=True)
class PreferenceData(TokenisedData):
    """Comparisons, and how often their pairs are the wrong way round."""

    flip_rate: float = 0.0
    """The mean chance by their annotators' reliability; 0 where it is not known."""


def read_data(run: Run, spec: DPOSpec, tokenizer: Any) -> PreferenceData:
    """Comparisons to train on. Raises UserError without a pair."""
    rows = load_snapshot(run.data_dir, spec.snapshot, PreferenceRow)
    items, left_out = spec.tokenise(tokenizer, of_split(rows, "train"))
    if spec.loss in get_args(PairwiseLoss):  # defined for two answers, of which each has tokens
        left_out.update("all-bad" for item in items if not all(item["answers"]))
        items = [item for item in items if all(item["answers"])]
    if not any(all(item["answers"]) for item in items):
        raise UserError(shortage("pairs", 0, 1, left_out))
    flips = [pair.flip for item in items for pair in item["pairs"] if pair.flip is not None]
    items = with_targets(items, spec.annotator_noise, spec.ai_weight)
    return PreferenceData(items, left_out, flip_rate=min(fmean(flips), 0.49) if flips else 0.0)


def settled(run: Run, spec: DPOSpec, data: PreferenceData) -> DPOSpec:
    """The spec with what it leaves to the data: the passes of a step, and the wrong labels to expect."""
    sized = spec if run.measured_steps else spec.over(len(data.items))  # what is measured is scaled by who foretells
    return replace(sized, flip_rate=spec.flip_rate or data.flip_rate)


def build_trainer(
    spec: DPOSpec, start: Start, tokenizer: Any, data: TokenisedData, checkpoints: Path, run: Run | None = None
) -> PreferenceTrainer:
    """The trainer with its adapter, and the reference's log-probabilities beside each answer."""
    # Measured steps need no more items than they take, and the reference is computed for every one that is given.
    used = run.measured_steps * spec.batch_size * spec.accumulated() if run is not None else 0
    trainer = PreferenceTrainer(
        spec,
        replace(data, items=data.items[: used or None]),
        run,
        model=load_for_training(start.ground, spec, tried=start.tried),
        # TRL is to hold no second model as its reference.
        args=DPOConfig(**arguments(spec, checkpoints, run), precompute_ref_log_probs=True),
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        peft_config=adapter_config(spec, start.base.path),
    )
    start_from_reference(trainer, start, run)
    if run is not None and spec.stop_kl:  # while measuring, for the time that it takes
        most = math.inf if run.measured_steps else spec.stop_kl
        trainer.add_callback(DriftMeter(trainer, data.items, most, run.log))
    return trainer


class PreferenceTrainer(JobTrainer, DPOTrainer):
    """TRL's trainer with the losses of `rlhf.algorithms.dpo.losses`."""

    def items_in(self, batch: Any) -> Tensor:
        """Bits that are decided, one for a pair, and tokens of the best answers, (2,)."""
        tokens_B, share_P = batch["completion_mask"].sum(-1).float(), batch["share"]
        tokens_P = expected_better(tokens_B[batch["better"]], tokens_B[batch["worse"]], batch["flip"])
        return torch.stack([share_P.sum(), (share_P * best_of(batch) * tokens_P).sum()])

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        """The preference loss of each comparison, less the likelihood of its best answers."""
        spec, (bits, tokens), weight_P = self.spec, items, batch["weight"] * batch["share"]
        answers = logps_of(model, batch)
        rewards_B = implicit_rewards(spec.loss, answers, spec.beta)
        pairs = answers.pairs(batch["better"], batch["worse"])
        if spec.loss in get_args(PairwiseLoss):
            loss_C = weight_P * pairwise_loss(spec.loss, pairs, spec.beta, spec.flip_rate)
        else:  # the loss of each comparison's order, by its rewards: of two answers equation 7
            loss_C = order_loss(rewards_B, batch, spec.offset)
        loss: Tensor = loss_C.sum() / bits
        if spec.sft_weight:
            better_P = expected_better(pairs.chosen_P, pairs.rejected_P, batch["flip"])
            # Without a token where all are bad: none is better.
            loss = loss - spec.sft_weight * (weight_P * best_of(batch) * better_P).sum() / tokens.clamp(min=1)
        self.note_rewards(rewards_B, pairs, batch, bits)
        return loss

    @torch.no_grad()
    def note_rewards(self, rewards_B: Tensor, pairs: PairLogps, batch: Any, bits: Tensor) -> None:
        """The implicit rewards of the pairs, by TRL's names."""
        chosen_P, rejected_P = rewards_B[batch["better"]], rewards_B[batch["worse"]]
        noted = {
            "rewards/chosen": chosen_P,
            "rewards/rejected": rejected_P,
            "rewards/margins": chosen_P - rejected_P,
            # A tie counts as half, or a policy that has not moved yet would be wrong of every pair.
            "rewards/accuracies": (1 + (chosen_P - rejected_P).sign()) / 2,
            "logps/chosen": pairs.chosen_P,
            "logps/rejected": pairs.rejected_P,
        }
        for name, values_P in noted.items():
            self.note(name, (batch["share"] * values_P).sum(), bits)


def best_of(batch: Any) -> Tensor:
    """1 for each pair whose better answer no other beats, else 0; (P,). Of a ranking only the best is chosen."""
    return (~torch.isin(batch["better"], batch["worse"])).float()


def logps_of(model: Any, batch: Any) -> AnswerLogps:
    """What the losses ask of each answer in a batch."""
    return AnswerLogps(answer_logps(model, batch), batch["reference_logps"], batch["completion_mask"].sum(-1))
