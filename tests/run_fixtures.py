"""Runs of the tiny model that end within seconds, for the tests of the Runs page and of what it hands out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation.exports.frozen_rows import DemonstrationRow
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.data.snapshots import CountedRows
from rlhf.jobs import job_store
from rlhf.workers.worker_process import worker_command
from tests.machine_fixtures import Machine, worker_program

# Six optimiser steps.
QUICK_SFT = SFTSpec(
    method="lora",
    epochs=2,
    batch_size=4,
    learning_rate=5e-3,
    lora_r=4,
    lora_alpha=8,
    checkpoint_steps=2,
    max_length=128,
    samples=2,
)


def demonstrations(machine: Machine) -> str:
    """Freeze twelve demonstrations to train on and four held-out ones; returns the data's name."""
    return snapshots.store_snapshot(machine.db, machine.data_dir, CountedRows(demonstration_rows()))


def demonstration_rows() -> Iterator[DemonstrationRow]:
    """What there is to learn: to answer with the number's parity."""
    for number in range(16):
        question = {"role": "user", "content": f"Is {number} odd or even?"}
        answer = "It is odd." if number % 2 else "It is even."
        yield DemonstrationRow("held-out" if number >= 12 else "train", (question,), answer, "example")


def finished_run(machine: Machine, spec: SFTSpec = QUICK_SFT) -> job_store.Job:
    """A run of this spec on those demonstrations, in this process."""
    job = machine.perform(machine.submit(replace(spec, snapshot=spec.snapshot or demonstrations(machine))))
    assert job.status == "finished", job.message
    return job


# For a worker's third step there is not enough memory where a batch has more than so many rows: what it asks for
# then is more than any machine can address, and the allocator says so.
STARVED = """
import os
import torch
from rlhf.algorithms import trl_trainer

step = trl_trainer.JobTrainer.training_step

def starved(self, *arguments, **keywords):
    here = os.environ.get("RANK", "0") == "{rank}" and self.args.per_device_train_batch_size > {rows}
    if here and self.state.global_step == 2:
        torch.empty(1 << 46)
    return step(self, *arguments, **keywords)

trl_trainer.JobTrainer.training_step = starved
"""
# A worker of this kind comes no further than its first step before there is this file.
HELD = """
import pathlib, time
from rlhf.jobs.run import Run

report = Run.report

def report_and_wait(self, step, *rest, **named):
    report(self, step, *rest, **named)
    while self.kind == "{kind}" and step and not pathlib.Path("{path}").exists():
        time.sleep(0.05)

Run.report = report_and_wait
"""


def starve(monkeypatch: pytest.MonkeyPatch, directory: Path, rank: int, rows: int) -> None:
    """From now on workers run out of memory in this process of a job, with batches of more rows than this."""
    run_beforehand(monkeypatch, directory, STARVED.format(rank=rank, rows=rows))


def hold(monkeypatch: pytest.MonkeyPatch, directory: Path, kind: str) -> Path:
    """From now on workers of this kind wait at their first step for a file; returns its path."""
    path = directory / "go on"
    run_beforehand(monkeypatch, directory, HELD.format(kind=kind, path=path))
    return path


def run_beforehand(monkeypatch: pytest.MonkeyPatch, directory: Path, code: str) -> None:
    """From now on workers run this Python first."""
    script = worker_program(directory / "beforehand.py", code)

    def command(*arguments: Any) -> list[str]:
        made = worker_command(*arguments)
        module = made.index("rlhf.workers.worker")
        return [*made[: module - 1], str(script), *made[module + 1 :]]

    monkeypatch.setattr("rlhf.workers.worker_process.worker_command", command)
