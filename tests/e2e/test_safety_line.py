"""The line about safe copies in a real browser: it is there, and counts what was judged since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from rlhf.hub.token_launcher import PLACE
from tests.conftest import seed_comparisons
from tests.e2e.conftest import read_comparison, running_app

pytestmark = pytest.mark.browser


def test_the_page_says_how_old_the_last_safe_copy_is_and_what_came_since(
    browser: Any, db: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_comparisons(db, 5)
    monkeypatch.setenv(PLACE, str(tmp_path / "bucket"))
    monkeypatch.setenv("PREFLOOP_COPIES_AFTER", "0")
    with running_app(data_dir, "--no-workers") as (_, link), browser.new_context() as context:
        page = context.new_page()
        page.goto(link)
        line = page.locator(".safety")
        line.filter(has_text="ago, 0 judgements since.").wait_for()
        read_comparison(page)
        page.keyboard.press("1")
        line.filter(has_text="ago, 1 judgement since.").wait_for()
        page.route("**/annotate/safety", lambda route: route.abort())
        line.wait_for(state="hidden")  # what it said is not known to be so
