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
  4-bit weights for training (see `loading.load_quantised`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from annotation.exports.frozen_rows import DemonstrationRow
from annotation.records import Prompt, UserError
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.sft.predictions import predictions, score, score_before
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import Start, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.held_out_sets import SAMPLE_PROMPTS
from rlhf.data.snapshots import MIN_DEMONSTRATIONS, left_out_sentence, shortage
from rlhf.jobs.descriptions import Item, LeftOut
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.loading import adapter_config, load_for_training, load_tokenizer
from rlhf.models.packing import pad
from rlhf.models.tokenise import load_snapshot, of_split

# Where a PiSSA run keeps the adapter that it began with, among its checkpoints.
PISSA_START = "pissa-start"


def run(run: Run, spec: SFTSpec) -> dict[str, Any]:
    """Train a policy on frozen demonstrations and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    items, held_out, left_out = read_data(run, spec, tokenizer)
    run.log(
        f"{len(items)} demonstrations, {len(held_out)} held out; parent {start.parent.revision}; {spec.method}. "
        f"{left_out_sentence(left_out)}".rstrip()
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        trainer = build_trainer(spec, start, tokenizer, items, checkpoints_of(run), run)
        before = score_before(trainer, held_out, items, run)
        figures = learn(run, spec, trainer, shown_prompts(run, spec, tokenizer))
        save_it = partial(save, trainer, held_out=held_out, before=before, run=run)
        trained = conclude(run, spec, start, save_it, figures)
    return trained.told(spec, len(items), left_out)


# ------------------------------------------------------------------------------------------------------------ the data
def read_data(run: Run, spec: SFTSpec, tokenizer: Any) -> tuple[list[Item], list[Item], LeftOut]:
    """Demonstrations to train on, held-out ones, and what is left out. Raises UserError for too few."""
    rows = load_snapshot(run.data_dir, spec.snapshot, DemonstrationRow)
    items, left_out = spec.tokenise(tokenizer, of_split(rows, "train"))
    held_out, _ = spec.tokenise(tokenizer, of_split(rows, "held-out"))
    if len(items) < MIN_DEMONSTRATIONS:
        raise UserError(shortage("demonstrations", len(items), MIN_DEMONSTRATIONS, left_out))
    return items, held_out, left_out


def shown_prompts(run: Run, spec: SFTSpec, tokenizer: Any) -> list[Prompt]:
    """The first different prompts of the data that fit, to be answered during the run: they show the task."""
    rows = load_snapshot(run.data_dir, spec.snapshot, DemonstrationRow)
    found: dict[str, Prompt] = {}
    for row in of_split(rows, "held-out") or of_split(rows, "train"):
        prompt = Prompt(row.messages, row.split, "data")
        if len(found) < SAMPLE_PROMPTS and spec.tokenise(tokenizer, [row])[0]:
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


# ------------------------------------------------------------------------------------------------------ what is stored
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
