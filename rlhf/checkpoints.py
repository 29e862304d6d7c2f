"""Checkpoints of the runs that can be resumed: where they lie, which of them are whole, and when they are removed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint

from rlhf import jobs
from rlhf.artifacts import checkpoints_directory, new_directory
from rlhf.worker import Run

# The mark in a checkpoint that was written to its end.
COMPLETE = "complete"
KEPT_CHECKPOINTS = 2
RESUMABLE_RUNS = 3
KINDS = ("sft", "reward_model", "dpo", "ppo")


def checkpoints_of(run: Run) -> Path:
    """Where a run's checkpoints lie until its policy is registered."""
    return checkpoints_directory(run.data_dir, run.job_id)


def forget_old_checkpoints(run: Run) -> None:
    """Keep the checkpoints of the last few runs that can be resumed, and remove older ones."""
    resumable = [job.id for job in jobs.recent(run.db, KINDS, 1000) if job.status != "finished"]
    kept = {run.job_id, *resumable[:RESUMABLE_RUNS]}
    for directory in (run.data_dir / "checkpoints").glob("job-*"):
        if int(directory.name.removeprefix("job-")) not in kept:
            shutil.rmtree(directory)


def last_complete_checkpoint(checkpoints: Path, clean: bool = True) -> str | None:
    """The newest checkpoint that was written to its end; half-written ones are removed, unless not `clean`."""
    for directory in checkpoints.glob("checkpoint-*") if clean else ():
        if not (directory / COMPLETE).exists():
            shutil.rmtree(directory)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


def write_checkpoint(checkpoints: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint of weights by name and a state, whole or not at all, and remove all but the newest two."""
    with new_directory(checkpoints / f"checkpoint-{step}") as directory:
        save_file({name: value.detach().cpu() for name, value in weights.items()}, directory / "trained.safetensors")
        torch.save(dict(state), directory / "state.pt")
        (directory / COMPLETE).touch()
    complete = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for old in complete[:-KEPT_CHECKPOINTS]:
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
