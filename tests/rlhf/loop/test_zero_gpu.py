"""What is said of answers that a borrowed GPU was to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from annotation.jobs.attempt import Stopped
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.jobs.run import Run
from rlhf.loop import zero_gpu


def test_time_that_is_over_is_not_put_down_to_an_end_of_the_program(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the model is being read."""

    def wait_for_the_bell(run: Run, _: Any) -> None:
        run.terminated.wait()
        raise Stopped

    monkeypatch.setattr(zero_gpu, "SPARE_SECONDS", zero_gpu.SECONDS)
    monkeypatch.setattr("rlhf.jobs.run.run_algorithm", wait_for_the_bell)
    job_id = job_store.enqueue(db, AnsweringSpec(until_full=True), "kim")
    zero_gpu.write_stock(str(data_dir), job_id)
    job = job_store.get(db, job_id)
    assert job.status == "lost"
    assert job.message == "The time for which ZeroGPU lends its GPU (60 s) was over too early. Try again."
