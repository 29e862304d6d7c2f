"""A worker as a process: what it does where nobody reads what it prints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machine_fixtures import Machine
from tests.run_fixtures import QUICK_SFT, demonstrations

pytestmark = pytest.mark.slow

# As after `python -m rlhf run … | head`, or in a terminal that was closed.
UNREAD = """
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, 1)
os.dup2(writing, 2)
"""


def test_a_run_outlasts_whoever_reads_what_it_prints(machine: Machine) -> None:
    job_id = machine.submit(replace(QUICK_SFT, epochs=1, samples=0, snapshot=demonstrations(machine)))
    job = machine.run_worker(job_id, UNREAD)
    assert job.status == "finished", job.message
