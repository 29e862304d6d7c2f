"""Supervised fine-tuning on TRL and PEFT: learn to give the demonstrated answers.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", section 3.5: maximise the
likelihood of each demonstrated answer given its prompt. With LoRA (Hu et al. 2022), QLoRA (Dettmers et al. 2023),
virtual tokens (Lester et al. 2021) or every weight. Departures, besides those of all our TRL trainers
(`rlhf.algorithms.trl_trainer`):

- The loss is ours: only answer positions meet the vocabulary, chunk by chunk, and a batch's demonstrations lie in rows
  without padding, each seeing only itself (`packing`). The mean is over the answer tokens of a whole optimiser step, in
  all processes and accumulation passes, as TRL's is.
- Answers end with the token that ends a turn.
- PiSSA (Meng et al. 2024) takes the principal directions out of the base. What is stored is the difference to the
  start, as a plain adapter of twice the rank for the untouched base (their appendix C).
- Held-out demonstrations are scored before and after, in train mode: on some processors a pass in eval mode spoils
  4-bit weights for training (see `models.load_quantised`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trl import SFTConfig, SFTTrainer

from annotation.exports.frozen_rows import DemonstrationRow
from annotation.records import Prompt, UserError
from annotation.translation import _
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import Start, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.held_out_sets import SAMPLE_PROMPTS
from rlhf.data.snapshots import MIN_DEMONSTRATIONS, left_out_sentence, shortage
from rlhf.jobs.descriptions import LeftOut
from rlhf.jobs.worker import Run
from rlhf.models import registry
from rlhf.models.hidden_states import completions, head_of
from rlhf.models.loading import adapter_config, load_for_training, load_tokenizer
from rlhf.models.log_probabilities import CHUNK, Head
from rlhf.models.packing import pad
from rlhf.models.tokenize import load_snapshot, of_split, tokenise_demonstrations

Item = dict[str, Any]
# Where a PiSSA run keeps the adapter that it began with, among its checkpoints.
PISSA_START = "pissa-start"
# The held-out demonstrations are scored before training too where that costs less than this share of it; a pass
# without gradients takes about a third of one with.
BEFORE_SHARE, FORWARD_SHARE = 0.1, 1 / 3


def run(run: Run, spec: SFTSpec) -> dict[str, Any]:
    """Train a policy on frozen demonstrations and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    items, held_out, left_out = read_data(run, spec, tokenizer)
    run.log(
        f"{len(items)} demonstrations, {len(held_out)} held out; parent {start.parent.revision}; {spec.method}."
        f"{left_out_sentence(left_out)}"
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        trainer = build_trainer(spec, start, tokenizer, items, checkpoints_of(run), run)
        before = score_before(trainer, held_out, items, run)
        figures = learn(run, spec, trainer, shown_prompts(run, spec, tokenizer))
        trained = conclude(run, spec, start, lambda directory: save(trainer, directory, held_out, before, run), figures)
    return {"snapshot": spec.snapshot, "train_items": len(items), "left_out": left_out, **trained.result}


# ------------------------------------------------------------------------------------------------------------ the data
def read_data(run: Run, spec: SFTSpec, tokenizer: Any) -> tuple[list[Item], list[Item], LeftOut]:
    """Demonstrations to train on, held-out ones, and what is left out. Raises UserError for too few."""
    rows = load_snapshot(run.data_dir, spec.snapshot, DemonstrationRow)
    items, left_out = tokenise_demonstrations(tokenizer, of_split(rows, "train"), spec.max_length)
    held_out, _ = tokenise_demonstrations(tokenizer, of_split(rows, "held-out"), spec.max_length)
    if len(items) < MIN_DEMONSTRATIONS:
        raise UserError(shortage("demonstrations", len(items), MIN_DEMONSTRATIONS, left_out))
    return items, held_out, left_out


def shown_prompts(run: Run, spec: SFTSpec, tokenizer: Any) -> list[Prompt]:
    """The first different prompts of the data that fit, to be answered during the run: they show the task."""
    rows = load_snapshot(run.data_dir, spec.snapshot, DemonstrationRow)
    found: dict[str, Prompt] = {}
    for row in of_split(rows, "held-out") or of_split(rows, "train"):
        prompt = Prompt(row.messages, row.split, "data")
        if len(found) < SAMPLE_PROMPTS and tokenise_demonstrations(tokenizer, [row], spec.max_length)[0]:
            found.setdefault(prompt.text, prompt)
    return list(found.values())


def collate(items: Sequence[Item], pad_id: int) -> dict[str, Tensor]:
    """Ids, attention mask and completion mask of a right-padded batch, each (B, T)."""
    parts = pad([(item["prompt_ids"], item["completion_ids"]) for item in items], pad_id)
    return dict(zip(("input_ids", "attention_mask", "completion_mask"), parts, strict=True))


# --------------------------------------------------------------------------------------------------------- the trainer
def build_trainer(
    spec: SFTSpec, start: Start, tokenizer: Any, items: Sequence[Item], checkpoints: Path, run: Run | None = None
) -> DemonstrationTrainer:
    """The trainer with its adapter, which holds the parent's weights where it has one."""
    trainer = DemonstrationTrainer(
        spec,
        model=load_for_training(start.ground, spec, tried=start.tried),
        args=SFTConfig(**arguments(spec, checkpoints, run)),
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(list(items)),
        processing_class=tokenizer,
        peft_config=adapter_config(spec, start.base.path),
    )
    trainer.start_from(start)
    if spec.lora_init == "pissa" and (run is None or run.rank == 0):
        trainer.model.save_pretrained(checkpoints / PISSA_START)
    return trainer


class DemonstrationTrainer(JobTrainer, SFTTrainer):
    """TRL's trainer with our loss, on answers only."""

    def items_in(self, batch: Any) -> Tensor:
        """Tokens of the answers."""
        tokens: Tensor = batch["completion_mask"].sum().float()
        return tokens

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        """The negative log-likelihood of the answers' tokens."""
        logps_N, right_N = predictions(model, batch, self.spec.packing)
        self.note("token_accuracy", right_N.sum(), items)
        return -logps_N.sum() / items


def predictions(model: Any, batch: Any, packed: bool, *, float32: bool = False) -> tuple[Tensor, Tensor]:
    """log p of each answer token, (N,) float32, and whether the model finds it the likeliest, (N,) bool."""
    ids_BT, attention_BT, completion_BT = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    states = completions(model, ids_BT, attention_BT, completion_BT, packed=packed)
    head = head_of(model, float32=float32)
    chunks = zip(torch.split(states.before_NH, CHUNK), torch.split(states.labels_N, CHUNK), strict=True)
    parts = [checkpoint(predict, hidden_NH, head, label_N, use_reentrant=False) for hidden_NH, label_N in chunks]
    logps, right = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(right)


def predict(hidden_NH: Tensor, head: Head, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """log p(label) at N positions, and whether no other token is likelier: (N,) and (N,)."""
    logits_NV = head.logits(hidden_NH)
    label_N = logits_NV.gather(-1, labels_N[:, None])[:, 0]
    return label_N - logits_NV.logsumexp(-1), label_N >= logits_NV.detach().amax(-1)


# ---------------------------------------------------------------------------------------------- held out, and stored
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
            logps_N, right_N = predictions(trainer.model, inputs, trainer.spec.packing, float32=True)
        nll, right, tokens = nll - logps_N.sum().item(), right + right_N.sum().item(), tokens + len(logps_N)
    loss = nll / tokens
    return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": right / tokens, "n": len(items)}


def score_before(
    trainer: DemonstrationTrainer, held_out: Sequence[Item], items: Sequence[Item], run: Run
) -> dict[str, Any] | None:
    """The held-out demonstrations' `score` before training, where that costs little beside it; None where not."""
    cheap = FORWARD_SHARE * len(held_out) <= BEFORE_SHARE * len(items) * trainer.spec.epochs
    # Several processes would have to wait for it, longer than they may.
    if run.measured_steps or not cheap or trainer.accelerator.num_processes > 1:
        return None
    run.report(0, 0, {}, _("scoring the held-out demonstrations"))
    return score(trainer, held_out, run)


def save(
    trainer: DemonstrationTrainer, directory: Path, held_out: Sequence[Item], before: dict[str, Any] | None, run: Run
) -> dict[str, Any]:
    """Write an adapter for the untouched base, or a whole model. Returns the figures on held-out demonstrations."""
    found = {"held_out": score(trainer, held_out, run), "held_out_before": before}
    if trainer.spec.lora_init != "pissa":
        return {**found, **trainer.save(directory)}
    # W + dW = W_res + B A and W = W_res + B_0 A_0, so dW = B A - B_0 A_0. A resumed run has taken the same B_0 A_0 out.
    trainer.model.save_pretrained(
        directory,
        selected_adapters=["default"],
        safe_serialization=True,
        path_initial_model_for_weight_conversion=str(Path(trainer.args.output_dir) / PISSA_START),
    )
    return found
