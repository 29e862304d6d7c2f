"""Where what was trained is stored, and under which name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from annotation.database import Database
from rlhf.algorithms.model_card import TrainedModel
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import store_made
from rlhf.jobs import job_store
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
