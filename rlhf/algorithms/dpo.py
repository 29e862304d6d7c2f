"""Direct preference optimisation, on TRL and PEFT, with LoRA, QLoRA, prompt tuning or every weight.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7; Dettmers et al. 2023, "QLoRA", sections 3 and 4.
TRL's trainer brings the reference log-probabilities, batching, optimiser, checkpoints and resuming. Departures:

- The losses are ours (`rlhf.algorithms.losses`, tested against TRL's): a pair's answers share one pass over their
  prompt, batches carry no padding, and only answer positions meet the vocabulary; on a CPU that more than halves the
  time of a step. Metric names are TRL's.
- Each pair has a chance of being the wrong way round, estimated from its annotators' reliability, that can weigh it or
  smooth its label (`annotator_noise`), or set the robust loss's rate; the likelihood term follows, so that it does not
  teach what is doubted.
- A likelihood term on the chosen answers keeps the language (Pang et al. 2024, "Iterative Reasoning Preference
  Optimization", equation 1), per token over the batch as in TRL's "sft" loss.
- What is trained stays in float32 (TRL casts adapters to bfloat16 on a quantised base): AdamW's steps at these learning
  rates are below bfloat16's resolution and would be lost.
- Rows come tokenised, and an answer that was cut off at the limit gets no end-of-text token.
- A continued adapter is a fresh one that gets its parent's weights: before the reference is computed if the parent is
  the reference, after it if the base is. TRL would make the parent the reference in any case, and round it.
- The reference of virtual tokens is the model without them; of full fine-tuning, the model as it was at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from annotation.records import UserError
from rlhf.algorithms.losses import PairLogps, implicit_rewards, likelihood, preference_loss
from rlhf.algorithms.trainer import JobTrainer, Start, arguments, quietly, save_policy, start_of, train
from rlhf.data.snapshots import reason_text, shortage
from rlhf.jobs.specs import DPOSpec
from rlhf.jobs.worker import Run
from rlhf.models.hidden_states import summed_logps
from rlhf.models.loading import adapter_config, hold_in_float32, load_adapter, load_for_training, load_tokenizer
from rlhf.models.tokenize import load_snapshot, tokenise_pairs, with_noise


def run(run: Run, spec: DPOSpec) -> dict[str, Any]:
    """Train a policy from frozen preferences and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path)
    rows = [row for row in load_snapshot(run.data_dir, spec.snapshot) if row["split"] == "train"]
    pairs, left_out = tokenise_pairs(tokenizer, rows, spec.max_length)
    if not pairs:
        raise UserError(shortage("pairs", 0, 1, left_out))
    flip_rate = spec.flip_rate or suggested_flip_rate(pairs)
    pairs = with_noise(pairs, spec.annotator_noise, spec.ai_weight)
    reasons = ", ".join(f"{count} {reason_text(reason, left_out)}" for reason, count in left_out.items()) or "none"
    robust = f" expecting {flip_rate:.1%} wrong labels" if spec.loss == "robust" else ""
    run.log(
        f"{len(pairs)} pairs; left out here: {reasons}; parent {start.parent.revision}; reference {spec.reference}; "
        f"{spec.method}; loss {spec.loss}{robust}; annotator noise: {spec.annotator_noise}"
    )

    def build(checkpoints: Path) -> PreferenceTrainer:
        # Measured steps need no more pairs than they take, and the reference is computed for every pair that is given.
        used = pairs[: run.measured_steps * spec.batch_size * spec.accumulation] if run.measured_steps else pairs
        return build_trainer(spec, start, tokenizer, used, checkpoints, flip_rate, run.raise_if_stopped, run)

    def finish(trainer: PreferenceTrainer, directory: Path) -> dict[str, Any]:
        save_policy(trainer, spec, directory, tokenizer)
        return {}

    trained = train(run, spec, start, build, finish)
    counts = {"snapshot": spec.snapshot, "train_pairs": len(pairs), "left_out": left_out}
    return {**counts, **({"flip_rate": flip_rate} if spec.loss == "robust" else {}), **trained.result}


def suggested_flip_rate(pairs: Sequence[Any]) -> float:
    """The mean chance that a pair is the wrong way round, by its annotators' reliability; 0 where it is not known."""
    known = [pair["flip"] for pair in pairs if pair.get("flip") is not None]
    return min(fmean(known), 0.49) if known else 0.0


class PreferenceTrainer(JobTrainer, DPOTrainer):
    """TRL's trainer with the losses of `rlhf.algorithms.losses`, tokenised rows, and the adapter and reference of a
    spec."""

    # The loss is divided by the pairs, and the tokens, of the whole optimiser step.
    loss_is_scaled_for_ga = True

    def __init__(
        self, spec: DPOSpec, start: Start, flip_rate: float, raise_if_stopped: Callable[[], None], **arguments: Any
    ) -> None:
        self.raise_if_stopped = raise_if_stopped
        self.spec, self.start, self.flip_rate = spec, start, flip_rate
        super().__init__(peft_config=adapter_config(spec, start.base.path), **arguments)
        if start.adapter is not None:
            load_adapter(self.model, start.adapter)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """TRL's last act in its constructor: the log-probabilities under what the model computes as now, as columns.

        Processes share the work. TRL's own would let one write them to a file that the others can't find.
        """
        hold_in_float32(self.model)
        if self.spec.reference == "parent" and self.start.adapter is not None:
            load_adapter(self.model, self.start.adapter)
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        found = [self.accelerator.gather_for_metrics(self.compute_ref_log_probs(self.model, batch)) for batch in loader]
        for column, parts in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*found, strict=True), strict=True):
            dataset = dataset.add_column(column, torch.cat(parts).float().cpu().tolist())
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        """The columns that reach the collator: TRL's and what is known of each pair's noise."""
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in NOISE_COLUMNS if name not in self._signature_columns]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """(pairs, tokens of their better answers) in an optimiser step's passes, per process."""
        counts_2 = torch.stack([counts_of(batch) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(counts_2, "mean")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: torch.Tensor | None = None
    ) -> Any:
        """The mean loss of the pairs, or this pass's part of it."""
        pairs, tokens = counts_of(inputs) if num_items_in_batch is None else num_items_in_batch
        # The collator stacks all chosen answers, then all rejected ones: B = 2P.
        chosen_P, rejected_P = answer_logps(model, inputs).chunk(2)
        ref_chosen_P, ref_rejected_P = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        flip_P, weight_P = inputs["flip"], inputs["weight"]
        chosen_tokens_P, rejected_tokens_P = inputs["completion_mask"].sum(-1).chunk(2)
        logps = PairLogps(chosen_P, rejected_P, ref_chosen_P, ref_rejected_P, chosen_tokens_P, rejected_tokens_P)
        loss_P = preference_loss(self.spec.loss, logps, self.spec.beta, flip_P, self.flip_rate)
        loss = (weight_P * loss_P).sum() / pairs
        if self.spec.sft_weight:
            better_P, _ = likelihood(chosen_P, rejected_P, chosen_tokens_P, rejected_tokens_P, flip_P)
            loss = loss - self.spec.sft_weight * (weight_P * better_P).sum() / tokens
        with torch.no_grad():
            chosen_reward_P, rejected_reward_P = implicit_rewards(self.spec.loss, logps, self.spec.beta)
        noted = {
            "rewards/chosen": chosen_reward_P,
            "rewards/rejected": rejected_reward_P,
            "rewards/margins": chosen_reward_P - rejected_reward_P,
            "rewards/accuracies": (chosen_reward_P > rejected_reward_P).float(),
            "logps/chosen": chosen_P,
            "logps/rejected": rejected_P,
        }
        for name, values_P in noted.items():
            self.note_part(name, values_P.sum(), pairs)
        return (loss, {}) if return_outputs else loss

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """(P,) log-probabilities of chosen and rejected answers under the reference.

        TRL asks for them once, while the trainer is built; then the policy still is the reference: a fresh LoRA adapter
        changes nothing, and one that holds the parent's weights is the parent. Virtual tokens always change something,
        so they are left out unless they are the parent's.
        """
        self.raise_if_stopped()
        parents = self.spec.reference == "parent" and self.start.adapter is not None
        with torch.no_grad(), self.accelerator.autocast():
            return answer_logps(model, inputs, adapted=self.spec.method != "prompt" or parents).chunk(2)


def counts_of(inputs: Any) -> torch.Tensor:
    """How many pairs a batch has, and tokens of their better answers, (2,), float32."""
    chosen_tokens_P, rejected_tokens_P = inputs["completion_mask"].sum(-1).float().chunk(2)
    flip_P = inputs["flip"]
    _, tokens_P = likelihood(chosen_tokens_P, rejected_tokens_P, chosen_tokens_P, rejected_tokens_P, flip_P)
    return torch.stack([torch.full_like(tokens_P, 1.0).sum(), tokens_P.sum()])


NOISE_COLUMNS = ("flip", "weight")


class PairCollator(DataCollatorForPreference):
    """TRL's collator, which drops every column it does not know, and each pair's noise."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        noise = {name: torch.tensor([example[name] for example in examples]) for name in NOISE_COLUMNS}
        return {**super().torch_call(examples), **noise}


def answer_logps(model: Any, inputs: Any, *, adapted: bool = True) -> torch.Tensor:
    """Summed log-probability of each answer in a padded batch of pairs, (B,): all chosen, then all rejected ones."""
    ids_BT, attention_BT, completion_BT = (inputs[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    pairs = range(len(ids_BT) // 2)
    return summed_logps(model, ids_BT, attention_BT, completion_BT, [*pairs, *pairs], adapted=adapted)


def build_trainer(
    spec: DPOSpec,
    start: Start,
    tokenizer: Any,
    pairs: Sequence[dict[str, Any]],
    checkpoints: Path,
    flip_rate: float = 0.0,
    raise_if_stopped: Callable[[], None] = lambda: None,
    run: Run | None = None,
) -> PreferenceTrainer:
    """The trainer with its adapter and reference set up as the spec says; computing the latter can be stopped."""

    def build() -> PreferenceTrainer:
        return PreferenceTrainer(
            spec,
            start,
            flip_rate,
            raise_if_stopped,
            model=load_for_training(start.ground, spec),
            args=DPOConfig(
                **arguments(spec, checkpoints, run),
                max_length=None,
                precompute_ref_log_probs=True,
                precompute_ref_batch_size=spec.batch_size,
            ),
            data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id),
            train_dataset=Dataset.from_list(list(pairs)),
            processing_class=tokenizer,
        )

    trainer: PreferenceTrainer = quietly(build)
    return trainer
