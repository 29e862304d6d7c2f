"""Direct preference optimisation, on TRL and PEFT, with LoRA, QLoRA, prompt tuning or every weight.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7; Dettmers et al. 2023, "QLoRA", sections 3 and 4.
Departures, besides those of all our TRL trainers (`rlhf.algorithms.trl_trainer`):

- The losses are ours (`rlhf.algorithms.losses`, tested against TRL's). An item is a comparison: its prompt and each of
  its answers are computed once, whatever the number of its pairs, batches carry no padding, and only answer positions
  meet the vocabulary; on a CPU that more than halves the time of a step. Metric names are TRL's.
- A ranking is learnt as one, ties as what they leave open (Plackett 1975; Tang et al. 2025, "Beyond Pairwise", for the
  policy's own loss): of two answers that is equation 7. Comparisons weigh by what they decide, in bits
  (`rlhf.algorithms.comparisons`). Stronger preferences can ask for more (Amini et al. 2024).
- Each pair has a chance of being the wrong way round, estimated from its annotators' reliability, that can weigh it or
  smooth its label (`annotator_noise`), or set the robust loss's rate; the likelihood term follows, so that it does not
  teach what is doubted.
- A likelihood term on the chosen answers keeps the language (Pang et al. 2024, "Iterative Reasoning Preference
  Optimization", equation 1), per token over the batch as in TRL's "sft" loss.
- An answer that was cut off at the limit gets no end-of-text token.
- The reference is computed before the first step, once for all runs (`rlhf.algorithms.dpo.reference`): with the
  parent's weights in the adapter if the parent is the reference, before they are if the base is. TRL would make the
  parent the reference in any case, and round it.
- The reference of virtual tokens is the model without them; of full fine-tuning, the model as it was at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from annotation.exports.frozen_rows import PreferenceRow
from annotation.records import UserError
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.comparisons import Item, collate, order_loss, with_targets
from rlhf.algorithms.dpo.reference import Answer, KeptReference, kept_reference
from rlhf.algorithms.dpo.spec import DPOSpec, PairwiseLoss
from rlhf.algorithms.losses import AnswerLogps, PairLogps, expected_better, implicit_rewards, pairwise_loss
from rlhf.algorithms.trainer import Start, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.snapshots import reason_text, shortage
from rlhf.jobs.descriptions import LeftOut
from rlhf.jobs.worker import Run
from rlhf.models import registry
from rlhf.models.hidden_states import summed_logps
from rlhf.models.loading import adapter_config, load_for_training, load_tokenizer
from rlhf.models.packing import pad
from rlhf.models.tokenize import load_snapshot, of_split, tokenise_comparisons

# Answers whose reference is computed together: without gradients, several times a training batch fits.
REFERENCE_BATCH = 16


def run(run: Run, spec: DPOSpec) -> dict[str, Any]:
    """Train a policy from frozen preferences and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    items, flip_rate, left_out = read_data(run, spec, tokenizer)
    pairs = sum(len(item["better"]) for item in items)
    reasons = ", ".join(f"{count} {reason_text(reason, left_out)}" for reason, count in left_out.items()) or "none"
    robust = f" expecting {flip_rate:.1%} wrong labels" if spec.loss == "robust" else ""
    run.log(
        f"{pairs} pairs in {len(items)} comparisons; left out here: {reasons}; parent {start.parent.revision}; "
        f"reference {spec.reference}; {spec.method}; loss {spec.loss}{robust}; annotator noise: {spec.annotator_noise}"
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        # Measured steps need no more items than they take, and the reference is computed for every one that is given.
        used = items[: run.measured_steps * spec.batch_size * spec.accumulation] if run.measured_steps else items
        expecting = replace(spec, flip_rate=flip_rate)
        trainer = build_trainer(expecting, start, tokenizer, used, checkpoints_of(run), run)
        figures = learn(run, spec, trainer)
        trained = conclude(run, spec, start, trainer.save, figures)
    counts = {"snapshot": spec.snapshot, "train_pairs": pairs, "left_out": left_out}
    return {**counts, **({"flip_rate": flip_rate} if spec.loss == "robust" else {}), **trained.result}


# ------------------------------------------------------------------------------------------------------------ the data
def read_data(run: Run, spec: DPOSpec, tokenizer: Any) -> tuple[list[Item], float, LeftOut]:
    """Comparisons to train on, the share of wrong labels to expect, and what is left out.

    Raises UserError without a pair.
    """
    rows = of_split(load_snapshot(run.data_dir, spec.snapshot, PreferenceRow), "train")
    items, left_out = tokenise_comparisons(tokenizer, rows, spec.max_length)
    if spec.loss in get_args(PairwiseLoss):  # defined for two answers, of which each has tokens
        left_out.update("all-bad" for item in items if not all(item["answers"]))
        items = [item for item in items if all(item["answers"])]
    if not any(all(item["answers"]) for item in items):
        raise UserError(shortage("pairs", 0, 1, left_out))
    flip_rate = spec.flip_rate or suggested_flip_rate(items)
    return with_targets(items, spec.annotator_noise, spec.ai_weight), flip_rate, left_out


def suggested_flip_rate(items: Sequence[Item]) -> float:
    """The mean chance that a pair is the wrong way round, by its annotators' reliability; 0 where it is not known."""
    known = [flip for item in items for *_, flip, _ in item["pairs"] if flip is not None]
    return min(fmean(known), 0.49) if known else 0.0


# --------------------------------------------------------------------------------------------------------- the trainer
def build_trainer(
    spec: DPOSpec, start: Start, tokenizer: Any, items: Sequence[Item], checkpoints: Path, run: Run | None = None
) -> PreferenceTrainer:
    """The trainer with its adapter, and the reference's log-probabilities beside each answer."""
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
    trainer.train_dataset = with_reference(trainer, parents, reference_of(trainer, start, parents, run), run)
    trainer.start_from(start)
    return trainer


class PreferenceTrainer(JobTrainer, DPOTrainer):
    """TRL's trainer with the losses of `rlhf.algorithms.losses`."""

    def items_in(self, batch: Any) -> Tensor:
        """Bits that are decided, one for a pair, and tokens of the better answers, (2,)."""
        tokens_B, share_P = batch["completion_mask"].sum(-1).float(), batch["share"]
        tokens_P = expected_better(tokens_B[batch["better"]], tokens_B[batch["worse"]], batch["flip"])
        return torch.stack([share_P.sum(), (share_P * tokens_P).sum()])

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        """The preference loss of each comparison, less the likelihood of its better answers."""
        spec, (bits, tokens), weight_P = self.spec, items, batch["weight"] * batch["share"]
        answers = logps_of(model, batch)
        rewards_B = implicit_rewards(spec.loss, answers, spec.beta)
        pairs = answers.pairs(batch["better"], batch["worse"])
        if spec.loss in get_args(PairwiseLoss):
            loss_C = weight_P * pairwise_loss(spec.loss, pairs, spec.beta, spec.flip_rate)
        else:
            loss_C = order_loss(rewards_B, batch, spec.offset)
        loss: Tensor = loss_C.sum() / bits
        if spec.sft_weight:
            better_P = expected_better(pairs.chosen_P, pairs.rejected_P, batch["flip"])
            loss = loss - spec.sft_weight * (weight_P * better_P).sum() / tokens
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
            "rewards/accuracies": (chosen_P > rejected_P).float(),
            "logps/chosen": pairs.chosen_P,
            "logps/rejected": pairs.rejected_P,
        }
        for name, values_P in noted.items():
            self.note(name, (batch["share"] * values_P).sum(), bits)


def logps_of(model: Any, batch: Any) -> AnswerLogps:
    """What the losses ask of each answer in a batch."""
    return AnswerLogps(answer_logps(model, batch), batch["reference_logps"], batch["completion_mask"].sum(-1))


def answer_logps(model: Any, batch: Any, *, adapted: bool = True) -> Tensor:
    """Summed log-probability of each answer in a batch, (B,); those of a group share one pass over their prompt."""
    ids_BT, attention_BT, completion_BT = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    return summed_logps(model, ids_BT, attention_BT, completion_BT, batch["group"].tolist(), adapted=adapted)


# ------------------------------------------------------------------------------------------------------- the reference
def reference_of(trainer: PreferenceTrainer, start: Start, parents: bool, run: Run | None) -> KeptReference:
    """What earlier runs have kept of this reference; only the first process writes, and measuring leaves nothing."""
    if run is None or run.rank or run.measured_steps:
        return KeptReference(None)
    return kept_reference(run.data_dir, trainer.spec, start, parents, trainer.accelerator.device.type)


@torch.no_grad()
def with_reference(trainer: PreferenceTrainer, parents: bool, kept: KeptReference, run: Run | None) -> Dataset:
    """The comparisons with their answers' log-probabilities under the reference: the model before it is trained.

    A fresh LoRA adapter changes nothing, and one that holds the parent's weights is the parent. Virtual tokens always
    change something, so they are left out unless they are the parent's. What is not kept from an earlier run is
    computed once, beside the other answers to its prompt; processes share the work. Raises Stopped when the job is told
    to stop.
    """
    dataset, accelerator = trainer.train_dataset, trainer.accelerator
    adapted = trainer.spec.method != "prompt" or parents
    wanted = [[(tuple(item["prompt_ids"]), tuple(ids)) for ids in item["answers"]] for item in dataset]
    missing = kept.missing(answer for answers in wanted for answer in answers)
    kept.known, missing = broadcast_object_list([kept.known, missing])  # as the first process knows it
    collate_them = partial(collate_answers, pad_id=trainer.processing_class.pad_token_id)
    batches = accelerator.prepare(DataLoader(missing, REFERENCE_BATCH, collate_fn=collate_them)) if missing else []
    done = 0
    for batch in batches:
        if run is not None:
            run.raise_if_stopped()
        with accelerator.autocast():
            logps_B = answer_logps(trainer.model, batch, adapted=adapted)
        logps = accelerator.gather_for_metrics(logps_B).float().tolist()
        kept.add(missing[done : done + len(logps)], logps)
        done += len(logps)
    if missing:
        kept.keep()
    return dataset.add_column("reference_logps", [kept.of(answers) for answers in wanted])


def collate_answers(answers: Sequence[Answer], pad_id: int) -> dict[str, Tensor]:
    """A right-padded batch of answers with their prompts, the same `group` for the same prompt."""
    batch = dict(zip(("input_ids", "attention_mask", "completion_mask"), pad(answers, pad_id), strict=True))
    groups = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in answers))}
    batch["group"] = torch.tensor([groups[prompt] for prompt, _ in answers])
    return batch
