"""Measuring: a few steps of a training job leave their figures, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from annotation.records import UserError
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import to_json
from rlhf.models import registry
from tests.demonstrations import demonstrate
from tests.machine_fixtures import Machine

pytestmark = pytest.mark.slow

SFT = SFTSpec(method="lora", epochs=4, batch_size=4, lora_r=4, lora_alpha=8, precision="fp32", checkpoint_steps=1)
DPO = DPOSpec(
    method="qlora", epochs=4, batch_size=2, accumulation=2, lora_r=4, lora_alpha=8, checkpoint_steps=1, check=False
)


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """Demonstrations and judged pairs."""
    demonstrate(machine, train=16, held_out=4)
    machine.judge("train", 16)
    return machine


def files(directory: Path) -> set[Path]:
    """Every file and directory but the database's, frozen data and what was imported."""
    return {path for path in directory.rglob("*") if path.suffix not in (".jsonl", ".db", ".db-wal", ".db-shm")}


@pytest.mark.parametrize("spec", [SFT, replace(SFT, method="full"), DPO], ids=["sft", "sft-full", "dpo"])
def test_a_measured_run_leaves_its_figures_and_no_policy_or_file(ready: Machine, spec: SFTSpec | DPOSpec) -> None:
    measuring = ready.submit(MeasureSpec(training=to_json(spec), steps=3))
    before = files(ready.data_dir)
    job = ready.perform(measuring)
    assert job.status == "finished", job.message
    result = dict(job.result or {})
    assert result.keys() == {
        "measured", "seconds_per_step", "steps", "peak_memory_mb", "trainable", "trainable_percent"
    }  # fmt: skip
    assert (result["measured"], result["steps"], job.steps) == (spec.kind, 3, 3)
    assert result["seconds_per_step"] > 0
    assert result["peak_memory_mb"] > 100
    assert [policy.revision for policy in registry.all_policies(ready.db)] == ["base"]
    assert files(ready.data_dir) - before <= {ready.data_dir / "checkpoints", ready.data_dir / "workers"}
    assert job_store.samples(ready.db, job.id) == {}

    trained = ready.perform(ready.submit(replace(spec, epochs=1, samples=0)))
    assert trained.result is not None
    for name in ("trainable", "trainable_percent"):
        assert trained.result[name] == result[name]


def test_measuring_keeps_the_checkpoints_of_a_run_that_can_be_resumed(ready: Machine) -> None:
    broken = ready.submit(replace(SFT, learning_rate=1e37))
    assert ready.perform(broken).status == "failed"
    kept = files(ready.data_dir / "checkpoints" / f"job-{broken}")
    assert kept
    assert ready.perform(ready.submit(MeasureSpec(training=to_json(SFT)))).status == "finished"
    assert files(ready.data_dir / "checkpoints" / f"job-{broken}") == kept


def test_only_training_is_measured_and_only_what_could_be_trained(machine: Machine) -> None:
    with pytest.raises(UserError, match="Only training jobs can be measured"):
        machine.submit(MeasureSpec(training=to_json(CheckSpec(candidate="base"))))
    with pytest.raises(UserError, match="Demonstrations to train on: 0"):
        machine.submit(MeasureSpec(training=to_json(SFT)))
    assert job_store.recent(machine.db, ("measure",), 10) == []
