"""The attacks in their short form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.attack.sections import SECTIONS, Try
from tests.attack.target import Target, target


@pytest.fixture(scope="module")
def program() -> Iterator[Target]:
    with target(long=False) as started:
        yield started


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_program_holds(program: Target, section: Callable[[Target], Iterator[Try]]) -> None:
    tried = list(section(program))
    assert len(tried) >= 5
    assert [what for what, held in tried if not held] == []
