"""`benchmarks.workbench` on a small database: it is filled, every question is asked, and each has its milliseconds."""

from __future__ import annotations

import json

import pytest

from annotation.workbench.comparison_list import SORTS
from benchmarks import workbench


def test_every_question_is_asked_of_a_small_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["workbench", "--comparisons", "20", "--times", "1"])
    workbench.main()
    found = json.loads(capsys.readouterr().out)
    asked = {*(f"page_{name}" for name in workbench.FILTERS), *(f"sort_{name}" for name in SORTS)}
    assert set(found["ms"]) == {*asked, "last_page", "history", "statistics", "plan", "assign", "undo"}
