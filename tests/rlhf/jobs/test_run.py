"""How a run ends whose process was told to end."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from annotation.records import UserError, explain_errors
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.jobs.run import Run, perform


def refused_by(cause: OSError) -> UserError:
    """What a person is told of what the system refused, in the system's language."""
    with pytest.raises(UserError) as told, explain_errors("{path} can't be written ({strerror}).", path="x"):
        raise cause
    return told.value


def failed_once_told(db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Job[Any]:
    """A job whose process was told to end, and then met this."""
    job = job_store.claim(db, job_store.enqueue(db, CheckSpec(), "kim"), "w")
    assert job is not None
    told = threading.Event()

    def fail(*_: Any) -> None:
        told.set()
        raise error

    monkeypatch.setattr("rlhf.jobs.run.run_algorithm", fail)
    assert perform(Run(db, data_dir, job, "w", told), job.spec) == 1
    return job_store.get(db, job.id)


@pytest.mark.parametrize("error", [UserError("Its template ends the process that runs it."), EOFError()])
def test_what_goes_wrong_once_a_process_was_told_to_end_is_no_failure_of_the_job(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What it has started, such as the process of a chat template, was told as well."""
    job = failed_once_told(db, data_dir, monkeypatch, error)
    assert (job.status, job.message) == ("lost", job_store.ended_with_program(job.spec))
    assert not db.rows("SELECT * FROM event")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full, so nothing more could be saved."),
        (UserError("The disk is full. Free some space."), "The disk is full. Free some space."),
        (refused_by(OSError(errno.ENOSPC, "Kein Platz")), "x can't be written (Kein Platz)."),
    ],
)
def test_a_disk_that_is_full_once_a_process_was_told_to_end_is_said(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """What it was to save is not there, and whoever resumes it would meet the same."""
    job = failed_once_told(db, data_dir, monkeypatch, error)
    assert job.status == "failed"
    assert job.message.startswith(said)
