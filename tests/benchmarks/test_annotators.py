"""`benchmarks.annotators` with few page loads, on the real program."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import annotators

pytestmark = pytest.mark.slow


def test_fewer_page_loads_than_milestones_are_all_made(tmp_path: Path) -> None:
    found = annotators.run_page_loads(tmp_path, 3)
    assert (found.count, found.errors, len(found.rss_mb)) == (3, 0, 1 + 3)
    assert found.seconds_each > 0


def test_without_a_page_load_there_is_nothing_to_measure() -> None:
    with pytest.raises(SystemExit):
        annotators.read_options(["--page-loads", "0"])
