"""Runs of the tiny model that end within seconds, for the tests of the Runs page and of what it hands out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rlhf import freezing, jobs
from rlhf.freezing import Listing
from rlhf.specs import SFTSpec
from tests.machine_fixtures import Machine

# Six optimiser steps.
QUICK_SFT = SFTSpec(
    epochs=2, batch_size=4, learning_rate=5e-3, lora_r=4, lora_alpha=8, checkpoint_steps=2, max_length=128, samples=2
)


def demonstrations(machine: Machine) -> str:
    """Freeze twelve demonstrations to train on and four held-out ones; returns the data's name."""
    return freezing.store_snapshot(machine.db, machine.data_dir, Listing(demonstration_rows()))


def demonstration_rows() -> Iterator[Mapping[str, Any]]:
    """What there is to learn: to answer with the number's parity."""
    for number in range(16):
        question = {"role": "user", "content": f"Is {number} odd or even?"}
        answer = "It is odd." if number % 2 else "It is even."
        split = "held-out" if number >= 12 else "train"
        yield {"split": split, "messages": [question], "text": answer, "origin": "example"}


def finished_run(machine: Machine, spec: SFTSpec = QUICK_SFT) -> jobs.Job:
    """A run of this spec on those demonstrations, in this process."""
    job = machine.perform(machine.submit(replace(spec, snapshot=spec.snapshot or demonstrations(machine))))
    assert job.status == "finished", job.message
    return job
