"""Two languages in a real browser: the sign-in page, the annotators' page, what its script says, and the choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from tests.conftest import seed_comparisons
from tests.e2e.conftest import running_app

pytestmark = pytest.mark.browser

QUESTION = "Which answer is better, and by how much?"
FRAGE = "Welche Antwort ist besser, und um wie viel?"


def test_somebody_chooses_a_language_and_each_of_their_pages_is_opened_in_it(
    browser: Any, data_dir: Path, db: Database
) -> None:
    seed_comparisons(db, 1)
    with running_app(data_dir, "--no-workers") as (address, link):
        page = browser.new_context(locale="de-DE").new_page()
        page.goto(f"{address}login")
        assert page.get_attribute("html", "lang") == "de"
        page.get_by_role("button", name="Anmelden").wait_for()
        page.goto(link)
        page.get_by_text(QUESTION).wait_for()
        assert page.get_attribute("html", "lang") == "en"
        other = page.context.new_page()
        other.goto(f"{address}annotate")
        other.get_by_text(QUESTION).wait_for()
        page.get_by_label("Language", exact=True).select_option("Deutsch")
        page.get_by_text(FRAGE).wait_for()
        assert page.get_attribute("html", "lang") == "de"
        assert page.url == f"{address}annotate"
        page.get_by_role("button", name="Meine Urteile").click()
        page.get_by_text("Du hast noch nichts beurteilt.").wait_for()
        page.get_by_role("button", name="Meine Urteile").click()
        page.get_by_role("button", name="Links viel").click()
        page.get_by_text("Gespeichert: links viel besser.").wait_for()
        other.get_by_role("button", name="Meine Urteile").wait_for()  # by itself, at what it asks next
