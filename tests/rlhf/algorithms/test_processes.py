"""Several processes through accelerate: each training job learns the same as one process with as much in a step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation.database import open_database
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import TrainingSpec, to_json
from rlhf.jobs.run import Run, perform
from rlhf.models import registry
from rlhf.submission import job_submission
from tests.demonstrations import demonstrate
from tests.machine_fixtures import make_machine, rlhf_command, write_spec

pytestmark = pytest.mark.slow

FEW: dict[str, Any] = {"epochs": 1, "lora_r": 4, "lora_alpha": 8, "samples": 0, "precision": "fp32", "method": "lora"}
SPECS: dict[str, TrainingSpec] = {
    "sft": SFTSpec(**FEW, learning_rate=1e-3, batch_size=4, accumulation=2),
    "reward_model": RewardModelSpec(**FEW, learning_rate=1e-3, batch_size=4),
    "dpo": DPOSpec(**FEW, learning_rate=1e-3, batch_size=2, accumulation=2, check=False),
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A data directory with judged pairs, a ranking, and prompts; answers that two processes can't share evenly."""
    machine = make_machine(tmp_path_factory.mktemp("processes") / "data", tiny_model)
    demonstrate(machine, train=16, held_out=1)
    machine.add_prompts(train=16, held_out=4)
    machine.judge("train", 15)
    machine.rank(1)
    machine.judge("held-out", 4)
    machine.db.close()
    return machine.data_dir


def run_by_command(directory: Path, spec: TrainingSpec) -> None:
    """Run a job by the command line, in as many processes as it asks for."""
    spec_file = write_spec(directory / "spec.json", json.loads(to_json(spec)))
    done = rlhf_command("--data", str(directory), "run", str(spec_file))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def run_here(directory: Path, spec: TrainingSpec) -> None:
    """Run a job in this process, as its worker does."""
    db = open_database(directory)
    job = job_store.claim(db, job_submission.submit(db, directory, spec, "a test"), "w")
    assert job is not None
    perform(Run(db, directory, job, "w"), job.spec)
    db.close()


def run_copy(judged: Path, directory: Path, spec: TrainingSpec) -> tuple[list[dict[str, Any]], Any]:
    """Run a job on a copy of the data; returns its metrics and its adapter's weights."""
    from safetensors.torch import load_file

    shutil.copytree(judged, directory)
    (run_here if spec.processes == 1 else run_by_command)(directory, spec)
    db = open_database(directory)
    job = job_store.recent(db, (spec.kind,), 1)[0]
    metrics = job_store.metrics(db, job.id)
    path = registry.by_revision(db, (job.result or {})["revision"]).path
    db.close()
    return metrics, load_file(directory / str(path) / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", SPECS)
def test_two_processes_learn_what_one_learns_with_twice_the_batch(judged: Path, tmp_path: Path, kind: str) -> None:
    one = SPECS[kind]
    two = replace(one, processes=2, batch_size=one.batch_size // 2)
    alone, weights = run_copy(judged, tmp_path / "one", one)
    together, shared = run_copy(judged, tmp_path / "two", two)
    assert len(alone) == len(together) >= 2
    for first, second in zip(alone, together, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=2e-4)
    assert weights.keys() == shared.keys()
    for name, weight in weights.items():
        assert weight.isclose(shared[name], rtol=1e-3, atol=2e-4).all(), name
