"""A server in another language, in a real browser: the sign-in page, the annotators' page and what its script says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from tests.conftest import seed_comparisons
from tests.e2e.conftest import running_app

pytestmark = pytest.mark.browser


def test_annotators_read_the_servers_language(
    browser: Any, data_dir: Path, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_comparisons(db, 1)
    monkeypatch.setenv("PREFLOOP_LANGUAGE", "de")
    with running_app(data_dir, "--no-workers") as (address, link):
        page = browser.new_context().new_page()
        page.goto(f"{address}login")
        assert page.get_attribute("html", "lang") == "de"
        page.get_by_role("button", name="Anmelden").wait_for()
        page.goto(link)
        page.get_by_text("Welche Antwort ist besser, und um wie viel?").wait_for()
        assert page.get_attribute("html", "lang") == "de"
        page.get_by_role("button", name="Meine Urteile").click()
        page.get_by_text("Du hast noch nichts beurteilt.").wait_for()
        page.get_by_role("button", name="Meine Urteile").click()
        page.get_by_role("button", name="Links viel").click()
        page.get_by_text("Gespeichert: links viel besser.").wait_for()
