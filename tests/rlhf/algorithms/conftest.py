"""A data directory for each test, and the one of its module that it is a copy of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_fixtures import Machine, make_machine


@pytest.fixture(scope="module")
def judged_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Machine]:
    """Judged pairs to train on and held-out ones, as many as its module says in JUDGED, shorter answers preferred."""
    train, held_out = request.module.JUDGED
    machine = make_machine(tmp_path_factory.mktemp("judged") / "data", tiny_model)
    machine.add_prompts(train, held_out)
    machine.judge("train", train)
    machine.judge("held-out", held_out)
    yield machine
    machine.db.close()


@pytest.fixture
def judged(judged_once: Machine, tmp_path: Path) -> Iterator[Machine]:
    """A data directory for one test, like the `judged_once` of its module."""
    machine = judged_once.copied(tmp_path / "data")
    yield machine
    machine.db.close()
