"""Checkpoints of the runs that can be resumed: where they lie, which of them are whole, and when they are removed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory, new_directory
from rlhf.jobs.worker import Run

# The mark in a checkpoint that was written to its end.
COMPLETE = "complete"
KEPT_CHECKPOINTS = 2
RESUMABLE_RUNS = 3
KINDS = ("sft", "reward_model", "dpo", "ppo")


def checkpoints_of(run: Run) -> Path:
    """Where a run's checkpoints lie until its policy is registered."""
    return checkpoints_directory(run.data_dir, run.job_id)


def forget_old_checkpoints(run: Run) -> None:
    """Keep the checkpoints of the last few runs that ended early, and remove older ones."""
    directories = {int(path.name.removeprefix("job-")): path for path in (run.data_dir / "checkpoints").glob("job-*")}
    known = {job.id: job for job in job_store.recent(run.db, KINDS, 1000) if job.id in directories}
    ended = [job.id for job in known.values() if job.status in job_store.ENDED and job.status != "finished"]
    at_work = [job.id for job in known.values() if job.status not in job_store.ENDED]  # or waiting to go on
    for job_id, directory in directories.items():
        if job_id not in {run.job_id, *at_work, *ended[:RESUMABLE_RUNS]}:
            shutil.rmtree(directory)


def last_complete_checkpoint(checkpoints: Path, clean: bool = True) -> str | None:
    """The newest checkpoint that was written to its end; half-written ones are removed, unless not `clean`."""
    complete: list[Path] = []
    for directory in checkpoints.glob("checkpoint-*"):
        if (directory / COMPLETE).exists():
            complete.append(directory)
        elif clean:
            shutil.rmtree(directory)
    return str(max(complete, key=step_of)) if complete else None


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def write_checkpoint(checkpoints: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint of weights by name and a state, whole or not at all, and remove all but the newest two."""
    with new_directory(checkpoints / f"checkpoint-{step}") as directory:
        save_file({name: value.detach().cpu() for name, value in weights.items()}, directory / "trained.safetensors")
        torch.save(dict(state), directory / "state.pt")
        (directory / COMPLETE).touch()
    for old in sorted(checkpoints.glob("checkpoint-*"), key=step_of)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)


@torch.no_grad()
def read_checkpoint(
    checkpoint: Path, weights: Mapping[str, Tensor], classes: list[Any], device: torch.device
) -> dict[str, Any]:
    """Put a checkpoint's values into weights, and return its state, which may hold objects of these classes."""
    stored = load_file(checkpoint / "trained.safetensors")
    for name, value in weights.items():
        value.copy_(stored[name])
    with torch.serialization.safe_globals(classes):
        state: dict[str, Any] = torch.load(checkpoint / "state.pt", map_location=device, weights_only=True)
    return state
