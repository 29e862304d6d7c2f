"""A reward model on TRL and PEFT: a scalar head on adapted weights, trained on comparisons with LoRA or QLoRA.

Bradley and Terry 1952; Ouyang et al. 2022, "Training language models to follow instructions with human feedback",
equation 1; LoRA: Hu et al. 2022, QLoRA: Dettmers et al. 2023. Departures, besides those of all our TRL trainers
(`rlhf.algorithms.trl_trainer`):

- All answers of a comparison are in one batch and each is computed once (Ouyang et al., section 3.5), after one pass
  over the prompt that they share, without padding. Its loss is not the paper's mean over pairs but that of the order
  that people gave (Plackett 1975), with ties as what they leave open; of two answers it is the same. It weighs by what
  it decides, in bits (`rlhf.algorithms.comparisons`). Passes and processes are weighted by theirs.
- The score is that of an answer's last token, wherever padding is; the head computes in 32 bits.
- The head begins at zero, so all answers score the same and the loss, but for margins, begins at ln 2. TRL's is random.
- A margin for stronger preferences (Touvron et al. 2023, "Llama 2", equation 2, with the smaller values of its table
  27), a chance of being the wrong way round for each pair (`annotator_noise`), and a centring term on every pair
  (Eisenstein et al. 2023, "Helping or Herding?"), which is TRL's, but is not weighted by that chance.
- A continued reward model gets its parent's head too.

What it leaves: PEFT's files, the head in them, and `reward.json` with mean and standard deviation of the scores of the
answers it was trained on, by which PPO shifts and scales them, and the temperature by which a judge's chances are those
of the held-out comparisons (Guo et al. 2017, "On Calibration of Modern Neural Networks"). All scoring is in train mode:
on some processors a pass in eval mode computes with other 4-bit weights (see `base_weights.load_quantised`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from annotation.exports.frozen_rows import PreferenceRow
from annotation.records import UserError
from annotation.translation import _, joined
from rlhf.algorithms.checkpoints import checkpoints_of
from rlhf.algorithms.comparisons import ComparisonColumns, collate, order_loss, with_targets
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.trainer import Start, TokenisedData, begin, conclude, start_of, stored_before
from rlhf.algorithms.trl_trainer import JobTrainer, arguments, learn
from rlhf.data.snapshots import MIN_PAIRS, left_out_sentence, shortage
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.hidden_states import completions, inner_model
from rlhf.models.loading.adapter_loading import adapter_config
from rlhf.models.loading.base_weights import load_for_training
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.reward_model_quality import SCALE_FILE, ScoredComparison, ScoreScale, measure
from rlhf.models.tokenise import load_snapshot, of_split

# The offset (Touvron et al. call it margin) of the strongest preference; 1/3 of it slightly, 2/3 clearly, 0 where
# nobody said how strongly. What is noted as margin is by how much the better answer scores more.
OFFSET = 1.0


def run(run: Run, spec: RewardModelSpec) -> dict[str, Any]:
    """Train a reward model on frozen comparisons and register it. Returns the job's result, with its quality."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    data = read_data(run, spec, tokenizer)
    pairs = sum(len(item["better"]) for item in data.items)
    run.log(
        joined(
            f"{pairs} pairs in {len(data.items)} comparisons, {len(data.held_out)} held out; parent "
            f"{start.parent.revision}; {spec.method}; margin: {'yes' if spec.margin else 'no'}; annotator noise: "
            f"{spec.annotator_noise}.",
            left_out_sentence(data.left_out),
        )
    )
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        trainer = build_trainer(spec, start, tokenizer, data, checkpoints_of(run), run)
        figures = learn(run, spec, trainer).result(spec.snapshot, pairs, data.left_out)
        trained = conclude(run, spec, start, trainer.save, figures)
    return trained.to_json()


def read_data(run: Run, spec: RewardModelSpec, tokenizer: Any) -> TokenisedData:
    """Comparisons to train on and held-out ones. Raises UserError for too few pairs."""
    rows = load_snapshot(run.data_dir, spec.snapshot, PreferenceRow)
    items, left_out = spec.tokenise(tokenizer, of_split(rows, "train"))
    held_out, _ = spec.tokenise(tokenizer, of_split(rows, "held-out"))
    pairs = sum(len(item["pairs"]) for item in items if all(item["answers"]))
    if pairs < MIN_PAIRS:
        raise UserError(shortage("pairs", pairs, MIN_PAIRS, left_out))
    items = with_targets(items, spec.annotator_noise, spec.ai_weight)
    return TokenisedData(items, left_out, with_targets(held_out))


def build_trainer(
    spec: RewardModelSpec, start: Start, tokenizer: Any, data: TokenisedData, checkpoints: Path, run: Run | None = None
) -> ComparisonTrainer:
    """The trainer with its adapter and head, which hold the parent's weights where it is a reward model."""
    # TRL says which token pads, wherever the configuration has that.
    model = load_for_training(start.ground, spec, AutoModelForSequenceClassification, tried=start.tried, num_labels=1)
    torch.nn.init.zeros_(model.score.weight)
    trainer = ComparisonTrainer(
        spec,
        data,
        run,
        model=model,
        args=RewardConfig(**arguments(spec, checkpoints, run)),
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        peft_config=adapter_config(spec, start.base.path, "SEQ_CLS"),
    )
    trainer.start_from(start)
    return trainer


class ComparisonTrainer(JobTrainer, RewardTrainer):
    """TRL's trainer with our loss, on whole comparisons."""

    def items_in(self, batch: Any) -> Tensor:
        """Bits: what the comparisons decide, one for a pair."""
        bits: Tensor = batch["share"].sum()
        return bits

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        """The loss of each comparison's order, and what keeps its scores about zero."""
        scores_B = scores_of(model, batch)
        better_P, worse_P, share_P = scores_B[batch["better"]], scores_B[batch["worse"]], batch["share"]
        loss_C = order_loss(scores_B, batch, OFFSET if self.spec.margin else 0.0)
        margin_P = better_P - worse_P
        self.note("accuracy", (share_P * (margin_P.sign() + 1) / 2).sum(), items)
        self.note("margin", (share_P * margin_P).sum(), items)
        self.note("score", (share_P * (better_P + worse_P) / 2).sum(), items)
        loss: Tensor = (loss_C.sum() + self.spec.centre * (share_P * centring(better_P, worse_P)).sum()) / items
        return loss

    def save(self, directory: Path) -> FinishedTraining:
        """Write the adapter with its head, and how it scores what it was trained on. Returns its quality."""
        if self.run is not None:
            self.run.report(self.state.global_step, self.state.max_steps, {}, _("It scores the comparisons."))
        answered = [item for item in self.data.items if all(item["answers"])]
        trained_on, checked_on = score(self, answered), score(self, self.data.held_out)
        scores = [value for one in trained_on for value in one.scores]
        quality = measure(trained_on, checked_on)
        pairs = sum(len(one.pairs) for one in trained_on)
        scale = ScoreScale(mean=fmean(scores), std=pstdev(scores), pairs=pairs, temperature=quality.temperature)
        told = super().save(directory)
        (directory / SCALE_FILE).write_text(json.dumps(asdict(scale)), "utf-8")
        return replace(told, quality=quality.to_json())


def centring(better_P: Tensor, worse_P: Tensor) -> Tensor:
    """(r_w + r_l)^2, which keeps scores about zero (Eisenstein et al. 2023). Returns (P,).

    Bradley-Terry fixes only differences. It ties each pair's mean, not each score, to zero.
    """
    return (better_P + worse_P) ** 2


def scores_of(model: Any, batch: Any) -> Tensor:
    """The score of each answer in a batch, (B,), float32; 0 of none at all, which is better than what is all bad."""
    ids_BT, attention_BT, completion_BT = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    states = completions(model, ids_BT, attention_BT, completion_BT, batch["group"].tolist())
    # A sum of products, because autocast would compute a matrix product in bfloat16.
    # The weights of the scalar head, (H,): those that are trained; PEFT keeps an untouched copy beside them.
    head_H: Tensor = inner_model(model).score.modules_to_save["default"].weight[0]
    scores_B: Tensor = (states.last_BH.float() * head_H).sum(-1) * (completion_BT.sum(-1) > 0)
    return scores_B


@torch.no_grad()
def score(trainer: ComparisonTrainer, items: Iterable[ComparisonColumns]) -> list[ScoredComparison]:
    """Comparisons with the scores of their answers. Raises Stopped when the job is told to stop."""
    found = []
    for item in items:
        if trainer.run is not None:
            trainer.run.raise_if_stopped()
        inputs = {name: part.to(trainer.accelerator.device) for name, part in trainer.data_collator([item]).items()}
        with trainer.accelerator.autocast():
            scores = scores_of(trainer.model, inputs).tolist()
        lengths = tuple(len(ids) for ids in item["answers"])
        pairs = tuple(zip(item["better"], item["worse"], strict=True))
        found.append(ScoredComparison(tuple(scores), lengths, pairs, item["ai"]))
    return found
