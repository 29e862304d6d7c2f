"""Numbers of rows that a page sends: what no row can have as its number is none, and never an error of the program."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from annotation.database import Database
from annotation.records import UserError
from annotation.tabs import export_form, quality
from annotation.tabs.components import row_number
from rlhf.tabs.hub import hub_tab
from rlhf.tabs.judges import rubric_form
from rlhf.tabs.runs import compare_runs_form, queue_view, runs_tab

pytestmark = pytest.mark.slow

WRONG = (
    *(2**63, 2**63 + 1, 10**400, -1, -(2**63), 1.5, 1e300, float("inf"), float("nan"), None, True, [], {}),
    *("9" * 16, "9" * 5_000, "\u0661", "²", "1_0", "+1", "-1", "1.0", "0x1", "", "#", "1 or 1"),
)


@pytest.mark.parametrize("wrong", WRONG, ids=map(str, range(len(WRONG))))
def test_what_is_no_rows_number_is_none(db: Database, wrong: Any) -> None:
    assert row_number(wrong) is None
    for sent in (wrong, str(wrong)[:10_000] if not isinstance(wrong, int) or abs(wrong) < 10**300 else "9" * 400):
        assert runs_tab.find_job(db, sent) is None
        assert compare_runs_form.chosen_jobs(db, [sent]) == []
        assert queue_view.place_of([], sent) is None
        with pytest.raises(UserError):
            quality.number_in(sent, "a comparison")
        with pytest.raises(UserError):
            rubric_form.comparison_in(db, sent)
        with pytest.raises(UserError):
            hub_tab.push_of(sent, "o/n", "preference", True, False, "")
        with suppress(UserError):
            form = ["preference", "jsonl", [], [sent], [], [], "", "", sent, "", False, ""]
            assert export_form.request_of(db, *form).filters.iterations == ()


@pytest.mark.parametrize(("typed", "number"), [("7", 7), (" #7 ", 7), (7, 7), ("007", 7), ("9" * 15, 10**15 - 1)])
def test_a_rows_number_is_read(typed: Any, number: int) -> None:
    assert row_number(typed) == number
