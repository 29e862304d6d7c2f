"""When a checkpoint is due: by steps where somebody asked for that, else by what writing it costs; and when it goes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import TrainingArguments

from annotation.database import Database
from annotation.jobs import job_table
from rlhf.algorithms.checkpoints import (
    MANIFEST,
    RESUMABLE_RUNS,
    SHARE_OF_TIME,
    STATE,
    WEIGHTS,
    Checkpoint,
    CheckpointPace,
    forget_old_checkpoints,
    newest_checkpoint,
)
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trl_trainer import resumed_at
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory
from rlhf.jobs.job_spec import JobSpec, to_json
from rlhf.jobs.run import Run


@pytest.mark.parametrize(("step_seconds", "writing_seconds"), [(0.02, 0.004), (2.0, 0.3), (40.0, 9.0), (0.5, 60.0)])
def test_writing_checkpoints_takes_no_more_of_the_time_than_it_may(step_seconds: float, writing_seconds: float) -> None:
    """But for the first, whose cost is not known before; and no more is lost with a killed run than it must be."""
    source, now, spent, saved = random.Random(1), 100.0, [], [0]
    pace = CheckpointPace.of(0, trainable=5_000_000, now=now)
    for step in range(1, 20_000):
        now += step_seconds * source.uniform(0.8, 1.2)
        if pace.due(step, now):
            spent.append(writing_seconds * source.uniform(0.9, 1.1))
            saved.append(step)
            pace.written(now, now + spent[-1])
            now += spent[-1]
    assert len(spent) > 1
    assert sum(spent[1:]) <= 1.25 * SHARE_OF_TIME * (now - 100.0)
    apart = max(later - earlier for earlier, later in pairwise(saved[1:]))
    assert apart * step_seconds <= 1.5 * writing_seconds / SHARE_OF_TIME + 2 * step_seconds


def test_what_tells_a_library_where_to_go_on_goes_with_the_checkpoints_of_a_run_that_is_killed(tmp_path: Path) -> None:
    """In the system's directory for temporary files each such run would leave something for good."""
    checkpoints = tmp_path / "job-1"
    checkpoints.mkdir()
    arguments = TrainingArguments(output_dir=str(tmp_path / "unused"), use_cpu=True, max_steps=9)
    with resumed_at(Checkpoint(checkpoints / "checkpoint-4", 4), arguments) as directory:
        assert directory is not None
        assert Path(directory).parent == checkpoints
        assert [path.name for path in Path(directory).iterdir()] == ["trainer_state.json"]
        assert newest_checkpoint(checkpoints) is None
    assert not [*checkpoints.iterdir()]


def test_the_first_is_written_soon_where_little_is_trained_and_later_where_much_is() -> None:
    small, large = (CheckpointPace.of(0, trainable, now=0.0) for trainable in (5_000_000, 135_000_000))
    assert small.due(1, 11.0)
    assert not small.due(1, 5.0)
    assert not large.due(1, 11.0)
    assert large.due(1, 280.0)


def test_whoever_asks_for_steps_gets_them() -> None:
    pace = CheckpointPace.of(3, trainable=5_000_000, now=0.0)
    assert [step for step in range(1, 10) if pace.due(step, 1e9)] == [3, 6, 9]


def test_runs_that_begin_side_by_side_forget_old_checkpoints_and_none_of_each_other(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one looks which are old, the other has removed them already."""
    ended = [begun(db, data_dir, SFTSpec()) for _ in range(RESUMABLE_RUNS + 2)]
    for job in ended:
        job_table.stop(db, job.id, "w", "lost", "")
    beside, own = begun(db, data_dir, MeasureSpec(training=to_json(SFTSpec()))), begun(db, data_dir, SFTSpec())
    with_ids = job_store.with_ids

    def with_ids_while_another_forgets(db: Database, job_ids: Sequence[int]) -> list[job_store.Job]:
        shutil.rmtree(checkpoints_directory(data_dir, ended[0].id))
        return with_ids(db, job_ids)

    monkeypatch.setattr(job_store, "with_ids", with_ids_while_another_forgets)
    forget_old_checkpoints(Run(db, data_dir, own, "w"))
    left = {path.name for path in (data_dir / "checkpoints").iterdir()}
    assert left == {f"job-{job.id}" for job in (*ended[2:], beside, own)}


def test_runs_without_a_checkpoint_push_out_none_that_has_one_nor_do_runs_that_ended_before_it(
    db: Database, data_dir: Path
) -> None:
    jobs = [begun(db, data_dir, SFTSpec()) for _ in range(RESUMABLE_RUNS + 4)]
    long, *others = jobs
    *earlier, _, _, _ = others
    for job in (long, *earlier):
        keep_checkpoint(data_dir, job)
    for job in (*earlier, long, *others[len(earlier) :]):
        job_table.stop(db, job.id, "w", "lost", "")
    forget_old_checkpoints(Run(db, data_dir, begun(db, data_dir, SFTSpec()), "w"))
    left = {job.id for job in jobs if checkpoints_directory(data_dir, job.id).is_dir()}
    assert left == {job.id for job in (long, *others[1:])}


def test_a_checkpoint_whose_removal_was_cut_off_is_not_gone_on_from(db: Database, data_dir: Path) -> None:
    job = begun(db, data_dir, SFTSpec())
    keep_checkpoint(data_dir, job)
    directory = checkpoints_directory(data_dir, job.id)
    assert newest_checkpoint(directory) is not None
    for name in (WEIGHTS, STATE):
        (directory / "checkpoint-4" / name).rename(directory / name)
        assert newest_checkpoint(directory) is None
        (directory / name).rename(directory / "checkpoint-4" / name)


def keep_checkpoint(data_dir: Path, job: job_store.Job) -> None:
    """Files that look like a run's whole checkpoint."""
    directory = checkpoints_directory(data_dir, job.id) / "checkpoint-4"
    directory.mkdir()
    for name in (MANIFEST, WEIGHTS, STATE):
        (directory / name).touch()


def begun(db: Database, data_dir: Path, spec: JobSpec) -> job_store.Job:
    """A job that is at work, with a directory for its checkpoints."""
    job = job_store.claim(db, job_store.enqueue(db, spec, "ann"), "w")
    assert job is not None
    checkpoints_directory(data_dir, job.id).mkdir(parents=True)
    return job
