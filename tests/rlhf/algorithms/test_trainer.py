"""Where what was trained is stored, and under which name; whose checkpoints are where."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from annotation.database import Database
from annotation.jobs import job_table
from rlhf.algorithms.model_card import TrainedModel
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import TrainingProgress, begin, store_made
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory
from rlhf.jobs.run import Run
from rlhf.models import registry
from tests.conftest import BASE_NAME


def test_what_is_trained_takes_neither_name_nor_files_of_a_model_that_was_restored_from_elsewhere(
    db: Database, data_dir: Path
) -> None:
    """An archive brings models without their jobs, so the jobs' numbers begin anew."""
    job = job_store.enqueue(db, SFTSpec(), "kim")
    restored = f"sft-{job}"
    (data_dir / "adapters" / restored).mkdir(parents=True)
    (data_dir / "adapters" / restored / "weights").write_bytes(b"restored")
    registry.add(
        db, revision=restored, algorithm="sft", base=BASE_NAME, parent_id=1, job_id=None,
        path=f"adapters/{restored}", sha256="0",
    )  # fmt: skip

    def save(directory: Path) -> dict[str, Any]:
        (directory / "weights").write_bytes(b"new")
        return {}

    run = Run(db, data_dir, job_store.get(db, job), "w")
    made, _ = store_made(run, TrainedModel(BASE_NAME, 1, "lora", "nf4"), save, {})
    kept = {path.parent.name: path.read_bytes() for path in (data_dir / "adapters").glob("*/weights")}
    assert kept == {restored: b"restored", made.revision: b"new"}
    assert registry.free_name(db, "sft", job) == made.revision, "whoever resumes it finds it"


def claimed(db: Database, data_dir: Path, number: int | None = None) -> Run:
    """A run of a job, a new one or that of a number, at its next attempt."""
    number = job_store.enqueue(db, SFTSpec(samples=0), "kim") if number is None else number
    job = job_store.claim(db, number, "w")
    assert job is not None
    return Run(db, data_dir, job, "w")


def test_a_run_has_a_directory_from_its_beginning_and_goes_on_from_none_but_its_own_checkpoints(
    db: Database, data_dir: Path
) -> None:
    """One of this number may be left of another database."""
    left = checkpoints_directory(data_dir, 1) / "checkpoint-4"
    left.mkdir(parents=True)
    for name in ("checkpoint.json", "weights.safetensors", "state.pt"):
        (left / name).write_text('{"format": 1}', "utf-8")
    first = claimed(db, data_dir)
    begin(first, SFTSpec())
    assert list(checkpoints_directory(data_dir, 1).iterdir()) == []
    progress_of(first).save(5, 9)
    job_table.stop(db, first.job_id, "w", "lost", "")
    job_store.resume(db, first.job_id)
    begin(claimed(db, data_dir, first.job_id), SFTSpec())
    assert [path.name for path in checkpoints_directory(data_dir, 1).iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(("happens", "kept"), [("cancelled", True), ("taken over", False)])
def test_who_was_cancelled_keeps_a_checkpoint_and_who_was_thought_dead_writes_none_beside_a_successor(
    db: Database, data_dir: Path, happens: str, kept: bool
) -> None:
    run = claimed(db, data_dir)
    progress = progress_of(run)
    if happens == "cancelled":
        job_store.cancel(db, run.job_id)
    else:
        job_table.release(db, run.job_id, "w")
        assert job_table.take_over(db, run.job_id, "another")
    assert progress.report(5, 9, {})
    assert (checkpoints_directory(data_dir, run.job_id) / "checkpoint-5").is_dir() is kept


def progress_of(run: Run) -> TrainingProgress:
    """The way of a run that trains one number."""
    layer = torch.nn.Linear(1, 1)
    learner = SimpleNamespace(
        model=layer,
        weights=lambda: dict(layer.named_parameters()),
        optimiser=torch.optim.SGD(layer.parameters()),
        further=dict,
        accelerator=SimpleNamespace(num_processes=1),
    )
    return TrainingProgress(run, SFTSpec(samples=0), learner)
