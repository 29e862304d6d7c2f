"""What supervised, reward and preference training share: TRL's trainers with an algorithm's own loss, on a run's way.

TRL brings batching, data order and optimiser, through what it and transformers promise; the little that they
don't is in `rlhf.private_members`. Departures from it, in all three:

- An algorithm says how many items a batch has and what their loss is; that is divided by the items of a whole optimiser
  step, in all its passes and processes.
- A batch whose tokens would take too much memory at once is computed in parts, one after the other, with the same sum
  of gradients: items are counted for a step, tokens for a pass.
- Rows come tokenised, by the code that the preview uses too.
- What is trained stays in float32 (TRL casts adapters to bfloat16 on a quantised base): AdamW's steps at these learning
  rates are below bfloat16's resolution and would be lost. There is no dropout.
- A continued adapter is a fresh one that gets its parent's weights. Plain LoRA is computed by
  `rlhf.models.adapters.low_rank`.
- PiSSA (Meng et al. 2024) takes the principal directions out of the base. What is stored is the difference to the
  start, as a plain adapter of twice the rank for the untouched base (their appendix C).
- Checkpoints are the run's (`rlhf.algorithms.checkpoints`); transformers is only told at which step to go on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState

from rlhf.algorithms.checkpoints import Checkpoint
from rlhf.algorithms.comparisons import part_of
from rlhf.algorithms.trainer import (
    RunCost,
    Start,
    TokenisedData,
    TrainingProgress,
    average_gradients,
    diverged_sentence,
    mean_of_processes,
    passes_here,
    recomputing,
    refuse_missing_optimiser,
    share_of_peak,
)
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Diverged
from rlhf.jobs.run import Run
from rlhf.models.adapters.low_rank import compute_adapters_at_once
from rlhf.models.hidden_states import completions, inner_model, lower_layers, packable
from rlhf.models.loading.adapter_loading import hold_in_float32, load_adapter
from rlhf.models.loading.base_weights import dtype_of, without_router_loss
from rlhf.models.packing import rows_alone, rows_of
from rlhf.private_members import WithoutPreparation


class JobTrainer(WithoutPreparation):
    """Mixed into a TRL trainer, before it. An algorithm adds `items_in` and `loss`."""

    args: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    state: Any
    processing_class: Any
    train_dataset: Any
    data_collator: Any
    # The loss is divided by the items of the whole optimiser step.
    loss_is_scaled_for_ga = True

    def __init__(self, spec: Any, data: TokenisedData, run: Run | None, **arguments: Any) -> None:
        self.spec, self.data, self.run = spec, data, run
        self.noted: dict[str, tuple[Any, Tensor]] = {}
        self.pass_tokens, self.recompute = math.inf, False
        with warnings.catch_warnings():  # names whose new ones TRL and PEFT do not know yet
            warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
            super().__init__(train_dataset=Dataset.from_list(list(data.items)), **arguments)  # type: ignore[call-arg]
        without_router_loss(self.model)
        compute_adapters_at_once(self.model)
        self.keep_lower_layers()

    @torch.no_grad()
    def keep_lower_layers(self) -> None:
        """Compute what lies below the adapters once, for all passes, while there is room.

        Raises Stopped when the job is told to stop.
        """
        lower = lower_layers(self.model) if self.spec.epochs > 1 and self.spec.packing else None
        if lower is None:
            return
        measured = self.run.measured_steps * self.spec.batch_size * self.spec.accumulated() if self.run else 0
        with lower.filling(), self.accelerator.autocast():
            for item in self.data.items[: measured or None]:
                if self.run is not None:
                    self.run.raise_if_stopped()
                if lower.full:
                    return
                batch = self.data_collator([item])
                names = ("input_ids", "attention_mask", "completion_mask")
                ids_BT, attention_BT, completion_BT = (batch[name].to(self.accelerator.device) for name in names)
                completions(self.model, ids_BT, attention_BT, completion_BT, [0] * len(ids_BT))

    def start_from(self, start: Start) -> None:
        """Hold what is trained in float32, and put the parent's weights into a continued adapter."""
        hold_in_float32(self.model)
        self.pass_tokens, self.recompute = passes_here(start.ground, self.spec)
        if start.adapter is not None:
            load_adapter(self.model, start.adapter)
        if self.spec.lora_init == "pissa" and self.accelerator.is_main_process:
            self.model.save_pretrained(self.pissa_start)

    @property
    def pissa_start(self) -> Path:
        """Where a PiSSA run keeps the adapter that it began with, among its checkpoints."""
        return Path(self.args.output_dir) / "pissa-start"

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate by the step. That of transformers is 0 in the first, whose items would teach nothing."""
        if self.lr_scheduler is None:
            share = partial(share_of_peak, steps=num_training_steps, warmup_steps=self.spec.warmup_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share)
        return self.lr_scheduler

    # ---- the loss
    def items_in(self, batch: Any) -> Tensor:
        """How many items a batch has: what the loss is divided by."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Any, items: Tensor) -> Tensor:
        """The sum of the items' losses in a batch over `items`, those of the whole optimiser step."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """The mean loss of a batch, or its part of an optimiser step's."""
        loss = self.loss(model, inputs, self.items_in(inputs) if num_items_in_batch is None else num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def get_batch_samples(self, *arguments: Any, **keywords: Any) -> tuple[list[Any], Tensor]:
        """The batches of an optimiser step and their items, per process: gradients are averaged over the processes."""
        batches, _ = super().get_batch_samples(*arguments, **keywords)  # type: ignore[misc]
        items = torch.stack([self.items_in(batch) for batch in batches]).sum(0).to(self.accelerator.device)
        return batches, self.accelerator.reduce(items, "mean")

    def compute_loss_context_manager(self) -> Any:
        """In 16 bits where the spec says so: the loss goes around the wrapping that would see to it."""
        return self.accelerator.autocast()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Tensor | None = None) -> Tensor:
        """Forward and backward passes over the parts of a batch. Raises Diverged where the loss is no number."""
        items = self.items_in(inputs) if num_items_in_batch is None else num_items_in_batch
        losses = [super(JobTrainer, self).training_step(model, part, items) for part in self.parts_of(inputs)]  # type: ignore[misc]
        loss: Tensor = torch.stack(losses).sum()
        if not torch.isfinite(loss):
            raise Diverged(diverged_sentence("loss", self.state.global_step, Path(self.args.output_dir)))
        if self.accelerator.sync_gradients:
            average_gradients(self.accelerator, self.model.parameters())
        return loss

    def parts_of(self, batch: Any) -> list[Any]:
        """A batch in parts that memory holds: the sum of their losses is its loss, as that is a sum over items."""
        if self.pass_tokens == math.inf:
            return [batch]
        attention_BT, completion_BT = batch["attention_mask"], batch["completion_mask"]
        group_B = batch["group"].tolist() if "group" in batch else range(len(attention_BT))
        rows = (
            rows_of(batch["input_ids"], attention_BT, completion_BT, group_B, self.pass_tokens)
            if packable(inner_model(self.model))
            else rows_alone(attention_BT, group_B, self.pass_tokens)
        )
        return [batch] if len(rows) == 1 else [part_of(batch, places) for places in rows]

    # ---- figures
    def note(self, name: str, total: Tensor, items: Tensor) -> None:
        """Add a batch's part of a mean over the items of an optimiser step to the coming log."""
        before, _ = self.noted.get(name, (0.0, items))
        self.noted[name] = (before + total.detach().to(torch.promote_types(total.dtype, torch.float32)), items)

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """What TRL says of a step, and what was noted in it."""
        means = {
            name: mean_of_processes(self.accelerator, (total / items).item())
            for name, (total, items) in self.noted.items()
        }
        self.noted.clear()
        super().log({**logs, **means}, *arguments, **keywords)  # type: ignore[misc]

    # ---- as `TrainingProgress` asks
    @property
    def tokenizer(self) -> Any:
        return self.processing_class

    @property
    def optimiser(self) -> Any:
        return self.optimizer

    def weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def further(self) -> Mapping[str, Any]:
        """Nothing: rates follow from the step, the order of the data from seed and epoch, and nothing is drawn."""
        return {}

    def policy(self) -> Any:
        return self.model

    def save(self, directory: Path) -> FinishedTraining:
        """Write an adapter for the untouched base, or a whole model that can be loaded like it.

        Returns what else the job's result says of it.
        """
        if self.spec.method != "full":
            # W + dW = W_res + B A and W = W_res + B_0 A_0, so dW = B A - B_0 A_0. A resumed run has taken the same
            # B_0 A_0 out.
            began = str(self.pissa_start) if self.spec.lora_init == "pissa" else None
            self.model.save_pretrained(
                directory,
                selected_adapters=["default"],
                safe_serialization=True,
                path_initial_model_for_weight_conversion=began,
            )
            return FinishedTraining()
        # What it computes in is what it is: the float32 copies served only to take small steps.
        self.model.to(dtype_of(self.spec.precision)).save_pretrained(directory, safe_serialization=True)
        self.tokenizer.save_pretrained(directory)
        return FinishedTraining()


def arguments(spec: TrainingSpec, checkpoints: Path, run: Run | None = None) -> dict[str, Any]:
    """What TRL's configurations have in common. Raises UserError for an optimiser that this machine has not."""
    refuse_missing_optimiser(spec)
    return {
        "output_dir": str(checkpoints),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": dtype_of(spec.precision) == torch.bfloat16,
        "gradient_checkpointing": False,  # `learn` sees to it
        "learning_rate": spec.learning_rate,
        "num_train_epochs": spec.epochs,
        "max_steps": run.measured_steps if run is not None and run.measured_steps else -1,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_accumulation_steps": spec.accumulated(),
        "optim": "adamw_bnb_8bit" if spec.optimiser == "adamw-8bit" else "adamw_torch",
        "max_length": None,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": spec.seed,
    }


# ----------------------------------------------------------------------------------------------------- the way of a run
def learn(run: Run, spec: TrainingSpec, trainer: Any) -> RunCost:
    """Train from the last checkpoint or from the beginning; returns what it cost."""
    progress = TrainingProgress(run, spec, trainer, trainer.data.items, trainer.data.asked)
    trainer.add_callback(ProgressCallback(progress, trainer))
    if progress.over():
        return progress.figures
    with resumed_at(progress.checkpoint, trainer.args) as directory, recomputing(trainer.model, trainer.recompute):
        trainer.train(resume_from_checkpoint=directory)
    return progress.figures


@contextmanager
def resumed_at(checkpoint: Checkpoint | None, arguments: Any) -> Iterator[str | None]:
    """A directory that tells transformers at which step to go on; None where a run begins.

    It lies beside the checkpoints, with which it goes where the run is killed.
    """
    if checkpoint is None:
        yield None
        return
    with TemporaryDirectory(prefix=".resumed-", dir=checkpoint.path.parent) as directory:
        state = TrainerState(global_step=checkpoint.step, train_batch_size=arguments.train_batch_size)
        state.compute_steps(arguments, arguments.max_steps)
        state.save_to_json(str(Path(directory) / "trainer_state.json"))
        yield directory


class ProgressCallback(TrainerCallback):
    """Carries TRL's steps to the run's progress, and its word to stop to TRL."""

    def __init__(self, progress: TrainingProgress, trainer: Any) -> None:
        self.progress, self.trainer = progress, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.progress.restore() is not None:
            go_on_after(state.global_step, self.trainer.lr_scheduler)
        self.progress.begin(state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.step_begins()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.num_processes == 1 and self.progress.told_to_stop():
            self.progress.save(state.global_step, state.max_steps)
            control.should_training_stop = True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A gradient that is no number would be in the weights, and in the next checkpoint, before the loss shows it.
        gradients = [parameter.grad for parameter in self.trainer.model.parameters() if parameter.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise Diverged(diverged_sentence("gradient", state.global_step, Path(args.output_dir)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.step_ends()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        numbers = {key: float(value) for key, value in (logs or {}).items() if key != "epoch"}
        last = state.global_step if control.should_training_stop else state.max_steps
        if "loss" in numbers and self.progress.report(state.global_step, last, numbers):
            control.should_training_stop = True


def go_on_after(step: int, schedule: Any) -> None:
    """Put a fresh schedule where a run goes on: at the spec's learning rate, also where the checkpoint had another."""
    if step:
        schedule.last_epoch = step - 1
        with warnings.catch_warnings():  # the optimiser has made its steps, in an earlier process
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            schedule.step()
