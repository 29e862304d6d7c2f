"""How long a training takes, foretold by the jobs before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from annotation.database import Database
from annotation.jobs import job_table
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, to_json
from rlhf.submission.step_time import StepTime, finished_jobs, step_time_of


@pytest.mark.parametrize(
    ("spec", "items", "steps"),
    [
        (DPOSpec(batch_size=2, accumulation=2, epochs=3), 9, 9),
        (SFTSpec(batch_size=8, epochs=1), 288, 36),
        (SFTSpec(batch_size=8, epochs=1, processes=2), 289, 19),
        (RewardModelSpec(batch_size=4, epochs=2), 4, 2),
        (PPOSpec(steps=60), 5, 60),
    ],
)
def test_steps_follow_from_the_items(spec: TrainingSpec, items: int, steps: int) -> None:
    assert spec.steps_over(items) == steps


def finish(db: Database, spec: JobSpec, result: dict[str, Any]) -> int:
    """A finished job."""
    job_id = job_store.enqueue(db, spec, "a test")
    assert job_store.claim(db, job_id, "w") is not None
    assert job_table.finish(db, job_id, "w", result)
    return job_id


def step_time(db: Database, spec: TrainingSpec) -> StepTime | None:
    """What is known of the pace of a training."""
    return step_time_of(spec, finished_jobs(db, spec))


def test_a_step_over_more_items_is_foretold_by_the_passes_that_it_takes(db: Database) -> None:
    spec = DPOSpec()
    finish(db, spec, {"seconds_per_step": 6.0, "accumulation": 3})  # over sixty
    for items, seconds in ((60, 6.0), (24, 2.0), (120, 10.0), (0, 6.0)):
        found = step_time_of(spec, finished_jobs(db, spec), items)
        assert found is not None
        assert found.seconds_per_step == seconds
    finish(db, MeasureSpec(training=to_json(spec)), {"seconds_per_step": 1.5})  # one pass a step
    found = step_time_of(spec, finished_jobs(db, spec), 60)
    assert found is not None
    assert found.seconds_per_step == 4.5


def test_a_run_is_foretold_with_what_it_takes_beside_its_steps(db: Database) -> None:
    """A short run takes longer to load and to measure than to learn."""
    spec = SFTSpec()
    job_id = finish(db, spec, {"seconds_per_step": 4.0, "steps": 2})
    db.write(
        "UPDATE job SET started = '2026-03-01T10:00:00.000000+00:00', finished = '2026-03-01T10:00:50.000000+00:00'"
    )
    found = step_time(db, spec)
    assert found is not None
    assert (found.job_id, found.beside, found.seconds(2), found.seconds(10)) == (job_id, 42.0, 50.0, 82.0)


def test_a_night_in_which_the_machine_slept_is_not_foretold_for_the_next_run(db: Database) -> None:
    spec = SFTSpec()
    finish(db, spec, {"seconds_per_step": 4.0, "steps": 2, "seconds": 50.0})
    db.write(
        "UPDATE job SET started = '2026-03-01T22:00:00.000000+00:00', finished = '2026-03-02T07:00:50.000000+00:00'"
    )
    found = step_time(db, spec)
    assert found is not None
    assert found.seconds(2) == 50.0


def test_the_pace_is_the_newest_one_measured_with_the_same_settings(db: Database) -> None:
    spec = DPOSpec(seed=3, scope="all")
    assert step_time(db, spec) is None
    finish(db, DPOSpec(batch_size=8), {"seconds_per_step": 9.0})
    finish(db, SFTSpec(), {"seconds_per_step": 8.0})
    assert step_time(db, spec) is None, "other settings say nothing"
    run = finish(db, DPOSpec(parent="base", snapshot="a" * 64, epochs=7, learning_rate=7e-5), {"seconds_per_step": 2.0})
    by_run = step_time(db, spec)
    assert by_run is not None
    assert (by_run.seconds_per_step, by_run.job_id, by_run.peak_memory_mb) == (2.0, run, None)
    measure = MeasureSpec(training=to_json(DPOSpec(parent="base", snapshot="b" * 64)))
    finish(db, measure, {"seconds_per_step": 1.5, "peak_memory_mb": 900.0})
    finish(db, DPOSpec(), {"seconds_per_step": 3.0})
    finish(db, CheckSpec(), {"seconds": 3.0})
    found = step_time(db, spec)
    assert found is not None
    assert (found.seconds_per_step, found.peak_memory_mb) == (1.5, 900.0), "a measurement goes before a run"
    assert found.measured.startswith("20")
    job_store.enqueue(db, measure, "a test")
    assert step_time(db, spec) == found, "one that has not ended says nothing yet"
    assert step_time(db, replace(spec, lora_r=32)) is None


def test_a_method_changes_the_pace_and_data_does_not() -> None:
    for spec in (SFTSpec(), DPOSpec(), RewardModelSpec(), PPOSpec()):
        same = spec.comparable()
        free = replace(spec, seed=9, parent="x", snapshot="y", model="z", samples=9, learning_rate=1.0, warmup_steps=5)
        assert free.comparable() == same
        assert replace(spec, batch_size=99).comparable() != same
        assert replace(spec, precision="fp32").comparable() != same
    assert DPOSpec(beta=0.5).comparable() == DPOSpec().comparable()
    assert SFTSpec(source="example:x", epochs=9).comparable() == SFTSpec().comparable()
    assert PPOSpec(epochs=9).comparable() != PPOSpec().comparable(), "epochs are within a PPO round"
    assert PPOSpec(steps=9).comparable() == PPOSpec().comparable()
