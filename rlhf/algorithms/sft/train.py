"""Supervised fine-tuning on TRL and PEFT: learn to give the demonstrated answers.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", section 3.5: maximise the
likelihood of each demonstrated answer given its prompt. With LoRA (Hu et al. 2022), QLoRA (Dettmers et al. 2023),
virtual tokens (Lester et al. 2021) or every weight. Departures, besides those of all our TRL trainers
(`rlhf.algorithms.trl_trainer`):

- The loss is ours: only answer positions meet the vocabulary, chunk by chunk, and a batch's demonstrations lie in rows
  without padding, each seeing only itself (`packing`). The mean is over the answer tokens of a whole optimiser step, in
  all processes and accumulation passes, as TRL's is.
- Answers end with the token that ends a turn.
- Held-out demonstrations are scored before and after, in train mode: on some processors a pass in eval mode spoils
  4-bit weights for training (see `base_weights.load_quantised`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from trl import SFTConfig, SFTTrainer

from annotation.exports.frozen_rows import DemonstrationRow
from annotation.records import Prompt, UserError
from annotation.translation import joined
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.sft.predictions import predictions, score, score_before
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import Start, TokenisedData, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.held_out_sets import SAMPLE_PROMPTS
from rlhf.data.snapshots import MIN_DEMONSTRATIONS, left_out_sentence, shortage
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.loading.adapter_loading import adapter_config
from rlhf.models.loading.base_weights import load_for_training
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.packing import pad
from rlhf.models.tokenise import TokenisedDemonstration, load_snapshot, of_split


def run(run: Run, spec: SFTSpec) -> dict[str, Any]:
    """Train a policy on frozen demonstrations and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    data = read_data(run, spec, tokenizer)
    run.log(
        joined(
            f"{len(data.items)} demonstrations, {len(data.held_out)} held out; parent {start.parent.revision}; "
            f"{spec.method}.",
            left_out_sentence(data.left_out),
        )
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        trainer = build_trainer(spec, start, tokenizer, data, checkpoints_of(run), run)
        trainer.before = score_before(trainer, run)
        figures = learn(run, spec, trainer).result(spec.snapshot, len(data.items), data.left_out)
        trained = conclude(run, spec, start, trainer.save, figures)
    return trained.to_json()


def read_data(run: Run, spec: SFTSpec, tokenizer: Any) -> TokenisedData:
    """Demonstrations to train on and held-out ones. Raises UserError for too few."""
    rows = load_snapshot(run.data_dir, spec.snapshot, DemonstrationRow)
    items, left_out = spec.tokenise(tokenizer, of_split(rows, "train"))
    held_out, _ = spec.tokenise(tokenizer, of_split(rows, "held-out"))
    if len(items) < MIN_DEMONSTRATIONS:
        raise UserError(shortage("demonstrations", len(items), MIN_DEMONSTRATIONS, left_out))
    return TokenisedData(items, left_out, held_out, shown_prompts(spec, tokenizer, rows))


def shown_prompts(spec: SFTSpec, tokenizer: Any, rows: Sequence[DemonstrationRow]) -> list[Prompt]:
    """The first different prompts of the data that fit, to be answered during the run: they show the task."""
    found: dict[str, Prompt] = {}
    for row in of_split(rows, "held-out") or of_split(rows, "train"):
        prompt = Prompt(row.messages, row.split, "data")
        if len(found) < SAMPLE_PROMPTS and spec.tokenise(tokenizer, [row])[0]:
            found.setdefault(prompt.text, prompt)
    return list(found.values())


def collate(items: Sequence[TokenisedDemonstration], pad_id: int) -> dict[str, Tensor]:
    """Ids, attention mask and completion mask of a right-padded batch, each (B, T)."""
    parts = pad([(item["prompt_ids"], item["completion_ids"]) for item in items], pad_id)
    return dict(zip(("input_ids", "attention_mask", "completion_mask"), parts, strict=True))


def build_trainer(
    spec: SFTSpec, start: Start, tokenizer: Any, data: TokenisedData, checkpoints: Path, run: Run | None = None
) -> DemonstrationTrainer:
    """The trainer with its adapter, which holds the parent's weights where it has one."""
    trainer = DemonstrationTrainer(
        spec,
        data,
        run,
        model=load_for_training(start.ground, spec, tried=start.tried),
        args=SFTConfig(**arguments(spec, checkpoints, run)),
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        peft_config=adapter_config(spec, start.base.path),
    )
    trainer.start_from(start)
    return trainer


class DemonstrationTrainer(JobTrainer, SFTTrainer):
    """TRL's trainer with our loss, on answers only."""

    before: Mapping[str, Any] = {}
    """How it scored the held-out demonstrations before it was trained; empty where that was not measured."""

    def items_in(self, batch: Any) -> Tensor:
        tokens: Tensor = batch["completion_mask"].sum().float()
        return tokens

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        logps_N, right_N = predictions(model, batch, self.spec.packing)
        self.note("token_accuracy", right_N.sum(), items)
        return -logps_N.sum() / items

    def save(self, directory: Path) -> FinishedTraining:
        """Write what was trained. Returns the figures on held-out demonstrations."""
        held_out = score(self, self.data.held_out)
        return replace(super().save(directory), held_out=held_out, held_out_before=self.before)
