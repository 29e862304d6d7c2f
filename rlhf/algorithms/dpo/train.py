"""Direct preference optimisation, on TRL and PEFT, with LoRA, QLoRA, prompt tuning or every weight.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7; Dettmers et al. 2023, "QLoRA", sections 3 and 4.
Departures, besides those of all our TRL trainers (`rlhf.algorithms.trl_trainer`):

- The losses are ours (`rlhf.algorithms.losses`, tested against TRL's): a pair's answers share one pass over their
  prompt, batches carry no padding, and only answer positions meet the vocabulary; on a CPU that more than halves the
  time of a step. Metric names are TRL's.
- Each pair has a chance of being the wrong way round, estimated from its annotators' reliability, that can weigh it or
  smooth its label (`annotator_noise`), or set the robust loss's rate; the likelihood term follows, so that it does not
  teach what is doubted.
- A likelihood term on the chosen answers keeps the language (Pang et al. 2024, "Iterative Reasoning Preference
  Optimization", equation 1), per token over the batch as in TRL's "sft" loss.
- An answer that was cut off at the limit gets no end-of-text token.
- The reference is computed once, before the first step: with the parent's weights in the adapter if the parent is the
  reference, before they are if the base is. TRL would make the parent the reference in any case, and round it.
- The reference of virtual tokens is the model without them; of full fine-tuning, the model as it was at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from annotation.exports.frozen_rows import PreferenceRow
from annotation.records import UserError
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.losses import PairLogps, expected_better, implicit_rewards, preference_loss
from rlhf.algorithms.trainer import Start, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.snapshots import reason_text, shortage
from rlhf.jobs.descriptions import LeftOut
from rlhf.jobs.worker import Run
from rlhf.models import registry
from rlhf.models.hidden_states import summed_logps
from rlhf.models.loading import adapter_config, load_for_training, load_tokenizer
from rlhf.models.packing import pad
from rlhf.models.tokenize import load_snapshot, of_split, tokenise_pairs, with_noise

Item = dict[str, Any]


def run(run: Run, spec: DPOSpec) -> dict[str, Any]:
    """Train a policy from frozen preferences and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    items, flip_rate, left_out = read_data(run, spec, tokenizer)
    reasons = ", ".join(f"{count} {reason_text(reason, left_out)}" for reason, count in left_out.items()) or "none"
    robust = f" expecting {flip_rate:.1%} wrong labels" if spec.loss == "robust" else ""
    run.log(
        f"{len(items)} pairs; left out here: {reasons}; parent {start.parent.revision}; reference {spec.reference}; "
        f"{spec.method}; loss {spec.loss}{robust}; annotator noise: {spec.annotator_noise}"
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        # Measured steps need no more pairs than they take, and the reference is computed for every pair that is given.
        used = items[: run.measured_steps * spec.batch_size * spec.accumulation] if run.measured_steps else items
        expecting = replace(spec, flip_rate=flip_rate)
        trainer = build_trainer(expecting, start, tokenizer, used, checkpoints_of(run), run)
        figures = learn(run, spec, trainer)
        trained = conclude(run, spec, start, trainer.save, figures)
    counts = {"snapshot": spec.snapshot, "train_pairs": len(items), "left_out": left_out}
    return {**counts, **({"flip_rate": flip_rate} if spec.loss == "robust" else {}), **trained.result}


# ------------------------------------------------------------------------------------------------------------ the data
def read_data(run: Run, spec: DPOSpec, tokenizer: Any) -> tuple[list[Item], float, LeftOut]:
    """Pairs to train on, the share of wrong labels to expect, and what is left out. Raises UserError without a pair."""
    rows = of_split(load_snapshot(run.data_dir, spec.snapshot, PreferenceRow), "train")
    items, left_out = tokenise_pairs(tokenizer, rows, spec.max_length)
    if not items:
        raise UserError(shortage("pairs", 0, 1, left_out))
    flip_rate = spec.flip_rate or suggested_flip_rate(items)
    return with_noise(items, spec.annotator_noise, spec.ai_weight), flip_rate, left_out


def suggested_flip_rate(items: Sequence[Item]) -> float:
    """The mean chance that a pair is the wrong way round, by its annotators' reliability; 0 where it is not known."""
    known = [item["flip"] for item in items if item.get("flip") is not None]
    return min(fmean(known), 0.49) if known else 0.0


def collate(items: Sequence[Item], pad_id: int) -> dict[str, Tensor]:
    """Ids, attention mask and completion mask of a right-padded batch of P pairs, each (B, T): all chosen answers, then
    all rejected ones, B = 2P. Of each pair, (P,): `flip`, `weight`, and its log-probabilities under the reference."""
    sides = [(item["prompt_ids"], item[side]) for side in ("chosen_ids", "rejected_ids") for item in items]
    batch = dict(zip(("input_ids", "attention_mask", "completion_mask"), pad(sides, pad_id), strict=True))
    for name in ("flip", "weight", "ref_chosen_logps", "ref_rejected_logps"):
        if name in items[0]:
            batch[name] = torch.tensor([item[name] for item in items])
    return batch


# --------------------------------------------------------------------------------------------------------- the trainer
def build_trainer(
    spec: DPOSpec, start: Start, tokenizer: Any, items: Sequence[Item], checkpoints: Path, run: Run | None = None
) -> PreferenceTrainer:
    """The trainer with its adapter, and the reference's log-probabilities beside each pair."""
    trainer = PreferenceTrainer(
        spec,
        model=load_for_training(start.ground, spec, tried=start.tried),
        # TRL is to hold no second model as its reference.
        args=DPOConfig(**arguments(spec, checkpoints, run), precompute_ref_log_probs=True),
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(list(items)),
        processing_class=tokenizer,
        peft_config=adapter_config(spec, start.base.path),
    )
    parents = spec.reference == "parent" and start.adapter is not None
    trainer.start_from(start if parents else replace(start, adapter=None))
    trainer.train_dataset = with_reference(trainer, parents, run)
    trainer.start_from(start)
    return trainer


class PreferenceTrainer(JobTrainer, DPOTrainer):
    """TRL's trainer with the losses of `rlhf.algorithms.losses`."""

    def items_in(self, batch: Any) -> Tensor:
        """Pairs, and tokens of their better answers, (2,)."""
        chosen_tokens_P, rejected_tokens_P = batch["completion_mask"].sum(-1).float().chunk(2)
        tokens_P = expected_better(chosen_tokens_P, rejected_tokens_P, batch["flip"])
        return torch.stack([torch.ones_like(tokens_P).sum(), tokens_P.sum()])

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        """The pairs' preference loss, less the likelihood of their better answers."""
        spec, (pairs, tokens), (flip_P, weight_P) = self.spec, items, (batch["flip"], batch["weight"])
        logps = pair_logps(model, batch)
        loss_P = preference_loss(spec.loss, logps, spec.beta, flip_P, spec.flip_rate)
        loss: Tensor = (weight_P * loss_P).sum() / pairs
        if spec.sft_weight:
            better_P = expected_better(logps.chosen_P, logps.rejected_P, flip_P)
            loss = loss - spec.sft_weight * (weight_P * better_P).sum() / tokens
        self.note_rewards(logps, pairs)
        return loss

    @torch.no_grad()
    def note_rewards(self, logps: PairLogps, pairs: Tensor) -> None:
        """The implicit rewards of the pairs, by TRL's names."""
        chosen_P, rejected_P = implicit_rewards(self.spec.loss, logps, self.spec.beta)
        noted = {
            "rewards/chosen": chosen_P,
            "rewards/rejected": rejected_P,
            "rewards/margins": chosen_P - rejected_P,
            "rewards/accuracies": (chosen_P > rejected_P).float(),
            "logps/chosen": logps.chosen_P,
            "logps/rejected": logps.rejected_P,
        }
        for name, values_P in noted.items():
            self.note(name, values_P.sum(), pairs)


def pair_logps(model: Any, batch: Any) -> PairLogps:
    """What the losses ask of a batch of pairs."""
    chosen_P, rejected_P = answer_logps(model, batch).chunk(2)
    chosen_tokens_P, rejected_tokens_P = batch["completion_mask"].sum(-1).chunk(2)
    references = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
    return PairLogps(chosen_P, rejected_P, *references, chosen_tokens_P, rejected_tokens_P)


def answer_logps(model: Any, batch: Any, *, adapted: bool = True) -> Tensor:
    """Summed log-probability of each answer in a batch, (B,); a pair's share one pass over their prompt."""
    ids_BT, attention_BT, completion_BT = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    pairs = range(len(ids_BT) // 2)
    return summed_logps(model, ids_BT, attention_BT, completion_BT, [*pairs, *pairs], adapted=adapted)


@torch.no_grad()
def with_reference(trainer: PreferenceTrainer, parents: bool, run: Run | None) -> Dataset:
    """The pairs with their log-probabilities under the reference: what the model computes before it is trained.

    A fresh LoRA adapter changes nothing, and one that holds the parent's weights is the parent. Virtual tokens always
    change something, so they are left out unless they are the parent's. Processes share the work. Raises Stopped when
    the job is told to stop.
    """
    dataset, accelerator = trainer.train_dataset, trainer.accelerator
    adapted = trainer.spec.method != "prompt" or parents
    found = []
    for batch in accelerator.prepare(DataLoader(dataset, trainer.spec.batch_size, collate_fn=trainer.data_collator)):
        if run is not None:
            run.raise_if_stopped()
        with accelerator.autocast():
            sides = answer_logps(trainer.model, batch, adapted=adapted).chunk(2)
        found.append(accelerator.gather_for_metrics(sides))
    for column, parts in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*found, strict=True), strict=True):
        dataset = dataset.add_column(column, torch.cat(parts).float().cpu().tolist())
    return dataset
