"""Checkpoints of the runs that can be resumed, in one format: what is in one, which are whole, when they are removed.

    checkpoints/job-12/checkpoint-40/
        checkpoint.json       the manifest: format, kind of job, step and steps
        weights.safetensors   what is trained, by its name in the model, in float32
        state.pt              the optimiser's state, and what else decides how the run goes on, as plain values

A directory gets its name when all of it is on disk, so one with this name and these files is whole. No class is
pickled: a renamed one makes no checkpoint unreadable.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from annotation.jobs.job_table import CAME_TO_NOTHING
from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory, new_directory, put_back
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.run import Run

FORMAT = 1
MANIFEST = "checkpoint.json"
WEIGHTS = "weights.safetensors"
STATE = "state.pt"
KEPT_CHECKPOINTS = 2
RESUMABLE_RUNS = 3
# What writing checkpoints may take of a run's time.
SHARE_OF_TIME = 0.03
# A trained weight with AdamW's two moments, and how fast a slow disk takes them.
BYTES_A_WEIGHT, BYTES_A_SECOND = 12, 200e6
# The mark of a whole checkpoint before there was a manifest.
EARLIER_MARK = "complete"


@dataclass
class CheckpointPace:
    """When a checkpoint is due: after so many steps, or where `steps` is 0 when writing it takes 3% of the time.

    All times are in seconds; `writing` is what the last one took, to begin with a guess by the size.
    """

    steps: int
    writing: float
    since: float
    """When the run began, or the last checkpoint was whole."""

    @classmethod
    def of(cls, steps: int, trainable: int, now: float) -> CheckpointPace:
        """Of a run that begins now and trains so many weights."""
        return cls(steps, trainable * BYTES_A_WEIGHT / BYTES_A_SECOND, now)

    def due(self, step: int, now: float) -> bool:
        return step % self.steps == 0 if self.steps else self.writing <= SHARE_OF_TIME * (now - self.since)

    def written(self, began: float, now: float) -> None:
        self.writing, self.since = now - began, now


@dataclass(frozen=True)
class CheckpointManifest:
    """What a checkpoint says of itself: of which kind of training it is, after which of how many steps, on what."""

    kind: str
    step: int
    steps: int
    data: str
    """A hash of what the run learnt from, as token ids."""
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, and the step after which it was written."""

    path: Path
    step: int

    @cached_property
    def manifest(self) -> CheckpointManifest:
        told = json.loads((self.path / MANIFEST).read_text("utf-8"))
        return CheckpointManifest(**{"data": "", **told})  # earlier ones did not say on what

    @property
    def last(self) -> bool:
        """Whether the training was over after that step."""
        return self.manifest.step >= self.manifest.steps

    @torch.no_grad()
    def restore_weights(self, weights: Mapping[str, Tensor]) -> None:
        stored = load_file(self.path / WEIGHTS)
        for name, value in weights.items():
            value.copy_(stored[name])

    def restore(self, weights: Mapping[str, Tensor], optimiser: Any, device: torch.device) -> dict[str, Any]:
        """Put weights and optimiser back as they were; returns what else was written, its tensors on this device."""
        self.restore_weights(weights)
        state = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        optimiser.load_state_dict(state["optimiser"])
        further: dict[str, Any] = moved(state["further"], device)
        return further


def moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    return type(value)(moved(part, device) for part in value) if isinstance(value, list | tuple) else value


def write_checkpoint(
    checkpoints: Path,
    manifest: CheckpointManifest,
    weights: Mapping[str, Tensor],
    optimiser: Any,
    further: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all, and remove all but the newest two."""
    with new_directory(checkpoints / f"checkpoint-{manifest.step}") as directory:
        values = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        save_file(values, directory / WEIGHTS)
        torch.save({"optimiser": optimiser.state_dict(), "further": dict(further)}, directory / STATE)
        (directory / MANIFEST).write_text(json.dumps(asdict(manifest)), "utf-8")
    for old in sorted(whole(checkpoints), key=lambda one: one.step)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old.path)


def whole(checkpoints: Path) -> Iterator[Checkpoint]:
    """A run's whole checkpoints, in no order."""
    for path in checkpoints.glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if step and all((path / name).is_file() for name in (MANIFEST, WEIGHTS, STATE)):
            yield Checkpoint(path, int(step[1]))


def newest_checkpoint(checkpoints: Path) -> Checkpoint | None:
    return max(whole(checkpoints), key=lambda one: one.step, default=None)


def refuse_other_formats(checkpoints: Path) -> None:
    """Raises UserError where a run has checkpoints of another version: to begin anew is for a person to decide."""
    if any(of_other_versions(checkpoints)):
        said = _(
            "The checkpoints in checkpoints/{name} were written by another version of this program, and this one can't "
            "go on from them. Delete them on the Runs tab, then resume: the run begins anew with the same data."
        )
        raise UserError(said.format(name=checkpoints.name))


def of_other_versions(checkpoints: Path) -> Iterator[Path]:
    """What other versions have written, whatever a whole checkpoint of theirs is made of."""
    for path in checkpoints.glob("checkpoint-*"):
        manifest = path / MANIFEST
        another = manifest.is_file() and json.loads(manifest.read_text("utf-8"))["format"] != FORMAT
        if another or (path / EARLIER_MARK).is_file():
            yield path


def forget_broken_checkpoints(checkpoints: Path) -> None:
    """Remove what a process that was killed while it wrote has left."""
    put_back(checkpoints)
    kept = {*(one.path for one in whole(checkpoints)), *of_other_versions(checkpoints)}
    for path in checkpoints.glob("checkpoint-*"):
        if path not in kept:
            shutil.rmtree(path)


def checkpoints_of(run: Run) -> Path:
    return checkpoints_directory(run.data_dir, run.job_id)


def forget_old_checkpoints(run: Run) -> None:
    """Keep the directories of the runs that ended early last, and of the last few of them that have a checkpoint.

    Older ones are removed.
    """
    directories = {int(path.name.removeprefix("job-")): path for path in (run.data_dir / "checkpoints").glob("job-*")}
    found = job_store.with_ids(run.db, sorted(directories))
    ended = [job for job in found if isinstance(job.spec, TrainingSpec) and job.status in CAME_TO_NOTHING]
    early = [job.id for job in sorted(ended, key=job_store.ended_at)]
    resumable = [job_id for job_id in early if newest_checkpoint(directories[job_id])]
    at_work = [job.id for job in found if job.is_open]  # or waiting to go on
    kept = {run.job_id, *at_work, *early[-RESUMABLE_RUNS:], *resumable[-RESUMABLE_RUNS:]}
    for job_id, directory in directories.items():
        if job_id not in kept:
            shutil.rmtree(directory, ignore_errors=True)  # a run beside this one may be at it, too
