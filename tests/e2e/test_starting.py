"""A page that is opened before there are pages: it says so, and goes on by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from tests.e2e.conftest import running_app
from tests.page_gate import PageGate

pytestmark = [pytest.mark.browser, pytest.mark.own_start]


def test_a_page_that_is_opened_early_says_that_pages_are_made_ready_and_goes_on_by_itself(
    db: Database, data_dir: Path, tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = PageGate(tmp_path)
    monkeypatch.setenv("PYTHONPATH", gate.environment["PYTHONPATH"])
    gate.close()
    with running_app(data_dir, "--no-workers") as (_, link):
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(link)
        page.get_by_role("status").get_by_text("Prefloop gets its pages ready").wait_for()
        assert page.title() == "Starting · Prefloop"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
        again = page.get_by_role("link", name="Try again")
        assert again.bounding_box()["height"] >= 24
        again.click()
        page.get_by_role("status").get_by_text("Prefloop gets its pages ready").wait_for()
        gate.open()
        page.wait_for_selector("text=owner · admin")
        assert errors == []
        page.context.close()
