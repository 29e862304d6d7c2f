"""A data directory for each test, like the one that its module has prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_fixtures import Machine


@pytest.fixture
def judged(judged_once: Machine, tmp_path: Path) -> Iterator[Machine]:
    """A data directory for one test, like the `judged_once` of its module."""
    machine = judged_once.copied(tmp_path / "data")
    yield machine
    machine.db.close()
