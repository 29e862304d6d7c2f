"""A model that talks long enough to be watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_fixtures import Machine, make_machine


@pytest.fixture(scope="package")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers go on up to the limit, so that one can watch."""
    from tests.tiny_model import build

    return build(tmp_path_factory.mktemp("talkative"), end_bias=-60.0)


@pytest.fixture
def long(tmp_path: Path, talkative: Path) -> Iterator[Machine]:
    """A machine whose answers are as long as they may be."""
    made = make_machine(tmp_path / "long", talkative)
    made.add_prompts(train=12, held_out=4)
    yield made
    made.db.close()
