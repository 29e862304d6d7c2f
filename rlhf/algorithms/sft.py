"""Supervised fine-tuning on TRL and PEFT: learn to give the demonstrated answers.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", section 3.5: maximise the
likelihood of each demonstrated answer given its prompt. With LoRA (Hu et al. 2022), QLoRA (Dettmers et al. 2023),
virtual tokens (Lester et al. 2021) or every weight. TRL's trainer brings batching, optimiser, checkpoints and resuming.
Departures from it:

- The loss is ours: only answer positions meet the vocabulary, chunk by chunk, and a batch's demonstrations lie in rows
  without padding, each seeing only itself (`packing`). The mean is over the answer tokens of a whole optimiser step, in
  all processes and accumulation passes, as TRL's is.
- Rows come tokenised, by the same code as the preview's, and end with the token that ends a turn.
- What is trained stays in float32 (TRL casts adapters to bfloat16 on a quantised base), and there is no dropout.
- A continued adapter is a fresh one that gets its parent's weights.
- PiSSA (Meng et al. 2024) takes the principal directions out of the base. What is stored is the difference to the
  start, as a plain adapter of twice the rank for the untouched base (their appendix C).
- Held-out demonstrations are scored before and after, in train mode: on some processors a pass in eval mode spoils
  4-bit weights for training (see `loading.load_quantised`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trl import SFTConfig, SFTTrainer

from annotation.records import Prompt, UserError
from rlhf.algorithms.losses import CHUNK, scaled_logits
from rlhf.algorithms.trainer import JobTrainer, Start, arguments, prepared, quietly, save_policy, start_of, train
from rlhf.data.held_out_sets import SAMPLE_PROMPTS
from rlhf.data.snapshots import MIN_DEMONSTRATIONS, left_out_sentence, shortage
from rlhf.jobs.specs import SFTSpec
from rlhf.jobs.worker import Run
from rlhf.models.hidden_states import completions, inner_model
from rlhf.models.loading import adapter_config, load_for_training, load_tokenizer
from rlhf.models.packing import pad
from rlhf.models.tokenize import load_snapshot, tokenise_demonstrations

Item = dict[str, Any]
# Where a PiSSA run keeps the adapter that it began with, among its checkpoints.
PISSA_START = "pissa-start"
# The held-out demonstrations are scored before training too where that costs less than this share of it; a pass
# without gradients takes about a third of one with.
BEFORE_SHARE, FORWARD_SHARE = 0.1, 1 / 3


def run(run: Run, spec: SFTSpec) -> dict[str, Any]:
    """Train a policy on frozen demonstrations and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path)
    rows = load_snapshot(run.data_dir, spec.snapshot)
    items, left_out = tokenise_demonstrations(tokenizer, of_split(rows, "train"), spec.max_length)
    held_out, _ = tokenise_demonstrations(tokenizer, of_split(rows, "held-out"), spec.max_length)
    if len(items) < MIN_DEMONSTRATIONS:
        raise UserError(shortage("demonstrations", len(items), MIN_DEMONSTRATIONS, left_out))
    run.log(
        f"{len(items)} demonstrations, {len(held_out)} held out; parent {start.parent.revision}; {spec.method}."
        f"{left_out_sentence(left_out)}"
    )
    before: dict[str, Any] = {}

    def build(checkpoints: Path) -> DemonstrationTrainer:
        trainer = build_trainer(spec, start, tokenizer, items, checkpoints, run)
        # Several processes would have to wait for it, longer than they may.
        alone = trainer.accelerator.num_processes == 1
        if alone and not run.measured_steps and cheap(held_out, items, spec.epochs):
            run.report(0, 0, {}, "scoring the held-out demonstrations")
            before.update(score(trainer, held_out, run))
        return trainer

    def finish(trainer: DemonstrationTrainer, directory: Path) -> dict[str, Any]:
        found = {"held_out": score(trainer, held_out, run), "held_out_before": before or None}
        save(trainer, spec, directory, tokenizer)
        return found

    asked = shown_prompts(of_split(rows, "held-out") or of_split(rows, "train"), tokenizer, spec)
    trained = train(run, spec, start, build, finish, asked=asked)
    return {"snapshot": spec.snapshot, "train_items": len(items), "left_out": left_out, **trained.result}


def of_split(rows: Sequence[Any], split: str) -> list[Any]:
    """The rows of a split."""
    return [row for row in rows if row["split"] == split]


def shown_prompts(rows: Sequence[Any], tokenizer: Any, spec: SFTSpec) -> list[Prompt]:
    """The first different prompts of the data that fit, to be answered during the run: they show the task."""
    found: dict[str, Prompt] = {}
    for row in rows:
        prompt = Prompt(tuple(row["messages"]), row["split"], "data")
        if len(found) < SAMPLE_PROMPTS and tokenise_demonstrations(tokenizer, [row], spec.max_length)[0]:
            found.setdefault(prompt.text, prompt)
    return list(found.values())


def cheap(held_out: Sequence[Item], items: Sequence[Item], epochs: int) -> bool:
    """Whether scoring the held-out demonstrations once more costs little beside the training."""
    return FORWARD_SHARE * len(held_out) <= BEFORE_SHARE * len(items) * epochs


# -------------------------------------------------------------------------------------------------------- the trainer
class DemonstrationTrainer(JobTrainer, SFTTrainer):
    """TRL's trainer with our loss, on tokenised demonstrations."""

    # The loss is divided by the tokens of the whole optimiser step.
    loss_is_scaled_for_ga = True

    def __init__(self, spec: SFTSpec, **arguments: Any) -> None:
        self.spec = spec
        super().__init__(**arguments)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Answer tokens in the passes of an optimiser step, per process: gradients are averaged over the processes."""
        tokens = torch.stack([batch["completion_mask"].sum() for batch in batch_samples]).sum().float().to(device)
        return self.accelerator.reduce(tokens, "mean").clamp(min=1)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """The mean negative log-likelihood of the answers' tokens, or this pass's part of it."""
        logps_N, right_N = predictions(model, inputs, self.spec.packing)
        tokens = inputs["completion_mask"].sum() if num_items_in_batch is None else num_items_in_batch
        self.note_part("token_accuracy", right_N.sum(), tokens)
        loss = -logps_N.sum() / tokens
        return (loss, {}) if return_outputs else loss


def predictions(model: Any, inputs: Any, packed: bool) -> tuple[Tensor, Tensor]:
    """log p of each answer token, (N,) float32, and whether the model finds it the likeliest, (N,) bool."""
    ids_BT, attention_BT, completion_BT = (inputs[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    states = completions(model, ids_BT, attention_BT, completion_BT, packed=packed)
    head_VH = inner_model(model).get_output_embeddings().weight
    chunks = zip(torch.split(states.before_NH, CHUNK), torch.split(states.labels_N, CHUNK), strict=True)
    parts = [checkpoint(predict, hidden_NH, head_VH, label_N, use_reentrant=False) for hidden_NH, label_N in chunks]
    logps, right = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(right)


def predict(hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """log p(label) at N positions, and whether no other token is likelier: (N,) and (N,)."""
    logits_NV = scaled_logits(hidden_NH, head_VH, 1.0)
    label_N = logits_NV.gather(-1, labels_N[:, None])[:, 0]
    return label_N - logits_NV.logsumexp(-1), label_N >= logits_NV.detach().amax(-1)


class DemonstrationCollator:
    """Tokenised demonstrations to a right-padded batch."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Ids, attention mask and completion mask, each (B, T)."""
        parts = pad([(item["prompt_ids"], item["completion_ids"]) for item in items], self.pad_id)
        return dict(zip(("input_ids", "attention_mask", "completion_mask"), parts, strict=True))


def build_trainer(
    spec: SFTSpec, start: Start, tokenizer: Any, items: Sequence[Item], checkpoints: Path, run: Run | None = None
) -> DemonstrationTrainer:
    """The trainer with its adapter set up as the spec says, holding the parent's weights where it has one."""

    def build() -> DemonstrationTrainer:
        return DemonstrationTrainer(
            spec,
            model=load_for_training(start.ground, spec),
            args=SFTConfig(**arguments(spec, checkpoints, run), max_length=None, remove_unused_columns=False),
            data_collator=DemonstrationCollator(tokenizer.pad_token_id),
            train_dataset=Dataset.from_list(list(items)),
            processing_class=tokenizer,
            peft_config=adapter_config(spec, start.base.path),
        )

    trainer: DemonstrationTrainer = prepared(quietly(build), start)
    if spec.lora_init == "pissa" and (run is None or run.rank == 0):
        trainer.model.save_pretrained(checkpoints / PISSA_START)
    return trainer


def save(trainer: DemonstrationTrainer, spec: SFTSpec, directory: Path, tokenizer: Any) -> None:
    """Write an adapter for the untouched base, or a whole model."""
    if spec.lora_init != "pissa":
        save_policy(trainer, spec, directory, tokenizer)
        return
    # W + dW = W_res + B A and W = W_res + B_0 A_0, so dW = B A - B_0 A_0. A resumed run has taken the same B_0 A_0 out.
    trainer.model.save_pretrained(
        directory,
        selected_adapters=["default"],
        safe_serialization=True,
        path_initial_model_for_weight_conversion=str(Path(trainer.args.output_dir) / PISSA_START),
    )


# ----------------------------------------------------------------------------------------------- held-out predictions
@torch.no_grad()
def score(trainer: DemonstrationTrainer, items: Sequence[Item], run: Run | None = None) -> dict[str, Any]:
    """Loss (nats a token), perplexity and token accuracy on demonstrations, over all their answers' tokens together.

    All None without any. Raises Stopped when the job is told to stop.
    """
    if not items:
        return {"loss": None, "perplexity": None, "token_accuracy": None, "n": 0}
    nll = right = tokens = 0.0
    size = trainer.args.per_device_train_batch_size
    for first in range(0, len(items), size):
        if run is not None:
            run.raise_if_stopped()
        batch = trainer.data_collator(items[first : first + size])
        inputs = {name: part.to(trainer.accelerator.device) for name, part in batch.items()}
        with trainer.accelerator.autocast():
            logps_N, right_N = predictions(trainer.model, inputs, trainer.spec.packing)
        nll, right, tokens = nll - logps_N.sum().item(), right + right_N.sum().item(), tokens + len(logps_N)
    loss = nll / tokens
    return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": right / tokens, "n": len(items)}
