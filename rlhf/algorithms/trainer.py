"""What every training job shares: where it starts, checkpoints, progress, samples, memory, and storing the result.

TRL's trainers bring batching, optimiser, checkpoints and resuming; `JobTrainer` is mixed into them, and each algorithm
adds its data and its loss.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from annotation.records import Prompt, Sampling, UserError
from rlhf.algorithms.checkpoints import (
    COMPLETE,
    KEPT_CHECKPOINTS,
    checkpoints_of,
    forget_old_checkpoints,
    last_complete_checkpoint,
)
from rlhf.data.held_out_sets import sample_prompts
from rlhf.hub.model_card import Made, describe_directory, subject_of
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256, new_directory
from rlhf.jobs.specs import TrainingSpec
from rlhf.jobs.worker import Run
from rlhf.models import registry
from rlhf.models.base_model import BaseModel, ready
from rlhf.models.loading import dtype_of, ground_path, hold_in_float32, load_adapter, verified, weights_of
from rlhf.models.registry import Kind, Policy
from rlhf.models.sampling import draw
from rlhf.models.tokenize import render

SAMPLE_TOKENS = 64
SAMPLE_SEED = 77_000


# ---------------------------------------------------------------------------------------------------- where it starts
@dataclass(frozen=True)
class Start:
    """Where a run starts: the weights under its adapter, and the parent, whose adapter may be continued."""

    base: BaseModel
    parent: Policy
    ground: Path
    """The weights to load: the base's, or fully trained ones."""
    ground_id: int | None
    """The policy whose weights they are; None for the base."""
    adapter: Path | None
    """The adapter to continue."""


def start_of(run: Run, spec: TrainingSpec) -> Start:
    """Where a run starts, its files checked. Raises UserError if they are gone or damaged."""
    base = ready(run.data_dir, spec.model)
    parent = registry.by_revision(run.db, spec.parent)
    adapter = verified(run.data_dir, parent) if parent.form in ("lora", "prompt") else None
    ground_id = parent.id if parent.form == "full" else parent.ground_id
    ground = ground_path(run.db, run.data_dir, base.path, ground_id)
    return Start(base, parent, ground, ground_id, adapter)


# -------------------------------------------------------------------------------------------------------- the trainer
class Diverged(UserError):
    """The loss or a gradient is no number any more."""


class JobTrainer:
    """Mixed into a TRL trainer, before it: tokenised rows, averaged and checked gradients, resumed adapters."""

    args: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    state: Any
    _metrics: Any

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The rows as they are: they come tokenised, by `rlhf.models.tokenize`, which the preview uses too."""
        return dataset

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """One forward and backward pass. Raises Diverged where the loss is no number."""
        loss = super().training_step(*arguments, **keywords)  # type: ignore[misc]
        if not torch.isfinite(loss):
            raise Diverged(diverged_sentence("loss", self.state.global_step, self.args.output_dir))
        if self.accelerator.sync_gradients:
            average_gradients(self.accelerator, self.model.parameters())
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put a checkpoint's adapter into the model's; transformers can't for virtual tokens."""
        if (Path(resume_from_checkpoint) / "adapter_config.json").exists():
            load_adapter(self.model if model is None else model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the spec's learning rate, also where the checkpoint was written with another."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        groups, schedule, peak = self.optimizer.param_groups, self.lr_scheduler, self.args.learning_rate
        for group, before in zip(groups, schedule.base_lrs, strict=True):
            group["lr"] *= peak / before
        schedule.base_lrs = [peak for _ in groups]
        schedule._last_lr = [group["lr"] for group in groups]  # what the coming step reports

    def compute_loss_context_manager(self) -> Any:
        """In 16 bits where the spec says so: the loss goes around the wrapping that would see to it."""
        return self.accelerator.autocast()

    def note_part(self, name: str, total: torch.Tensor, items: torch.Tensor) -> None:
        """Add this pass's part of a mean over all items of the optimiser step to the metrics of the coming log.

        `total` is the sum over the items of this pass, `items` how many the step has, per process. The log takes the
        mean over the step's passes, so each part counts as often as there are passes.
        """
        passes = getattr(self, "current_gradient_accumulation_steps", 1)
        part = self.accelerator.reduce(total.detach().float(), "mean") / items * passes
        self._metrics["train"][name].append(part.item())


def average_gradients(accelerator: Any, parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average gradients over the processes.

    The loss is computed inside DDP's wrapping (`rlhf.models.hidden_states`), where its own averaging does not see it.
    """
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:  # every process must take part, also one whose batch did not touch it
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = accelerator.reduce(parameter.grad, "mean")


def diverged_sentence(what: str, step: int, checkpoints: Path | str) -> str:
    """What to do about a loss or gradient that is no number."""
    last = last_complete_checkpoint(Path(checkpoints), clean=False)
    if last is None:
        kept = "There is no checkpoint yet: Resume begins anew"
    else:
        kept = f"The last good checkpoint, {Path(last).name}, is kept: Resume goes on from it"
    return (
        f"The {what} {job_store.NO_NUMBER} at step {step + 1}, so the run was stopped. {kept} with half the "
        "learning_rate. Or start a new run with a lower learning_rate (a third is a good try), or with precision fp32."
    )


def refuse_missing_optimiser(spec: TrainingSpec) -> None:
    """Raises UserError for an optimiser that this machine has not."""
    if spec.optimiser == "adamw-8bit" and not torch.cuda.is_available():
        raise UserError("The optimiser adamw-8bit needs a GPU, and there is none here. Use adamw.")


def arguments(spec: TrainingSpec, checkpoints: Path, run: Run | None = None) -> dict[str, Any]:
    """What TRL's configurations have in common. Raises UserError for an optimiser that this machine has not."""
    refuse_missing_optimiser(spec)
    gpu = torch.cuda.is_available()
    measuring = run is not None and run.measured_steps > 0
    return {
        "output_dir": str(checkpoints),
        "use_cpu": not gpu,
        "bf16": dtype_of(spec.precision) == torch.bfloat16,
        "gradient_checkpointing": gpu,
        "learning_rate": spec.learning_rate,
        "warmup_steps": spec.warmup_steps,
        "num_train_epochs": spec.epochs,
        "max_steps": run.measured_steps if run is not None and measuring else -1,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_accumulation_steps": getattr(spec, "accumulation", 1),
        "optim": "adamw_bnb_8bit" if spec.optimiser == "adamw-8bit" else "adamw_torch",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no" if measuring else "steps",
        "save_steps": spec.checkpoint_steps,
        "save_total_limit": KEPT_CHECKPOINTS,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": spec.seed,
    }


def prepared(trainer: Any, start: Start) -> Any:
    """The trainer with what it trains in float32 and the parent's adapter in it. Call it once it is built."""
    hold_in_float32(trainer.model)
    if start.adapter is not None:
        load_adapter(trainer.model, start.adapter)
    return trainer


def quietly(build: Callable[[], Any]) -> Any:
    """Build a trainer without the warnings on names whose new ones TRL and PEFT do not know yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
        return build()


# ------------------------------------------------------------------------------------------------------------ one run
@dataclass
class Figures:
    """What a run cost: filled by `Progress`."""

    step_seconds: list[float] = field(default_factory=list)
    trainable: int = 0
    total: int = 0

    def result(self) -> dict[str, Any]:
        """The entries of a job's result. The first step warms up, so it counts only if there is no other."""
        steps = self.step_seconds[1:] or self.step_seconds
        return {
            "seconds_per_step": round(statistics.median(steps), 4) if steps else None,
            "steps": len(self.step_seconds),
            "peak_rss_mb": peak_memory_mb(),
            "trainable": self.trainable,
            "trainable_percent": round(100 * self.trainable / max(self.total, 1), 4),
        }


def count_parameters(model: Any) -> tuple[int, int]:
    """(trainable, all) weights; 4-bit ones are counted unpacked."""
    trainable = total = 0
    for parameter in model.parameters():
        number = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            number = math.prod(parameter.quant_state.shape) if parameter.quant_state is not None else 2 * number
        total += number
        trainable += number if parameter.requires_grad else 0
    return trainable, total


def memory_gb() -> float:
    """Memory that this process holds now, in GB: on the GPU if there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.memory_allocated()) / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9


def peak_memory_mb() -> float:
    """The most memory that this process has held, in MB: on the GPU if there is one."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


@dataclass(frozen=True)
class Trained:
    """What a training gives: the stored policy (none while measuring) and the entries of the job's result."""

    policy: Policy | None
    result: dict[str, Any]


def train(
    run: Run,
    spec: TrainingSpec,
    start: Start,
    build: Callable[[Path], Any],
    finish: Callable[[Any, Path], dict[str, Any]],
    *,
    kind: Kind = "policy",
    asked: Sequence[Prompt] | None = None,
) -> Trained:
    """Train from the last checkpoint or from the beginning, store the result, and register it as a candidate.

    `build` makes the trainer that keeps its checkpoints in the directory it is given; `finish` gets the trained trainer
    and a directory to save into, and returns further entries of the job's result. `asked` are the prompts of the sample
    answers, if not the project's.
    """
    earlier = stored_before(run)
    if earlier is not None:
        return earlier
    checkpoints = checkpoints_of(run)
    if run.rank == 0:
        forget_old_checkpoints(run)
    run.report(0, 0, {}, "loading the model")
    torch.manual_seed(spec.seed)
    trainer = build(checkpoints)
    progress = Progress(run, trainer, Samples(run, spec, asked))
    run.report(0, trainer.state.max_steps, {}, "training")
    trainer.add_callback(progress)
    checkpoint = None if run.measured_steps else last_complete_checkpoint(checkpoints, clean=run.rank == 0)
    if checkpoint:
        run.log(f"resuming from {Path(checkpoint).name}")
    trainer.train(resume_from_checkpoint=checkpoint)
    return conclude(run, spec, start, lambda directory: finish(trainer, directory), progress.figures, kind)


def stored_before(run: Run) -> Trained | None:
    """What an earlier worker of this job has stored that was killed before it could say so; None if none has."""
    known = registry.of_job(run.db, run.job_id)
    if known is None:
        return None
    shutil.rmtree(checkpoints_of(run), ignore_errors=True)
    return Trained(known, {"revision": known.revision, **stored_result(run, known), **last_metrics(run)})


def conclude(
    run: Run,
    spec: TrainingSpec,
    start: Start,
    save: Callable[[Path], dict[str, Any]],
    figures: Figures,
    kind: Kind = "policy",
) -> Trained:
    """Store what was trained and register it, unless it was only measured or this is one of a job's further processes.

    Raises Stopped when the job was stopped: its checkpoints are still there.
    """
    run.beat()  # a worker that slept while its job was given to another must not touch that one's files
    run.raise_if_stopped()
    if run.measured_steps:
        return Trained(None, figures.result())
    if run.rank:
        return Trained(None, {})
    policy, extra = store_policy(run, spec, start, save, figures.result(), kind)
    shutil.rmtree(checkpoints_of(run), ignore_errors=True)
    return Trained(policy, {"revision": policy.revision, **extra, **last_metrics(run)})


RESULT = "prefloop.json"


def store_policy(
    run: Run,
    spec: TrainingSpec,
    start: Start,
    save: Callable[[Path], dict[str, Any]],
    figures: Mapping[str, Any],
    kind: Kind = "policy",
) -> tuple[Policy, dict[str, Any]]:
    """Write what was trained, whole or not at all, and register it; returns the entries of the job's result too."""
    made = Made(start.base.name, start.parent.id, registry.FORM_OF[spec.method], weights_of(spec), kind)
    ground_id = None if spec.method == "full" else start.ground_id
    return store_made(run, replace(made, ground_id=ground_id), save, figures)


def store_made(
    run: Run, made: Made, save: Callable[[Path], dict[str, Any]], figures: Mapping[str, Any]
) -> tuple[Policy, dict[str, Any]]:
    """Write a policy's files, whole or not at all, and register it; returns the entries of the job's result too."""
    revision = f"{run.kind.replace('_', '-')}-{run.job_id}"
    relative = f"adapters/{revision}"
    (run.data_dir / "adapters").mkdir(exist_ok=True)
    about = subject_of(run.db, run.job_id, revision, made)
    with new_directory(run.data_dir / relative) as directory:
        result = {**figures, **save(directory)}
        describe_directory(directory, about, {**last_metrics(run), **result})
        result["checkpoint_bytes"] = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        (directory / RESULT).write_text(json.dumps(result), "utf-8")
    policy = registry.add(
        run.db,
        revision=revision,
        method=run.kind,
        job_id=run.job_id,
        path=relative,
        sha256=directory_sha256(run.data_dir / relative),
        **vars(made),
    )
    return policy, result


def stored_result(run: Run, policy: Policy) -> dict[str, Any]:
    """The entries of the result that were stored beside a policy's weights."""
    path = run.data_dir / str(policy.path) / RESULT
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def last_metrics(run: Run) -> dict[str, Any]:
    """The metrics of the last step, as the entry 'final' of a job's result, and the time that the run took."""
    last: dict[str, Any] = next(reversed(job_store.metrics(run.db, run.job_id)), {})
    return {"final": {name: value for name, value in last.items() if name != "step"}, "seconds": run.seconds()}


def save_policy(trainer: Any, spec: TrainingSpec, directory: Path, tokenizer: Any) -> None:
    """Write an adapter, or a whole model that can be loaded like the base."""
    if spec.method != "full":
        trainer.model.save_pretrained(directory, selected_adapters=["default"], safe_serialization=True)
        return
    # What it computes in is what it is: the float32 copies served only to take small steps.
    trainer.model.to(dtype_of(spec.precision)).save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)


class Progress(TrainerCallback):
    """Carries the trainer's steps to the job's row, its cancellation to the trainer, and sample answers to the page."""

    def __init__(self, run: Run, trainer: Any, samples: Samples) -> None:
        self.run, self.trainer, self.samples = run, trainer, samples
        self.figures = Figures()
        self.figures.trainable, self.figures.total = count_parameters(trainer.model)
        self.began = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.draw_samples(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A gradient that is no number would be in the weights, and in the next checkpoint, before the loss shows it.
        gradients = [parameter.grad for parameter in self.trainer.model.parameters() if parameter.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise Diverged(diverged_sentence("gradient", state.global_step, args.output_dir))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        numbers = {key: float(value) for key, value in (logs or {}).items() if key != "epoch"}
        if "loss" in numbers:
            self.run.report(state.global_step, state.max_steps, {**numbers, "memory_gb": memory_gb()})

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.num_processes == 1:
            self.stop_if_asked(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.figures.step_seconds.append(time.monotonic() - self.began)
        self.stop_if_asked(control)
        if not control.should_training_stop or state.global_step >= state.max_steps:
            self.draw_samples(state)

    def draw_samples(self, state: Any) -> None:
        """Let the model answer the sample prompts, if it is time."""
        trainer = self.trainer
        self.samples.draw_at(
            state.global_step, state.max_steps, trainer.model, trainer.processing_class, trainer.accelerator
        )

    def stop_if_asked(self, control: Any) -> None:
        """A cancelled run writes a checkpoint and ends after this step, in all its processes."""
        if any_process(self.trainer.accelerator, self.run.stopped):
            control.should_training_stop = True
            # Not over a whole checkpoint of this step, which would be broken until the new one is whole.
            control.should_save = not self.run.measured_steps and not (self.checkpoint() / COMPLETE).exists()

    def checkpoint(self) -> Path:
        """Where the checkpoint of the current step lies."""
        return Path(self.trainer.args.output_dir) / f"checkpoint-{self.trainer.state.global_step}"

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A process killed while it writes leaves half a checkpoint: only one with this mark is resumed from.
        if self.run.rank == 0:
            (self.checkpoint() / COMPLETE).touch()


def any_process(accelerator: Any, flag: bool) -> bool:
    """Whether the flag is set in any of the processes; all of them must ask."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())


class Samples:
    """Answers to a few fixed prompts, the project's unless others are given, at intervals in a run.

    Always with the same random numbers.
    """

    def __init__(self, run: Run, spec: TrainingSpec, prompts: Sequence[Prompt] | None = None) -> None:
        self.run = run
        self.count = 0 if run.measured_steps or run.rank else spec.samples
        self.prompts = (sample_prompts(run.db) if prompts is None else prompts) if self.count else []

    def draw_at(self, step: int, steps: int, model: Any, tokenizer: Any, accelerator: Any) -> None:
        """Answer and record, if it is time."""
        if step in sample_steps(steps, self.count):
            record_samples(self.run, model, tokenizer, self.prompts, step, accelerator)


def sample_steps(steps: int, count: int) -> set[int]:
    """The optimiser steps at which samples are drawn: the first and the last, and evenly between; one: the last."""
    if count < 2:
        return {steps} if count else set()
    return {round(place * steps / (count - 1)) for place in range(count)}


def record_samples(
    run: Run, model: Any, tokenizer: Any, prompts: Sequence[Prompt], step: int, accelerator: Any
) -> None:
    """Answer prompts with a model that is being trained, in train mode (see `loading.load_quantised`)."""
    asked = []
    for prompt in prompts:
        try:
            asked.append((prompt, render(tokenizer, prompt.messages)))
        except UserError as error:
            run.log(f"a sample prompt can't be answered: {error}")
    if not asked:
        return
    sampling = Sampling(max_new_tokens=SAMPLE_TOKENS)
    seeds = [[SAMPLE_SEED + place] for place in range(len(asked))]
    checkpointing = getattr(model, "is_activation_checkpointing", False)
    if checkpointing:  # it would switch the cache off
        model.activation_checkpointing_disable()
    with torch.no_grad(), accelerator.autocast():
        drawn = draw(model, tokenizer, [text for _, text in asked], seeds, sampling, lambda: run.stopped)
    if checkpointing:
        model.activation_checkpointing_enable()
    answers = [
        {
            "prompt": prompt.text,
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "tokens": answer.tokens,
        }
        for (prompt, _), (answer,) in zip(asked, drawn, strict=False)
    ]
    run.sample(step, answers)
