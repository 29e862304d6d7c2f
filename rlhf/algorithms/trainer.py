"""What every training run shares: where it starts, how it goes on, what it reports and stores, whatever trains in it.

`TrainingProgress` is the one way of a run: TRL's trainers go through it (`rlhf.algorithms.trl_trainer`) as PPO's own
loop does.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import psutil
import torch
from torch import Tensor

from annotation.jobs import job_table
from annotation.jobs.attempt import Stopped
from annotation.records import Prompt, Sampling, UserError
from annotation.translation import N_, _, joined
from rlhf.algorithms.checkpoints import (
    CheckpointManifest,
    CheckpointPace,
    checkpoints_of,
    forget_broken_checkpoints,
    forget_old_checkpoints,
    newest_checkpoint,
    refuse_other_formats,
    write_checkpoint,
)
from rlhf.algorithms.model_card import TrainedModel, describe_directory, subject_of
from rlhf.data.held_out_sets import sample_prompts
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256, new_directory
from rlhf.jobs.descriptions import LeftOut
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.base.base_files import BaseModel
from rlhf.models.base.base_model import ready
from rlhf.models.hidden_states import inner_model, virtual_tokens
from rlhf.models.loading.base_weights import held_precision
from rlhf.models.loading.loaded_policies import context_in, fed, ground_path, verified
from rlhf.models.memory.machines import this_machine
from rlhf.models.memory.model_shapes import read_shapes
from rlhf.models.memory.run_memory import RunMemory
from rlhf.models.registry import Policy
from rlhf.models.sampling.drawing import draw
from rlhf.models.self_test_results import SelfTestResult, kept_result

SAMPLE_TOKENS = 64
SAMPLE_SEED = 77_000
Diverging = Literal["loss", "gradient"]
DIVERGED: Final[Mapping[Diverging, str]] = {
    "loss": N_("The loss became not a number at step {step}, so the run was stopped."),
    "gradient": N_("The gradient became not a number at step {step}, so the run was stopped."),
}

RENDERED_ANEW: Final = N_(
    "The same rows give other tokens than before, for example because the chat template is told another date, or "
    "thinking was switched on or off. The run goes on with the data as it is now."
)


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
    tried: SelfTestResult | None = None
    """What the base's self-test said, where it was made."""


def start_of(run: Run, spec: TrainingSpec) -> Start:
    """Where a run starts, its files checked. Raises UserError if they are gone or damaged, or the base can't be trained
    by this method: where it was tried by `ready` only now, nobody could say so before."""
    base = ready(run.data_dir, spec.model)
    tried = kept_result(run.data_dir, base.path)
    if tried is not None and (problem := tried.problem(spec.method)):
        raise UserError(problem)
    parent = registry.by_revision(run.db, spec.parent)
    adapter = verified(run.data_dir, parent) if parent.form in ("lora", "prompt") else None
    ground = ground_path(run.db, run.data_dir, base.path, parent.lies_on)
    return Start(base=base, parent=parent, ground=ground, ground_id=parent.lies_on, adapter=adapter, tried=tried)


@dataclass(frozen=True)
class TokenisedData:
    """What a run learns from: the rows of its snapshot as token ids."""

    items: Sequence[Any]
    left_out: LeftOut = field(default_factory=LeftOut)
    """What gives no tokens, by reason."""
    held_out: Sequence[Any] = ()
    """Those that it is scored on when it is stored."""
    asked: Sequence[Prompt] | None = None
    """The prompts of its sample answers; None for the project's."""


# ------------------------------------------------------------------------------------------------- what memory holds
def passes_here(ground: Path, spec: TrainingSpec) -> tuple[float, bool]:
    """How many tokens are computed together on this machine, and whether layers are computed again (`recomputes`).

    Of a model of which nothing can be estimated a batch is computed whole, and a GPU computes layers again.
    """
    try:
        shapes, machine = read_shapes(ground), this_machine()
    except UserError:
        return math.inf, torch.cuda.is_available()
    known = RunMemory(shapes, spec, machine)
    return known.pass_tokens, known.recomputes


@contextmanager
def recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Inside, each layer is computed again in the backward pass instead of keeping what it made, if that is wanted."""
    inner = inner_model(model)
    if not wanted or not inner.supports_gradient_checkpointing:
        yield
        return
    inner.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        inner.activation_checkpointing_disable()  # it would switch off the cache that answers are drawn with


# ---------------------------------------------------------------------------------------------------------- gradients
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


def share_of_peak(done: int, steps: int, warmup_steps: int) -> float:
    """Which share of the peak the learning rate has in the step that comes after `done` of so many steps.

    It is warmed up, then falls linearly to zero. The first step has a share, too: what it sees is learnt from.
    """
    return min((done + 1) / max(warmup_steps, 1), (steps - done) / max(steps - warmup_steps, 1))


def diverged_sentence(what: Diverging, step: int, checkpoints: Path) -> str:
    """What to do about a loss or gradient that is no number."""
    last = newest_checkpoint(checkpoints)
    anew, kept = (
        _("There is no checkpoint yet: Resume begins anew with half the learning_rate."),
        _("The last good checkpoint, {name}, is kept: Resume goes on from it with half the learning_rate."),
    )
    return joined(
        _(DIVERGED[what]).format(step=step + 1),
        anew if last is None else kept.format(name=last.path.name),
        _("Or start a new run with a lower learning_rate (a third is a good try), or with precision fp32."),
    )


def refuse_missing_optimiser(spec: TrainingSpec) -> None:
    if spec.optimiser == "adamw-8bit" and not torch.cuda.is_available():
        raise UserError(_("The optimiser adamw-8bit needs a GPU, and there is none here. Use adamw."))


# ------------------------------------------------------------------------------------------------------------ one run
@dataclass
class RunCost:
    """What a run cost: filled by `TrainingProgress`."""

    step_seconds: list[float] = field(default_factory=list)
    trainable: int = 0
    total: int = 0

    def result(self, snapshot: str, trained_on: int, left_out: Mapping[str, int]) -> FinishedTraining:
        """What the job's result says of it and of the rows of frozen data that it learnt from.

        The first step warms up, so it counts only if there is no other.
        """
        steps = self.step_seconds[1:] or self.step_seconds
        return FinishedTraining(
            snapshot=snapshot,
            trained_on=trained_on,
            left_out=dict(left_out),
            seconds_per_step=round(statistics.median(steps), 4) if steps else None,
            steps=len(self.step_seconds),
            peak_memory_mb=peak_memory_mb(),
            trainable=self.trainable,
            trainable_percent=round(100 * self.trainable / max(self.total, 1), 4),
        )


def count_parameters(model: Any) -> int:
    """All weights of a model; 4-bit ones are counted unpacked."""
    total = 0
    for parameter in model.parameters():
        number = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            number = math.prod(parameter.quant_state.shape) if parameter.quant_state is not None else 2 * number
        total += number
    return total


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


def begin(run: Run, spec: TrainingSpec) -> None:
    """Say that the run begins, and clear away what no run goes on from. Raises UserError where this one can't go on."""
    if run.rank == 0:
        forget_old_checkpoints(run)
        forget_broken_checkpoints(checkpoints_of(run))
        if not run.measured_steps:
            checkpoints_of(run).mkdir(parents=True, exist_ok=True)
    refuse_other_formats(checkpoints_of(run))
    run.report(0, 0, {}, _("It loads the model."))
    torch.manual_seed(spec.seed)


def stored_before(run: Run) -> FinishedTraining | None:
    """What an earlier worker of this job has stored that was killed before it could say so; None if none has."""
    known = registry.of_job(run.db, run.job_id)
    if known is None:
        return None
    shutil.rmtree(checkpoints_of(run), ignore_errors=True)
    return ended(run, known, stored_result(run, known))


def conclude(
    run: Run, spec: TrainingSpec, start: Start, save: Callable[[Path], FinishedTraining], known: FinishedTraining
) -> FinishedTraining:
    """Store what was trained and register it, unless it was only measured or this is one of a job's further processes.

    `known` is what the job's result says beside what `save` measures: what it learnt from, and its cost.
    Raises Stopped when the job was stopped: its checkpoints are still there.
    """
    run.beat()  # a worker that slept while its job was given to another must not touch that one's files
    run.raise_if_stopped()
    if run.measured_steps:
        return known
    if run.rank:
        return FinishedTraining()
    policy, stored = store_policy(run, spec, start, save, known)
    shutil.rmtree(checkpoints_of(run), ignore_errors=True)
    return ended(run, policy, stored)


def ended(run: Run, policy: Policy, stored: Mapping[str, Any]) -> FinishedTraining:
    """What is stored beside a policy's weights, with the run's last metrics and its time."""
    done = FinishedTraining.of(stored)
    return replace(done, revision=policy.revision, final=last_metrics(run), seconds=run.seconds())


RESULT = "prefloop.json"


def store_policy(
    run: Run, spec: TrainingSpec, start: Start, save: Callable[[Path], FinishedTraining], known: FinishedTraining
) -> tuple[Policy, dict[str, Any]]:
    """Write what was trained, whole or not at all, and register it; returns the entries of the job's result too."""
    made = TrainedModel(
        base=start.base.name,
        parent_id=start.parent.id,
        form=registry.FORM_OF[spec.method],
        precision=held_precision(spec),
        kind=spec.makes,
        ground_id=None if spec.method == "full" else start.ground_id,
    )

    def write(directory: Path) -> dict[str, Any]:
        return {**known.to_json(), **save(directory).to_json()}

    return store_made(run, made, write)


def store_made(run: Run, made: TrainedModel, save: Callable[[Path], dict[str, Any]]) -> tuple[Policy, dict[str, Any]]:
    """Write a policy's files, whole or not at all, and register it; returns the entries of the job's result too.

    Raises Stopped where the job was given to another meanwhile.
    """
    revision = registry.free_name(run.db, run.kind, run.job_id)
    relative = f"adapters/{revision}"
    (run.data_dir / "adapters").mkdir(exist_ok=True)
    about = subject_of(run.db, run.job_id, revision, made)

    entry = {"revision": revision, "algorithm": run.kind, "job_id": run.job_id, "path": relative, **vars(made)}

    def refuse() -> None:
        if not job_table.is_held(run.db, run.job_id, run.worker):
            raise Stopped

    with new_directory(run.data_dir / relative, registry.registered(run.db, refuse, entry)) as directory:
        result = save(directory)
        describe_directory(directory, about, {**FinishedTraining(final=last_metrics(run)).to_json(), **result})
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        result |= FinishedTraining(checkpoint_bytes=size).to_json()
        (directory / RESULT).write_text(json.dumps(result), "utf-8")
        entry["sha256"] = directory_sha256(
            directory
        )  # which takes a while: a kill until here leaves nothing that looks whole
    return registry.by_revision(run.db, revision), result


def stored_result(run: Run, policy: Policy) -> dict[str, Any]:
    """The entries of the result that were stored beside a policy's weights."""
    path = run.data_dir / str(policy.path) / RESULT
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def last_metrics(run: Run) -> dict[str, float | None]:
    last: dict[str, Any] = next(reversed(job_store.metrics(run.db, run.job_id)), {})
    return {name: value for name, value in last.items() if name != "step"}


# ----------------------------------------------------------------------------------------------------- the way of a run
class Trainable(Protocol):
    """What `TrainingProgress` asks of whatever is trained: a TRL trainer, or PPO's loop."""

    @property
    def model(self) -> Any:
        """All weights."""

    @property
    def accelerator(self) -> Any:
        """The processes and their devices."""

    @property
    def tokenizer(self) -> Any:
        """The model's."""

    @property
    def optimiser(self) -> Any:
        """What moves the weights."""

    def weights(self) -> Mapping[str, Tensor]:
        """What is trained, by its name in the model."""

    def further(self) -> Mapping[str, Any]:
        """What else decides how the run goes on after this step, as plain values."""

    def policy(self) -> Any:
        """The model as it answers."""


class TrainingProgress:
    """The way of a run, step by step: what it reports and answers, when it writes a checkpoint, and when it ends."""

    def __init__(
        self,
        run: Run,
        spec: TrainingSpec,
        learner: Trainable,
        items: Sequence[Any],
        asked: Sequence[Prompt] | None = None,
    ) -> None:
        self.run, self.spec, self.learner = run, spec, learner
        self.data = sha256(repr(list(items)).encode()).hexdigest()
        self.checkpoints = checkpoints_of(run)
        self.checkpoint = None if run.measured_steps else newest_checkpoint(self.checkpoints)
        self.samples = Samples(run, spec, asked)
        trainable = sum(value.numel() for value in learner.weights().values())
        self.figures = RunCost(trainable=trainable, total=count_parameters(learner.model))
        self.began = time.monotonic()
        self.pace = CheckpointPace.of(spec.checkpoint_steps, trainable, self.began)

    def restore(self) -> dict[str, Any] | None:
        """Go on from the last checkpoint; returns what else it holds, or None where the run begins."""
        if self.checkpoint is None:
            return None
        self.run.log(f"resuming from {self.checkpoint.path.name}")
        if self.checkpoint.manifest.data not in ("", self.data):
            self.run.log(_(RENDERED_ANEW))
        learner = self.learner
        return self.checkpoint.restore(learner.weights(), learner.optimiser, learner.accelerator.device)

    def over(self) -> bool:
        """Whether the last checkpoint was written when all was done, perhaps before the last step; its weights are put
        back then."""
        if self.checkpoint is None or not self.checkpoint.last:
            return False
        self.checkpoint.restore_weights(self.learner.weights())
        self.learner.accelerator.wait_for_everyone()  # the first process removes it when all is stored
        self.run.report(self.checkpoint.step, self.checkpoint.step, {}, _("It trains."))
        return True

    def begin(self, step: int, steps: int) -> None:
        self.run.report(step, steps, {}, _("It trains."))
        self.samples.draw_at(step, steps, self.learner)
        self.step_begins()

    def step_begins(self) -> None:
        self.began = time.monotonic()

    def step_ends(self) -> None:
        self.figures.step_seconds.append(time.monotonic() - self.began)

    def report(self, step: int, steps: int, metrics: Mapping[str, float]) -> bool:
        """Say what a step gave, and where it is time let the policy answer and keep a checkpoint; whether to end."""
        self.run.report(step, steps, {**metrics, "memory_gb": memory_gb()})
        told = self.told_to_stop()
        if not told or step >= steps:
            self.samples.draw_at(step, steps, self.learner)
        if told or step >= steps:
            self.run.report(step, steps, {}, _("It stores what it has learnt."))
        if told or step >= steps or self.pace.due(step, time.monotonic()):
            self.save(step, steps)
        return told

    def told_to_stop(self) -> bool:
        """Whether any of the processes was told to stop; all of them must ask."""
        return mean_of_processes(self.learner.accelerator, float(self.run.stopped)) > 0

    def save(self, step: int, steps: int) -> None:
        """Write a checkpoint, whole or not at all; nothing while measuring or in a further process.

        Nor where the job is not this worker's any more: another may be at it.
        """
        run = self.run
        if not run.measured_steps and not run.rank and job_table.is_held(run.db, run.job_id, run.worker):
            learner, began = self.learner, time.monotonic()
            manifest = CheckpointManifest(self.spec.kind, step, steps, self.data)
            write_checkpoint(self.checkpoints, manifest, learner.weights(), learner.optimiser, learner.further())
            self.pace.written(began, time.monotonic())


def mean_of_processes(accelerator: Any, number: float) -> float:
    """The mean of what each process has; all of them must ask."""
    if accelerator.num_processes == 1:
        return number
    return float(accelerator.reduce(torch.tensor(number, device=accelerator.device), "mean").item())


class Samples:
    """Answers to a few fixed prompts, the project's unless others are given, at intervals in a run.

    Always with the same random numbers.
    """

    def __init__(self, run: Run, spec: TrainingSpec, prompts: Sequence[Prompt] | None = None) -> None:
        self.run = run
        answers = spec.makes == "policy" and not (run.measured_steps or run.rank)
        self.count = spec.samples if answers else 0
        self.prompts = (sample_prompts(run.db) if prompts is None else prompts) if self.count else []

    def draw_at(self, step: int, steps: int, learner: Trainable) -> None:
        if step in sample_steps(steps, self.count):
            self.run.report(step, steps, {}, _("It writes sample answers."))
            record_samples(self.run, learner.policy(), learner.tokenizer, self.prompts, step, learner.accelerator)
            self.run.report(step, steps, {}, _("It trains."))


def sample_steps(steps: int, count: int) -> set[int]:
    """The optimiser steps at which samples are drawn: the first and the last, and evenly between; one: the last."""
    if count < 2:
        return {steps} if count else set()
    return {round(place * steps / (count - 1)) for place in range(count)}


def record_samples(
    run: Run, model: Any, tokenizer: Any, prompts: Sequence[Prompt], step: int, accelerator: Any
) -> None:
    """Answer prompts with a model that is being trained, in train mode (see `base_weights.load_quantised`)."""
    asked, virtual_KH = [], virtual_tokens(model)
    room = SAMPLE_TOKENS + (0 if virtual_KH is None else len(virtual_KH))
    for prompt in prompts:
        try:
            asked.append((prompt, fed(tokenizer, prompt.messages, room, context_in(inner_model(model).config))))
        except UserError as error:
            run.log(joined("a sample prompt can't be answered:", str(error)))
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
        job_store.SampleAnswer(prompt.text, answer.text, answer.finish_reason, answer.tokens)
        for (prompt, _), (answer,) in zip(asked, drawn, strict=False)
    ]
    run.sample(step, answers)
