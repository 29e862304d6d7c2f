"""Direct preference optimisation with QLoRA, on TRL and PEFT.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7; Dettmers et al. 2023, "QLoRA", sections 3 and 4.
TRL's trainer brings the reference log-probabilities, batching, optimiser, checkpoints and resuming. Departures:

- The loss is ours (`rlhf.losses.dpo`, tested against TRL's): a pair's answers share one pass over their prompt, batches
  carry no padding, and only answer positions meet the vocabulary; on a CPU that more than halves the time of a step.
  Metric names are TRL's.
- Each pair has a chance of being the wrong way round, estimated from its annotators' reliability, that can weigh it or
  smooth its label (`annotator_noise`); the likelihood term follows, so that it does not teach what is doubted.
- A likelihood term on the chosen answers keeps the language (Pang et al. 2024, "Iterative Reasoning Preference
  Optimization", equation 1), per token over the batch as in TRL's "sft" loss.
- Adapter weights stay in float32 (TRL casts them to bfloat16 on a quantised base): AdamW's steps at these learning
  rates are below bfloat16's resolution and would be lost.
- Rows come tokenised, and an answer that was cut off at the limit gets no end-of-text token.
- A continued adapter is a fresh one that gets its parent's weights: before the reference is computed if the parent is
  the reference, after it if the base is. TRL would make the parent the reference in any case, and round it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from annotation.consensus import REASONS
from annotation.records import UserError
from rlhf import jobs, policies
from rlhf.artifacts import directory_sha256, new_directory, verify_directory
from rlhf.base_model import BaseModel, ready
from rlhf.data import load_snapshot, pack, tokenise_pairs, with_noise
from rlhf.losses import conservative_dpo, implicit_reward, likelihood, sum_by_row, token_logps
from rlhf.models import compute_dtype, load_quantised, load_tokenizer
from rlhf.policies import Policy
from rlhf.specs import DPOSpec
from rlhf.worker import Run

COMPLETE = "complete"
RESUMABLE_RUNS = 3


def run(run: Run, spec: DPOSpec) -> dict[str, Any]:
    """Train an adapter from frozen preferences and register it as a candidate. Returns the job's result."""
    base = ready(run.data_dir, spec.model)
    parent = policies.by_revision(run.db, spec.parent)
    tokenizer = load_tokenizer(base.path)
    rows = [row for row in load_snapshot(run.data_dir, spec.snapshot) if row["split"] == "train"]
    pairs, left_out = tokenise_pairs(tokenizer, rows, spec.max_length)
    if not pairs:
        raise UserError("The frozen data has no pair to train on. Collect more judgements and start a new run.")
    pairs = with_noise(pairs, spec.annotator_noise)
    reasons = ", ".join(f"{count} {REASONS[reason]}" for reason, count in left_out.items()) or "none"
    run.log(
        f"{len(pairs)} pairs; left out here: {reasons}; parent {parent.revision}; reference {spec.reference}; "
        f"annotator noise: {spec.annotator_noise}"
    )
    if parent.path is not None and parent.sha256 is not None:
        verify_directory(run.data_dir / parent.path, parent.sha256, f"adapter {parent.revision}")

    trained = policies.of_job(run.db, run.job_id)  # by a worker that was killed before it could say so
    if trained is None:
        trained = train(run, spec, tokenizer, pairs, base, parent)
    shutil.rmtree(checkpoints_of(run), ignore_errors=True)
    last: dict[str, Any] = next(reversed(jobs.metrics(run.db, run.job_id)), {})
    return {
        "revision": trained.revision,
        "snapshot": spec.snapshot,
        "train_pairs": len(pairs),
        "left_out": left_out,
        "final": {name: value for name, value in last.items() if name != "step"},
        "seconds": run.seconds(),
    }


def train(
    run: Run, spec: DPOSpec, tokenizer: Any, pairs: list[dict[str, Any]], base: BaseModel, parent: Policy
) -> Policy:
    """Train from the last checkpoint or from the beginning, store the adapter, and register it as a candidate."""
    checkpoints = checkpoints_of(run)
    forget_old_checkpoints(run)
    run.report(0, 0, {}, "loading the model, then the reference's log-probabilities")
    torch.manual_seed(spec.seed)
    trainer = build_trainer(
        spec, base.path, tokenizer, Dataset.from_list(pairs), run.data_dir, parent, checkpoints, run.raise_if_stopped
    )
    run.report(0, trainer.state.max_steps, {}, "training")
    trainer.add_callback(Progress(run, trainer))
    checkpoint = last_complete_checkpoint(checkpoints)
    if checkpoint:
        run.log(f"resuming from {Path(checkpoint).name}")
    trainer.train(resume_from_checkpoint=checkpoint)
    run.beat()  # a worker that slept while its job was given to another must not touch that one's files
    run.raise_if_stopped()

    revision = f"dpo-{run.job_id}"
    relative = f"adapters/{revision}"
    (run.data_dir / "adapters").mkdir(exist_ok=True)
    with new_directory(run.data_dir / relative) as directory:
        trainer.model.save_pretrained(directory, selected_adapters=["default"], safe_serialization=True)
    return policies.add_adapter(
        run.db,
        revision=revision,
        method="dpo",
        base=base.name,
        parent_id=parent.id,
        job_id=run.job_id,
        path=relative,
        sha256=directory_sha256(run.data_dir / relative),
    )


def checkpoints_of(run: Run) -> Path:
    """Where a run's checkpoints lie until its adapter is registered."""
    return run.data_dir / "checkpoints" / f"job-{run.job_id}"


def forget_old_checkpoints(run: Run) -> None:
    """Keep the checkpoints of the last few runs that can be resumed, and remove older ones."""
    resumable = [job.id for job in jobs.recent(run.db, ("dpo",), 1000) if job.status != "finished"]
    kept = {run.job_id, *resumable[:RESUMABLE_RUNS]}
    for directory in (run.data_dir / "checkpoints").glob("job-*"):
        if int(directory.name.removeprefix("job-")) not in kept:
            shutil.rmtree(directory)


class PreferenceTrainer(DPOTrainer):
    """TRL's trainer with the loss of `rlhf.losses`, tokenised rows, and the adapter and reference of a spec."""

    def __init__(
        self, spec: DPOSpec, parent_path: Path | None, raise_if_stopped: Callable[[], None], **arguments: Any
    ) -> None:
        self.raise_if_stopped = raise_if_stopped
        self.sft_weight, self.reference, self.parent_path = spec.sft_weight, spec.reference, parent_path
        adapter = LoraConfig(
            r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        super().__init__(peft_config=adapter, **arguments)
        if parent_path is not None:
            load_parent(self.model, parent_path)

    def _precompute_ref_logps(self, *arguments: Any) -> Any:
        """TRL's last act in its constructor: the log-probabilities under what the model computes as now."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self.reference == "parent" and self.parent_path is not None:
            load_parent(self.model, self.parent_path)
        return super()._precompute_ref_logps(*arguments)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        """The columns that reach the collator: TRL's and what is known of each pair's noise."""
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in NOISE_COLUMNS if name not in self._signature_columns]

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        # The collator stacks all chosen answers, then all rejected ones: B = 2P.
        chosen_P, rejected_P = answer_logps(model, inputs).chunk(2)
        ref_chosen_P, ref_rejected_P = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        flip_P, weight_P = inputs["flip"], inputs["weight"]
        loss_P = conservative_dpo(chosen_P, rejected_P, ref_chosen_P, ref_rejected_P, self.beta, flip_P)
        loss = (weight_P * loss_P).mean()
        if self.sft_weight:
            chosen_tokens_P, rejected_tokens_P = inputs["completion_mask"].sum(-1).chunk(2)
            better_P, tokens_P = likelihood(chosen_P, rejected_P, chosen_tokens_P, rejected_tokens_P, flip_P)
            loss = loss - self.sft_weight * (weight_P * better_P).sum() / tokens_P.sum().clamp(min=1)
        with torch.no_grad():
            chosen_reward_P = implicit_reward(chosen_P, ref_chosen_P, self.beta)
            rejected_reward_P = implicit_reward(rejected_P, ref_rejected_P, self.beta)
        self.note("rewards/chosen", chosen_reward_P)
        self.note("rewards/rejected", rejected_reward_P)
        self.note("rewards/margins", chosen_reward_P - rejected_reward_P)
        self.note("rewards/accuracies", (chosen_reward_P > rejected_reward_P).float())
        self.note("logps/chosen", chosen_P.detach())
        self.note("logps/rejected", rejected_P.detach())
        return (loss, {}) if return_outputs else loss

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """(P,) log-probabilities of chosen and rejected answers under the reference.

        TRL asks for them once, while the trainer is built; then the policy still is the reference: a fresh adapter
        changes nothing, and one that holds the parent's weights is the parent.
        """
        self.raise_if_stopped()
        with torch.no_grad(), self.accelerator.autocast():
            return answer_logps(model, inputs).chunk(2)

    def note(self, name: str, values_P: torch.Tensor) -> None:
        """Add a batch's mean to the metrics of the coming log, over all processes."""
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(self.accelerator.gather_for_metrics(values_P).float().mean().item())


NOISE_COLUMNS = ("flip", "weight")


class PairCollator(DataCollatorForPreference):
    """TRL's collator, which drops every column it does not know, and each pair's noise."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        noise = {name: torch.tensor([example[name] for example in examples]) for name in NOISE_COLUMNS}
        return {**super().torch_call(examples), **noise}


# Families whose attention is plain causal attention under a mask that is given whole. Others are padded.
PACKABLE = {"llama", "qwen2", "qwen3", "smollm3"}


def answer_logps(model: Any, inputs: Any) -> torch.Tensor:
    """Summed log-probability of each answer in a padded batch (B, T), computed without the padding where possible."""
    inner = model.module if hasattr(model, "module") else model
    causal = inner.get_base_model() if isinstance(inner, PeftModel) else inner
    ids_BT, attention_BT, completion_BT = (inputs[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    head_VH = causal.get_output_embeddings().weight
    config = causal.config
    if config.model_type in PACKABLE and config._attn_implementation == "sdpa":
        packed = pack(ids_BT, attention_BT, completion_BT)
        hidden_LH = causal.base_model(
            input_ids=packed.ids_1L,
            attention_mask=packed.allowed_11LL,
            position_ids=packed.positions_1L,
            use_cache=False,
        ).last_hidden_state[0]
        logps_N = token_logps(hidden_LH[packed.sources_N], head_VH, packed.labels_N)
        return sum_by_row(logps_N, packed.rows_N, len(ids_BT))
    hidden_BTH = causal.base_model(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).last_hidden_state
    mask_BT = completion_BT[:, 1:].bool()
    logps_N = token_logps(hidden_BTH[:, :-1][mask_BT], head_VH, ids_BT[:, 1:][mask_BT])
    return sum_by_row(logps_N, mask_BT.nonzero()[:, 0], len(ids_BT))


def build_trainer(
    spec: DPOSpec,
    base: Path,
    tokenizer: Any,
    pairs: Any,
    data_dir: Path,
    parent: Policy,
    checkpoints: Path,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> PreferenceTrainer:
    """The trainer with its adapter and reference set up as the spec says; computing the latter can be stopped."""
    gpu = torch.cuda.is_available()
    with warnings.catch_warnings():
        # transformers 5.23 warns about the argument's coming new name, which TRL does not know yet.
        warnings.simplefilter("ignore", FutureWarning)
        arguments = DPOConfig(
            output_dir=str(checkpoints),
            use_cpu=not gpu,
            bf16=compute_dtype() == torch.bfloat16,
            gradient_checkpointing=gpu,
            learning_rate=spec.learning_rate,
            warmup_steps=spec.warmup_steps,
            num_train_epochs=spec.epochs,
            per_device_train_batch_size=spec.batch_size,
            gradient_accumulation_steps=spec.accumulation,
            beta=spec.beta,
            max_length=None,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=spec.batch_size,
            logging_steps=1,
            save_strategy="steps",
            save_steps=spec.checkpoint_steps,
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
            seed=spec.seed,
        )
    return PreferenceTrainer(
        spec,
        None if parent.path is None else data_dir / parent.path,
        raise_if_stopped,
        model=load_quantised(base),
        args=arguments,
        data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id),
        train_dataset=pairs,
        processing_class=tokenizer,
    )


def load_parent(model: Any, path: Path) -> None:
    """Put the parent's weights into the fresh adapter. Raises UserError if the ranks differ."""
    try:
        set_peft_model_state_dict(model, load_peft_weights(str(path), device="cpu"))
    except RuntimeError as error:
        raise UserError(
            f"The parent adapter {path.name} has another shape than the one asked for. "
            "Use the parent's lora_r, or start from the base."
        ) from error


class Progress(TrainerCallback):
    """Carries the trainer's steps to the job's row and the job's cancellation to the trainer."""

    def __init__(self, run: Run, trainer: Any) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        numbers = {key: float(value) for key, value in (logs or {}).items() if key != "epoch"}
        if "loss" in numbers:
            self.run.report(state.global_step, state.max_steps, numbers)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop_if_asked(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop_if_asked(control)

    def stop_if_asked(self, control: Any) -> None:
        """A cancelled run writes a checkpoint and ends after this step."""
        if self.run.stopped:
            control.should_training_stop = True
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A process killed while it writes leaves half a checkpoint: only one with this mark is resumed from.
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def last_complete_checkpoint(checkpoints: Path) -> str | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    for directory in checkpoints.glob("checkpoint-*"):
        if not (directory / COMPLETE).exists():
            shutil.rmtree(directory)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
