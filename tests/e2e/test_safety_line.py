"""The line about safe copies in a real browser: it is there, and counts what was judged since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from rlhf.hub.token_launcher import PLACE
from tests.conftest import seed_comparisons
from tests.e2e.conftest import read_comparison, running_app, wait_for

pytestmark = pytest.mark.browser
# Between two questions for the line.
PERIOD_MS = 10_000


def test_the_page_says_how_old_the_last_safe_copy_is_and_what_came_since(
    browser: Any, db: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_comparisons(db, 5)
    monkeypatch.setenv(PLACE, str(tmp_path / "bucket"))
    monkeypatch.setenv("PREFLOOP_COPIES_AFTER", "0")
    with running_app(data_dir, "--no-workers") as (_, link), browser.new_context(clock=True) as context:
        page = context.new_page()
        page.goto(link)
        line = page.locator(".safety")

        def asked_again(says: str) -> bool:
            page.clock.fast_forward(PERIOD_MS)
            return bool(line.filter(has_text=says, visible=True).count()) if says else line.is_hidden()

        wait_for(page, "a copy", lambda: asked_again("ago, 0 judgements since."))
        read_comparison(page)
        page.keyboard.press("1")
        wait_for(page, "the judgement in the line", lambda: asked_again("ago, 1 judgement since."))
        page.route("**/annotate/safety", lambda route: route.abort())
        wait_for(page, "the line to go", lambda: asked_again(""))  # what it said is not known to be so
